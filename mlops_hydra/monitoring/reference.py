"""What current data is compared with: a profile, and where the rows themselves are at hand, their sorted numbers.

Made once, used for many checks. Not here: making a profile (`profiling.py`), and the tests (`judging.py`).

Shapes: d numeric columns, c cells of the one that has the most.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, cast

import numpy as np

from mlops_hydra.config.section import Kind
from mlops_hydra.data.values import FloatArray, IntArray, Values
from mlops_hydra.errors import DataError, Fault, UsageError
from mlops_hydra.monitoring.profile import CategoryProfile, ColumnProfile, NumericCounts, NumericProfile, Profile
from mlops_hydra.monitoring.profiling import count_rows, profile_columns
from mlops_hydra.monitoring.reading import read_numeric
from mlops_hydra.monitoring.result import Part

if TYPE_CHECKING:
    import pandas as pd

BINS = 128
_MAX_CATEGORIES = 1000


@dataclass(frozen=True)
class Stacked:
    """The numeric columns side by side: `edges` [d, c - 1] and `cells` [d, c] have what is missing on the right as the
    last edge, and as nothing."""

    edges: FloatArray
    cells: IntArray
    num_values: IntArray
    spread: FloatArray


@dataclass(frozen=True)
class Reference:
    """`values`: by name of a numeric feature, its sorted numbers [n]; then its statistic is exact."""

    profile: Profile
    values: Mapping[str, FloatArray] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, table: "pd.DataFrame | Mapping[str, Values]", *, bins: int = BINS) -> "Reference":
        """Of a table that fits into the memory; kinds follow from its values.

        Raises:
            DataError: it has no columns, they differ in length, or hold something that is no plain value.
        """
        columns = columns_of(table)
        kinds = _kinds(table)
        num_rows = count_rows(columns)
        features = profile_columns(columns, kinds, bins=bins, max_categories=_MAX_CATEGORIES, num_rows=num_rows)
        numeric = [column.name for column in features if isinstance(column, NumericProfile)]
        values = {name: np.sort(read_numeric(columns[name], kinds[name]).values) for name in numeric}
        return cls(Profile(num_rows, features, (), {}), values)

    @cached_property
    def numeric(self) -> tuple[tuple[Part, NumericProfile], ...]:
        """The d numeric columns: features, then what the model made of them."""
        return tuple((part, column) for part, column in self.columns if isinstance(column, NumericProfile))

    @cached_property
    def categorical(self) -> tuple[tuple[Part, CategoryProfile], ...]:
        """The others."""
        return tuple((part, column) for part, column in self.columns if isinstance(column, CategoryProfile))

    @property
    def columns(self) -> tuple[tuple[Part, ColumnProfile], ...]:
        """All of them."""
        features: list[tuple[Part, ColumnProfile]] = [("feature", column) for column in self.profile.features]
        return (*features, *(("prediction", column) for column in self.profile.outputs))

    def only(self, names: Collection[str]) -> "Reference":
        """With these features alone."""
        if set(names) >= {column.name for column in self.profile.features}:
            return self
        features = tuple(column for column in self.profile.features if column.name in names)
        values = {name: numbers for name, numbers in self.values.items() if name in names}
        return Reference(replace(self.profile, features=features), values)

    def without_outputs(self) -> "Reference":
        """For data that nothing was predicted of."""
        if not self.profile.outputs:
            return self
        return Reference(replace(self.profile, outputs=()), self.values)

    def column(self, part: Part, name: str) -> ColumnProfile:
        """One of them."""
        return self._by_name[part, name]

    @cached_property
    def _by_name(self) -> dict[tuple[Part, str], ColumnProfile]:
        return {(part, column.name): column for part, column in self.columns}

    @cached_property
    def stacked(self) -> Stacked:
        """The d numeric ones."""
        columns = [column for _, column in self.numeric]
        most = max((len(column.edges) for column in columns), default=0)
        edges = np.zeros((len(columns), most))
        for row, column in zip(edges, columns, strict=True):
            row[: len(column.edges)] = column.edges
            row[len(column.edges) :] = column.edges[-1] if len(column.edges) else 0.0
        counts = [column.counts for column in columns]
        return Stacked(
            edges,
            stack(counts, most + 1),
            np.array([each.num_values for each in counts], dtype=np.int64),
            np.array([column.spread for column in columns], dtype=np.float64),
        )


def stack(counts: Sequence[NumericCounts], num_cells: int) -> IntArray:
    """Cells [d, num_cells]."""
    stacked = np.zeros((len(counts), num_cells), dtype=np.int64)
    for row, each in zip(stacked, counts, strict=True):
        row[: len(each.cells)] = each.cells
    return stacked


def columns_of(table: "pd.DataFrame | Mapping[str, Values]") -> dict[str, Values]:
    """As NumPy has them.

    Raises:
        UsageError: it is no table.
        DataError: columns have no names of their own, or differ in length.
    """
    from mlops_hydra.data.frames import as_columns

    return cast("dict[str, Values]", as_columns(_as_frame(table)))


def _as_frame(table: "pd.DataFrame | Mapping[str, Values]") -> "pd.DataFrame":
    import pandas as pd

    if not isinstance(table, Mapping | pd.DataFrame):
        raise UsageError(Fault("table", "must be a DataFrame, or columns by name", type(table).__name__))
    try:
        frame = table if isinstance(table, pd.DataFrame) else pd.DataFrame(dict(table))
    except (TypeError, ValueError) as error:
        raise DataError(Fault("table", f"its columns cannot stand side by side: {error}")) from error
    frame = frame.set_axis([str(name) for name in frame.columns], axis=1)
    if not frame.columns.is_unique:
        raise DataError(Fault("table", "must have names of their own for its columns"))
    return frame


def _kinds(table: "pd.DataFrame | Mapping[str, Values]") -> dict[str, Kind]:
    from mlops_hydra.data.frames import infer_kinds

    return infer_kinds(_as_frame(table), {})
