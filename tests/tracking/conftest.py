"""Configs built by hand, and a copy of the empty MLflow store where they record."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlops_hydra.config.schema import ExperimentConfig, Origin
from mlops_hydra.tracking.lineage import Lineage
from mlops_hydra.tracking.store import URI_VARIABLE

MakeConfig = Callable[..., ExperimentConfig]


def _tree(output_dir: Path) -> dict[str, Any]:
    split = {"by": "auto", "column": None, "val": 0.2, "test": 0.2, "num_folds": None, "fold": None, "seed": 0}
    data = {"source": {"_target_": "collections.OrderedDict"}, "path": None, "target": "y", "task": "auto"}
    data |= {"classes": None, "keep": None, "drop": (), "kinds": {}, "id": None, "image_shape": None, "version": None}
    data |= {"split": split | {"duplicates": "together"}, "num_workers": 0}
    data |= {"encoding": {"impute": "mean", "max_one_hot": 20, "max_categories": 1000}}
    trainer = {"epochs": 3, "steps": None, "batch_size": 64, "accumulate": 1, "clip_norm": None, "loss": None}
    trainer |= {"early_stopping": {"patience": None, "min_delta": 0.0}, "scheduler_interval": "auto", "step": None}
    trainer |= {"checkpoint": {"every_epochs": None, "every_steps": None, "every_seconds": None}}
    trainer |= {"precision": "fp32", "compile": False, "deterministic": True, "device": "cpu", "num_threads": None}
    return {
        "name": "tests",
        "seed": 0,
        "objective": {"metric": None, "direction": None},
        "model": {"_target_": "mlops_hydra.models.Linear"},
        "optimizer": {"_target_": "torch.optim.SGD", "lr": 0.1},
        "scheduler": None,
        "data": data,
        "trainer": trainer,
        "metrics": {},
        "callbacks": {},
        "gates": {},
        "sweeps": None,
        "tracking": {"uri": f"sqlite:///{output_dir / 'mlflow.db'}", "timeout_seconds": 30.0},
        "output_dir": str(output_dir),
        "tags": {},
        "progress": "off",
        "trust": (),
        "init_from": None,
        "reuse": "auto",
        "on_busy": "exit",
    }


@pytest.fixture
def make_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeConfig:
    """`make_config(overrides=(), choices=(), **top_level_fields)`: an experiment that records below `tmp_path`."""
    monkeypatch.delenv(URI_VARIABLE, raising=False)

    def make(
        overrides: tuple[str, ...] = (), choices: tuple[tuple[str, str], ...] = (), **fields: Any
    ) -> ExperimentConfig:
        config = ExperimentConfig.model_validate({**_tree(tmp_path / "outputs"), **fields})
        config._origin = Origin(overrides, choices)
        return config

    return make


@pytest.fixture
def lineage() -> Lineage:
    return Lineage("a" * 64, "b" * 64, "c" * 64)


@pytest.fixture
def local_store(empty_store: Path, tmp_path: Path) -> str:
    """The URI of a copy of the empty store, where `make_config` records."""
    (tmp_path / "outputs").mkdir()
    shutil.copy(empty_store, tmp_path / "outputs" / "mlflow.db")
    return f"sqlite:///{tmp_path / 'outputs' / 'mlflow.db'}"


@pytest.fixture
def dead_server() -> dict[str, Any]:
    """A `tracking` section whose server refuses connections: nothing listens on port 9 (discard) of loopback."""
    return {"uri": "http://127.0.0.1:9", "timeout_seconds": 5.0}
