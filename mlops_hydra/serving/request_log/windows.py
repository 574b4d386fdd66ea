"""The request log as counts over the profile of a model: what drift is told by.

Rows that another model answered are left out, and counted. Columns that are not logged, or hashed, cannot be compared.
No pandas: the companion of a service reads with this, too. Not here: what the counts say (`monitoring/`).
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mlops_hydra.monitoring.profile import CategoryProfile, NumericProfile, Profile
from mlops_hydra.monitoring.window import Window
from mlops_hydra.serving.request_log.parquet_files import FEATURE
from mlops_hydra.serving.request_log.reader import read_as_logged

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

    def settled(self) -> "LoggedWindow":
        """Once all is counted: what no row tells is not known; it is not known to be missing, either."""
        silent = {name for name, counts in self.window.features.items() if not counts.num_rows}
        self.unknown |= silent if self.window.num_rows else set()
        self.window.absent.clear()
        return self


def read_window(
    folder: Path, profile: Profile, lineage: str, *, since: datetime | None = None, until: datetime | None = None
) -> LoggedWindow:
    """The rows of [since, until) that the model of this lineage answered.

    Args:
        folder: a service's `requests`.

    Raises:
        DataError: a file is damaged; names it.
    """
    features = {f"{FEATURE}{column.name}": column.name for column in profile.features}
    found = LoggedWindow(Window(profile))
    for table in read_as_logged(folder, [*OWN, *features], since=since, until=until):
        names = [features[name] for name in table.column_names if name in features]
        found = found.merged(count_requests([table], profile, lineage, names))
    return found.settled()


def count_requests(tables: Iterable[pa.Table], profile: Profile, lineage: str, names: Sequence[str]) -> LoggedWindow:
    """Of tables with the columns `OWN`, and those of the features `names`."""
    found = LoggedWindow(Window(profile))
    is_value = any(isinstance(column, NumericProfile) and column.name == "prediction" for column in profile.outputs)
    hashed = dict.fromkeys(set(names) - set(_hashes_themselves(profile)), False)
    for table in tables:
        own = table.filter(pc.equal(table["lineage"], lineage))
        found.num_others += len(table) - len(own)
        if not len(own):
            continue
        values = {name: as_values(own[f"{FEATURE}{name}"]) for name in names}
        hashed = {name: is_hashed or _are_hashes(values[name]) for name, is_hashed in hashed.items()}
        found.window.add(values, len(own))
        outputs = {"prediction": own["value" if is_value else "prediction"], "confidence": own["confidence"]}
        known = {column.name for column in profile.outputs}
        found.window.add_outputs({name: as_values(column) for name, column in outputs.items() if name in known})
    found.unknown |= {name for name, is_hashed in hashed.items() if is_hashed}
    return found


def _hashes_themselves(profile: Profile) -> Iterator[str]:
    """Features whose categories look like hashes before any hashing."""
    for column in profile.features:
        if isinstance(column, CategoryProfile) and any(map(_HASH.fullmatch, column.categories)):
            yield column.name


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
