"""How users have been shared out, and since when: a note that a service leaves when it starts, and `ab` reads.

The request log says who saw which arm, not who should have. Where the experiment or its weights are others than those
noted, users were mixed anew, so the note starts again. Standard library only.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Final

from mlops_hydra.atomic import read_json, write_json_atomic
from mlops_hydra.serving.folder import ServiceFolder

ASSIGNMENT: Final = "assignment.json"


@dataclass(frozen=True, slots=True)
class Assignment:
    """In force since the moment `since`, in UTC as ISO 8601."""

    experiment: str
    weights: Mapping[str, float]
    since: str


def note_assignment(
    folder: ServiceFolder, experiment: str, weights: Mapping[str, float], *, now: datetime
) -> Assignment:
    """What is in force from now on, or has been for a while.

    Raises:
        TrackingError: the disk does not take it.
    """
    noted = noted_assignment(folder)
    if noted is not None and noted.experiment == experiment and shares(noted.weights) == shares(weights):
        return noted
    noted = Assignment(experiment, dict(weights), now.astimezone(UTC).isoformat())
    folder.path.mkdir(parents=True, exist_ok=True)
    write_json_atomic(folder.path / ASSIGNMENT, asdict(noted))
    return noted


def noted_assignment(folder: ServiceFolder) -> Assignment | None:
    """None where no service has left one."""
    match read_json(folder.path / ASSIGNMENT):
        case {"experiment": str(experiment), "weights": dict(weights), "since": str(since)}:
            return Assignment(experiment, weights, since)
    return None


def shares(weights: Mapping[str, float]) -> dict[str, float]:
    """Of the whole, rounded: 90 and 10 are 0.9 and 0.1. Arms of weight 0 are none."""
    total = sum(weights.values())
    return {arm: round(weight / total, 12) for arm, weight in weights.items() if weight > 0}
