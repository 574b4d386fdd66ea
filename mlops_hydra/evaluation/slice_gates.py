"""A gate on slices: each value of a raw column is judged by itself, and the worst decides."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from mlops_hydra.errors import MlopsHydraError
from mlops_hydra.evaluation.verdicts import WORST_FIRST, Decision, Finding, Side, SliceVerdict
from mlops_hydra.evaluation.wording import in_a_line, num

_MOST_NAMED: Final = 3


def judge_slices(
    column: str,
    slices: Mapping[str | None, NDArray[np.intp]],
    look: Callable[[NDArray[np.intp]], Finding],
    direction: Side,
) -> tuple[Finding, tuple[SliceVerdict, ...]]:
    """What the worst slice shows, with how many there were, and all of them from the worst on.

    Args:
        slices: positions of rows by value; None for those that lack one.
        look: judges the rows at the given positions; what raises MlopsHydraError has failed.
        direction: which side is good.
    """
    found = [(label, _looked(look, index)) for label, index in slices.items()]
    found.sort(key=lambda one: (*_badness(one[1], direction), _named(one[0])))
    label, worst = found[0]
    reason = f"{column}={_named(label)}, {num(worst.num_rows or 0, 'row')}: {worst.reason}"
    reason += f"; the worst of {num(len(found), 'slice')}{_others(found)}"
    verdicts = tuple(_as_verdict(label, finding) for label, finding in found)
    return replace(worst, reason=reason), verdicts


def _looked(look: Callable[[NDArray[np.intp]], Finding], index: NDArray[np.intp]) -> Finding:
    try:
        finding = look(index)
    except MlopsHydraError as error:
        finding = Finding("failed", in_a_line(error))
    return replace(finding, num_rows=len(index))


def _badness(finding: Finding, direction: Side) -> tuple[int, float, int]:
    """Small for bad: by decision, then what has no value, then by distance from the threshold, then by rows."""
    rank = WORST_FIRST.index(finding.verdict)
    if finding.value is None or finding.threshold is None:
        return rank, -math.inf, finding.num_rows or 0
    gain = finding.value - finding.threshold
    return rank, gain if direction == "higher" else -gain, finding.num_rows or 0


def _others(found: Iterable[tuple[str | None, Finding]]) -> str:
    """Which slices did not pass, if they are not only the first."""
    by_decision: dict[Decision, list[str]] = {}
    for label, finding in found:
        by_decision.setdefault(finding.verdict, []).append(_named(label))
    by_decision.pop("passed", None)
    if sum(map(len, by_decision.values())) < 2:
        return ""
    return f" ({'; '.join(f'{decision}: {_list(names)}' for decision, names in by_decision.items())})"


def _list(names: list[str]) -> str:
    rest = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {rest} more" if rest > 0 else "")


def _named(label: str | None) -> str:
    return "missing" if label is None else label


def _as_verdict(label: str | None, finding: Finding) -> SliceVerdict:
    return SliceVerdict(
        slice=label,
        verdict=finding.verdict,
        reason=finding.reason,
        num_rows=finding.num_rows or 0,
        value=finding.value,
        low=finding.low,
        high=finding.high,
        rows_to_decide=finding.rows_to_decide,
    )
