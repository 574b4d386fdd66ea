"""The target of a regression as the model learns it."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True, slots=True)
class TargetScale:
    """What a regression's target was standardised with; (0, 1) leaves it as it is."""

    mean: float = 0.0
    deviation: float = 1.0

    @classmethod
    def fit(cls, targets: NDArray[Any]) -> "TargetScale":
        """Mean and deviation of the training targets; a constant target is only centred."""
        return cls(float(targets.mean()), float(targets.std()) or 1.0)

    def standardised(self, targets: NDArray[Any]) -> Tensor:
        """float64 `[n]` -> float32 `[n, 1]`, as the model learns it."""
        return torch.from_numpy(((targets - self.mean) / self.deviation).astype(np.float32)).reshape(-1, 1)
