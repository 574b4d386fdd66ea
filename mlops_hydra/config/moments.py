"""Points in time as people write them: `2026-11-25`, `2026-11-25T12:00`, in UTC where nothing else is said."""

from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator


def _check_moment(text: str) -> str:
    try:
        as_moment(text)
    except ValueError:
        raise ValueError("must be a date such as 2026-11-25, or 2026-11-25T12:00, which is UTC") from None
    return text


def as_moment(text: str) -> datetime:
    """In UTC, which is meant where nothing else is said."""
    moment = datetime.fromisoformat(text)
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def check_span(since: str | None, until: str | None) -> None:
    """Raises ValueError where nothing lies between them."""
    if since is not None and until is not None and as_moment(since) >= as_moment(until):
        raise ValueError(f"since must be before until, got {since} and {until}")


Moment = Annotated[str, AfterValidator(_check_moment)]
