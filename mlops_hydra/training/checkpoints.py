"""The state of a training on disk, from which it goes on after a crash as if nothing had happened.

A checkpoint is `<number>.pt` (tensors and plain values, read with `weights_only=True`: it runs no code), the best
weights so far in a file of their own, which is written only when they changed, and last a manifest `<number>.json` with
the SHA-256 of both. Two are kept. What is in a state is `state.py`'s business, when a training stops `loop.py`'s.
"""

import hashlib
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

import torch

from mlops_hydra.atomic import replacing, write_json_atomic
from mlops_hydra.config.schema import CheckpointConfig
from mlops_hydra.training.manifest import CHECKPOINTS, FORMAT, Manifest, read_manifest

logger = logging.getLogger(__name__)

SET_ASIDE: Final = "set-aside"
KEPT: Final = 2
LARGEST_SHARE: Final = 0.02
"""Of the time, for checkpoints by the clock: where writing is slow, they come less often."""


@dataclass
class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: of the run.
        owner: names config, data and code; a checkpoint of another owner is not used.
        cadence: when one is due; whichever comes first of what is set.
    """

    folder: Path
    owner: str
    cadence: CheckpointConfig
    clock: Callable[[], float] = time.monotonic
    _due_at: float = field(init=False)
    _last_epoch: int = field(init=False, default=0)
    _last_step: int = field(init=False, default=0)
    _number: int = field(init=False, default=0)
    _best: tuple[int, str, str] | None = field(init=False, default=None)
    """Epoch, file and digest of the best weights on disk."""
    _unfit: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        self.folder = self.folder / CHECKPOINTS
        self._due_at = self.clock() + (self.cadence.every_seconds or 0.0)

    def is_due(self, epoch: int, step: int, *, epoch_ended: bool) -> bool:
        """Whether one is to be written at the end of this step, or of this epoch."""
        epochs, steps, seconds = self.cadence.every_epochs, self.cadence.every_steps, self.cadence.every_seconds
        if seconds is not None and self.clock() >= self._due_at:
            return True
        if steps is not None and step - self._last_step >= steps:
            return True
        return epochs is not None and epoch_ended and epoch - self._last_epoch >= epochs

    def save(self, state: Mapping[str, Any], *, best_epoch: int, best: Mapping[str, Any]) -> None:
        """Write a checkpoint, then remove what it makes superfluous.

        Args:
            state: tensors and plain values in dicts, lists and tuples; has `epoch` and `step`.
            best: the weights of `best_epoch`; nothing while that is 0.

        Raises:
            TrackingError: the disk does not take it; the checkpoint before it is still there.
        """
        began = self.clock()
        self._last_epoch, self._last_step = state["epoch"], state["step"]
        if not self._unfit:
            self._write(state, best_epoch, best)
        cost = self.clock() - began
        self._due_at = began + cost + max(self.cadence.every_seconds or 0.0, cost / LARGEST_SHARE)

    def _write(self, state: Mapping[str, Any], best_epoch: int, best: Mapping[str, Any]) -> None:
        self.folder.mkdir(exist_ok=True)
        first, self._number = self._number == 0, self._number + 1
        name = f"{self._number:06d}.pt"
        files = {name: _save(self.folder / name, state)}
        if first and (reason := _unreadable(self.folder / name)):
            logger.warning("The training cannot be resumed after a crash: its state holds %s", reason)
            (self.folder / name).unlink()
            self._unfit = True
            return
        if best_epoch and (self._best is None or self._best[0] != best_epoch):
            best_name = f"best-{best_epoch:06d}.pt"
            self._best = (best_epoch, best_name, _save(self.folder / best_name, best))
        if self._best is not None:
            files[self._best[1]] = self._best[2]
        write_json_atomic(
            self.folder / f"{self._number:06d}.json",
            {
                "format": FORMAT,
                "owner": self.owner,
                "epoch": state["epoch"],
                "step": state["step"],
                "files": files,
                "environment": _environment(),
            },
        )
        self._prune()

    def _prune(self) -> None:
        """Keep the newest manifests and the files that they name; the rest was left by them, or by a crash."""
        manifests = sorted(self.folder.glob("*.json"), reverse=True)
        for path in manifests[KEPT:]:
            path.unlink(missing_ok=True)  # before its files: no manifest ever names what is gone
        named = {name for path in manifests[:KEPT] if (kept := read_manifest(path)) for name in kept.files}
        for path in [*self.folder.glob("*.pt"), *self.folder.glob(".*.partial")]:
            if path.name not in named:
                path.unlink(missing_ok=True)

    def load(self) -> dict[str, Any] | None:
        """The state of the newest valid checkpoint, with the entry `best` added; None if there is none.

        One that is torn, or of another run, is moved to `set-aside/` and named in a warning.
        """
        for path in sorted(self.folder.glob("*.json"), reverse=True):
            self._number = max(self._number, int(path.stem) if path.stem.isdecimal() else 0)
            try:
                return self._load(path)
            except _UnusableError as unusable:
                logger.warning("%s: %s; set aside", path, unusable)
                self._set_aside(path)
        return None

    def _load(self, path: Path) -> dict[str, Any]:
        manifest = read_manifest(path)
        if manifest is None:
            raise _UnusableError("is torn, or not a manifest of this version")
        if manifest.owner != self.owner:
            raise _UnusableError(f"belongs to another run ({manifest.owner})")
        for name, digest in manifest.files.items():
            file = self.folder / Path(name).name
            if not file.is_file():
                raise _UnusableError(f"{file.name} is missing")
            if _digest(file) != digest:
                raise _UnusableError(f"{file.name} is not what was written (its SHA-256 differs)")
        state, *best = (_load(self.folder / Path(name).name) for name in manifest.files)
        self._last_epoch, self._last_step = manifest.epoch, manifest.step
        if best:
            ((name, digest),) = list(manifest.files.items())[1:]
            self._best = (state["best_epoch"], name, digest)
        _warn_of_another_environment(manifest)
        return {**state, "best": best[0] if best else {}}

    def _set_aside(self, manifest: Path) -> None:
        aside = self.folder / SET_ASIDE
        aside.mkdir(exist_ok=True)
        for path in self.folder.glob(f"{manifest.stem}.*"):
            path.replace(aside / path.name)


class _UnusableError(Exception):
    """Why a checkpoint cannot be used."""


class _Hashed:
    """A file that knows the digest of what was written to it, so that it need not be read again."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self.error: OSError | None = None

    def write(self, block: Any) -> int:
        """As of a file; torch hides what went wrong, so it is kept."""
        self._digest.update(block)
        try:
            return self._file.write(block)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        """Of the file."""

    def hexdigest(self) -> str:
        """64 hex digits."""
        return self._digest.hexdigest()


def _save(path: Path, content: Mapping[str, Any]) -> str:
    """Write `content` and give its digest."""
    with replacing(path) as file:
        hashed = _Hashed(file)
        try:
            torch.save(dict(content), hashed)  # type: ignore[arg-type]
        except RuntimeError as error:
            if hashed.error is None:
                raise
            raise hashed.error from error
    return hashed.hexdigest()


def _digest(path: Path) -> str:
    """From the bytes on the disk, whatever is remembered of the file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _load(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise _UnusableError(f"{path.name} cannot be read: {_first_line(error)}") from error


def _unreadable(path: Path) -> str | None:
    """Why what was written cannot be read again: something in it that is neither a tensor nor a plain value."""
    try:
        torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        return _first_line(error)
    return None


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _environment() -> dict[str, Any]:
    """What decides the last bits of a sum."""
    return {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
    }


def _warn_of_another_environment(manifest: Manifest) -> None:
    now = _environment()
    changed = [f"{name} {was} -> {now.get(name)}" for name, was in manifest.environment.items() if was != now.get(name)]
    if changed:
        text = (
            "Resumed in another environment (%s): the result may differ from an uninterrupted run's in the last digits"
        )
        logger.warning(text, ", ".join(changed))
