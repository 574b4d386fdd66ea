"""What MLflow knows of runs whose folders may be elsewhere: found by their tags, with a bounded wait.

Only reads, and creates no store. A SQLite store is first asked whether it has the fingerprint at all, which takes
milliseconds; only if it does is MLflow imported, which takes more than a second.
"""

import logging
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar
from urllib.parse import quote

from mlops_hydra.errors import TrackingError
from mlops_hydra.tracking.lineage import Lineage
from mlops_hydra.tracking.recorded import RecordedRun, State
from mlops_hydra.tracking.store import bounded_requests, import_mlflow, open_client, redacted, sqlite_path

if TYPE_CHECKING:
    from mlflow import MlflowClient

T = TypeVar("T")
Tag = Literal["fingerprint", "lineage"]
logger = logging.getLogger(__name__)

_PATIENCE_SECONDS: Final = 2.0
_MOST_RUNS: Final = 100  # the newest of a fingerprint
_STATES: Final[dict[str, State]] = {"FINISHED": "finished", "FAILED": "failed", "KILLED": "killed"}


def runs_in_mlflow(uri: str, digest: str, *, tag: Tag = "fingerprint", timeout_seconds: float) -> list[RecordedRun]:
    """The runs of a fingerprint or lineage that the store at `uri` has, in all its experiments, newest first.

    Raises:
        TrackingError: no answer within `timeout_seconds`, or an error.
    """
    if not _may_have(uri, tag, digest):
        return []
    text = f"tags.{tag} = '{digest}'"
    return _bounded(lambda: _search(open_client(uri), text), uri, timeout_seconds)


def run_in_mlflow(uri: str, run_id: str, *, timeout_seconds: float) -> RecordedRun | None:
    """One run by MLflow's own id; None if it is not there, or was not recorded by this package.

    Raises:
        TrackingError: no answer within `timeout_seconds`, or an error.
    """
    path = sqlite_path(uri)
    if path is not None and not _has_content(path):
        return None
    found = _bounded(lambda: _search(open_client(uri), f"attributes.run_id = '{run_id}'"), uri, timeout_seconds)
    return found[0] if found else None


def fingerprints_in(uri: str) -> frozenset[str] | None:
    """All fingerprints that a SQLite store has; None where only MLflow itself can say."""
    path = sqlite_path(uri)
    if path is None:
        return None
    if not _has_content(path):
        return frozenset()
    try:
        rows = _select(path, "SELECT DISTINCT value FROM tags WHERE key = ?", ("fingerprint",))
    except sqlite3.Error:
        return None
    return frozenset(value for (value,) in rows)


def _has_content(path: Path) -> bool:
    """False also for an empty file, which MLflow would fill with its tables when asked."""
    return path.exists() and path.stat().st_size > 0


def _may_have(uri: str, tag: Tag, digest: str) -> bool:
    """Whether it is worth asking. What a schema of another MLflow makes of this question, MLflow may answer."""
    path = sqlite_path(uri)
    if path is None:
        return True
    if not _has_content(path):
        return False
    query = "SELECT 1 FROM tags WHERE key = ? AND value = ? LIMIT 1"
    try:
        return bool(_select(path, query, (tag, digest)))
    except sqlite3.Error:
        return True


def _select(path: Path, query: str, values: tuple[str, ...]) -> list[tuple[str, ...]]:
    connection = sqlite3.connect(f"file:{quote(str(path.absolute()))}?mode=ro", uri=True, timeout=5)
    try:
        return connection.execute(query, values).fetchall()
    finally:
        connection.close()


def _search(client: "MlflowClient", query: str) -> list[RecordedRun]:
    names = _experiments(client)
    if not names:
        return []
    found = client.search_runs(list(names), query, max_results=_MOST_RUNS, order_by=["attributes.start_time DESC"])
    runs = [_recorded(run, names[run.info.experiment_id]) for run in found]
    return [run for run in runs if run is not None]


def _experiments(client: "MlflowClient") -> dict[str, str]:
    """Names by id; MLflow gives 1,000 a page."""
    names: dict[str, str] = {}
    token: str | None = None
    while token != "":
        page = client.search_experiments(page_token=token)
        names |= {experiment.experiment_id: experiment.name for experiment in page}
        token = page.token or ""
    return names


def _recorded(run: Any, name: str) -> RecordedRun | None:
    tags = run.data.tags
    if "fingerprint" not in tags or (run.info.status == "FINISHED" and "verdict" not in tags):
        return None  # recorded by somebody else, or by a script with `tracked_experiment`: it has no result
    lineage = Lineage(*(tags.get(f"lineage.{part}", "") for part in ("config", "data", "code")))
    return RecordedRun(
        fingerprint=tags["fingerprint"],
        lineage=lineage,
        name=name,
        state=_STATES.get(run.info.status, "running"),
        began=run.info.start_time / 1000,
        time=(run.info.end_time or run.info.start_time) / 1000,
        overrides=tags.get("mlflow.note.content", ""),
        run_id=run.info.run_id,
    )


def _bounded(ask: Callable[[], T], uri: str, timeout_seconds: float) -> T:
    """What `ask` returns, if it does so in time."""
    answers: list[T] = []
    errors: list[Exception] = []

    def work() -> None:
        try:
            with bounded_requests(timeout_seconds):
                answers.append(ask())
        except Exception as error:
            errors.append(error)

    import_mlflow()  # no part of the wait
    thread = threading.Thread(target=work, name="mlflow-lookup", daemon=True)
    thread.start()
    thread.join(min(_PATIENCE_SECONDS, timeout_seconds))
    if thread.is_alive() and timeout_seconds > _PATIENCE_SECONDS:
        text = "Asking MLflow at %s whether it knows this run, for %g s at most (tracking.timeout_seconds)"
        logger.info(text, redacted(uri), timeout_seconds)
        thread.join(timeout_seconds - _PATIENCE_SECONDS)
    if answers:
        return answers[0]
    reason = str(errors[0]).partition("\n")[0] if errors else f"no answer within {timeout_seconds:g} s"
    raise TrackingError(f"MLflow at {redacted(uri)} cannot be asked: {redacted(reason)}")
