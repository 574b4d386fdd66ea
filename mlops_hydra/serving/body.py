"""The body of a prediction request, before anything is known of its columns: compiled once, decoded in half a us."""

import json
import math
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Annotated, Any, Final, NoReturn

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from mlops_hydra.serving.refusal import MAX_FAULTS, Refusal, RowFault, TooLarge, alike, refused, shown, shown_text

MAX_USER_ID_LENGTH: Final = 256
MAX_EXPLAINED_BYTES: Final = 2**18
"""Of JSON that is read once more, to explain what is wrong with it: 4 MiB would take a second, and 100 MB."""
NO_JSON: Final = (msgspec.DecodeError, RecursionError, UnicodeDecodeError)
"""What msgspec raises where bytes are no JSON, or none of the declared type."""
_MAX_DIGITS: Final = 4_000  # Python reads 4,300
_USER_ID: Final = f"must be text of 1 to {MAX_USER_ID_LENGTH} characters, or a whole number below 2**63"
_RULES: Final = {
    "user_id": _USER_ID,
    "probabilities": "must be true or false",
    "features": "must be a list of values: one row, in the order of the columns",
    "rows": "must be a list of rows",
}


class Body(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """One row as `features`, in the order of the columns, or several as `rows`; both are JSON still."""

    features: Raw | UnsetType = UNSET
    rows: Raw | UnsetType = UNSET
    user_id: (
        Annotated[str, Meta(min_length=1, max_length=MAX_USER_ID_LENGTH)]
        | Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
        | float
        | None
    ) = None
    probabilities: bool = False


_decode = msgspec.json.Decoder(Body).decode


def read_body(content: bytes) -> Body:
    """What was sent. Raises Refusal."""
    try:
        if not content.isascii():
            content.decode()  # msgspec does not look into strings that it passes over
        body = _decode(content)
    except msgspec.ValidationError as error:
        raise (_explained(content) if len(content) <= MAX_EXPLAINED_BYTES else _told(error)) from None
    except NO_JSON as error:
        raise malformed(error) from None
    if type(body.user_id) is float:
        body.user_id = _whole_user(body.user_id)
    if (body.features is UNSET) == (body.rows is UNSET):
        has = "needs" if body.rows is UNSET else "has both, needs only one of them:"
        raise refused(422, f"{has} `rows` (a list of objects by column name) or `features` (one row, a list of values)")
    return body


def _whole_user(user_id: float) -> int:
    """17.0, which is what a column with a missing value makes of 17, is the same user."""
    if not (user_id.is_integer() and _fits("user_id", int(user_id))):
        raise Refusal(422, [RowFault(None, "user_id", _USER_ID, user_id)])
    return int(user_id)


def malformed(error: Exception) -> Refusal:
    """The body is no JSON; where it stops being it is all that is told of the error."""
    if isinstance(error, RecursionError):
        return refused(422, "the body is nested too deeply")
    place = str(error).rpartition("(byte ")[2].rstrip(")")
    where = f": byte {place}" if place.isdecimal() else ""
    return refused(422, f"the body must be JSON (in UTF-8, without NaN and Infinity){where}")


def lenient(content: bytes | Raw) -> Any:
    """Any JSON, for explaining; with `TooLarge` where a number is. Raises Refusal where it is none."""
    try:
        return msgspec.json.decode(content)
    except msgspec.ValidationError:  # JSON has numbers of any size
        pass
    except NO_JSON as error:
        raise malformed(error) from None
    try:
        return json.loads(bytes(content), parse_int=_whole, parse_float=_decimal, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise malformed(error) from None


def _whole(text: str) -> int | TooLarge:
    return int(text) if len(text) <= _MAX_DIGITS else TooLarge(text)


def _decimal(text: str) -> float | TooLarge:
    number = float(text)
    return number if math.isfinite(number) else TooLarge(text)


def _no_constant(text: str) -> NoReturn:
    raise ValueError(text)


def _explained(content: bytes) -> Refusal:
    data = lenient(content)
    if not isinstance(data, dict):
        return refused(422, "the body must be a JSON object", shown(data))
    faults = list(islice(_faults(data), MAX_FAULTS))
    return Refusal(422, faults) if faults else refused(422, "cannot be read: is a key there twice?")


def _told(error: msgspec.ValidationError) -> Refusal:
    """The place is all that is told of the error."""
    name = str(error).rpartition("`$.")[2].rstrip("`")
    if name in _RULES:
        return Refusal(422, [RowFault(None, name, _RULES[name])])
    return refused(422, f"the body must be a JSON object with no other keys than {', '.join(_RULES)}")


def _faults(data: Mapping[str, Any]) -> Iterator[RowFault]:
    for name, value in data.items():
        if name not in _RULES:
            rule = f"is not known; known are {', '.join(_RULES)}"
            yield RowFault(None, shown_text(name), rule, None, alike(name, _RULES))
        elif not _fits(name, value):
            yield RowFault(None, name, _RULES[name], shown(value))


def _fits(name: str, value: Any) -> bool:
    if name == "probabilities":
        return isinstance(value, bool)
    if name == "user_id" and value is not None:
        if isinstance(value, str):
            return 1 <= len(value) <= MAX_USER_ID_LENGTH
        is_whole = type(value) is int or (type(value) is float and value.is_integer())
        return is_whole and -(2**63) <= value < 2**63
    return True
