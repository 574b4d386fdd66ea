"""The losses of an epoch, without waiting for the device in each step."""

import math
import operator
from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor

from mlops_hydra.errors import ConfigError, Fault

_LOSSES_KEPT: Final = 1024  # on the device before they are added up: bounds memory, and the delay of noticing NaN


class EpochLosses:
    """Losses are left on the device until some have come together.

    Args:
        on_not_finite: told `(loss, step)` of the first that is NaN or infinite.
    """

    def __init__(self, on_not_finite: Callable[[float, int], None]) -> None:
        self._on_not_finite = on_not_finite
        self._pending: list[tuple[Tensor, int, int]] = []
        self._sum = 0.0
        self.num_rows = 0

    def add(self, loss: Tensor, rows: int, step: int) -> None:
        """The mean loss of `rows` rows in `step`, one number on any device."""
        self._pending.append((loss, rows, step))
        self.num_rows += rows
        if len(self._pending) == _LOSSES_KEPT:
            self._read()

    def mean(self) -> float:
        """The mean loss a row; waits for the device."""
        self._read()
        return self._sum / self.num_rows

    def _read(self) -> None:
        if not self._pending:
            return
        losses, rows, steps = zip(*self._pending, strict=True)
        self._pending = []
        values = torch.stack([loss.reshape(()) for loss in losses]).tolist()
        for value, step in zip(values, steps, strict=True):
            if not math.isfinite(value):
                self._on_not_finite(value, step)
        self._sum += sum(map(operator.mul, values, rows))


def check_loss(loss: Any, where: str) -> None:
    """Raises ConfigError if there is nothing to follow downhill."""
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        got = f"a tensor of shape {list(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise ConfigError(Fault(where, "must give a scalar tensor, the mean loss of the batch", got))
    if not loss.requires_grad:
        rule = "gives a loss without a gradient: it must be computed from the model's outputs, not detached"
        raise ConfigError(Fault(where, rule))
