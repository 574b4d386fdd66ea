"""The folder of a run, `runs/<fingerprint>/<lineage>/`, and the small JSON files in it.

Safe among processes: a folder is made by one of them only, and a file is there whole or not at all.
"""

import json
from pathlib import Path
from typing import Final

from mlops_hydra.atomic import write_json_atomic
from mlops_hydra.errors import TrackingError

RUNS: Final = "runs"
RESULT: Final = "result.json"


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
    number = 1
    while True:
        folder = parent / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir()
        except FileExistsError:
            number += 1
        else:
            return folder


def publish_result(run_folder: Path) -> Path:
    """Copy the run's `result.json` beside its folder, where it stands for the newest run of the fingerprint."""
    published = run_folder.parent / RESULT
    write_json_atomic(published, json.loads((run_folder / RESULT).read_text(encoding="utf-8")))
    return published
