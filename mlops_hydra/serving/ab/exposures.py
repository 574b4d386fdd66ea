"""Who saw which arm first, and when: from the request log, hour by hour.

A unit is what was assigned: a user, or a request of nobody in particular. Ids become 64-bit hashes, so 10 million
units take 170 MB. What another than the router's line decided (testers, the kill switch) is left out and counted, and
so are hours in which an arm had no model: its users were answered by control then, and would be missing from the arm.
Not here: reading files (`request_log/reader.py`), and outcomes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from mlops_hydra.config.ab import Unit
from mlops_hydra.errors import DataError, Fault, nearest
from mlops_hydra.serving.ab.first_seen import FirstSeen, Ids, Times, hashed, starts_of_runs

if TYPE_CHECKING:
    import pyarrow as pa

COLUMNS: Final = ("time", "request_id", "row", "user_id", "variant", "assigned_by", "model_version")
OUTAGE: Final = "an arm had no model in these hours"
_REASONS: Final = {
    "tester": "of testers",
    "kill_switch": "while the kill switch was on",
    "no_model": OUTAGE,
    "request_id": "without a user id",
    "user_id": "of users whose id is not logged",
}
_HOUR: Final = 3_600_000_000  # in us, as all times here
_MOST_PENDING: Final = 2_000_000  # entries, before the first merge


@dataclass(frozen=True, slots=True)
class Exposures:
    """Units [n] in the order of their hashes: `arms[arm[i]]` is what unit i saw first, at `first[i]` (us since 1970).

    `unit` is what they are: users, requests, or some of both.
    `left_out` counts requests by the reason; `num_crossed` units were seen in several arms and count in their first.
    `unit_of` [m] is the unit behind each wanted request, 0 where there is none.
    """

    unit: Literal["user", "request", "unit"]
    arms: tuple[str, ...]
    units: Ids
    arm: NDArray[np.int16]
    first: Times
    num_requests: int
    left_out: dict[str, int]
    num_crossed: int
    versions: dict[str, dict[str, int]]
    unit_of: Ids
    examples: tuple[str, ...] = ()

    def counts(self, *, until: int | None = None) -> dict[str, int]:
        """Units by arm whose first exposure was by then."""
        arm = self.arm if until is None else self.arm[self.first <= until]
        return dict(zip(self.arms, np.bincount(arm, minlength=len(self.arms)).tolist(), strict=True))


def read_exposures(
    tables: Iterable[pa.Table], weights: Mapping[str, float], *, joined_by: Unit, wanted: Ids | None = None
) -> Exposures:
    """From a request log with the columns `COLUMNS`, in the order of time by hours.

    Args:
        weights: of all arms; those above 0 have answered somebody in any hour that is whole.
        joined_by: by user ids, nothing else counts; by request ids, users (where they are known) and requests.
        wanted: hashes of request ids, ascending, whose units are asked for.

    Raises:
        DataError: the log has another arm.
    """
    reading = _Reading(weights, joined_by, np.empty(0, np.uint64) if wanted is None else wanted)
    for table in tables:
        for requests in _by_hour(_first_rows(table)):
            reading.add(requests)
    return reading.done()


def _first_rows(table: pa.Table) -> pa.Table:
    """A request of several rows is logged as several rows, and counts once."""
    import pyarrow.compute as pc

    return table.filter(pc.and_(pc.fill_null(pc.equal(table["row"], 0), True), pc.is_valid(table["variant"])))


def _by_hour(table: pa.Table) -> Iterator[pa.Table]:
    hours = _times(table) // _HOUR
    for hour in np.unique(hours).tolist():
        yield table.filter(hours == hour) if (hours != hour).any() else table


def _times(table: pa.Table) -> Times:
    import pyarrow as pa

    whole = table["time"].cast(pa.timestamp("us", "UTC")).cast(pa.int64())
    return np.asarray(whole.to_numpy(), dtype=np.int64)


@dataclass(slots=True)
class _Hour:
    """What an hour of the log adds, if it counts."""

    number: int
    num_requests: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    entries: list[FirstSeen] = field(default_factory=list)
    found: list[tuple[NDArray[np.int64], Ids]] = field(default_factory=list)
    seen: set[int] = field(default_factory=set)

    @property
    def has_outage(self) -> bool:
        return OUTAGE in self.left_out


class _Reading:
    """Hours as they come. One that lacks an arm waits until it is known whether it lies beside an outage."""

    def __init__(self, weights: Mapping[str, float], joined_by: Unit, wanted: Ids) -> None:
        self._arms, self._joined_by, self._wanted = tuple(weights), joined_by, wanted
        self._needed = {place for place, arm in enumerate(self._arms) if weights[arm] > 0}
        self._waiting: list[_Hour] = []
        self._parts: list[FirstSeen] = []
        self._num_merged = 0
        self._num_requests, self._left_out = 0, Counter[str]()
        self._versions: dict[str, dict[str, int]] = {arm: {} for arm in weights}
        self._unit_of = np.zeros(len(wanted), dtype=np.uint64)
        self._examples: tuple[str, ...] = ()
        self._kinds: set[Literal["user", "request"]] = set()

    def add(self, table: pa.Table) -> None:
        """Rows of one hour, one a request."""
        times = _times(table)
        hour = self._hour(int(times[0] // _HOUR))
        counts, unit = self._units(table, hour)
        arm = self._arm(table)
        hour.num_requests += int(counts.sum())
        hour.seen |= set(np.unique(arm[counts]).tolist())
        hour.entries.append(FirstSeen.merged([FirstSeen(unit[counts], arm[counts], times[counts])]))
        if len(self._wanted):
            requests = hashed(table["request_id"], "request_id")[counts]
            place = np.minimum(np.searchsorted(self._wanted, requests), len(self._wanted) - 1)
            hit = self._wanted[place] == requests
            hour.found.append((place[hit], unit[counts][hit]))
        self._note_versions(table, counts)

    def _hour(self, number: int) -> _Hour:
        if not self._waiting or self._waiting[-1].number != number:
            self._settle()
            self._waiting.append(_Hour(number))
        return self._waiting[-1]

    def _units(self, table: pa.Table, hour: _Hour) -> tuple[NDArray[np.bool_], Ids]:
        """Which requests count, and the unit of each."""
        by = table["assigned_by"].to_numpy()
        users = hashed(table["user_id"], "user_id")
        if not self._examples:
            self._examples = tuple(table["user_id"].drop_null()[:3].to_pylist())
        is_user = (by == "user_id") & (users != 0)
        is_request = np.full(len(by), self._joined_by == "request_id") & (by == "request_id")
        for reason, count in Counter(by[~(is_user | is_request)].tolist()).items():
            hour.left_out[_REASONS.get(reason, f"assigned by {reason}")] += count
        if is_user.any():
            self._kinds.add("user")
        if is_request.any():
            self._kinds.add("request")
            users = np.where(is_request, hashed(table["request_id"], "request_id"), users)
        return is_user | is_request, users

    def _arm(self, table: pa.Table) -> NDArray[np.int16]:
        coded = table["variant"].combine_chunks().dictionary_encode()
        names = coded.dictionary.to_pylist()
        if strange := [name for name in names if name not in self._arms]:
            rule = f"the log has an arm without a weight ({', '.join(self._arms)} have one): add it, or set since"
            raise DataError(Fault("weights", rule, strange[0], nearest(strange[0], self._arms)))
        places = np.array([self._arms.index(name) for name in names], dtype=np.int16)
        return np.asarray(places[coded.indices.to_numpy()], dtype=np.int16)

    def _note_versions(self, table: pa.Table, counts: NDArray[np.bool_]) -> None:
        kept = table.select(["variant", "model_version", "time"]).filter(counts)
        for row in kept.group_by(["variant", "model_version"]).aggregate([("time", "min")]).to_pylist():
            known = self._versions[row["variant"]]
            time = int(row["time_min"].timestamp() * 1e6)
            version = row["model_version"] or ""
            known[version] = min(known.get(version, time), time)

    def _settle(self) -> None:
        """Once an hour is over: a whole one decides about those that waited."""
        if self._waiting and not self._waiting[-1].has_outage and self._needed <= self._waiting[-1].seen:
            whole = self._waiting.pop()
            self._decide()
            self._keep(whole)

    def _decide(self) -> None:
        is_outage = any(hour.has_outage for hour in self._waiting)
        for hour in self._waiting:
            if is_outage:
                self._left_out[OUTAGE] += hour.num_requests
                self._left_out.update(hour.left_out)
            else:
                self._keep(hour)
        self._waiting = []

    def _keep(self, hour: _Hour) -> None:
        self._num_requests += hour.num_requests
        self._left_out.update(hour.left_out)
        self._parts += hour.entries
        for place, unit in hour.found:
            self._unit_of[place] = unit
        if sum(map(len, self._parts)) > max(_MOST_PENDING, 2 * self._num_merged):
            self._merge()

    def _merge(self) -> None:
        self._parts = [FirstSeen.merged(self._parts)]
        self._num_merged = len(self._parts[0])

    def done(self) -> Exposures:
        """Everything that counts."""
        self._settle()
        self._decide()
        self._merge()
        (entries,) = self._parts
        order = np.lexsort((entries.time, entries.unit))
        unit = entries.unit[order]
        is_first = starts_of_runs(unit)
        is_second = ~is_first & np.append(False, is_first[:-1])
        first: Any = order[is_first]
        return Exposures(
            self._kinds.pop() if len(self._kinds) == 1 else "unit",
            self._arms,
            entries.unit[first],
            entries.arm[first],
            entries.time[first],
            self._num_requests,
            dict(self._left_out),
            int(is_second.sum()),
            self._versions,
            self._unit_of,
            self._examples,
        )
