"""Small things to train: built objects, without configuration files, data sources or tracking."""

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mlops_hydra import compose
from mlops_hydra.config.objective import Objective
from mlops_hydra.config.schema import TrainerConfig
from mlops_hydra.evaluation.metrics import EpochMetrics
from mlops_hydra.training.batches import Batches, TensorBatches
from mlops_hydra.training.checkpoints import Checkpoints
from mlops_hydra.training.loop import FitResult, Learner, Measure, fit
from mlops_hydra.training.seeding import reproducible


@pytest.fixture
def points() -> tuple[Tensor, Tensor]:
    """70 rows of 4 numbers in two classes that a line separates."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(70, 4, generator=generator)
    return inputs, (inputs.sum(dim=1) > 0).long()


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """As a run has it; more only wait for each other on these small matrices."""
    with reproducible(deterministic=False, num_threads=1):
        yield


@functools.cache
def settings_of(*overrides: str) -> TrainerConfig:
    """The trainer's settings with these overrides below `trainer`."""
    return compose([f"trainer.{override}" for override in overrides]).trainer


class Fitter:
    """`fit` on points, with whatever a test wants otherwise; remembers the last model."""

    def __init__(self, points: tuple[Tensor, Tensor]) -> None:
        inputs, targets = points
        self.train = TensorBatches((inputs[:50],), targets[:50], 16, shuffle_seed=1)
        self.val = TensorBatches((inputs[50:],), targets[50:], 4096)
        self.model: nn.Module = self.fresh()
        self.optimizer: torch.optim.Optimizer | None = None

    @staticmethod
    def fresh(seed: int = 0) -> nn.Module:
        """A small network, always with the same weights."""
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))

    def __call__(
        self,
        *overrides: str,
        model: nn.Module | None = None,
        train: Batches | None = None,
        val: Batches | None = None,
        observers: Sequence[object] = (),
        objective: Objective | None = None,
        measure: Measure | None = None,
        lr: float = 0.1,
        checkpoints: Checkpoints | None = None,
        **learner: Any,
    ) -> FitResult:
        self.model = model or self.fresh()
        scheduler = learner.pop("scheduler", None)
        make = learner.pop("make_optimizer", torch.optim.SGD)
        self.optimizer = make(self.model.parameters(), lr=lr)
        learner.setdefault("loss", nn.CrossEntropyLoss())
        return fit(
            Learner(self.model, self.optimizer, scheduler=scheduler and scheduler(self.optimizer), **learner),
            train or self.train,
            val or self.val,
            settings=settings_of(*overrides),
            objective=objective or Objective("log_loss", "minimize"),
            measure=measure or EpochMetrics("binary", 2, "log_loss"),
            observers=observers,
            checkpoints=checkpoints,
        )


@pytest.fixture
def fitter(points: tuple[Tensor, Tensor]) -> Fitter:
    return Fitter(points)
