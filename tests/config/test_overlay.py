"""Overlays: what is written composes to the same config, anywhere, and says no more than it must."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from mlops_hydra.config.compose import compose, compose_from
from mlops_hydra.config.overlay import write_overlay
from mlops_hydra.config.roots import Roots, packaged_conf
from mlops_hydra.config.schema import ExperimentConfig
from tests.sampled import some

GROUPS = ("model", "optimizer", "scheduler", "data", "trainer", "gates", "tracking")
FILE = ["data.path=table.csv", "data.target=label"]
NEEDED = {
    "data=csv": FILE,
    "data=parquet": FILE,
    "experiment=csv_table": FILE,
    "model=cnn": ["data.image_shape=[1,5,6]"],
}
"""What an option cannot be composed without."""


def options() -> Iterator[tuple[str, ...]]:
    """Every packaged option, those of all groups side by side."""
    for group in GROUPS:
        assert list((packaged_conf() / group).glob("*.yaml")), group
    names = [
        [f"{group}={path.stem}" for path in sorted((packaged_conf() / group).glob("*.yaml")) if path.stem != "base"]
        for group in GROUPS
    ]
    for together in itertools.zip_longest(*names):
        yield tuple(option for option in together if option)
    for path in (packaged_conf() / "experiment").glob("*.yaml"):
        yield (f"experiment={path.stem}",)


def overlay(config: ExperimentConfig, folder: Path) -> dict[str, Any]:
    """What was written, after checking that it composes to `config` with this folder alone."""
    path = write_overlay(config, folder, "best", "# Why it is here.\n# How it is run.")
    assert path == folder / "experiment" / "best.yaml"
    again = compose(["experiment=best"], config_dir=str(folder))
    assert again.fingerprint == config.fingerprint
    assert again == config.model_copy(update={"sweeps": None}), "what the fingerprint leaves out is the same too"
    tree = OmegaConf.to_container(OmegaConf.load(path))
    assert isinstance(tree, dict)
    return {str(key): value for key, value in tree.items()}


@pytest.mark.parametrize("together", [*options()], ids=" ".join)
def test_every_packaged_option_comes_back(together: tuple[str, ...], tmp_path: Path) -> None:
    needed = dict.fromkeys(text for option in together for text in NEEDED.get(option, []))
    overlay(compose([*together, *needed]), tmp_path)


@pytest.mark.parametrize(
    "overrides",
    some(
        [
            ["seed=3", "data.split.seed=0"],
            ["seed=3", "data.split.seed=3"],
            ["scheduler=one_cycle", "optimizer.lr=0.05", "scheduler.max_lr=0.1"],
            ["~optimizer.weight_decay"],
            ["+optimizer.amsgrad=true", "optimizer=adam"],
            ["~gates.beats_baseline"],
            ["gates=strict", "~gates.latency", "gates.accuracy.threshold=0.5"],
            ["+gates.mine={metric: f1, threshold: 0.5, on: val}"],
            ["+metrics.mcc._target_=sklearn.metrics.matthews_corrcoef"],
            ["+callbacks.mine._target_=mlops_hydra.training.observers.Observer"],
            ["+trainer.loss._target_=torch.nn.CrossEntropyLoss", "+trainer.loss.label_smoothing=0.1"],
            ["+tags.team=blue", "+tags.why='a: b, c'", "+tags.version='3'"],
            ["name='it is, a name: with #'", "data.version='7'"],
            ["trainer.epochs=null", "trainer.steps=10"],
            ["optimizer.lr=1e-05", "model.hidden=[7]", "optimizer.betas=[0.8,0.9]"],
            ["model.hidden=[]"],
            ["data.classes=[malignant,benign]", "data.drop=[a,'b c']"],
            ["+data.kinds={a.b: numeric, c: date}"],
            ["experiment=digits_cnn", "scheduler=none", "trainer.batch_size=8"],
            ["experiment=diabetes_regression", "model.dropout=0"],
            ["output_dir=elsewhere", "tracking.timeout_seconds=3"],
            ["objective.others=[num_parameters]", "objective.metric=accuracy"],
            ["init_from=1234567e8901"],
            ["trust=[my_package]", "progress='off'", "reuse=never"],
        ],
        every=3,
    ),
    ids=" ".join,
)
def test_what_was_changed_comes_back(overrides: list[str], tmp_path: Path) -> None:
    overlay(compose(overrides), tmp_path)


@pytest.mark.parametrize(
    "changes",
    [{"scheduler": None}, {"gates": {}}, {"seed": 5}, {"objective": compose(["objective.metric=f1"]).objective},
     {"model": compose(["model=linear"]).model}, {"optimizer": compose(["optimizer=sgd"]).optimizer}],
    ids=lambda changes: next(iter(changes)),
)  # fmt: skip
def test_what_was_changed_by_hand_comes_back(changes: dict[str, Any], tmp_path: Path) -> None:
    overlay(compose(["scheduler=cosine"]).model_copy(update=changes), tmp_path)


def test_a_config_that_was_built_by_hand_comes_back(tmp_path: Path) -> None:
    overlay(ExperimentConfig.model_validate(dict(compose(["experiment=digits_cnn"]))), tmp_path)


@pytest.mark.parametrize(
    "overrides", [["model=wide"], ["experiment=mine"], ["experiment=mine", "model=linear"]], ids=str
)
def test_options_of_ones_own_are_not_needed_to_compose_it_again(overrides: list[str], tmp_path: Path) -> None:
    own = tmp_path / "own"
    for name, text in {
        "model/wide": "_target_: mlops_hydra.models.MLP\nhidden: [512]\ndropout: 0.0\n",
        "experiment/mine": "# @package _global_\ndefaults:\n  - override /model: wide\nname: mine\n",
    }.items():
        (own / name).parent.mkdir(parents=True)
        (own / f"{name}.yaml").write_text(text)
    written = overlay(compose(overrides, config_dir=str(own)), tmp_path / "study")
    assert "wide" not in str(written["defaults"])


def test_a_primary_config_of_ones_own_is_not_needed_to_compose_it_again(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / "mine.yaml").write_text("defaults:\n  - config\n  - override model: linear\n  - _self_\nseed: 8\n")
    for name in ("config",):
        (own / f"{name}.yaml").write_text((packaged_conf() / f"{name}.yaml").read_text())
    config = compose_from([], Roots(config_path=str(own), config_name="mine"))
    assert config.seed == 8
    overlay(config, tmp_path / "study")


@pytest.mark.parametrize(
    ("overrides", "written"),
    [
        ([], {"defaults": ["_self_"]}),
        (["sweeps=tpe", "sweeps.n_trials=3"], {"defaults": ["_self_"]}),
        (["optimizer.lr=0.5"], {"defaults": ["_self_"], "optimizer": {"lr": 0.5}}),
        (["model=linear"], {"defaults": [{"override /model": "linear"}, "_self_"]}),
        (["seed=3"], {"defaults": ["_self_"], "seed": 3}),
        (["seed=3", "data.split.seed=0"], {"defaults": ["_self_"], "seed": 3, "data": {"split": {"seed": 0}}}),
        (
            ["scheduler=one_cycle", "optimizer.lr=0.5"],
            {"defaults": [{"override /scheduler": "one_cycle"}, "_self_"], "optimizer": {"lr": 0.5}},
        ),
        (["output_dir=there"], {"defaults": ["_self_"], "output_dir": "there"}),
        (
            ["data=csv", "data.path=a.csv", "data.target=label"],
            {"defaults": [{"override /data": "csv"}, "_self_"], "data": {"path": "a.csv", "target": "label"}},
        ),
        (
            ["~optimizer.weight_decay"],
            {
                "defaults": [{"override /optimizer": None}, "_self_"],
                "optimizer": {"_target_": "torch.optim.AdamW", "lr": 0.003, "betas": [0.9, 0.999]},
            },
        ),
    ],
    ids=str,
)
def test_only_what_differs_from_the_defaults_is_written(
    overrides: list[str], written: dict[str, Any], tmp_path: Path
) -> None:
    assert overlay(compose(overrides), tmp_path) == written


def test_the_comment_stands_where_a_reader_looks(tmp_path: Path) -> None:
    path = write_overlay(compose(), tmp_path, "best", "# Why it is here.\n# How it is run.")
    assert path.read_text().splitlines()[:3] == ["# @package _global_", "# Why it is here.", "# How it is run."]


def test_an_overlay_is_written_over_an_older_one(tmp_path: Path) -> None:
    overlay(compose(["gates=strict", "seed=3"]), tmp_path)
    assert overlay(compose(), tmp_path) == {"defaults": ["_self_"]}


def test_an_overlay_can_be_varied_like_any_other(tmp_path: Path) -> None:
    overlay(compose(["scheduler=one_cycle", "optimizer.lr=0.5"]), tmp_path)
    varied = compose(["experiment=best", "optimizer.lr=0.25"], config_dir=str(tmp_path))
    assert varied == compose(["scheduler=one_cycle", "optimizer.lr=0.25"])
