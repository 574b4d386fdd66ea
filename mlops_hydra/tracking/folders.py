"""The folder of a run, `runs/<fingerprint>/<lineage>/`, and the small JSON files in it.

Safe among processes: a folder is made by one of them only, and a file is there whole or not at all.
"""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from mlops_hydra.atomic import write_json_atomic
from mlops_hydra.errors import TrackingError

RUNS: Final = "runs"
STUDIES: Final = "studies"
GRAPHS: Final = "graphs"
"""Architectures that were exported before."""
MODEL: Final = "model"
"""In the folder of a run, and among its artifacts: what MLflow loads, with the bundle in it."""
RESULT: Final = "result.json"
TRIAL: Final = "trial.json"
"""What a sweep left of a training: it ended, or was pruned, and nothing was judged."""


def create_run_folder(output_dir: str | Path, fingerprint: str, lineage_digest: str) -> Path:
    """A new, empty folder for one run; a second run of the same lineage gets `-2`, a third `-3`.

    Raises:
        TrackingError: `output_dir` cannot be written to.
    """
    parent = Path(output_dir) / RUNS / fingerprint
    try:
        parent.mkdir(parents=True, exist_ok=True)
        return _first_free(parent, lineage_digest)
    except OSError as error:
        message = f"output_dir: no folder for the run can be made in {Path(output_dir).absolute()}: {error.strerror}"
        raise TrackingError(f"{message}. Choose another with output_dir=...") from error


def _first_free(parent: Path, name: str) -> Path:
    for folder in _names(parent, name):
        try:
            folder.mkdir()
        except FileExistsError:
            continue
        return folder
    raise AssertionError("names do not end")


def _names(parent: Path, name: str) -> Iterator[Path]:
    yield parent / name
    yield from (parent / f"{name}-{number}" for number in itertools.count(2))


def name_free_folder(folder: Path, name: str) -> Path:
    """Rename `folder` to `name` beside it, or to `name-2`, and so on."""
    for target in _names(folder.parent, name):
        if not target.exists():  # renaming onto a folder fails unless it is empty, and ours never are
            try:
                return folder.rename(target)
            except OSError:
                if not target.exists():
                    raise
    raise AssertionError("names do not end")


def run_folders(output_dir: str | Path, fingerprint: str = "*") -> Iterator[Path]:
    """The folders of the runs of one fingerprint, or of all."""
    for folder in (Path(output_dir) / RUNS).glob(f"{fingerprint}/*"):
        if folder.is_dir() and not folder.name.startswith("."):
            yield folder


def publish_result(run_folder: Path) -> Path:
    """Copy the run's `result.json` beside its folder, where it stands for the newest run of the fingerprint."""
    published = run_folder.parent / RESULT
    write_json_atomic(published, json.loads((run_folder / RESULT).read_text(encoding="utf-8")))
    return published
