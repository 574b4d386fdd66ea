"""Why a request is refused: a status, and what is wrong with it, in words of ours and never of an exception.

A fault names the row (from 0), the column, the rule and the value; what does not apply is null.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final

import msgspec

from mlops_hydra.errors import nearest

MAX_FAULTS: Final = 20  # that are told
_MAX_VALUE_LENGTH: Final = 100  # characters
_MAX_COMPARED: Final = 50  # names, with one that is wrong


class TooLarge:
    """A number that is larger than any float64, as it was written."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __str__(self) -> str:
        return self._text


class RowFault(msgspec.Struct, frozen=True):
    """One thing that is wrong."""

    row: int | None
    column: str | None
    rule: str
    value: Any = None
    nearest: tuple[str, ...] = ()


@dataclass(eq=False)
class Refusal(Exception):  # noqa: N818 - it is an answer, not a bug
    """An answer other than a prediction."""

    status: int
    faults: Sequence[RowFault]
    headers: Mapping[str, str] = field(default_factory=dict)

    def body(self) -> bytes:
        """JSON, in the form in which FastAPI tells faults: a list below `detail`."""
        return msgspec.json.encode({"detail": self.faults[:MAX_FAULTS]})


def refused(status: int, rule: str, value: Any = None, **headers: str) -> Refusal:
    """A refusal of the request as a whole; `retry_after="1"` becomes the header Retry-After."""
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    return Refusal(status, [RowFault(None, None, rule, shown(value))], named)


def shown(value: Any) -> Any:
    """A value as it is told: a long one is cut, and becomes text."""
    if isinstance(value, str | TooLarge):
        return shown_text(str(value))
    try:
        text = msgspec.json.encode(value, enc_hook=str).decode()
    except (ValueError, RecursionError):
        return None
    return msgspec.json.decode(text) if len(text) <= _MAX_VALUE_LENGTH else shown_text(text)


def shown_text(text: str) -> str:
    """Text that came with a request, such as a name, as it is told."""
    cut = text if len(text) <= _MAX_VALUE_LENGTH else f"{text[: _MAX_VALUE_LENGTH - 3]}..."
    return cut.encode(errors="replace").decode()


def alike(name: str, names: Iterable[str]) -> tuple[str, ...]:
    """Those most like `name` among the first of `names`: comparing takes 30 us a pair, and clients choose the names."""
    if len(name) > _MAX_VALUE_LENGTH:
        return ()
    return nearest(name, [each for each in islice(names, _MAX_COMPARED) if len(each) <= _MAX_VALUE_LENGTH])
