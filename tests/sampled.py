"""Many cases of one thing: some in every run of the tests, all of them in `make slow`."""

from collections.abc import Iterable
from typing import Any

import pytest


def some(cases: Iterable[Any], *, every: int) -> list[Any]:
    """All cases; but for the first of each `every`, they are slow tests."""
    return [case if i % every == 0 else pytest.param(case, marks=pytest.mark.slow) for i, case in enumerate(cases)]
