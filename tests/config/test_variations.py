"""Variations of a request: what composing each of them from scratch gives, faults included."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops_hydra.config.compose import asks_for_study, compose, compose_from, is_group, split_swept
from mlops_hydra.config.roots import Roots
from mlops_hydra.config.schema import ExperimentConfig
from mlops_hydra.config.variations import Variations
from mlops_hydra.errors import ConfigError

CHANGED = ["trainer.epochs=3", "+tags.by=me", "optimizer=adamw"]
DEFAULTS, VARIATIONS = Variations(compose()), Variations(compose(CHANGED))


@pytest.fixture(scope="module")
def own_dir(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A person's own options: a model, an optimizer that refers to other keys, an overlay."""
    folder = tmp_path_factory.mktemp("own")
    for name, text in {
        "model/wide": "_target_: mlops_hydra.models.MLP\nhidden: [512]\ndropout: 0.0\n",
        "optimizer/follows": "_target_: torch.optim.SGD\nlr: ${model.dropout}\nmomentum: 0.5\n",
        "experiment/mine": "# @package _global_\ndefaults:\n  - override /model: wide\nname: mine\nseed: 9\n",
    }.items():
        path = folder / f"{name}.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    return str(folder)


def assert_same(found: ExperimentConfig, wanted: ExperimentConfig) -> None:
    assert found == wanted
    assert found.fingerprint == wanted.fingerprint
    assert found.origin == wanted.origin


def faults_of(variations: Variations, *changes: str) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        variations.with_overrides(changes)
    return {fault.path: str(fault) for fault in caught.value.faults}


@pytest.mark.parametrize(
    "changes",
    [
        [],
        ["optimizer.lr=0.02"],
        ["seed=7"],
        ["seed=7", "data.split.seed=3"],
        ["model=linear"],
        ["model=cnn", "data=digits", "scheduler=one_cycle", "optimizer.lr=0.1"],
        ["optimizer.lr=0.1", "optimizer=sgd"],
        ["optimizer=sgd", "~optimizer.nesterov"],
        ["~gates.beats_baseline"],
        ["gates=none"],
        ["+tags.team=blue"],
        ["++tags.team=blue", "++optimizer.lr=1"],
        ["+optimizer.amsgrad=true"],
        ["model.hidden=[8,16,32]"],
        ["model={hidden: [8]}", "model.dropout=0"],
        ["trainer.epochs=null", "trainer.steps=50"],
        ["name='a name, with a comma'"],
        ["name=a name with spaces"],
        ['name="it\'s"'],
        ["data.version='3'"],
        ["data.drop=['mean area', 'a=b']"],
        ["init_from=1234567e8901"],
        ["init_from=123456789012"],
        ["name=${seed}-${model._target_}"],
        ["experiment=digits_cnn"],
        ["experiment=digits_cnn", "model.channels=[4]", "trainer.epochs=2"],
        ["objective.others=[num_parameters]"],
        ["+metrics.mcc._target_=sklearn.metrics.matthews_corrcoef"],
    ],
)
def test_a_variation_is_what_composing_from_scratch_gives(changes: list[str]) -> None:
    given_anew = {change.partition("=")[0] for change in changes}
    kept = [text for text in CHANGED if text.partition("=")[0] not in given_anew]
    assert_same(VARIATIONS.with_overrides(changes), compose([*kept, *changes]))


@pytest.mark.parametrize(
    "changes",
    [["model=wide"], ["model=wide", "model.dropout=0.5"], ["optimizer=follows", "model.dropout=0.25"],
     ["experiment=mine"], ["experiment=mine", "seed=4"], ["experiment=mine", "model=mlp"]],
)  # fmt: skip
def test_a_persons_own_options_vary_like_the_packaged_ones(own_dir: str, changes: list[str]) -> None:
    found = Variations(compose(["seed=3"], config_dir=own_dir)).with_overrides(changes)
    kept = [] if "seed=4" in changes else ["seed=3"]
    assert_same(found, compose([*kept, *changes], config_dir=own_dir))


def test_an_overlay_below_the_variations_stays_below_them(own_dir: str) -> None:
    varied = Variations(compose(["experiment=mine"], config_dir=own_dir)).with_overrides(["model.hidden=[4]"])
    assert_same(varied, compose(["experiment=mine", "model.hidden=[4]"], config_dir=own_dir))


def test_a_key_that_refers_to_another_follows_each_variation() -> None:
    seeds = [DEFAULTS.with_overrides([f"seed={seed}"]).data.split.seed for seed in (1, 2)]
    assert seeds == [1, 2]


def test_a_name_may_refer_to_the_chosen_options() -> None:
    variations = Variations(compose(["name=${hydra.runtime.choices.model}"]))
    assert [variations.with_overrides([f"model={one}"]).name for one in ("linear", "mlp")] == ["linear", "mlp"]


def test_overrides_given_anew_replace_the_old_ones() -> None:
    varied = Variations(compose(["optimizer.lr=0.5", "seed=1"])).with_overrides(["optimizer.lr=0.25"])
    assert varied.origin.overrides == ("seed=1", "optimizer.lr=0.25")
    assert varied.optimizer.args["lr"] == 0.25


def test_one_variation_leaves_no_trace_in_the_next() -> None:
    for changes in (["~gates.beats_baseline"], ["+tags.a=b"], ["model.hidden=[1]"], ["model=linear"]):
        DEFAULTS.with_overrides(changes)
    assert_same(DEFAULTS.with_overrides([]), compose())


def test_a_variation_has_no_study_whatever_the_config_has() -> None:
    config = compose(
        ["sweeps=tpe", "sweeps.n_trials=3", "+sweeps.params.seed='1,2'", "hydra/launcher=joblib", "seed=3"]
    )
    varied = Variations(config).with_overrides(["optimizer.lr=1"])
    assert_same(varied, compose(["seed=3", "optimizer.lr=1"]))


@pytest.mark.parametrize("change", ["sweeps=random", "sweeps.n_trials=3", "hydra.verbose=true", "hydra/launcher=basic"])
def test_what_belongs_to_the_study_cannot_vary(change: str) -> None:
    ((path, fault),) = faults_of(Variations(compose(["sweeps=tpe"])), change).items()
    assert path == change.partition("=")[0]
    assert "belongs to the study" in fault


def test_all_faults_of_a_variation_are_reported_at_once_with_their_paths() -> None:
    faults = faults_of(DEFAULTS, "optimizer.lrr=1", "trainer.typo=2", "seed=-1")
    assert {"optimizer.lrr", "trainer.typo", "seed"} <= set(faults)
    assert "Did you mean optimizer.lr?" in faults["optimizer.lrr"]


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ("model=lin", "model"),
        ("optimizer.lr=-1", "optimizer.lr"),
        ("optimizer.lr=1,2", "optimizer.lr"),
        ("model=linear,mlp", "model"),
        ("~nothing", "nothing"),
        ("+seed=3", "seed"),
        ("tags.new=1", "tags.new"),
        ("optimizer.lr", "optimizer.lr"),
        ("tags=[1", "tags=[1"),
        ("name=${nope}", "name"),
        ("optimizer.lr=.nan", "optimizer.lr"),
        ("experiment=digit", "experiment"),
    ],
)
def test_a_wrong_change_is_a_fault_of_its_path_as_from_scratch(change: str, path: str) -> None:
    found = faults_of(DEFAULTS, change)
    with pytest.raises(ConfigError) as caught:
        compose([change])
    assert path in found
    assert found == {fault.path: str(fault) for fault in caught.value.faults}


def test_a_config_that_was_changed_by_hand_varies_by_values() -> None:
    config = compose(["optimizer.lr=0.5"]).model_copy(update={"seed": 11})
    varied = Variations(config).with_overrides(["trainer.epochs=2", "optimizer={lr: 0.125}"])
    assert (varied.seed, varied.trainer.epochs, varied.optimizer.args["lr"]) == (11, 2, 0.125)
    assert varied.data.split.seed == 0, "what was resolved before it was changed stays as it was"


def test_a_config_that_was_built_by_hand_varies_by_values() -> None:
    built = ExperimentConfig.model_validate(dict(compose()))
    assert built.origin.overrides == ()
    assert Variations(built).with_overrides(["model.dropout=0.5"]) == compose(["model.dropout=0.5"])


@pytest.mark.parametrize("change", ["model=linear", "experiment=digits_cnn", "scheduler=cosine"])
def test_a_config_that_was_changed_by_hand_has_no_groups_to_choose_from(change: str) -> None:
    changed = Variations(compose().model_copy(update={"seed": 11}))
    ((path, fault),) = faults_of(changed, change).items()
    assert path == change.partition("=")[0]
    assert "by hand" in fault


def test_changes_by_hand_to_the_study_alone_leave_the_groups() -> None:
    config = compose(["sweeps=tpe"])
    assert config.sweeps is not None
    fewer = config.model_copy(update={"sweeps": config.sweeps.model_copy(update={"n_trials": 3})})
    assert Variations(fewer).with_overrides(["model=linear"]) == compose(["model=linear"])


@given(
    lr=st.floats(1e-12, 1e6),
    dropout=st.floats(0, 0.99),
    hidden=st.lists(st.integers(1, 4096), min_size=1, max_size=5),
)
@settings(max_examples=10, deadline=None)
def test_numbers_of_any_size_arrive_exactly(lr: float, dropout: float, hidden: list[int]) -> None:
    changes = [f"optimizer.lr={lr}", f"model.dropout={dropout}", f"model.hidden={hidden}"]
    varied = DEFAULTS.with_overrides(changes)
    assert varied.optimizer.args["lr"] == lr
    assert (varied.model.args["dropout"], varied.model.args["hidden"]) == (dropout, tuple(hidden))
    assert_same(varied, compose(changes))


def test_overrides_are_told_apart_by_whether_they_search() -> None:
    fixed, swept = split_swept(["seed=1", "optimizer.lr=interval(0, 1)", "model=linear,mlp", "model.hidden=[1,2]"])
    assert fixed == ["seed=1", "model.hidden=[1,2]"]
    assert swept == ["optimizer.lr=interval(0, 1)", "model=linear,mlp"]


def test_one_value_that_is_given_later_ends_a_search() -> None:
    assert split_swept(["seed=1,2", "seed=3"]) == (["seed=3"], [])
    assert split_swept(["seed=3", "seed=1,2"]) == (["seed=3"], ["seed=1,2"])


def test_names_of_runs_can_be_searched() -> None:
    assert split_swept(["init_from=1234567e8901,123456789012"])[1] == ["init_from=1234567e8901,123456789012"]


def test_text_that_is_no_override_cannot_be_told_apart() -> None:
    with pytest.raises(ConfigError, match="is not an override"):
        split_swept(["seed"])


def test_a_study_is_asked_for_with_its_launcher(own_dir: str) -> None:
    assert asks_for_study(["sweeps=tpe"], Roots(config_dir=own_dir)) == "basic"
    assert asks_for_study(["sweeps=tpe", "hydra/launcher=joblib"], Roots()) == "joblib"
    assert asks_for_study([], Roots()) is None
    assert asks_for_study(["sweeps=nothing"], Roots()) is None, "what cannot be composed is told elsewhere"


def test_groups_are_told_from_values(own_dir: str) -> None:
    roots = Roots(config_dir=own_dir)
    found = {
        key: is_group(key, roots)
        for key in ("model", "experiment", "model@other", "seed", "optimizer.lr", "data.split")
    }
    assert found == {
        "model": True,
        "experiment": True,
        "model@other": True,
        "seed": False,
        "optimizer.lr": False,
        "data.split": False,
    }


def test_what_varies_keeps_the_roots_it_came_from(own_dir: str, tmp_path: Path) -> None:
    varied = Variations(compose(config_dir=own_dir)).with_overrides(["model=wide"])
    assert compose_from(varied.origin.overrides, varied.origin.roots) == varied
