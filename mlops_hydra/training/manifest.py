"""What a checkpoint says of itself, in a small file that is written last. Light: looking at runs needs no torch."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mlops_hydra.atomic import read_json

CHECKPOINTS: Final = "checkpoints"
FORMAT: Final = 1


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a checkpoint says of itself; `files` are digests by name, the state's first."""

    path: Path
    owner: str
    epoch: int
    step: int
    files: Mapping[str, str]
    environment: Mapping[str, Any]

    @property
    def at(self) -> str:
        """For people: where the training stood."""
        return f"epoch {self.epoch}, step {self.step}"


def newest_manifest(folder: Path) -> Manifest | None:
    """What the newest checkpoint below a run's `folder` claims to be; only reads, and verifies nothing."""
    found = (read_manifest(path) for path in sorted((folder / CHECKPOINTS).glob("*.json"), reverse=True))
    return next((manifest for manifest in found if manifest is not None), None)


def read_manifest(path: Path) -> Manifest | None:
    """The manifest at `path`; None if it is torn, or of another version."""
    data = read_json(path)
    try:
        if data is None or data["format"] != FORMAT:
            return None
        return Manifest(path, data["owner"], data["epoch"], data["step"], data["files"], data["environment"])
    except KeyError:
        return None


def remove_checkpoints(folder: Path) -> None:
    """Of a training that needs them no more; what cannot be removed stays."""
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
