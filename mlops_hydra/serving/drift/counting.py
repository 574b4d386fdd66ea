"""The rows that one model answered, as counts by hour: each file of the request log is read once.

Files appear whole and are not changed, and the file of an hour names the parts that it was made of: what was counted of
parts is not read again when they are merged. Memory holds the counts of each hour, and some rows while a file is read.
Not here: what the counts say (`watched.py`).
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from mlops_hydra.errors import DataError
from mlops_hydra.monitoring.profile import Profile
from mlops_hydra.monitoring.window import Window
from mlops_hydra.serving.request_log.parquet_files import (
    FEATURE,
    hour_file,
    hours_of,
    merged_parts,
    opened,
    part_files,
    tables_of,
)
from mlops_hydra.serving.request_log.windows import OWN, LoggedWindow, count_requests

_MAX_LETTERS: Final = 300

Stamps = dict[Path, tuple[int, int, int]]


@dataclass(slots=True)
class _Hour:
    """`parts` are the names of those that were counted, alone or in the file of the hour."""

    counted: LoggedWindow
    stamps: Stamps
    parts: set[str] = field(default_factory=set)
    damaged: list[str] = field(default_factory=list)


class CountedLog:
    """Of the model of this lineage.

    Args:
        folder: a service's `requests`.
        profile: whose grids are counted over.
    """

    def __init__(self, folder: Path, profile: Profile, lineage: str) -> None:
        self._folder, self._profile, self._lineage = folder, profile, lineage
        self._hours: dict[str, _Hour] = {}

    def look(self, first: str) -> bool:
        """Count what came since the last look, forget the hours before `first`; whether anything changed."""
        hours = [hour for hour in hours_of(self._folder) if hour >= first]
        gone = self._hours.keys() - set(hours)
        for hour in gone:
            del self._hours[hour]
        changed = [self._count(hour) for hour in hours]
        return bool(gone) or any(changed)

    def total(self) -> LoggedWindow:
        """Of all hours. `unknown` are features that no file tells, or some only hashed."""
        total = LoggedWindow(Window(self._profile))
        for hour in self._hours.values():
            total = total.merged(hour.counted)
        return total.settled()

    @property
    def damaged(self) -> list[str]:
        """Files whose rows are left out, and why."""
        return [text for hour in self._hours.values() for text in hour.damaged]

    def _count(self, hour: str) -> bool:
        known, stamps = self._hours.get(hour), self._stamps(hour)
        if known is not None and known.stamps == stamps:
            return False
        try:
            self._hours[hour] = self._goes_on(known, hour, stamps) or self._anew(hour, stamps)
        except FileNotFoundError:  # merged meanwhile: the next look finds its rows elsewhere
            return False
        return True

    def _stamps(self, hour: str) -> Stamps:
        stamps: Stamps = {}
        for path in (hour_file(self._folder, hour), *part_files(self._folder, hour)):
            try:
                found = path.stat()
            except FileNotFoundError:
                continue
            stamps[path] = found.st_mtime_ns, found.st_ino, found.st_size
        return stamps

    def _goes_on(self, known: _Hour | None, hour: str, stamps: Stamps) -> _Hour | None:
        """With parts that are new; None where what was counted is not what there is."""
        whole = hour_file(self._folder, hour)
        if known is None or any(stamps.get(path, old) != old for path, old in known.stamps.items() if path != whole):
            return None
        merged = self._merged(whole) if whole in stamps else set()
        if stamps.get(whole) != known.stamps.get(whole) and not (merged and merged <= known.parts):
            return None
        parts = {path.stem: path for path in stamps if path != whole}
        if not known.parts <= merged | parts.keys():
            return None
        found = _Hour(known.counted, stamps, known.parts | merged, list(known.damaged))
        self._add(found, [path for name, path in parts.items() if name not in found.parts])
        return found

    def _anew(self, hour: str, stamps: Stamps) -> _Hour:
        whole = hour_file(self._folder, hour)
        found = _Hour(LoggedWindow(Window(self._profile)), stamps)
        if whole in stamps:
            self._add(found, [whole])
        self._add(found, [path for path in stamps if path != whole and path.stem not in found.parts])
        return found

    def _add(self, found: _Hour, paths: list[Path]) -> None:
        for path in paths:
            try:
                counted, merged = self._read(path)
            except (FileNotFoundError, MemoryError):
                raise
            except Exception as error:  # whatever is wrong with it, the others are counted
                found.damaged.append(" ".join(str(error).split())[:_MAX_LETTERS])
                found.parts.add(path.stem)
            else:
                found.counted = found.counted.merged(counted)
                found.parts |= merged or {path.stem}

    def _merged(self, whole: Path) -> set[str]:
        try:
            with opened(whole) as file:
                return merged_parts(file.schema_arrow)
        except DataError:  # it is told where its rows are read
            return set()

    def _read(self, path: Path) -> tuple[LoggedWindow, set[str]]:
        """What a file holds, and the parts that it was made of."""
        with opened(path) as file:
            present = set(file.schema_arrow.names)
            features = [column.name for column in self._profile.features]
            names = [name for name in features if f"{FEATURE}{name}" in present]
            tables = tables_of(path, file, [*OWN, *(f"{FEATURE}{name}" for name in names)])
            found, merged = count_requests(tables, self._profile, self._lineage, names), merged_parts(file.schema_arrow)
        return found, merged
