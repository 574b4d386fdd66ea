"""What a worker tells of drift: the file that the companion writes, and nothing that costs.

Not here: how it comes about (`watcher.py`), and its form in the documentation (`reports.py`).
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prometheus_client.core import Metric

from mlops_hydra.atomic import read_json
from mlops_hydra.config.serving import ServeConfig
from mlops_hydra.serving.counts import gauge


class LatestDrift:
    """Read again only when there is another file; for threads."""

    def __init__(self, config: ServeConfig, path: Path) -> None:
        self._config, self._path = config, path
        self._read: tuple[object, Mapping[str, Any]] = None, {}

    def about(self) -> dict[str, Any]:
        """Of all arms; null where nothing is known of one. `status` is `off` or `not_yet` where there is no check."""
        found = self._found()
        variants = found.get("variants", {})
        return {
            "status": found.get("status", "not_yet") if self._config.watches_drift else "off",
            "checked_at": found.get("checked_at"),
            "since": found.get("since"),
            "until": found.get("until"),
            "variants": {arm: variants.get(arm) for arm in self._config.variants},
        }

    def body(self) -> bytes:
        """The same as JSON: of 200 results, FastAPI would make it for milliseconds in the event loop."""
        return json.dumps(self.about(), ensure_ascii=False).encode()

    def gauges(self) -> list[Metric]:
        """For Prometheus."""
        found = self._found()
        arms: Mapping[str, Mapping[str, Any]] = found.get("variants", {})
        verdicts = {(arm, each["verdict"]): 1.0 for arm, each in arms.items()}
        drifted = {(arm,): float(len(each["drifted"])) for arm, each in arms.items() if each["error"] is None}
        rows = {(arm,): float(each["rows"]) for arm, each in arms.items() if each["error"] is None}
        checked = {(): found["checked_at"]} if found else {}
        return [
            gauge("drift", "what the last check of each arm said", verdicts, ("variant", "verdict")),
            gauge("drifted_columns", "columns that it found drifted", drifted, ("variant",)),
            gauge("drift_rows", "logged rows that it looked at", rows, ("variant",)),
            gauge("drift_checked_timestamp_seconds", "when it was, in seconds since 1970", checked),
        ]

    def _found(self) -> Mapping[str, Any]:
        if not self._config.watches_drift:
            return {}
        try:
            status = self._path.stat()
        except OSError:
            return {}
        stamp = status.st_mtime_ns, status.st_ino, status.st_size
        known, found = self._read
        if stamp != known:
            found = read_json(self._path) or {}
            self._read = stamp, found
        return found
