"""What the workers shall serve: one small file, written by the follower (or once at the start), read by each worker."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from mlops_hydra.atomic import write_json_atomic


@dataclass(frozen=True, slots=True)
class Target:
    """The bundle of an arm. `version` is the registered one's number, or empty for a folder that was named."""

    version: str
    folder: str


@dataclass(frozen=True, slots=True)
class Refused:
    """A version that an alias names and that is not served, and why."""

    version: str
    reason: str


@dataclass(frozen=True, slots=True)
class Targets:
    """By arm; an arm that no alias fills is absent.

    `registry_error` says why the registry could not be asked the last time; `checked_at` is when it last answered, in
    seconds since 1970, or None.
    """

    arms: Mapping[str, Target]
    refused: Mapping[str, Refused] = field(default_factory=dict)
    registry_error: str | None = None
    checked_at: float | None = None


def write_targets(path: Path, targets: Targets) -> None:
    """Whoever reads sees the old ones or the new ones, whole. Raises TrackingError, OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json_atomic(path, asdict(targets))


def read_targets(path: Path) -> Targets | None:
    """None where there are none, or something that is not ours."""
    try:
        data = json.loads(path.read_bytes())
        arms = {arm: Target(**target) for arm, target in data.pop("arms").items()}
        refused = {arm: Refused(**each) for arm, each in data.pop("refused").items()}
        return Targets(arms, refused, **data)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
