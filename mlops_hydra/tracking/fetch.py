"""A run that only MLflow has, brought into a folder like those of runs that were made here."""

import json
import secrets
import shutil
from pathlib import Path
from typing import Any

from mlops_hydra.atomic import read_json, write_json_atomic
from mlops_hydra.errors import TrackingError
from mlops_hydra.tracking.delivery import DELIVERY, Delivered
from mlops_hydra.tracking.folders import RESULT, RUNS, name_free_folder
from mlops_hydra.tracking.recorded import RecordedRun, read_result, read_run
from mlops_hydra.tracking.sender import SPOOL_TAG
from mlops_hydra.tracking.spool import SPOOL
from mlops_hydra.tracking.store import bounded_requests, open_client, redacted


def fetch_run(run: RecordedRun, uri: str, output_dir: str | Path, *, timeout_seconds: float) -> RecordedRun:
    """The same run with a folder that holds its artifacts and the frame of its record.

    Raises:
        TrackingError: its files are not all there, or MLflow cannot be reached.
    """
    assert run.run_id is not None, "it was found in MLflow"
    parent = Path(output_dir) / RUNS / run.fingerprint
    scratch = parent / f".fetched-{secrets.token_hex(4)}"
    try:
        scratch.mkdir(parents=True)
        with bounded_requests(timeout_seconds):
            client = open_client(uri)
            client.download_artifacts(run.run_id, "", str(scratch))
            _write_frame(scratch, client.get_run(run.run_id), run, uri)
        if read_result(scratch) is None:
            raise TrackingError("it has no result.json, or a damaged one")
        folder = name_free_folder(scratch, run.lineage.digest)
    except Exception as error:
        reason = redacted(str(error)).partition("\n")[0]
        message = f"run {run.run_id} is in MLflow at {redacted(uri)}, but its files cannot be fetched: {reason}"
        raise TrackingError(f"{message}; reuse=never trains again") from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    found = read_run(folder)
    assert found is not None, "its frame was written"
    return found


def _write_frame(folder: Path, entry: Any, run: RecordedRun, uri: str) -> None:
    """Start and end of the record, and that it has been delivered; the id of the run in its result."""
    tags = dict(entry.data.tags)
    start = {
        "kind": "start",
        "id": tags.pop(SPOOL_TAG, ""),
        "experiment": run.name,
        "run_name": run.fingerprint,
        "time": entry.info.start_time,
        "tags": tags,
        "description": tags.pop("mlflow.note.content", ""),
    }
    end = {"kind": "end", "status": entry.info.status, "time": entry.info.end_time}
    spool = folder / SPOOL
    spool.write_text(
        "".join(f"{json.dumps(record, ensure_ascii=False)}\n" for record in (start, end)), encoding="utf-8"
    )
    delivered = Delivered(redacted(uri), run.run_id, spool.stat().st_size)
    write_json_atomic(folder / DELIVERY, {"uri": delivered.uri, "run_id": delivered.run_id, "offset": delivered.offset})
    if result := read_json(folder / RESULT):
        write_json_atomic(folder / RESULT, result | {"run_id": run.run_id})
