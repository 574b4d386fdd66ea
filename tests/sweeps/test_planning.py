"""The plan of a study: what its name depends on, and everything that is wrong with it before anything is written."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from mlops_hydra.config.compose import compose, split_swept
from mlops_hydra.config.roots import Roots
from mlops_hydra.config.schema import ExperimentConfig
from mlops_hydra.errors import ConfigError, RequestError
from mlops_hydra.sweeps.plan import Plan, differences, make_plan
from mlops_hydra.sweeps.planning import Request, base_config, planned
from mlops_hydra.sweeps.space import parse_space

LR = "optimizer.lr=tag(log, interval(1e-4, 1e-1))"
OWN_MODEL = (
    "from torch import nn\n\n\ndef net(in_features, out_features):\n    return nn.Linear(in_features, out_features)\n"
)


def request_of(*overrides: str, config_dir: str | None = None) -> Request:
    """As the command line asks."""
    fixed, swept = split_swept(["sweeps=tpe", "data=wine", *overrides])
    return planned(base_config(fixed, swept, Roots(config_dir=config_dir)), swept)


def plan_of(*overrides: str, config_dir: str | None = None) -> Plan:
    return request_of(*overrides, config_dir=config_dir).plan


def faults_of(*overrides: str) -> dict[str, str]:
    with pytest.raises(RequestError) as caught:
        plan_of(*overrides)
    return {fault.path: str(fault) for fault in caught.value.faults}


@pytest.fixture(autouse=True)
def _nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Planning only reads: what a test put here is all there is afterwards."""
    monkeypatch.chdir(tmp_path)
    yield
    assert not (tmp_path / "outputs").exists()


@pytest.fixture(scope="module")
def plain() -> Plan:
    return plan_of(LR, "model=linear,mlp")


@pytest.mark.parametrize(
    "overrides",
    [
        ["sweeps.n_trials=999"],
        ["sweeps.workers=2"],
        ["sweeps.max_failure_rate=0.5"],
        ["sweeps.keep_checkpoints=true"],
        ["sweeps.confirm.top_k=3"],
        ["sweeps.storage=sqlite:///there.db"],
        ["name=other", "gates=strict", "output_dir=there", "progress='off'", "+tags.a=b"],
        ["optimizer.lr=0.5"],
        ["model=linear"],
        ["optimizer.lr=0.5", "model=mlp"],
    ],
    ids=" ".join,
)
def test_the_name_does_not_depend_on_what_is_not_of_the_study(overrides: list[str], plain: Plan) -> None:
    assert plan_of(*overrides, LR, "model=linear,mlp").name == plain.name


def test_the_name_does_not_depend_on_the_order_of_parameters_or_on_where_they_stand(plain: Plan) -> None:
    assert plan_of("model=linear,mlp", LR).name == plain.name
    in_file = "+sweeps.params={model: 'linear,mlp', optimizer: {lr: 'tag(log, interval(1e-4, 1e-1))'}}"
    assert plan_of(in_file).name == plain.name


@pytest.mark.parametrize(
    ("overrides", "path"),
    [
        (["seed=1"], "seed"),
        (["trainer.epochs=3"], "experiment.trainer.epochs"),
        (["optimizer.weight_decay=0.5"], "experiment.optimizer.weight_decay"),
        (["optimizer=sgd"], "experiment.optimizer._target_"),
        (["model=linear,cnn", "data=digits"], "space.model.attributes.choices"),
        (["optimizer.lr=tag(log, interval(1e-4, 1))"], "space.optimizer.lr.attributes.high"),
        (["optimizer.lr=interval(1e-4, 1e-1)"], "space.optimizer.lr.attributes.log"),
        (["+optimizer.eps=1e-8,1e-6"], "space.+optimizer.eps.name"),
        (["objective.metric=accuracy"], "objectives"),
        (["objective.others=[num_parameters]"], "objectives"),
        (["sweeps=random"], "sampler._target_"),
        (["sweeps.sampler.n_startup_trials=3"], "sampler.n_startup_trials"),
        (["sweeps.pruner={_target_: optuna.pruners.MedianPruner}"], "pruner._target_"),
        (["data=digits"], "data"),
    ],
    ids=str,
)
def test_the_name_depends_on_all_that_the_study_is_of(overrides: list[str], path: str, plain: Plan) -> None:
    other = plan_of(LR, "model=linear,mlp", *overrides)
    assert other.name != plain.name
    changed = differences(plain.identity, other.identity)
    assert any(line.startswith(path) for line in changed), changed


def test_a_value_beside_a_group_that_varies_is_part_of_the_name() -> None:
    names = [plan_of("optimizer=adam,adamw", f"optimizer.lr={lr}").name for lr in (0.1, 0.2)]
    assert names[0] != names[1]


def test_what_an_option_of_ones_own_says_is_part_of_the_name(tmp_path: Path) -> None:
    file = tmp_path / "model" / "wide.yaml"
    file.parent.mkdir()
    names = []
    for hidden in (8, 16):
        file.write_text(f"_target_: mlops_hydra.models.MLP\nhidden: [{hidden}]\ndropout: 0.0\n")
        names.append(plan_of("model=linear,wide", config_dir=str(tmp_path)).name)
    assert names[0] != names[1]


def test_one_changed_byte_of_the_data_is_another_study(tmp_path: Path) -> None:
    file = tmp_path / "table.csv"
    rows = [f"{number % 7},{number % 2}" for number in range(40)]
    names = []
    for rest in (rows, rows, [*rows[:-1], "5,1"]):
        file.write_text("\n".join(["a,label", *rest, ""]))
        names.append(plan_of("data=csv", "data.path=table.csv", "data.target=label", LR).name)
    assert names[0] == names[1] != names[2]


def test_the_data_of_every_option_counts(tmp_path: Path) -> None:
    for name, last in (("one", 1), ("two", 2)):
        rows = [f"{number % 7},{number % 2}" for number in range(40)] + [f"{last},1"]
        (tmp_path / f"{name}.csv").write_text("\n".join(["a,label", *rows, ""]))
    asked = ["data=csv", "data.target=label", "data.path=one.csv,two.csv"]
    before = plan_of(*asked)
    assert len(before.identity["data"]) == 2
    (tmp_path / "two.csv").write_text((tmp_path / "two.csv").read_text() + "3,0\n")
    assert plan_of(*asked).name != before.name


def test_the_code_of_a_model_of_ones_own_is_part_of_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "own_net_of_a_study.py"
    monkeypatch.syspath_prepend(tmp_path)
    names = []
    for text in (OWN_MODEL, OWN_MODEL, f"{OWN_MODEL}# changed\n"):
        file.write_text(text)
        sys.modules.pop(file.stem, None)
        names.append(plan_of("model=linear", f"model._target_={file.stem}.net", LR).name)
    assert names[0] == names[1] != names[2]


def test_the_code_counts_of_options_that_only_some_trials_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "other_net_of_a_study.py"
    monkeypatch.syspath_prepend(tmp_path)
    names = []
    for text in (OWN_MODEL, f"{OWN_MODEL}# changed\n"):
        file.write_text(text)
        sys.modules.pop(file.stem, None)
        names.append(plan_of("model=linear", f"model._target_=mlops_hydra.models.Linear,{file.stem}.net").name)
    assert names[0] != names[1]


def test_a_seed_that_varies_takes_the_split_with_it() -> None:
    request = request_of("seed=1,2,3")
    assert [request.variations.with_overrides([f"seed={seed}"]).data.split.seed for seed in (1, 2)] == [1, 2]


def test_faults_of_every_part_of_the_space_are_told_at_once() -> None:
    faults = faults_of("optimizer.lr=interval(-1, 1)", "optimizer.weight_decay=0.1,-2", "trainer.epochs=range(0, 3)")
    assert set(faults) == {"optimizer.lr", "optimizer.weight_decay", "trainer.epochs"}


def test_faults_of_what_is_fixed_in_the_space_hide_no_others() -> None:
    asked = "+sweeps.params={trainer.epochs: 0, optimizer.weight_decay: '0.1,-2', optimizer.lr: 'interval(0.1, 0.2)'}"
    assert set(faults_of(asked)) == {"trainer.epochs", "optimizer.weight_decay"}


def test_a_value_that_fits_only_some_options_is_told() -> None:
    assert "model.dropout" in faults_of("model=mlp,linear", "model.dropout=0.1,0.2")


def test_a_name_that_does_not_exist_is_told_with_its_nearest() -> None:
    assert "Did you mean optimizer.lr?" in faults_of("optimizer.lrr=0.1,0.2")["optimizer.lrr"]


def test_what_else_is_looked_at_must_be_measured() -> None:
    assert "num_parameters" in faults_of(LR, "objective.others=[num_params]")["objective.others"]


def test_several_objectives_have_their_directions_and_each_once() -> None:
    plan = plan_of("sweeps=nsga2", LR, "objective.others=[num_parameters,accuracy,accuracy,log_loss]")
    assert plan.objectives == (("log_loss", "minimize"), ("num_parameters", "minimize"), ("accuracy", "maximize"))
    assert plan.directions == ["minimize", "minimize", "maximize"]


def test_a_metric_of_ones_own_has_no_direction_to_be_looked_at_besides() -> None:
    own = "+metrics.mcc._target_=sklearn.metrics.matthews_corrcoef"
    assert "direction" in faults_of(LR, own, "objective.others=[mcc]")["objective.others"]


def test_a_pruner_needs_one_objective() -> None:
    assert "pruner=null" in faults_of("sweeps=hyperband", LR, "objective.others=[num_parameters]")["sweeps.pruner"]


def test_trials_must_share_one_objective() -> None:
    assert "log_loss" in faults_of("data=wine,diabetes", LR)["objective"]
    assert "accuracy" in faults_of("objective.metric=log_loss,accuracy", LR)["objective"]


@pytest.mark.parametrize(("n_trials", "total"), [(100, 6), (6, 6), (4, 4)])
def test_a_grid_has_as_many_trials_as_points_at_most(n_trials: int, total: int) -> None:
    plan = plan_of("sweeps=grid", f"sweeps.n_trials={n_trials}", "optimizer.lr=0.1,0.2,0.3", "model=linear,mlp")
    assert plan.total == total


def test_a_grid_needs_values_that_can_be_listed() -> None:
    assert "optimizer.lr" in next(iter(faults_of("sweeps=grid", LR, "model=linear,mlp")))


def test_a_misspelt_argument_of_a_sampler_is_told_with_its_nearest_name() -> None:
    fault = faults_of(LR, "+sweeps.sampler.n_startup=3")["sweeps.sampler.n_startup"]
    assert "n_startup_trials" in fault


def test_a_study_needs_to_be_asked_for() -> None:
    with pytest.raises(ConfigError, match="sweeps=tpe"):
        planned(compose(), [LR])


def test_a_study_of_studies_is_refused() -> None:
    with pytest.raises(ConfigError, match="belongs to the study"):
        planned(compose(["sweeps=tpe"]), ["sweeps=tpe,random"])


def test_a_value_that_is_typed_ends_the_search_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "sweeps" / "mine.yaml"
    file.parent.mkdir()
    file.write_text(
        "defaults: [base, _self_]\nsampler: {_target_: optuna.samplers.RandomSampler}\n"
        "params:\n  optimizer: {lr: 'interval(0.1, 0.2)'}\n  model: [linear, mlp]\n"
    )
    whole = plan_of("sweeps=mine", config_dir=str(tmp_path))
    assert set(whole.space.distributions) == {"optimizer.lr", "model"}
    request = request_of("sweeps=mine", "optimizer.lr=0.5", config_dir=str(tmp_path))
    assert set(request.plan.space.distributions) == {"model"}
    assert request.config.optimizer.args["lr"] == 0.5


def test_a_space_that_is_typed_goes_before_values_that_are_typed() -> None:
    plan = plan_of("optimizer.lr=0.5", "+sweeps.params={optimizer.lr: 'interval(0.1, 0.2)'}")
    assert set(plan.space.distributions) == {"optimizer.lr"}


def test_what_the_space_fixes_is_part_of_every_trial() -> None:
    request = request_of("+sweeps.params={trainer.epochs: 3, model: 'linear,mlp'}")
    assert request.config.trainer.epochs == 3
    assert request.variations.with_overrides(["model=linear"]).trainer.epochs == 3


def test_a_config_that_was_changed_by_hand_can_be_searched_by_values() -> None:
    config = compose(["sweeps=tpe", "data=wine"]).model_copy(update={"seed": 5})
    request = planned(config, [LR])
    assert request.plan.seed == 5
    assert request.variations.with_overrides(["optimizer.lr=0.5"]).seed == 5
    with pytest.raises(ConfigError, match="by hand"):
        planned(config, ["model=linear,mlp"])


def test_values_that_only_together_make_an_experiment_can_be_searched() -> None:
    request = request_of("trainer.epochs=null", "trainer.steps=5,10")
    assert request.variations.with_overrides(["trainer.steps=10"]).trainer.steps == 10


def test_a_request_can_be_made_from_what_a_request_shares() -> None:
    first = request_of(LR, "seed=3")
    assert planned(first.config, [LR]).plan == first.plan
    assert isinstance(first.config, ExperimentConfig)


def test_the_plan_of_anything_is_named_by_what_it_is_of() -> None:
    settings, space = compose(["sweeps=tpe"]).sweeps, parse_space({}, ["x=1,2"])
    assert settings is not None

    def name(of: Mapping[str, Any], **changes: Any) -> str:
        return make_plan(
            settings.model_copy(update=changes),
            space,
            objectives=(("y", "minimize"),),
            seed=0,
            storage="sqlite://",
            of=of,
        ).name

    assert name({"job": "a"}) == name({"job": "a"}, n_trials=7) != name({"job": "b"})
    assert name({"job": "a"}, study_name="mine") == "mine"
    assert len(name({"job": "a"})) == 12


def test_a_share_of_failures_is_rounded_down_but_not_by_rounding_errors() -> None:
    assert plan_of(LR, "sweeps.n_trials=10", "sweeps.max_failure_rate=0.3").most_failures == 3
    assert plan_of(LR, "sweeps.n_trials=9", "sweeps.max_failure_rate=0.1").most_failures == 0


def test_differences_say_what_was_and_what_is() -> None:
    lines = differences({"a": {"b": 1}, "same": 2, "gone": None}, {"a": {"b": 3}, "same": 2, "new": 4})
    assert lines == ["a.b: 1 -> 3", "gone: None -> nothing", "new: nothing -> 4"]
