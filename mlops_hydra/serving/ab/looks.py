"""What the A/B test looked like at the end of each day: exposures and outcomes joined, and summed up by arm.

Not here: what the sums say (`effect.py`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from mlops_hydra.config.ab import OutcomesConfig, Several
from mlops_hydra.errors import DataError, Fault
from mlops_hydra.serving.ab.effect import Sample
from mlops_hydra.serving.ab.exposures import Exposures
from mlops_hydra.serving.ab.first_seen import Ids, Times, starts_of_runs
from mlops_hydra.serving.ab.outcomes import Outcomes

_MOST_LOOKS: Final = 60  # more days are thinned out: a picture shows no more
_DAY: Final = 86_400_000_000  # in us


@dataclass(frozen=True, slots=True)
class Look:
    """By arm: how many units were exposed by `time` (us since 1970), and the values of those that have one.

    `is_binary`: all values are 0 or 1.
    """

    time: int
    is_binary: bool
    exposed: Mapping[str, int]
    samples: Mapping[str, Sample]


@dataclass(frozen=True, slots=True)
class Joined:
    """Values of exposed units: `unit[i]` is a place in the exposures, ascending; `time` (us) as the outcomes have it.

    `num_strange` outcomes are of nobody who was exposed, `num_early` were known before the exposure.
    """

    unit: NDArray[np.int64]
    value: NDArray[np.float64]
    time: Times | None
    num_strange: int
    num_early: int


def join(exposures: Exposures, outcomes: Outcomes, wanted: Ids) -> Joined:
    """Each outcome and who it is of.

    Args:
        wanted: the request ids, ascending, that `exposures` was asked for.
    """
    ids = outcomes.ids
    if outcomes.unit == "request_id" and len(wanted):
        ids = exposures.unit_of[np.searchsorted(wanted, ids)]
    place, is_known = _places(ids, exposures.units)
    if outcomes.ids_in_log is not None and not is_known.any():
        place, is_known = _places(outcomes.ids_in_log, exposures.units)
    is_early = np.zeros(len(ids), dtype=bool)
    if outcomes.times is not None and len(exposures.units):
        is_early = is_known & (outcomes.times < exposures.first[place])
    kept = np.flatnonzero(is_known & ~is_early)
    time = None if outcomes.times is None else outcomes.times[kept]
    order = np.argsort(place[kept], kind="stable") if time is None else np.lexsort((time, place[kept]))
    return Joined(
        place[kept][order],
        outcomes.values[kept][order],
        None if time is None else time[order],
        int((~is_known).sum()),
        int(is_early.sum()),
    )


def _places(ids: Ids, units: Ids) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    if not len(units):
        return np.zeros(len(ids), dtype=np.int64), np.zeros(len(ids), dtype=bool)
    place = np.minimum(np.searchsorted(units, ids), len(units) - 1)
    return place, np.asarray(units[place] == ids, dtype=bool)


def looks(exposures: Exposures, joined: Joined, asked: OutcomesConfig) -> list[Look]:
    """At the end (UTC) of each day with exposures or outcomes, the last one now; none where nobody was exposed.

    Where the outcomes say when they were known, a look holds what was known then; else what is known now of the units
    exposed by then.

    Raises:
        DataError: a unit has several outcomes, and `several` does not say what they make.
    """
    if not len(exposures.units):
        return []
    _check_several(joined, asked.several)
    by_time = np.argsort(exposures.first, kind="stable")
    first, arm = exposures.first[by_time], exposures.arm[by_time]
    values = _values(joined, asked, len(arm))
    commonest = _commonest(values)
    found = []
    for time in _ends(exposures, joined):
        if joined.time is not None:
            values = _values(joined, asked, len(arm), until=time)
        num = int(np.searchsorted(first, time, side="right"))
        found.append(_look(time, exposures.arms, arm[:num], values[by_time[:num]], commonest))
    return found


def _check_several(joined: Joined, several: Several | None) -> None:
    num = int((np.diff(np.unique(joined.unit, return_index=True)[1], append=len(joined.unit)) > 1).sum())
    if several is None and num:
        rule = (
            f"is needed: {num:,} of those who were exposed have more than one outcome; "
            "sum (conversions, amounts), mean (ratings), max (any) or last makes one of them"
        )
        raise DataError(Fault("outcomes.several", rule))


def _ends(exposures: Exposures, joined: Joined) -> list[int]:
    times = [exposures.first] if joined.time is None or not len(joined.time) else [exposures.first, joined.time]
    days = np.unique(np.concatenate([np.unique(each // _DAY) for each in times]))
    if len(days) > _MOST_LOOKS:
        days = days[np.unique(np.linspace(0, len(days) - 1, _MOST_LOOKS).astype(int))]
    ends = [int((day + 1) * _DAY - 1) for day in days.tolist()]
    return [*ends[:-1], max(int(each.max()) for each in times)]


def _values(joined: Joined, asked: OutcomesConfig, num_units: int, *, until: int | None = None) -> NDArray[np.float64]:
    """[num_units], NaN where there is none (yet)."""
    values = np.full(num_units, np.nan if asked.missing is None else asked.missing)
    unit, value = joined.unit, joined.value
    if until is not None and joined.time is not None:
        is_known = joined.time <= until
        unit, value = unit[is_known], value[is_known]
    if len(unit):
        starts = np.flatnonzero(starts_of_runs(unit))
        values[unit[starts]] = _as_one(value, starts, asked.several)
    return values


def _as_one(value: NDArray[np.float64], starts: NDArray[Any], several: Several | None) -> NDArray[np.float64]:
    """Runs of values, each made one."""
    if several == "max":
        return np.asarray(np.maximum.reduceat(value, starts))
    ends = np.append(starts[1:], len(value))
    if several in (None, "last"):
        return np.asarray(value[ends - 1])
    sums = np.add.reduceat(value, starts)
    return np.asarray(sums / (ends - starts) if several == "mean" else sums)


def _commonest(values: NDArray[np.float64]) -> float:
    """The value of more than half of the units is their median; if there is none, any will do."""
    known = values[~np.isnan(values)]
    return float(np.partition(known, len(known) // 2)[len(known) // 2]) if len(known) else 0.0


def _look(
    time: int, arms: tuple[str, ...], arm: NDArray[np.int16], values: NDArray[np.float64], commonest: float
) -> Look:
    is_known = ~np.isnan(values)
    exposed = np.bincount(arm, minlength=len(arms)).tolist()
    samples = {name: _sample(values[is_known & (arm == place)], commonest) for place, name in enumerate(arms)}
    is_binary = bool((~is_known | (values == 0) | (values == 1)).all())
    return Look(time, is_binary, dict(zip(arms, exposed, strict=True)), samples)


def _sample(values: NDArray[np.float64], commonest: float) -> Sample:
    mean = float(values.mean()) if len(values) else np.nan
    variance = float(values.var(ddof=1)) if len(values) > 1 else np.nan
    return Sample(len(values), mean, variance, int((values != commonest).sum()))
