"""Whether rows without a usable value, or with one that training never showed, became more, or less.

Three tests of a feature: missing, unreadable (infinite is, too, for a model), and outside of the training range, or of
a category that training did not show. What a model says has no range. A share that is zero twice needs no test.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from mlops_hydra.config.drift import MonitoringConfig
from mlops_hydra.monitoring.categories import new_categories_p_value
from mlops_hydra.monitoring.frequencies import detectable_share, range_p_values, share_p_values
from mlops_hydra.monitoring.profile import CategoryProfile, ColumnProfile, NumericProfile
from mlops_hydra.monitoring.reference import Reference
from mlops_hydra.monitoring.result import Part, Test
from mlops_hydra.monitoring.tested import OF_ROWS, Tested
from mlops_hydra.monitoring.window import Window


def count_share_tests(part: Part, column: ColumnProfile) -> int:
    """Also those that are not carried out because the share is zero: which they are depends on the data."""
    return 2 if part == "prediction" and isinstance(column, NumericProfile) else 3


class _Hits(NamedTuple):
    """`before` and `now`, of so many rows; outside of the range, `below` it and above are apart."""

    part: Part
    column: ColumnProfile
    test: Test
    before: int
    now: int
    sizes: tuple[int, int]
    below: int = 0


def tested_shares(reference: Reference, window: Window, rules: MonitoringConfig, *, alpha: float) -> Iterator[Tested]:
    """Those that are not zero, at the level `alpha` of a single test."""
    found = [hits for hits in _counted(reference, window) if min(hits.sizes)]
    if not found:
        return
    before, now, below = (np.array([hits[i] for hits in found], dtype=np.int64) for i in (3, 4, 6))
    n, m = (np.array([hits.sizes[i] for hits in found], dtype=np.int64) for i in (0, 1))
    tests = np.array([hits.test for hits in found])
    is_range, is_new = tests == "range", tests == "new_categories"
    is_share = ~is_range & ~is_new
    p = np.empty(len(found))
    p[is_share] = share_p_values(before[is_share], n[is_share], now[is_share], m[is_share])
    p[is_range] = range_p_values(below[is_range], (now - below)[is_range], n[is_range], m[is_range])
    p[is_new] = [_p_of_new(hits, window) for hits in found if hits.test == "new_categories"]
    seen = detectable_share(before / n, n, m, alpha=alpha)
    for place, hits in enumerate(found):
        is_missing = hits.test == "missing"
        share = hits.now / hits.sizes[1]
        yield Tested(
            name=hits.column.name,
            part=hits.part,
            test=hits.test,
            column=hits.column,
            sizes=hits.sizes,
            statistic=share,
            p_value=float(p[place]),
            effect=abs(share - hits.before / hits.sizes[0]),
            unit=OF_ROWS,
            min_effect=rules.min_effect.share,
            detectable=float(seen[place]) if is_missing else None,
            must_see=rules.must_see.share if is_missing else None,
        )


def _p_of_new(hits: _Hits, window: Window) -> float:
    assert isinstance(hits.column, CategoryProfile), "it has categories"
    return new_categories_p_value(hits.column, window.categorical(hits.part, hits.column.name))


def _counted(reference: Reference, window: Window) -> Iterator[_Hits]:
    """Shares that are not zero on both sides."""
    for part, column in reference.numeric:
        old, new = column.counts, window.numeric(part, column.name)
        if old.num_missing or new.num_missing:
            yield _Hits(part, column, "missing", old.num_missing, new.num_missing, (old.num_rows, new.num_rows))
        unreadable = old.num_unreadable + old.num_infinite, new.num_unreadable + new.num_infinite
        if any(unreadable):
            yield _Hits(part, column, "unreadable", *unreadable, (old.num_rows, new.num_rows))
        below, above = int(new.cells[0]), int(new.cells[-1])
        has_range = part == "feature" and len(column.edges) and not old.num_infinite
        if has_range and (below or above):
            yield _Hits(part, column, "range", 0, below + above, (old.num_values, new.num_values), below)
    for part, each in reference.categorical:
        before, now = each.counts, window.categorical(part, each.name)
        if before.num_missing or now.num_missing:
            yield _Hits(part, each, "missing", before.num_missing, now.num_missing, (before.num_rows, now.num_rows))
        if before.num_unreadable or now.num_unreadable:
            unread = before.num_unreadable, now.num_unreadable
            yield _Hits(part, each, "unreadable", *unread, (before.num_rows, now.num_rows))
        if now.cells[-1] and not before.cells[-1]:  # else the profile does not have all of its own
            sizes = before.num_values, now.num_values
            yield _Hits(part, each, "new_categories", 0, int(now.cells[-1]), sizes)
