"""Temperature scaling: logits divided by one number, fitted on validation, so that a confidence means something.

It changes no order within a row, so accuracy stays. Source: Guo et al., On Calibration of Modern Neural Networks, 2017.
"""

import math
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from mlops_hydra.errors import Fault, UsageError

_LARGEST: Final = 100.0  # and its inverse the smallest: perfectly separable rows have no finite optimum


def fit_temperature(logits: NDArray[Any], targets: NDArray[Any]) -> float:
    """The temperature that minimises the log loss of softmax(logits / temperature), between 0.01 and 100.

    Args:
        logits: [n, classes].
        targets: int64 class codes [n].

    Raises:
        UsageError: no rows, or logits that are not finite.
    """
    from scipy.optimize import minimize_scalar

    logits, targets = np.asarray(logits, dtype=np.float64), np.asarray(targets)
    if not len(logits) or not np.isfinite(logits).all():
        raise UsageError(Fault("trainer.calibrate", "needs finite outputs on at least one row of validation"))
    logits = logits - logits.max(axis=1, keepdims=True)
    picked = logits[np.arange(len(targets)), targets]

    def log_loss(log_temperature: float) -> float:
        scale = math.exp(-log_temperature)
        return float(np.mean(np.log(np.exp(logits * scale).sum(axis=1)) - picked * scale))

    bound = math.log(_LARGEST)
    found = minimize_scalar(log_loss, bounds=(-bound, bound), method="bounded", options={"xatol": 1e-6})
    return math.exp(float(found.x))
