"""What is learnt of a run when it is long over, in MLflow beside the rest: metrics over time, and files.

Not here: the run's own record, which is spooled and delivered (`spool.py`, `delivery.py`).
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from mlops_hydra.errors import TrackingError
from mlops_hydra.tracking.store import anchored, bounded_requests, open_client, redacted, sqlite_path


def add_to_run(
    uri: str,
    run_id: str,
    *,
    metrics: Mapping[str, float],
    paths: Sequence[Path],
    folder: str,
    timeout_seconds: float,
) -> None:
    """Metrics at this moment, and files in `folder` of the run's artifacts.

    Raises:
        TrackingError: MLflow cannot be asked, does not have the run, or refuses.
    """
    uri = anchored(uri)
    path = sqlite_path(uri)
    if path is not None and not path.exists():
        raise TrackingError(f"{path} is not there, and so no run {run_id}")
    now = datetime.now(UTC)
    try:
        with bounded_requests(timeout_seconds):
            client = open_client(uri)
            for name, value in metrics.items():
                client.log_metric(run_id, name, value, timestamp=int(now.timestamp() * 1000))
            for file in paths:
                client.log_artifact(run_id, str(file), folder)
    except Exception as error:  # whatever MLflow raises on a bad day
        reason = redacted(str(error)).partition("\n")[0]
        raise TrackingError(f"run {run_id} in MLflow at {redacted(uri)}: {reason}") from error
