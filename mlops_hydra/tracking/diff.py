"""Which part of the lineage of two recorded runs differs, key by key.

Reads what the runs left in their folders; nothing is imported, and no data is read.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from mlops_hydra.atomic import read_json
from mlops_hydra.config.compose import read_yaml
from mlops_hydra.config.fingerprint import flatten, neutral_paths
from mlops_hydra.errors import TrackingError
from mlops_hydra.tracking.recorded import RecordedRun

Section = Literal["config", "data", "code", "environment", "metrics", "neutral"]
SECTIONS: Final[tuple[Section, ...]] = ("config", "data", "code", "environment", "metrics", "neutral")
_SHORT: Final = 12
"""Digits of a digest that are shown."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One key whose values differ; None where a run does not have it."""

    section: Section
    key: str
    first: Any
    second: Any


def diff(first: RecordedRun, second: RecordedRun) -> list[Difference]:
    """All differences, in the order of SECTIONS.

    Raises:
        TrackingError: a run has no folder, or its files are missing or damaged.
    """
    sides = [_everything(run) for run in (first, second)]
    return [row for section in SECTIONS for row in _compare(section, *(side[section] for side in sides))]


def _everything(run: RecordedRun) -> dict[Section, dict[str, Any]]:
    if run.folder is None:
        raise TrackingError(f"run {run.label} has no folder here")
    config = flatten(read_yaml(run.folder / "config.yaml"))
    neutral = {key: value for key, value in config.items() if _is_neutral(key)}
    return {
        "config": {key: value for key, value in config.items() if key not in neutral},
        "data": {"digest": run.lineage.data[:_SHORT], **flatten(_json(run.folder / "data.json"))},
        "code": _code(run, _json(run.folder / "lineage.json")),
        "environment": flatten(_json(run.folder / "environment.json")),
        "metrics": (run.result or {}).get("metrics", {}),
        "neutral": neutral,
    }


def _json(path: Path) -> dict[str, Any]:
    data = read_json(path)
    if data is None:
        raise TrackingError(f"{path} is missing or damaged: the run cannot be compared")
    return data


def _code(run: RecordedRun, lineage: Mapping[str, Any]) -> dict[str, Any]:
    """The digest, the commit, and each file by a few digits, or a package by its version."""
    files = {name: value if "==" in value else value[:_SHORT] for name, value in lineage.get("files", {}).items()}
    git = {f"git.{name}": value for name, value in (lineage.get("git") or {}).items()}
    return {"digest": run.lineage.code[:_SHORT], **git, **files}


def _is_neutral(key: str) -> bool:
    return any(key == path or key.startswith(f"{path}.") for path in neutral_paths())


def _compare(section: Section, first: Mapping[str, Any], second: Mapping[str, Any]) -> list[Difference]:
    keys = [*first, *(key for key in second if key not in first)]
    pairs = ((key, first.get(key), second.get(key)) for key in keys)
    return [Difference(section, key, a, b) for key, a, b in pairs if a != b]
