"""Profiles and windows of 60 columns, drawn without drawing a row: exact, and a hundred times as fast.

Between order statistics of any continuous column lie Dirichlet shares of its distribution, whatever it is, so that a
grid of quantiles of rows that were never made can be drawn, and what further rows would count in it is multinomial.
Not here: distances beyond the range, which are left out, and missing values.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special, stats

from mlops_hydra.data.values import FloatArray, IntArray
from mlops_hydra.monitoring.grid import join_edges
from mlops_hydra.monitoring.profile import (
    CategoryCounts,
    CategoryProfile,
    ColumnProfile,
    NumericCounts,
    NumericProfile,
    Profile,
)
from mlops_hydra.monitoring.reference import BINS, Reference
from mlops_hydra.monitoring.window import Window

NUM_REFERENCE, NUM_CURRENT = 100_000, 10_000
QUANTILES: dict[str, Callable[[FloatArray], FloatArray]] = {
    "normal": special.ndtri,
    "exponential": lambda u: -np.log1p(-u),
    "lognormal": lambda u: np.exp(special.ndtri(u)),
    "uniform": lambda u: u,
    "student": lambda u: special.stdtrit(3, u),
}
DEVIATIONS = {"normal": 1.0, "exponential": 1.0, "lognormal": 2.16, "uniform": 12**-0.5, "student": 3**0.5}
LUMPS = {
    "rounded": (np.arange(-50, 51) / 10, stats.norm.pdf(np.arange(-50, 51) / 10)),
    "poisson": (np.arange(40.0), stats.poisson.pmf(np.arange(40), 3)),
    "rare": (np.array([0.0, 1.0]), np.array([0.999, 0.001])),
}
CARDINALITIES = (2, 3, 4, 5, 6, 8, 10, 12, 20, 50)
SHIFTED = "normal 0"


def category_shares(cardinality: int) -> FloatArray:
    """Zipf's."""
    weights = 1 / np.arange(1.0, cardinality + 1)
    return weights / weights.sum()


@dataclass(frozen=True)
class Drawn:
    """A column's profile, and the true share of each of its cells: for rows shifted by so much of its deviation."""

    profile: ColumnProfile
    shares: Callable[[float], FloatArray]


def continuous(name: str, rng: np.random.Generator, rows: int) -> Drawn:
    """The grid as `make_edges` has it: the smallest and the largest value as points, quantiles between."""
    shape = name.partition(" ")[0]
    places = np.round(np.linspace(1, rows, BINS + 1)).astype(np.int64)
    held = np.diff(places)
    cells = np.array([0, 1, *held[:-1], held[-1] - 1, 1, 0])
    gaps = rng.standard_gamma([1, 0, *held, 0, 1])  # of a cell: how many spacings of order statistics it spans
    upto = np.cumsum(gaps / gaps.sum())[:-1]
    edges = QUANTILES[shape](upto)
    edges[[0, -2]] = np.nextafter(edges[[1, -1]], -np.inf)
    profile = NumericProfile(name, "numeric", edges, NumericCounts(cells), 0.0, DEVIATIONS[shape])

    def shares(shift: float) -> FloatArray:
        moved = special.ndtr(special.ndtri(upto) - shift) if shift else upto  # of the normal ones alone
        return np.diff(moved, prepend=0.0, append=1.0)

    return Drawn(profile, shares)


def lumped(name: str, rng: np.random.Generator, rows: int) -> Drawn:
    """A few values that many rows share: each that the reference shows is a point."""
    values, weights = LUMPS[name.partition(" ")[0]]
    counts = rng.multinomial(rows, weights / weights.sum())
    seen = counts > 0
    edges = join_edges(values[seen], np.empty(0))
    cell = np.searchsorted(edges, values)
    cells = np.bincount(cell, counts, len(edges) + 1).astype(np.int64)
    shares = np.bincount(cell, weights / weights.sum(), len(edges) + 1)
    mean = float(np.average(values, weights=counts))
    deviation = float(np.sqrt(np.average((values - mean) ** 2, weights=counts)))
    return Drawn(NumericProfile(name, "numeric", edges, NumericCounts(cells), mean, deviation), lambda _: shares)


def categorical(name: str, rng: np.random.Generator, rows: int, cardinality: int) -> Drawn:
    weights = category_shares(cardinality)
    counts = rng.multinomial(rows, weights)
    seen = counts > 0
    profile = CategoryProfile(
        name, "categorical", tuple(np.arange(cardinality)[seen].astype(str)), CategoryCounts(np.append(counts[seen], 0))
    )
    shares = np.append(weights[seen], weights[~seen].sum())
    return Drawn(profile, lambda _: shares)


def drawn_columns(rng: np.random.Generator, rows: int = NUM_REFERENCE) -> list[Drawn]:
    """50 numeric columns of eight shapes, and 10 categorical ones, of a reference that was never drawn before."""
    return [
        *(continuous(f"{shape} {i}", rng, rows) for shape in QUANTILES for i in range(7)),
        *(lumped(f"{shape} {i}", rng, rows) for shape in LUMPS for i in range(5)),
        *(categorical(f"category {cardinality}", rng, rows, cardinality) for cardinality in CARDINALITIES),
    ]


def reference_of(columns: Sequence[Drawn], rows: int = NUM_REFERENCE) -> Reference:
    return Reference(Profile(rows, tuple(column.profile for column in columns)))


def window_of(
    reference: Reference,
    columns: Sequence[Drawn],
    rng: np.random.Generator,
    rows: int = NUM_CURRENT,
    shift: float = 0.0,
) -> Window:
    """So many independent rows; the normal column SHIFTED by `shift` standard deviations."""
    window = Window(reference.profile)
    window.num_rows = rows
    for column in columns:
        name = column.profile.name
        cells: IntArray = rng.multinomial(rows, column.shares(shift if name == SHIFTED else 0.0))
        numeric = isinstance(column.profile, NumericProfile)
        window.features[name] = NumericCounts(cells) if numeric else CategoryCounts(cells)
    return window
