"""Overrides as a person types them, before Hydra's grammar reads them. Light: every start needs it."""

import re
from typing import Final

_RUN: Final = re.compile(r"(\+{0,2}init_from=)([0-9a-f]{12,32}(?:,[0-9a-f]{12,32})*)")


_FILTER: Final = re.compile(r"overrides=([^'\"]*=[^'\"]*)")


def quoted(override: str) -> str:
    """In quotes what is text, but something else to the grammar.

    Names of runs (`1234567e8901` is a number to it, and an infinite one), and the overrides that `runs` looks for.
    """
    if found := _FILTER.fullmatch(override):
        return f"overrides='{found[1]}'"
    found = _RUN.fullmatch(override)
    if found is None:
        return override
    names = ",".join(f"'{name}'" for name in found[2].split(","))
    return f"{found[1]}{names}"
