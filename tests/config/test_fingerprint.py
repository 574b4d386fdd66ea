"""The name of an experiment: what leaves it unchanged, and that everything else changes it."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops_hydra.config.check import as_tree, checked
from mlops_hydra.config.compose import compose
from mlops_hydra.config.fingerprint import fingerprint, flatten, identity, neutral_paths, neutral_values
from mlops_hydra.config.schema import ExperimentConfig
from mlops_hydra.errors import ConfigError

BASE = compose(["scheduler=one_cycle", "+metrics.mcc._target_=sklearn.metrics.matthews_corrcoef"])
NEUTRAL = (
    "name", "data.path", "data.num_workers", "trainer.device", "trainer.num_threads", "trainer.checkpoint",
    "gates", "sweeps", "reuse", "on_busy", "tracking", "output_dir", "tags", "progress", "trust",
    "objective.others", "judging", "packaging", "profile_bins", "register",
)  # fmt: skip
OTHER_VALUES: dict[str, Any] = {
    "objective.metric": "accuracy",
    "objective.direction": "maximize",
    "model._target_": "mlops_hydra.models.Linear",
    "optimizer._target_": "torch.optim.Adam",
    "scheduler._target_": "torch.optim.lr_scheduler.OneCycleLR",
    "data.source.name": "wine",
    "data.drop": ["area"],
    "data.target": "diagnosis",
    "data.task": "binary",
    "data.keep": ["area"],
    "data.kinds": {"area": "numeric"},
    "data.id": "patient",
    "data.image_shape": [1, 5, 6],
    "data.split.by": "random",
    "data.split.duplicates": "count",
    "data.encoding.impute": "median",
    "data.version": "2026-11",
    "trainer.clip_norm": 1.0,
    "trainer.calibrate": "temperature",
    "trainer.loss": {"_target_": "torch.nn.CrossEntropyLoss"},
    "trainer.step": {"_target_": "torch.nn.functional.cross_entropy"},
    "trainer.precision": "bf16",
    "trainer.scheduler_interval": "step",
    "callbacks": {"mine": {"_target_": "mlops_hydra.training.observers.Observer"}},
    "metrics.mcc._target_": "sklearn.metrics.cohen_kappa_score",
}
TOGETHER: dict[str, dict[str, Any]] = {
    "data.source._target_": {"data.source": {"_target_": "mlops_hydra.data.tables.Csv"}, "data.path": "a.csv"},
    "trainer.epochs": {"trainer.epochs": None, "trainer.steps": 7},
    "trainer.steps": {"trainer.epochs": None, "trainer.steps": 7},
    "data.split.column": {"data.split.by": "group", "data.split.column": "hospital"},
    "data.split.num_folds": {"data.split.num_folds": 5, "data.split.fold": 0},
    "data.split.fold": {"data.split.num_folds": 5, "data.split.fold": 1},
    "model._target_": {"model": {"_target_": "mlops_hydra.models.Linear"}},
}


def changed(tree: dict[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    tree = json.loads(json.dumps(tree))
    for path, value in values.items():
        *parents, name = path.split(".")
        node = tree
        for key in parents:
            node = node[key]
        node[name] = value
    return tree


def other_value(path: str, value: Any) -> Any:
    if path in OTHER_VALUES:
        return OTHER_VALUES[path]
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value / 2 + 0.01
    if isinstance(value, list):
        return [*value[:-1], 0.5] if value and isinstance(value[-1], float) else [*value, 7]
    if value is None:
        return 3
    pytest.fail(f"no other value is known for {path}={value!r}: add one to OTHER_VALUES")


@pytest.mark.parametrize("path", [path for path in flatten(identity(BASE)) if path != "scheduler._target_"])
def test_every_identity_field_changes_it(path: str) -> None:
    values = TOGETHER.get(path) or {path: other_value(path, flatten(identity(BASE))[path])}
    other = checked(changed(as_tree(BASE), values))
    assert other.fingerprint != BASE.fingerprint


@pytest.mark.parametrize(
    "override",
    [
        "name=other", "data.path=elsewhere.csv", "data.num_workers=2", "trainer.device=cpu", "trainer.num_threads=2",
        "gates=none", "tracking.timeout_seconds=1", "output_dir=elsewhere", "+tags.team=blue", "progress=off",
        "trust=[my_package]", "trainer.checkpoint.every_epochs=1", "reuse=never", "on_busy=wait",
    ],
)  # fmt: skip
def test_no_neutral_field_changes_it(override: str) -> None:
    assert compose([override]).fingerprint == compose().fingerprint


def test_the_neutral_fields_are_those_of_the_design_and_are_listed_with_their_values() -> None:
    assert set(neutral_paths()) == set(NEUTRAL)
    assert set(neutral_values(BASE)) == set(NEUTRAL)


@given(seed=st.integers(0, 2**32), shuffled=st.randoms())
@settings(max_examples=40, deadline=None)
def test_the_order_of_keys_does_not_matter(seed: int, shuffled: random.Random) -> None:
    def shuffle(node: Any) -> Any:
        if not isinstance(node, dict):
            return node
        items = list(node.items())
        shuffled.shuffle(items)
        return {key: shuffle(value) for key, value in items}

    tree = changed(as_tree(BASE), {"seed": seed})
    assert checked(shuffle(tree)).fingerprint == checked(tree).fingerprint


@given(st.permutations(["seed=3", "model=linear", "optimizer.lr=0.01", "data=wine", "+tags.a=b"]))
@settings(max_examples=15, deadline=None)
def test_the_order_of_overrides_does_not_matter(overrides: list[str]) -> None:
    assert compose(overrides).fingerprint == compose(sorted(overrides)).fingerprint


@given(
    lr=st.floats(1e-6, 1.0),
    hidden=st.lists(st.integers(1, 512), max_size=3),
    epochs=st.integers(1, 1000),
)
@settings(max_examples=50, deadline=None)
def test_equal_configs_and_only_they_share_it(lr: float, hidden: list[int], epochs: int) -> None:
    values = {"optimizer.lr": lr, "model.hidden": hidden, "trainer.epochs": epochs}
    one, two = (checked(changed(as_tree(BASE), values)) for _ in range(2))
    assert one == two
    assert one.fingerprint == two.fingerprint
    assert (one.fingerprint == BASE.fingerprint) == (identity(one) == identity(BASE))


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("optimizer.lr=1", "optimizer.lr=1.0"),
        ("model.dropout=0", "model.dropout=0.0"),
        ("data.split.val=0.20", "data.split.val=2e-1"),
        ("optimizer.betas=[0,0.5]", "optimizer.betas=[0.0,0.5]"),
        ("trainer.clip_norm=1", "trainer.clip_norm=1.0"),
    ],
)
def test_whole_numbers_are_floats_where_floats_are_declared(one: str, two: str) -> None:
    assert compose([one]).fingerprint == compose([two]).fingerprint


def test_yaml_and_command_line_give_the_same(tmp_path: Any) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text(
        "dropout: 0.25\nhidden:\n- 8\n_target_: mlops_hydra.models.MLP\n", encoding="utf-8"
    )
    by_file = compose(["model=mine"], config_dir=str(tmp_path))
    by_words = compose(["model=mlp", "model.hidden=[8]", "model.dropout=0.25"])
    assert by_file.fingerprint == by_words.fingerprint


def test_other_processes_and_hash_seeds_give_the_same() -> None:
    """Two interpreters of their own, 2-3 s each: a hash seed cannot be set in this one."""
    code = "from mlops_hydra import compose; print(compose(['data=wine', '+tags.a=b']).fingerprint)"
    expected = compose(["data=wine"]).fingerprint
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == expected


def test_it_is_twelve_hex_digits_and_known() -> None:
    """The literal guards against a change of canonical form, which would rename every run of every user."""
    assert len(fingerprint(BASE)) == 12
    assert int(fingerprint(BASE), 16) >= 0
    assert fingerprint(_pinned()) == "89bfdc0d1e0f"


def _pinned() -> ExperimentConfig:
    """A config that no default moves."""
    tree = as_tree(compose(["data=wine", "model=linear", "optimizer=sgd", "gates=none"]))
    values = {"trainer.epochs": 3, "optimizer": {"_target_": "torch.optim.SGD", "lr": 1}, "seed": 1}
    return checked(changed(tree, values))


def test_a_value_that_json_cannot_say_is_refused() -> None:
    with pytest.raises(ConfigError):
        checked(changed(as_tree(BASE), {"model.dropout": float("nan")}))
