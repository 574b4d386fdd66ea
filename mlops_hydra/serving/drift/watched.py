"""One model that is served, and whether the rows that it answered look like those that it was trained on."""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from mlops_hydra.config.drift import MonitoringConfig
from mlops_hydra.monitoring.judging import judge
from mlops_hydra.monitoring.reference import Reference
from mlops_hydra.packaging.about import bundle_folder, read_about
from mlops_hydra.packaging.profile_file import read_profile
from mlops_hydra.serving.drift.counting import CountedLog

MOST_RESULTS: Final = 100


class WatchedModel:
    """Its profile is read once.

    Args:
        folder: of the bundle, of which the graph is not looked at.
        requests: the request log.

    Raises:
        BundleError: it was changed, or holds no profile that can be read.
        UsageError: it was packaged without a profile.
    """

    def __init__(self, folder: Path, requests: Path) -> None:
        folder = bundle_folder(folder)
        self._about = read_about(folder)
        self._reference = Reference(read_profile(folder))
        self._log = CountedLog(requests, self._reference.profile, self._about.lineage)
        self._found: dict[str, Any] | None = None

    @property
    def names(self) -> dict[str, str]:
        """Which model it is."""
        return {"fingerprint": self._about.fingerprint, "lineage": self._about.lineage}

    def check(self, first: str, rules: MonitoringConfig) -> dict[str, Any]:
        """What the log says from the hour `first` on; judged again only if it says something new.

        Raises:
            UsageError: `rules` names a feature that the model does not have.
        """
        if self._log.look(first) or self._found is None:
            self._found = None  # what was found of other rows does not hold, should this fail
            self._found = self._judged(rules)
        return self._found

    def _judged(self, rules: MonitoringConfig) -> dict[str, Any]:
        logged = self._log.total()
        report = judge(self._reference, logged.window, rules.without(logged.unknown))
        told = [asdict(result) for result in report if result.verdict != "stable"]
        return {
            "verdict": report.verdict,
            "rows": report.num_current_rows,
            "tests": report.num_tests,
            "drifted": list(report.drifted),
            "results": told[:MOST_RESULTS],
            "notes": [*report.notes, *self._notes(logged.unknown, len(told))],
        }

    def _notes(self, unknown: set[str], num_told: int) -> Iterator[str]:
        if unknown:
            yield f"not in the request log, or hashed: {', '.join(sorted(unknown))}"
        if num_told > MOST_RESULTS:
            yield f"{num_told - MOST_RESULTS} more results are not stable"
        if damaged := self._log.damaged:
            more = f", and {len(damaged) - 1} more files" if len(damaged) > 1 else ""
            yield f"left out: {damaged[0]}{more}"
