"""How long one prediction takes.

The caller hands in what is timed, usually encoding and predicting one raw row. Not here: throughput, other threads.
"""

import time
from collections.abc import Callable
from typing import Final

import numpy as np

from mlops_hydra.errors import Fault, UsageError

_WARM_UP_CALLS: Final = 10  # caches, lazy imports and allocators settle; they are no part of a steady latency
_WARM_UP_SHARE: Final = 0.25  # of the budget, at most


def measure_latency(
    predict: Callable[[], object],
    *,
    repeats: int,
    budget_seconds: float,
    clock_ns: Callable[[], int] = time.perf_counter_ns,
) -> dict[str, float]:
    """Median and 95th percentile in milliseconds over at most `repeats` calls, fewer when the budget runs out.

    At least one call is measured. Percentiles are nearest ranks: times that were measured, never between two.
    """
    faults = []
    if repeats < 1:
        faults.append(Fault("repeats", "at least one call is timed", repeats))
    if not budget_seconds > 0:
        faults.append(Fault("budget_seconds", "a time above 0", budget_seconds))
    if faults:
        raise UsageError(faults)
    budget_ns = budget_seconds * 1e9
    warm_up_ns = sum(_time_calls(predict, _WARM_UP_CALLS, budget_ns * _WARM_UP_SHARE, clock_ns))
    times_ns = _time_calls(predict, repeats, budget_ns - warm_up_ns, clock_ns)
    p50, p95 = np.percentile(times_ns, [50, 95], method="inverted_cdf") / 1e6
    return {"latency_p50_ms": float(p50), "latency_p95_ms": float(p95)}


def _time_calls(
    predict: Callable[[], object], most_calls: int, budget_ns: float, clock_ns: Callable[[], int]
) -> list[int]:
    """Nanoseconds of each call; stops after the call that used up the budget."""
    times: list[int] = []
    spent = 0
    while not times or (len(times) < most_calls and spent < budget_ns):
        start = clock_ns()
        predict()
        times.append(clock_ns() - start)
        spent += times[-1]
    return times
