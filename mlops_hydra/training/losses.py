"""The losses of an epoch, without waiting for the device in each step."""

import math
import operator
from collections.abc import Mapping
from typing import Any, Final, Self

import torch
from torch import Tensor

from mlops_hydra.errors import ConfigError, Fault

_LOSSES_KEPT: Final = 1024  # on the device before they are added up: bounds memory, and the delay of noticing NaN


class NotFiniteLossError(Exception):
    """The first `loss` that is NaN or infinite, and its `step`."""

    def __init__(self, loss: float, step: int) -> None:
        super().__init__(loss, step)
        self.loss, self.step = loss, step


class EpochLosses:
    """Losses are left on the device until some have come together; then one that is not finite is an error."""

    def __init__(self) -> None:
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

    def is_finite(self) -> bool:
        """Of those that were not looked at yet."""
        return all(math.isfinite(loss) for loss, _, _ in self._pending)

    def state(self) -> dict[str, Any]:
        """As tensors and plain values. Nothing is added up for it: another order of sums gives other bits."""
        losses = [loss.detach().cpu() for loss, _, _ in self._pending]
        return {
            "sum": self._sum,
            "num_rows": self.num_rows,
            "losses": losses,
            "rows": [rows for _, rows, _ in self._pending],
            "steps": [step for _, _, step in self._pending],
        }

    @classmethod
    def restored(cls, state: Mapping[str, Any]) -> Self:
        """The inverse of `state`."""
        losses = cls()
        losses._sum, losses.num_rows = state["sum"], state["num_rows"]
        losses._pending = list(zip(state["losses"], state["rows"], state["steps"], strict=True))
        return losses

    def _read(self) -> None:
        if not self._pending:
            return
        losses, rows, steps = zip(*self._pending, strict=True)
        self._pending = []
        if len({loss.device for loss in losses}) > 1:  # those from before a resume are on the CPU
            losses = tuple(loss.cpu() for loss in losses)
        values = torch.stack([loss.reshape(()) for loss in losses]).tolist()
        for value, step in zip(values, steps, strict=True):
            if not math.isfinite(value):
                raise NotFiniteLossError(value, step)
        self._sum += sum(map(operator.mul, values, rows))


def check_loss(loss: Any, where: str) -> None:
    """Raises ConfigError if there is nothing to follow downhill."""
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        got = f"a tensor of shape {list(loss.shape)}" if isinstance(loss, Tensor) else type(loss).__name__
        raise ConfigError(Fault(where, "must give a scalar tensor, the mean loss of the batch", got))
    if not loss.requires_grad:
        rule = "gives a loss without a gradient: it must be computed from the model's outputs, not detached"
        raise ConfigError(Fault(where, rule))
