"""The request log as counts over the profile of a model: what drift is told by.

Rows that another model answered are left out, and counted. Columns that are not logged, or hashed, cannot be compared.
No pandas: the companion of a service reads with this, too. Not here: what the counts say (`monitoring/`).
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mlops_hydra.monitoring.profile import NumericProfile, Profile
from mlops_hydra.monitoring.window import Window
from mlops_hydra.serving.request_log.parquet_files import FEATURE
from mlops_hydra.serving.request_log.reader import columns_of, read_requests

_HASH: Final = re.compile(r"[0-9a-f]{32}")
OWN: Final = ("lineage", "prediction", "value", "confidence")


@dataclass(slots=True)
class LoggedWindow:
    """`unknown`: features whose values the log does not tell. `num_others`: rows of other models."""

    window: Window
    unknown: set[str] = field(default_factory=set)
    num_others: int = 0

    def merged(self, other: "LoggedWindow") -> "LoggedWindow":
        """Of both."""
        window = self.window.merged(other.window)
        return LoggedWindow(window, self.unknown | other.unknown, self.num_others + other.num_others)


def read_window(
    folder: Path, profile: Profile, lineage: str, *, since: datetime | None = None, until: datetime | None = None
) -> LoggedWindow:
    """The rows of [since, until) that the model of this lineage answered.

    Args:
        folder: a service's `requests`.

    Raises:
        DataError: a file is damaged; names it.
    """
    logged = set(columns_of(folder))
    names = [column.name for column in profile.features if f"{FEATURE}{column.name}" in logged]
    columns = [*OWN, *(f"{FEATURE}{name}" for name in names)]
    found = count_requests(read_requests(folder, columns=columns, since=since, until=until), profile, lineage, names)
    found.unknown |= {column.name for column in profile.features} - set(names)
    return found


def count_requests(tables: Iterable[pa.Table], profile: Profile, lineage: str, names: Sequence[str]) -> LoggedWindow:
    """Of tables with the columns `OWN`, and those of the features `names`."""
    found = LoggedWindow(Window(profile))
    is_value = any(isinstance(column, NumericProfile) and column.name == "prediction" for column in profile.outputs)
    hashed = dict.fromkeys(names, False)
    for table in tables:
        own = table.filter(pc.equal(table["lineage"], lineage))
        found.num_others += len(table) - len(own)
        if not len(own):
            continue
        values = {name: as_values(own[f"{FEATURE}{name}"]) for name in names}
        hashed = {name: hashed[name] or _are_hashes(values[name]) for name in names}
        found.window.add(values, len(own))
        outputs = {"prediction": own["value" if is_value else "prediction"], "confidence": own["confidence"]}
        known = {column.name for column in profile.outputs}
        found.window.add_outputs({name: as_values(column) for name, column in outputs.items() if name in known})
    found.unknown |= {name for name, is_hashed in hashed.items() if is_hashed}
    return found


def as_values(column: pa.ChunkedArray) -> NDArray[Any]:
    """float64 with NaN for missing where they are numbers, else objects with None."""
    if pa.types.is_floating(column.type):
        return np.asarray(column.to_numpy())
    if pa.types.is_null(column.type):
        return np.full(len(column), None, dtype=object)
    values = np.empty(len(column), dtype=object)
    values[:] = column.to_pylist()
    return values


def _are_hashes(values: NDArray[Any]) -> bool:
    """Whether all texts are what `hashing.py` makes of values, and there are some."""
    if values.dtype != object:
        return False
    texts = [value for value in values if value is not None]
    return bool(texts) and all(isinstance(text, str) and _HASH.fullmatch(text) for text in texts)
