"""The folder of a run, `runs/<fingerprint>/<lineage>/`, and the small JSON files in it.

Safe among processes: a folder is made by one of them only, and a file is there whole or not at all.
"""

import json
import math
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

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


def write_json_atomic(path: Path, data: Mapping[str, Any]) -> None:
    """Write `data` as `json_text`; a reader sees the old file or the new one.

    Raises:
        TrackingError: the disk does not take the file.
    """
    text = json_text(data)
    partial = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    try:
        with partial.open("x", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except OSError as error:
        raise TrackingError(f"{path}: cannot be written: {error.strerror}") from error
    finally:
        partial.unlink(missing_ok=True)


def json_text(data: Mapping[str, Any]) -> str:
    """`data` as JSON for people and programs; NaN and infinities, which JSON lacks, become null."""
    return json.dumps(_finite(data), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    return [_finite(inner) for inner in value] if isinstance(value, list | tuple) else value


def publish_result(run_folder: Path) -> Path:
    """Copy the run's `result.json` beside its folder, where it stands for the newest run of the fingerprint."""
    published = run_folder.parent / RESULT
    write_json_atomic(published, json.loads((run_folder / RESULT).read_text(encoding="utf-8")))
    return published
