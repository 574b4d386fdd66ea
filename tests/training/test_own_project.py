"""A person's own Datasets and models, trained from end to end by `run`."""

import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from mlops_hydra import Result, compose, run
from mlops_hydra.errors import ConfigError

TEXT = ["model=linear", "model._target_=own_project.BagOfWords", "data.source._target_=own_project.Reviews",
        "data.target=label", "optimizer.lr=0.05"]  # fmt: skip


@pytest.fixture(autouse=True)
def _project(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = Path(__file__).with_name("own_project.py").read_text(encoding="utf-8")
    (workplace / "own_project.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(workplace)
    sys.modules.pop("own_project", None)


def trained(*overrides: str) -> Result:
    rest = ["~data.source.name", "data.classes=null", "progress=off", "gates=none", "trainer.device=cpu"]
    return run(compose([*overrides, *rest]))


def test_text_in_dicts_is_learnt_with_an_embedding(workplace: Path) -> None:
    result = trained(*TEXT, "trainer.epochs=12", "trainer.batch_size=16")
    assert result.metrics["test/accuracy"] == 1.0
    assert result.metrics["latency_p50_ms"] > 0
    predictions = pq.read_table(result.folder / "predictions.parquet")  # type: ignore[no-untyped-call]
    assert predictions.num_rows == 48  # val and test, of 120


def test_a_users_step_and_callback_take_part(workplace: Path) -> None:
    mine = [
        "+trainer.step._target_=own_project.step",
        "+trainer.step.scale=2",
        "+callbacks.diary._target_=own_project.Diary",
    ]
    result = trained(*TEXT, *mine, "trainer.epochs=12", "trainer.batch_size=16")
    assert result.metrics["test/accuracy"] == 1.0
    assert result.metrics["own_number"] == result.best_epoch
    assert result.metrics["train/loss"] < 0.7


def test_images_that_are_drawn_anew_give_the_same_with_and_without_workers(workplace: Path) -> None:
    images = ["model=cnn", "data.source._target_=own_project.Images", "trainer.epochs=3", "trainer.batch_size=16"]
    alone, helped = trained(*images), trained(*images, "data.num_workers=2")
    assert alone.metrics["test/accuracy"] == 1.0
    assert alone.fingerprint == helped.fingerprint
    first, second = ((result.folder / "weights.safetensors").read_bytes() for result in (alone, helped))
    assert first == second
    timing = {"latency_p50_ms", "latency_p95_ms"}
    assert {k: v for k, v in alone.metrics.items() if k not in timing} == {
        k: v for k, v in helped.metrics.items() if k not in timing
    }


def test_streams_are_learnt_by_steps(workplace: Path) -> None:
    result = trained(
        "model=linear", "data.source._target_=own_project.streams", "data.version=v1", "data.task=regression",
        "trainer.epochs=null", "trainer.steps=150", "trainer.early_stopping.patience=null", "trainer.batch_size=16",
        "optimizer.lr=0.1",
    )  # fmt: skip
    assert result.metrics["test/rmse"] < 0.1
    assert result.metrics["baseline/rmse"] > 0.3


def test_arrays_in_memory_of_any_precision_are_learnt(workplace: Path) -> None:
    result = trained("model=linear", "data.source._target_=own_project.arrays", "optimizer.lr=0.1", "trainer.epochs=30")
    assert result.metrics["test/accuracy"] > 0.9
    assert np.isfinite(list(result.metrics.values())).all()


def test_a_model_that_takes_other_names_is_told_before_training(workplace: Path) -> None:
    with pytest.raises(ConfigError, match=r"fails on rows of shape tokens \[2, 6\].*unexpected keyword"):
        trained(*TEXT, "model._target_=torch.nn.Identity")
