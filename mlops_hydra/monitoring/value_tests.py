"""Whether values are distributed as before: Kolmogorov and Smirnov for numbers, chi-square for categories.

Rows without a value are `share_tests.py`'s business. All numeric columns are tested in one go.
"""

from collections.abc import Iterator, Mapping

import numpy as np

from mlops_hydra.config.drift import MonitoringConfig
from mlops_hydra.data.values import IntArray
from mlops_hydra.monitoring.categories import side_by_side
from mlops_hydra.monitoring.distances import population_stability, total_variation, wasserstein_of_cells
from mlops_hydra.monitoring.frequencies import chi_square, detectable_variation
from mlops_hydra.monitoring.kolmogorov import detectable, shift_of, statistic_of_cells
from mlops_hydra.monitoring.profile import ColumnProfile
from mlops_hydra.monitoring.reference import Reference, stack
from mlops_hydra.monitoring.result import Part, Test
from mlops_hydra.monitoring.smirnov import p_values
from mlops_hydra.monitoring.tested import OF_ROWS, SPREADS, Tested
from mlops_hydra.monitoring.window import Window


def tested_numbers(
    reference: Reference, window: Window, rules: MonitoringConfig, *, alpha: float, exact: Mapping[str, float]
) -> Iterator[Tested]:
    """All numeric columns, at the level `alpha` of a single test.

    Args:
        exact: statistics of features that are known better than the cells tell.
    """
    if not reference.numeric:
        return
    stacked = reference.stacked
    counts = [window.numeric(part, column.name) for part, column in reference.numeric]
    cells = stack(counts, stacked.cells.shape[1])
    sizes = cells.sum(axis=1)
    statistic = statistic_of_cells(stacked.cells, cells)
    for place, (part, column) in enumerate(reference.numeric):
        if part == "feature" and column.name in exact:
            statistic[place] = exact[column.name]
    outside = np.array([(each.below, each.above) for each in counts], dtype=np.float64)
    distance = wasserstein_of_cells(stacked.edges, stacked.cells, cells, below=outside[:, 0], above=outside[:, 1])
    is_constant = stacked.spread <= 0  # then any other value is as far away as any
    with np.errstate(over="ignore"):  # a spread may be next to nothing
        effect = np.where(is_constant, statistic, distance / np.where(is_constant, 1.0, stacked.spread))
    seen = detectable(stacked.num_values, sizes, alpha=alpha)
    seen = np.where(is_constant, seen, shift_of(seen))
    found = (
        statistic,
        p_values(statistic, stacked.num_values, sizes),
        effect,
        seen,
        population_stability(stacked.cells, cells),
    )
    for place, (part, column) in enumerate(reference.numeric):
        least, must, unit = rules.min_effect.numeric, rules.must_see.numeric, SPREADS
        if is_constant[place]:
            least, must, unit = rules.min_effect.categorical, rules.must_see.categorical, OF_ROWS
        numbers = [_number(values[place]) for values in found]
        yield Tested(
            name=column.name,
            part=part,
            test="ks",
            column=column,
            sizes=(int(stacked.num_values[place]), int(sizes[place])),
            statistic=numbers[0],
            p_value=numbers[1],
            effect=numbers[2],
            unit=unit,
            min_effect=_least(rules, part, column.name, least),
            psi=numbers[4],
            detectable=numbers[3],
            must_see=must,
        )


def _number(value: np.float64) -> float | None:
    """Without NaN: what could not be measured is None."""
    number = float(value)
    return None if number != number else number  # noqa: PLR0124  faster than math.isnan


def _least(rules: MonitoringConfig, part: Part, name: str, otherwise: float) -> float:
    return rules.by_column.get(name, otherwise) if part == "feature" else otherwise


def tested_categories(
    reference: Reference, window: Window, rules: MonitoringConfig, *, alpha: float
) -> Iterator[Tested]:
    """All categorical columns, and dates by their weekday."""
    tests: list[tuple[Tested, tuple[IntArray, IntArray]]] = []
    for part, column in reference.categorical:
        least = _least(rules, part, column.name, rules.min_effect.categorical)
        cells = side_by_side(column, window.categorical(part, column.name))
        tests.append((_untested(part, column, "chi_square", least, rules), cells))
    for part, dates in reference.numeric:
        before, now = dates.counts.weekdays, window.numeric(part, dates.name).weekdays
        if before is not None and now is not None:
            tests.append((_untested(part, dates, "weekday", rules.min_effect.categorical, rules), (before, now)))
    tables = [_test(tested, cells, alpha) for tested, cells in tests]
    padded = np.zeros((2, len(tests), max((table.shape[1] for table in tables), default=0)), dtype=np.int64)
    for place, table in enumerate(tables):
        padded[:, place, : table.shape[1]] = table
    for (tested, _), psi in zip(tests, population_stability(*padded, max_groups=None), strict=True):
        tested.psi = _number(psi)
        yield tested


def _untested(part: Part, column: ColumnProfile, test: Test, least: float, rules: MonitoringConfig) -> Tested:
    return Tested(
        name=column.name,
        part=part,
        test=test,
        column=column,
        sizes=(0, 0),
        statistic=None,
        p_value=None,
        effect=None,
        unit=OF_ROWS,
        min_effect=least,
        must_see=rules.must_see.categorical,
    )


def _test(tested: Tested, cells: tuple[IntArray, IntArray], alpha: float) -> IntArray:
    """Carry it out; returns what was tested [2, c]: rare categories together, else chance alone would be an effect."""
    tested.sizes = int(cells[0].sum()), int(cells[1].sum())
    found = chi_square(*cells)
    if found is None:
        return np.zeros((2, 1), dtype=np.int64)
    tested.statistic, tested.p_value = found.statistic, found.p_value
    tested.effect = total_variation(*found.table)
    tested.detectable = detectable_variation(*tested.sizes, max(found.degrees, 1), alpha=alpha)
    return found.table
