"""Rows of JSON -> tuples of values, by decoders that are compiled once for the columns of a model."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Raw
from numpy.typing import NDArray

Row = tuple[Any, ...]
Arrays = Mapping[str, NDArray[Any]]


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


def converts(value: Any, kind: Any) -> bool:
    """Whether a value is of a type, as msgspec reads it."""
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError:
        return False
    return True
