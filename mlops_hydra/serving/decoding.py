"""Rows of JSON -> tuples of values, by decoders that are compiled once for the columns of a model."""

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec
from msgspec import Raw
from numpy.typing import NDArray

from mlops_hydra.serving.body import MAX_EXPLAINED_BYTES, malformed
from mlops_hydra.serving.refusal import refused

_PLACE: Final = re.compile(r" - at `\$\[(\d+)\](?:\.(?P<name>[^\[]*)|\[(?P<column>\d+)\])?.*`$", re.DOTALL)
Row = tuple[Any, ...]
Arrays = Mapping[str, NDArray[Any]]
UNLIMITED: Final = sys.maxsize


def object_decoder(names: Sequence[str], types: Sequence[Any]) -> Callable[[Raw], list[Row]]:
    """Of a list of objects with these keys, all required; others are not looked at."""
    fields = [(f"f{i}", kind) for i, kind in enumerate(types)]
    rename = {f"f{i}": name for i, name in enumerate(names)}
    try:
        row = msgspec.defstruct("Row", fields, rename=rename, gc=False)
    except ValueError:  # a name with quotes, which msgspec takes for none
        return _plain_decoder(names, types)
    decode = msgspec.json.Decoder(list[row]).decode  # type: ignore[valid-type]
    return lambda content: list(map(msgspec.structs.astuple, decode(content)))


def _plain_decoder(names: Sequence[str], types: Sequence[Any]) -> Callable[[Raw], list[Row]]:
    """The same for names of any characters, slower."""
    decode = msgspec.json.Decoder(list[dict[str, Any]]).decode
    positional: Any = tuple.__class_getitem__(tuple(types))

    def read(content: Raw) -> list[Row]:
        try:
            return [msgspec.convert([row[name] for name in names], positional) for row in decode(content)]
        except KeyError:
            raise msgspec.ValidationError("a column is missing") from None

    return read


def limited(rows: list[Row], max_rows: int) -> list[Row]:
    """The same. Raises Refusal where there are more."""
    if len(rows) > max_rows:
        raise refused(413, f"must have at most {max_rows} rows", len(rows))
    return rows


def is_long(content: Raw) -> bool:
    """Whether it is too long to be read once more."""
    return memoryview(content).nbytes > MAX_EXPLAINED_BYTES


def place_of(error: Exception) -> tuple[int | None, str | int | None]:
    """Row, and name or number of the column, where msgspec found something wrong with a list of rows.

    Raises:
        Refusal: it found no JSON.
    """
    if not isinstance(error, msgspec.ValidationError):
        raise malformed(error) from None
    found = _PLACE.search(str(error))
    if found is None:
        return None, None
    column = found["column"]
    return int(found[1]), found["name"] if column is None else int(column)


def converts(value: Any, kind: Any) -> bool:
    """Whether a value is of a type, as msgspec reads it."""
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError:
        return False
    return True
