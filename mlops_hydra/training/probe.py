"""Two rows through model and loss before training: what does not fit together is told as a fault, not a traceback."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from mlops_hydra.config.schema import ExperimentConfig
from mlops_hydra.errors import ConfigError, Fault, MlopsHydraError
from mlops_hydra.training.batches import Batches


@torch.no_grad()
def probe(model: nn.Module, loss: nn.Module, batches: Batches, out_features: int, config: ExperimentConfig) -> None:
    """Two rows through model and loss, so that a misfit is told in words and before training; streams are not read.

    Raises:
        ConfigError: one of them fails, or gives something of another shape.
    """
    batch = batches.sample()
    if batch is None:
        return
    shapes, path = _shapes(batch), config.model.path
    was_training = model.training
    with _blamed("model", f"{path} fails on rows of shape {shapes}"):
        outputs, targets = batches.forward(model.eval(), batch)
    model.train(was_training)
    needed = [len(targets), out_features]
    got: object = list(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
    if got != needed:
        raise ConfigError(Fault("model", f"{path} must give {needed} for rows of shape {shapes}", got))
    with _blamed("trainer.loss", f"fails on outputs {needed} and targets {list(targets.shape)}"):
        value = loss(outputs, targets)
    if not isinstance(value, Tensor) or value.numel() != 1:
        got = list(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ConfigError(Fault("trainer.loss", "must give a scalar tensor, the mean loss of the batch", got))


@contextmanager
def _blamed(where: str, rule: str) -> Iterator[None]:
    """What goes wrong inside is told as a fault of the configuration at `where`."""
    try:
        yield
    except MlopsHydraError:
        raise
    except Exception as error:
        message = " ".join(str(error).split())
        raise ConfigError(Fault(where, f"{rule}: {type(error).__name__}: {message}")) from error


def _shapes(batch: Any) -> str:
    """The shapes of a batch's inputs, for people."""
    if isinstance(batch, Mapping):
        return ", ".join(f"{key} {_shapes((value, None))}" for key, value in batch.items())
    return ", ".join(str(list(part.shape)) if isinstance(part, Tensor) else type(part).__name__ for part in batch[:-1])
