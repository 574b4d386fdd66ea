"""Everything that the rest of a training depends on, as tensors and plain values: what a checkpoint holds.

The order of the data needs no more than a position: it follows from (seed, epoch). See `batches.py`.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from mlops_hydra.errors import TrainingError
from mlops_hydra.training.losses import EpochLosses
from mlops_hydra.training.observers import Observers, Training
from mlops_hydra.training.seeding import RandomState
from mlops_hydra.training.stopping import EarlyStopping


@dataclass(frozen=True, slots=True)
class Position:
    """Where in an epoch the training stands: batches it has taken, whether it is under way, its first learning rate."""

    num_batches: int = 0
    ongoing: bool = False
    rate: float = 0.0


class Fit(Protocol):
    """A training under way, as far as the rest of it depends on it: `loop.Fit`, whose `learner` is a `loop.Learner`."""

    training: Training
    learner: Any
    observers: Observers
    position: Position
    losses: EpochLosses
    stopping: EarlyStopping
    best: dict[str, Tensor]


def capture(fit: Fit) -> dict[str, Any]:
    """The state between two steps, or two epochs."""
    training, learner = fit.training, fit.learner
    stopping = asdict(fit.stopping)
    return {
        "epoch": training.epoch,
        "step": training.step,
        "rows": training.rows,
        "best_epoch": training.best_epoch,
        "history": [dict(entry) for entry in training.history],
        "logged": dict(training.logged),
        "artifacts": [str(path) for path in training.artifacts],
        "position": asdict(fit.position),
        "losses": fit.losses.state(),
        "stopping": {name: stopping[name] for name in ("best", "num_bad", "stopped_by_nan")},
        "model": training.model.state_dict(),
        "optimizer": learner.optimizer.state_dict(),
        "scheduler": learner.scheduler.state_dict() if learner.scheduler is not None else None,
        "loss": learner.loss.state_dict() if isinstance(learner.loss, nn.Module) else None,
        "observers": fit.observers.state(),
        "random": RandomState(devices=True).as_plain(),
    }


def restore_progress(fit: Fit, state: Mapping[str, Any]) -> None:
    """Counters, history and what observers remember: what those see who hear of the start."""
    training = fit.training
    training.epoch, training.step, training.rows = state["epoch"], state["step"], state["rows"]
    training.best_epoch = state["best_epoch"]
    training.history[:] = state["history"]
    training.logged.update(state["logged"])
    training.artifacts[:] = map(Path, state["artifacts"])
    training.metrics = {name: value for entry in state["history"][-1:] for name, value in entry.items()}
    training.metrics.pop("epoch", None)
    fit.position = replace(fit.position, **state["position"])
    fit.stopping = replace(fit.stopping, **state["stopping"])
    with _fitting():
        fit.observers.restore(state["observers"])


def restore_learner(fit: Fit, state: Mapping[str, Any]) -> None:
    """Weights, what moves them, and the random generators."""
    training, learner = fit.training, fit.learner
    with _fitting():
        training.model.load_state_dict(state["model"])
        learner.optimizer.load_state_dict(state["optimizer"])
        if learner.scheduler is not None:
            learner.scheduler.load_state_dict(state["scheduler"])
        if isinstance(learner.loss, nn.Module) and state["loss"] is not None:
            learner.loss.load_state_dict(state["loss"])
    # schedulers warn of a first step before the optimizer's; that one was taken by the process before
    learner.optimizer._opt_called = True
    device = next(training.model.parameters(), torch.empty(0)).device
    fit.losses = EpochLosses.restored(state["losses"])
    fit.best = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in state["best"].items()}
    RandomState.from_plain(state["random"]).restore()


@contextmanager
def _fitting() -> Iterator[None]:
    """Raises TrainingError for a state that does not fit what was built."""
    try:
        yield
    except Exception as error:
        message = f"the checkpoint does not fit what was built, reuse=never begins anew: {error}"
        raise TrainingError(message) from error
