"""From counts to verdicts: every test of every column, their p-values adjusted together, and what matters of it.

A column has drifted when a difference is significant among all tests of the check (Benjamini and Hochberg, 1995) *and*
at least as large as one that matters. It is undecided when the sample could not have shown a difference that must be
seen. Not here: the tests themselves, and how the counts came about (`window.py`).
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

import numpy as np

from mlops_hydra.config.drift import MonitoringConfig
from mlops_hydra.data.values import FloatArray
from mlops_hydra.errors import Fault, UsageError, nearest
from mlops_hydra.monitoring.adjustment import adjusted
from mlops_hydra.monitoring.counts import Counts
from mlops_hydra.monitoring.loss_tests import tested_losses
from mlops_hydra.monitoring.profile import NumericProfile, Profile
from mlops_hydra.monitoring.reasons import explain
from mlops_hydra.monitoring.reference import Reference
from mlops_hydra.monitoring.result import DriftReport, DriftResult, Part, Picture
from mlops_hydra.monitoring.share_tests import count_share_tests, tested_shares
from mlops_hydra.monitoring.tested import Tested
from mlops_hydra.monitoring.value_tests import tested_categories, tested_numbers
from mlops_hydra.monitoring.window import Window

NONE: Final[Mapping[str, float]] = {}
_SHOWN: Final = 10


def judge(
    reference: Reference, window: Window, rules: MonitoringConfig, *, exact: Mapping[str, float] = NONE
) -> DriftReport:
    """What the tests say.

    Args:
        window: of current data, over the grids of the reference's profile.
        exact: Kolmogorov's statistics of features that are known better than the cells tell.

    Raises:
        UsageError: `rules` names a feature that there is not.
    """
    looked_at = _looked_at(reference.profile, rules)
    absent = [name for name in looked_at if name in window.absent] if window.num_rows else list(looked_at)
    present = reference.only([name for name in looked_at if name not in absent])
    present = present if any(each.num_rows for each in window.outputs.values()) else present.without_outputs()
    num_tests = count_tests(present, window) + len(absent)
    alpha = rules.alpha / max(num_tests, 1)  # what the only column that drifts is held to
    tested = [
        *tested_numbers(present, window, rules, alpha=alpha, exact=exact),
        *tested_categories(present, window, rules, alpha=alpha),
        *tested_shares(present, window, rules, alpha=alpha),
        *tested_losses(present, window, rules, alpha=alpha),
    ]
    results = [*_without_column(reference, window, absent), *_judged(tested, window, rules.alpha, num_tests)]
    return DriftReport(
        results=tuple(sorted(results, key=lambda result: result.severity)),
        alpha=rules.alpha,
        num_reference_rows=reference.profile.num_rows,
        num_current_rows=window.num_rows,
        num_tests=num_tests,
        notes=tuple(_notes(window, [c.name for c in reference.profile.features if c.name not in looked_at])),
        pictures=_pictures(present, window, results),
    )


def count_tests(reference: Reference, window: Window) -> int:
    """Also of those that need none because a share is zero on both sides."""
    num_dates = sum(column.counts.weekdays is not None for _, column in reference.numeric)
    num_losses = sum(name in window.losses for name in reference.profile.losses)
    return sum(1 + count_share_tests(*column) for column in reference.columns) + num_dates + num_losses


def _looked_at(profile: Profile, rules: MonitoringConfig) -> list[str]:
    names = [column.name for column in profile.features]
    given = {"columns": rules.columns or (), "ignore": rules.ignore, "by_column": tuple(rules.by_column)}
    faults = [
        Fault(f"monitoring.{key}", "no such feature", name, nearest(name, names))
        for key, chosen in given.items()
        for name in chosen
        if name not in names
    ]
    if faults:
        raise UsageError(faults)
    return [name for name in names if (rules.columns is None or name in rules.columns) and name not in rules.ignore]


def _without_column(reference: Reference, window: Window, absent: Sequence[str]) -> Iterator[DriftResult]:
    for name in absent:
        column = reference.column("feature", name)
        is_missing = name in window.absent
        yield DriftResult(
            name,
            None,
            None,
            is_drifted=is_missing,
            test="column",
            verdict="drifted" if is_missing else "undecided",
            num_reference=column.counts.num_values,
            reason="the column is missing" if is_missing else "there are no rows",
            kind=column.kind,
        )


def _judged(tested: Sequence[Tested], window: Window, alpha: float, num_tests: int) -> Iterator[DriftResult]:
    p = [math.nan if each.p_value is None else each.p_value for each in tested]
    silent = [1.0] * (num_tests - len(p))  # the shares that are zero on both sides
    together = adjusted(np.array([*p, *silent], dtype=np.float64))
    for each, adjusted_p in zip(tested, together[: len(p)].tolist(), strict=True):
        is_known = not math.isnan(adjusted_p)
        each.p_value, each.adjusted_p = (each.p_value, adjusted_p) if is_known else (None, None)
        verdict = each.verdict(alpha)
        yield each.result(verdict, explain(each, verdict, window, alpha=alpha / max(num_tests, 1)))


def _notes(window: Window, left_out: Sequence[str]) -> Iterator[str]:
    if window.extra:
        yield f"columns that the model does not read: {_listed(sorted(window.extra))}"
    if left_out:
        yield f"features that were not looked at: {_listed(left_out)}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def _pictures(reference: Reference, window: Window, results: Sequence[DriftResult]) -> dict[tuple[str, str], Picture]:
    wanted = {(result.part, result.feature) for result in results if result.is_drifted}
    return {
        (part, column.name): picture_of(part, column.name, reference, window)
        for part, column in reference.columns
        if (part, column.name) in wanted
    }


def picture_of(part: Part, name: str, reference: Reference, window: Window) -> Picture:
    """Both distributions of a column."""
    column = reference.column(part, name)
    before, now = _shares(column.counts), _shares(window.counts(part, name))
    if isinstance(column, NumericProfile):
        return Picture(column.kind, before, now, edges=column.edges)
    return Picture(column.kind, before, now, labels=(*column.categories, "(others)"))


def _shares(counts: Counts) -> FloatArray:
    return np.asarray(counts.cells / max(int(counts.cells.sum()), 1))
