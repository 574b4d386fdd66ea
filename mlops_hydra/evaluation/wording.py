"""Numbers as the sentences of gates tell them: with as few digits as show what was decided."""

import math
import numbers
from collections.abc import Mapping

from mlops_hydra.errors import nearest


def measured(value: object) -> float | None:
    """The number; None for everything that is no finite number."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not math.isfinite(value):
        return None
    return float(value)


def why_not_measured(key: str, metrics: Mapping[str, float | None]) -> str:
    """What `metrics` has instead of a finite number under `key`."""
    if metrics.get(key) is not None:
        return f"{key} could not be measured: it is {metrics[key]}, not a finite number"
    names = sorted(name for name, value in metrics.items() if measured(value) is not None)
    alike = nearest(key, names)
    if alike:
        return f"{key} was not measured; did you mean {' or '.join(alike)}?"
    return f"{key} was not measured; measured: {', '.join(names) or 'nothing'}"


def tell_apart(value: float, threshold: float) -> tuple[str, str]:
    """Both with as few digits, from 4 on, as show that they differ."""
    for digits in range(4, 18):
        shown, limit = with_digits(value, digits), with_digits(threshold, digits)
        if shown != limit or value == threshold:
            break
    return shown, limit


def interval(difference: float, low: float, high: float, *, limit: float, confidence: float) -> tuple[str, str]:
    """A difference with its bounds, and the limit, with digits that tell a bound from the limit where they differ."""
    for digits in range(3, 18):
        shown = signed(limit, digits)
        if all(signed(bound, digits) != shown or bound == limit for bound in (low, high)):
            break
    bounds = f"{100 * confidence:g} %: {signed(low, digits)} to {signed(high, digits)}"
    return f"difference {signed(difference, digits)} ({bounds})", shown


def signed(value: float, digits: int = 3) -> str:
    """+0.012, -0.3 or 0."""
    return f"{'+' if value > 0 else ''}{with_digits(value, digits)}" if value else "0"


def with_digits(value: float, digits: int) -> str:
    """Significant digits, but never fewer than stand before the point: 12346 rather than 1.235e+04."""
    return f"{value:.{max(digits, min(17, len(str(round(abs(value))))))}g}"


def num(count: int, thing: str) -> str:
    """1 row, 1,139 rows."""
    return f"{count:,} {thing}{'' if count == 1 else 's'}"


def in_a_line(error: Exception) -> str:
    """What it says, however many lines it says it in."""
    return " ".join(str(error).split())
