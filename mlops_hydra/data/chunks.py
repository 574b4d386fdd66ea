"""The rows of a large file, some at a time, and their columns as a model that learnt from such a table takes them.

pandas infers what a column holds from the rows that it sees: it would read the id `007` as 7 in one chunk and as text
in the next. So the values of a CSV file stay text here, and are read one by one, as training read the whole column.
Not here: encoding them (`encoding.py`), and what is predicted of them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from mlops_hydra.config.section import Kind
from mlops_hydra.data.frames import as_array
from mlops_hydra.data.tables import Csv, Parquet
from mlops_hydra.data.values import to_text
from mlops_hydra.errors import DataError, Fault

if TYPE_CHECKING:
    import pyarrow as pa

PARQUET: Final = (".parquet", ".pq")
MISSING_WORDS: Final = frozenset((
    "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN",
    "<NA>", "N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null",
))  # fmt: skip
"""What pandas takes for a missing value in a CSV file."""

_FLAGS: Final = dict.fromkeys(("True", "TRUE", "true"), True) | dict.fromkeys(("False", "FALSE", "false"), False)


@dataclass(frozen=True, slots=True)
class Chunk:
    """`table`: rows as they stand in the file; of a CSV file every value is text, with `decimal` in its numbers."""

    table: "pa.Table"
    is_text: bool = False
    decimal: str = "."

    def __len__(self) -> int:
        return int(self.table.num_rows)

    @property
    def names(self) -> list[str]:
        """Of the columns, in their order."""
        return list(self.table.column_names)

    def column(self, name: str, kind: Kind, *, is_spelled: bool) -> NDArray[Any]:
        """The values [n] of a column, fit for `encode`; what cannot be read as its kind is there as it is.

        Args:
            is_spelled: categories are texts, which `7` and `007` are two of; else they were numbers or booleans.
        """
        values = self.table.column(name)
        if not self.is_text:
            return as_array(values.to_pandas())
        if kind == "numeric":
            return self._numbers(values)
        texts = values.to_pandas().astype(object).to_numpy()
        read: dict[str, Any] = dict.fromkeys(MISSING_WORDS)
        if kind == "categorical" and not is_spelled:
            read = {text: as_read(self._with_point(text)) for text in set(texts)} | read
        return np.array([read.get(text, text) for text in texts], dtype=object)

    def typed(self, numeric: list[str]) -> "pa.Table":
        """The rows with float64 for the texts of these columns; what is no number, and empty text, is missing."""
        import pyarrow as pa
        import pyarrow.compute as pc

        table = self.table
        if not self.is_text:
            return table
        for place, name in enumerate(table.column_names):
            values = table.column(name)
            if name in numeric:
                numbers = [value if isinstance(value, float) else _to_float(value) for value in self._numbers(values)]
                filled = pa.array(numbers, pa.float64(), from_pandas=True)
            else:
                filled = pc.if_else(pc.equal(values, ""), None, values)
            table = table.set_column(place, name, filled)
        return table

    def _numbers(self, values: Any) -> NDArray[Any]:
        import pyarrow as pa
        import pyarrow.compute as pc

        known = pc.if_else(pc.is_in(values, pa.array(sorted(MISSING_WORDS), values.type)), None, values)
        if self.decimal != ".":
            known = pc.replace_substring(known, self.decimal, ".")
        try:
            return np.asarray(pc.cast(known, pa.float64()).to_pandas(), dtype=np.float64)
        except pa.ArrowInvalid:  # a space beside a number, or no number: value by value
            return np.array(known.to_pylist(), dtype=object)

    def _with_point(self, text: str) -> str:
        return text if self.decimal == "." else text.replace(self.decimal, ".")


def _to_float(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


def as_read(text: str) -> int | float | bool | str:
    """What pandas makes of a text in a column of numbers or booleans."""
    if text in _FLAGS:
        return _FLAGS[text]
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def are_spelled(categories: tuple[str, ...], examples: list[Any]) -> bool:
    """Whether categories are texts rather than numbers or booleans, by their names and by raw values of the column."""
    read = [as_read(category) for category in categories]
    is_mixed = len({isinstance(value, bool) for value in read}) > 1
    are_texts = any(isinstance(value, str) for value in [*read, *examples])
    return are_texts or is_mixed or tuple(map(to_text, read)) != categories


def read_chunks(path: str, num_rows: int, csv: Csv) -> Iterator[Chunk]:
    """The rows of a CSV or Parquet file, at least one chunk; `csv` says how a CSV file is written.

    Raises:
        DataError: no such file, it cannot be read, or two columns have the same name.
    """
    import pyarrow as pa

    if Path(path).suffix in PARQUET:
        for batch in Parquet(path).batches(num_rows):
            table = pa.Table.from_batches([batch]).replace_schema_metadata(None)
            repeated = sorted({name for name in table.column_names if table.column_names.count(name) > 1})
            if repeated:
                rule = "has columns of the same name: names must be unique"
                raise DataError(Fault(path, rule, ", ".join(repeated)))
            yield Chunk(table)
        return
    for frame in csv.text_chunks(num_rows):
        table = pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(None)
        yield Chunk(table, is_text=True, decimal=csv.decimal)
