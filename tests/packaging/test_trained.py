"""What a trial leaves of its training, and what can be made of it."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from mlops_hydra.config.objective import Objective
from mlops_hydra.errors import TrackingError
from mlops_hydra.packaging import files
from mlops_hydra.packaging.trained import Trained, read_trained, trained_of, write_trained
from mlops_hydra.tracking.folders import TRIAL
from mlops_hydra.training.loop import FitResult

OBJECTIVE = Objective("log_loss", "minimize")
HISTORY = (
    {"epoch": 1, "train/loss": 0.7, "val/log_loss": 0.1 + 0.2, "val/roc_auc": math.nan},
    {"epoch": 2, "train/loss": 0.6, "val/log_loss": 0.25, "val/roc_auc": 0.5},
)
FITTED = FitResult(HISTORY, 2, 0.25, False, 12)


@pytest.fixture
def trained() -> Trained:
    return Trained.of(FITTED, OBJECTIVE, {"log_loss": 0.25, "num_parameters": 62.0}, pruned=False)


def test_it_reads_as_it_was_written(tmp_path: Path, trained: Trained):
    write_trained(tmp_path, trained)
    assert read_trained(tmp_path) == trained and trained.scores == (0.1 + 0.2, 0.25)


def test_a_pruned_training_is_not_taken_for_one_that_ended(tmp_path: Path):
    write_trained(tmp_path, Trained.of(FITTED, OBJECTIVE, {"log_loss": 0.25}, pruned=True))
    assert read_trained(tmp_path) is None


def test_where_there_is_none_there_is_none(tmp_path: Path):
    assert read_trained(tmp_path) is None


def test_history_and_weights_come_back_bit_for_bit(tmp_path: Path, trained: Trained):
    graph = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    before = {name: value.clone() for name, value in graph.state_dict().items()}
    files.write_weights(tmp_path, graph)
    files.write_history(tmp_path, HISTORY)
    write_trained(tmp_path, trained)
    fresh = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    restored = trained.restored(fresh, tmp_path)
    assert all(torch.equal(before[name], value) for name, value in fresh.state_dict().items())
    assert json.dumps(restored.history) == json.dumps(HISTORY)
    assert (restored.best_epoch, restored.best_score, restored.num_steps) == (2, 0.25, 12)


@pytest.mark.parametrize(
    "text",
    [
        '{"state": "trained"}',
        '{"state": "trained", "objective": 3}',
        '{"state": "trained", "values": [], "scores": {}}',
    ],
)
def test_a_damaged_file_is_named(tmp_path: Path, text: str):
    (tmp_path / TRIAL).write_text(text)
    with pytest.raises(TrackingError, match=r"trial\.json is damaged.*reuse=never"):
        read_trained(tmp_path)


@pytest.mark.parametrize("name", [files.WEIGHTS, files.HISTORY])
def test_a_missing_or_torn_part_is_named(tmp_path: Path, trained: Trained, name: str):
    graph = nn.Linear(3, 2)
    files.write_weights(tmp_path, graph)
    files.write_history(tmp_path, HISTORY)
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:20])
    with pytest.raises(TrackingError, match=name.replace(".", r"\.")):
        trained.restored(graph, tmp_path)


def test_weights_of_another_model_are_refused(tmp_path: Path, trained: Trained):
    files.write_weights(tmp_path, nn.Linear(3, 2))
    files.write_history(tmp_path, HISTORY)
    with pytest.raises(TrackingError, match=r"weights\.safetensors"):
        trained.restored(nn.Linear(4, 2), tmp_path)


def test_nan_survives(tmp_path: Path):
    tree = {"state": "pruned", "objective": {"metric": "f1", "direction": "maximize"}, "values": {"f1": None}}
    tree |= {"scores": [None, 0.5], "best_epoch": 2, "best_score": 0.5, "stopped_early": False, "num_steps": 4}
    trained = trained_of(tmp_path, tree)
    assert math.isnan(trained.values["f1"]) and math.isnan(trained.scores[0]) and trained.scores[1] == 0.5
