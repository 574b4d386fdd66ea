"""`detect_drift`: two tables, or a table and what is known of another one, compared column by column.

Not here: the command, which reads files (`mlops_hydra/drift.py`), and the tests (`judging.py`).
"""

from collections.abc import Mapping
from dataclasses import replace
from numbers import Real
from typing import TYPE_CHECKING

from mlops_hydra.config.drift import MonitoringConfig, default_rules
from mlops_hydra.data.values import FloatArray, Values
from mlops_hydra.errors import Fault, UsageError
from mlops_hydra.monitoring import kolmogorov
from mlops_hydra.monitoring.false_alarms import false_alarm_rate
from mlops_hydra.monitoring.judging import judge
from mlops_hydra.monitoring.profile import Profile
from mlops_hydra.monitoring.profiling import count_rows
from mlops_hydra.monitoring.reference import Reference, columns_of
from mlops_hydra.monitoring.result import DriftReport
from mlops_hydra.monitoring.window import Window, have_same_grids

if TYPE_CHECKING:
    import pandas as pd


def detect_drift(
    reference: "pd.DataFrame | Mapping[str, Values] | Reference | Profile",
    current: "pd.DataFrame | Mapping[str, Values] | Window",
    threshold: float | None = None,
    *,
    rules: MonitoringConfig | None = None,
    estimate_false_alarms: bool = False,
) -> DriftReport:
    """Whether `current` looks as `reference` did: one result for each test of each column, the worst first.

    Args:
        reference: a table; or, made once for many checks, `Reference.of(table)` or a model's profile.
        current: a table, or counts over the profile's grids.
        threshold: the false discovery rate over all tests; None: that of `rules`.
        rules: what matters; None: as `conf/monitoring.yaml` has it.
        estimate_false_alarms: also check the reference against itself, at this size, many times.

    Raises:
        DataError: a table has no columns, or holds something that is no plain value.
        UsageError: an argument is nothing of the kind.
    """
    rules = rules or default_rules()
    if threshold is not None:
        rules = rules.model_copy(update={"alpha": _as_rate(threshold)})
    known = _as_reference(reference)
    exact: Mapping[str, float] = {}
    if isinstance(current, Window):
        if not have_same_grids(known.profile, current.profile):
            raise UsageError(Fault("current", "is a window over another profile than that of the reference"))
        window = current
    else:
        columns = columns_of(current)
        window = Window(known.profile)
        numbers: dict[str, FloatArray] = {}
        window.add(columns, count_rows(columns), ordered=numbers)
        exact = _statistics(known, numbers)
    report = judge(known, window, rules, exact=exact)
    if estimate_false_alarms:
        report = replace(report, false_alarms=false_alarm_rate(known, window, rules))
    return report


def _as_rate(threshold: object) -> float:
    if not isinstance(threshold, Real) or not 0 < float(threshold) < 1:
        raise UsageError(Fault("threshold", "must lie between 0 and 1", threshold))
    return float(threshold)


def _as_reference(reference: "pd.DataFrame | Mapping[str, Values] | Reference | Profile") -> Reference:
    if isinstance(reference, Reference):
        return reference
    return Reference(reference) if isinstance(reference, Profile) else Reference.of(reference)


def _statistics(reference: Reference, numbers: Mapping[str, FloatArray]) -> dict[str, float]:
    """Kolmogorov's, of all features whose values are at hand on both sides, in order."""
    return {
        name: kolmogorov.statistic(before, numbers[name])
        for name, before in reference.values.items()
        if name in numbers and len(before) and len(numbers[name])
    }
