"""Composition: what overrides ask for, and every fault of a wrong request at once."""

from pathlib import Path

import pytest

from mlops_hydra.config.check import as_tree, checked
from mlops_hydra.config.compose import compose, compose_from, sweep_jobs, to_yaml
from mlops_hydra.config.roots import Roots, packaged_conf
from mlops_hydra.errors import ConfigError, Fault, UsageError


def faults_of(*overrides: str, roots: Roots | None = None) -> dict[str, Fault]:
    with pytest.raises(ConfigError) as caught:
        compose_from(overrides, roots or Roots())
    return {fault.path: fault for fault in caught.value.faults}


def test_the_defaults_describe_an_experiment() -> None:
    config = compose()
    assert config.model.path == "mlops_hydra.models.MLP"
    assert dict(config.origin.choices)["data"] == "breast_cancer"
    assert config.origin.overrides == ()


def test_overrides_change_values_and_options_and_are_remembered() -> None:
    config = compose(["model=linear", "optimizer.lr=0.5", "trainer.epochs=3"])
    assert config.model.path == "mlops_hydra.models.Linear"
    assert config.optimizer.args["lr"] == 0.5
    assert config.origin.overrides == ("model=linear", "optimizer.lr=0.5", "trainer.epochs=3")


def test_three_different_faults_are_reported_together_with_nearest_names() -> None:
    faults = faults_of("optimizer.lrr=1", "trainer.epochs=0", "data=digit")
    assert set(faults) == {"optimizer.lrr", "trainer.epochs", "data"}
    assert faults["optimizer.lrr"].nearest == ("optimizer.lr",)
    assert faults["data"].nearest == ("digits",)
    assert "breast_cancer" in faults["data"].rule
    assert "greater than or equal to 1" in faults["trainer.epochs"].rule


@pytest.mark.parametrize(
    ("override", "path"),
    [
        ("optimizer.lr=-1", "optimizer.lr"),
        ("trainer.epochs=0", "trainer.epochs"),
        ("data.split.test=1.5", "data.split.test"),
        ("data.split.val=0.9", "data.split"),
        ("seed=-1", "seed"),
        ("seed=1.5", "seed"),
        ("seed=true", "seed"),
        ("optimizer.betas=[0.9,2]", "optimizer.betas"),
        ("trainer.device=gpu", "trainer.device"),
        ("trainer.steps=5", "trainer"),
        ("trainer.early_stopping.patience=0", "trainer.early_stopping.patience"),
        ("data.split.num_folds=5", "data.split"),
        ("data.split.by=group", "data.split"),
        ("name=''", "name"),
        ("optimizer.lr=.nan", "optimizer.lr"),
        ("tracking.timeout_seconds=.inf", "tracking.timeout_seconds"),
        ("model.hidden=abc", "model.hidden"),
        ("model.hidden=[1,two]", "model.hidden"),
        ("model.dropout=yes please", "model.dropout"),
        ("gates.beats_baseline.by=ten", "gates.beats_baseline"),
        ("+gates.beats_baseline.on=val", "gates.beats_baseline"),
        ("+gates.mine={metric: loss, threshold: 1}", "gates.mine"),
        ("+data.kinds.age=number", "data.kinds.age"),
        ("data.split.column=hospital", "data.split"),
        ("data.classes=[low,low]", "data"),
        ("data.task=regression", "data"),
        ("data.image_shape=[1,8]", "data.image_shape"),
        ("trainer.scheduler_interval=step", "trainer.scheduler_interval"),
        ("objective.metric=loss", "gates.beats_baseline.metric"),
        ("+gates.mine={metric: f1, better_than: baseline, by: -0.1}", "gates.mine"),
        ("output_dir='a?b'", "output_dir"),
        ("~nothing", "nothing"),
    ],
)
def test_a_value_out_of_bounds_is_a_fault_of_its_path(override: str, path: str) -> None:
    assert path in faults_of(override)


@pytest.mark.parametrize("override", ["trainer.typo=1", "+trainer.typo=1", "++trainer.typo=1"])
def test_an_unknown_key_is_refused_in_every_grammar(override: str) -> None:
    assert list(faults_of(override)) == ["trainer.typo"]


@pytest.mark.parametrize("override", ["optimizer.lrr=1", "+optimizer.lrr=1", "++optimizer.lrr=1"])
def test_a_parameter_that_the_constructor_lacks_is_refused_in_every_grammar(override: str) -> None:
    assert faults_of(override)["optimizer.lrr"].nearest in {("optimizer.lr",), ("lr",)}


def test_a_key_given_without_its_group_is_found() -> None:
    assert faults_of("lr=0.1")["lr"].nearest == ("optimizer.lr",)


def test_a_misspelt_group_is_not_taken_for_a_value() -> None:
    assert faults_of("modle=mlp")["modle"].nearest == ("model",)


def test_a_misspelt_overlay_names_the_choices() -> None:
    assert "digits_cnn" in faults_of("experiment=digit")["experiment"].rule


def test_several_values_without_multirun_say_what_to_do() -> None:
    assert "-m" in faults_of("model=linear,mlp")["model"].rule


def test_text_that_is_no_override_is_named_and_the_rest_is_still_checked() -> None:
    faults = faults_of("trainer.epochs", "optimizer.lr=-1")
    assert set(faults) == {"trainer.epochs", "optimizer.lr"}


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("optimizer.lr=fast", "must be a valid number"),
        ("optimizer.betas=[0.9]", "must be a list of another length"),
        ("data.split=null", "must be a mapping, got null"),
        ("data.drop=null", "must be a list, got null"),
        ("tags=null", "must be a mapping, got null"),
        ("model=null", "choose from cnn, linear, mlp"),
        ("tags.team=blue", "+tags.team=blue"),
        ("trainer.loss._target_=torch.nn.MSELoss", "+trainer.loss._target_"),
        ("gates.mine.metric=f1", "+gates.mine.metric=f1"),
        ("progress=off", None),
        ("progress=false", "quote text"),
    ],
)
def test_a_rule_is_told_in_words_of_yaml(override: str, words: str | None) -> None:
    if words is None:
        assert compose([override]).progress == "off"
    else:
        (fault,) = faults_of(override).values()
        assert words in fault.rule
        assert "isinstance" not in fault.rule


def test_a_deletion_beside_another_fault_is_reported_like_any_override() -> None:
    assert "optimizer.lrr" in faults_of("~optimizer.lr", "optimizer.lrr=1")


def test_overrides_are_a_list_of_texts() -> None:
    for wrong in ("model=mlp", [1]):
        with pytest.raises(UsageError, match="list of texts"):
            compose(wrong)  # type: ignore[arg-type]


def test_composing_inside_an_initialized_hydra_leaves_it_as_it_was() -> None:
    import hydra

    with hydra.initialize_config_dir(str(packaged_conf())):
        assert compose(["seed=3"]).seed == 3
        assert hydra.compose("config").seed == 0


def test_a_bad_interpolation_hides_no_other_fault() -> None:
    assert set(faults_of("name=${nope}", "trainer.epochs=0")) == {"name", "trainer.epochs"}


def test_an_interpolation_that_leads_nowhere_is_a_fault_of_its_path() -> None:
    assert "nope" in faults_of("name=${nope}")["name"].rule


def test_a_file_source_needs_its_path_and_its_target() -> None:
    assert set(faults_of("data=csv")) == {"data.path", "data.target"}


def test_metrics_are_checked_where_they_are_named() -> None:
    assert faults_of("objective.metric=acuracy")["objective.metric"].nearest[0] == "accuracy"
    gates = faults_of("+gates.mine={metric: rocauc, threshold: 0.9}")
    assert gates["gates.mine.metric"].nearest == ("roc_auc",)


def test_a_metric_of_ones_own_needs_a_direction_where_it_decides() -> None:
    own = "+metrics.mcc._target_=sklearn.metrics.matthews_corrcoef"
    assert set(faults_of(own, "objective.metric=mcc")) == {"objective.direction"}
    assert set(faults_of(own, "+gates.mine={metric: mcc, threshold: 0.5}")) == {"gates.mine.direction"}
    assert compose([own, "objective.metric=mcc", "objective.direction=maximize"]).objective.metric == "mcc"


def test_a_built_in_metric_cannot_be_redefined() -> None:
    assert "metrics.f1" in faults_of("+metrics.f1._target_=sklearn.metrics.f1_score")


def test_what_the_package_passes_itself_cannot_be_given() -> None:
    assert "leave it out" in faults_of("+model.in_features=3")["model.in_features"].rule


def test_nested_targets_are_checked_at_every_depth() -> None:
    faults = faults_of(
        "trainer.step={_target_: functools.partial, _args_: [{_target_: torch.nn.Linear, in_feature: 2}]}"
    )
    assert any("in_feature" in path for path in faults)


def test_yaml_written_out_composes_to_the_same_experiment(tmp_path: Path) -> None:
    config = compose(["experiment=digits_cnn", "seed=3"])
    (tmp_path / "again.yaml").write_text(to_yaml(config))
    again = compose_from([], Roots(config_path=str(tmp_path), config_name="again"))
    assert again == config
    assert again.fingerprint == config.fingerprint


def test_a_config_turned_to_plain_values_checks_to_itself() -> None:
    config = compose(["data=digits", "model=cnn"])
    assert checked(as_tree(config)) == config


def test_options_of_ones_own_stand_beside_the_packaged_ones(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "wide.yaml").write_text("_target_: mlops_hydra.models.MLP\nhidden: [512]\n")
    config = compose(["model=wide"], config_dir=str(tmp_path))
    assert config.model.args["hidden"] == (512,)


def test_a_file_of_ones_own_that_would_be_hidden_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mlp.yaml").write_text("_target_: mlops_hydra.models.Linear\n")
    faults = faults_of(roots=Roots(config_dir=str(tmp_path)))
    assert "another name" in faults[str(tmp_path / "model" / "mlp.yaml")].rule


def test_a_primary_config_of_ones_own_uses_the_packaged_options(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("defaults:\n  - /model: linear\n  - _self_\n")
    faults = faults_of("trainer=debug", roots=Roots(config_path=str(tmp_path)))
    assert "optimizer" in faults, "what the primary config leaves out is missing, not silently defaulted"
    assert "model" not in faults


def test_folders_that_do_not_exist_are_named() -> None:
    assert faults_of(roots=Roots(config_dir="nowhere"))["--config-dir"].value == "nowhere"


def test_broken_yaml_of_ones_own_is_told_in_words(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "broken.yaml").write_text("_target_: [unclosed\n")
    assert "broken.yaml" in faults_of("model=broken", roots=Roots(config_dir=str(tmp_path)))["model"].rule


def test_sweeps_expand_to_jobs_in_hydras_order() -> None:
    jobs = sweep_jobs(["model=linear,mlp", "seed=range(1,3)", "name=x"], Roots())
    assert [job[:2] for job in jobs] == [
        ["model=linear", "seed=1"],
        ["model=linear", "seed=2"],
        ["model=mlp", "seed=1"],
        ["model=mlp", "seed=2"],
    ]
    assert all(job[2] == "name=x" for job in jobs)


def test_a_config_cannot_be_changed() -> None:
    config = compose()
    with pytest.raises(ValueError, match="frozen"):
        config.seed = 1
    with pytest.raises(TypeError):
        config.model.args["hidden"] = ()  # type: ignore[index]
    assert len({config.model, compose().model}) == 1, "targets are hashable"
