"""The store that MLflow writes to: which one, made once, and spoken to without waiting for ever.

Everything that MLflow reads from the process (environment variables, loggers, warnings) is set here. Which records go
there is `sender.py`, when is `delivery.py`.
"""

import logging
import math
import os
import re
import shutil
import tempfile
import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from mlops_hydra.config.schema import Origin, TrackingConfig
from mlops_hydra.errors import ConfigError, Fault

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)

_ENVIRONMENT: Final = threading.Lock()
_BOUNDED: Final[list[int]] = []  # threads that are within `bounded_requests`
_BEFORE: Final[dict[str, str | None]] = {}

URI_VARIABLE: Final = "MLFLOW_TRACKING_URI"
LOCK_SECONDS: Final = 120  # longest wait for another process that creates the store
LOCAL: Final = "local"  # the option of the group `tracking` that stands for no choice
_SQLITE: Final = re.compile(r"sqlite(?:\+\w+)?:///(?!:memory:)(?P<path>[^?]+)")
_SUPPORTED: Final = re.compile(rf"https?://|databricks|(postgresql|mysql|mssql)(\+\w+)?://|{_SQLITE.pattern}")
_REMOTE: Final = ("http://", "https://", "databricks")
_GIVEN: Final = re.compile(r"\+{0,2}tracking[.=@]")
_CREDENTIALS: Final = re.compile(r"(?<=://)[^/\s]+(?=@)")  # a password may hold an @


class Recording(Protocol):
    """What names a store: the config of an experiment, or of a command."""

    @property
    def origin(self) -> Origin: ...

    @property
    def tracking(self) -> TrackingConfig: ...


def tracking_uri(config: Recording) -> tuple[str, str]:
    """The tracking URI of a run, and what named it: `MLFLOW_TRACKING_URI`, an override, or `tracking=<choice>`.

    Raises:
        ConfigError: MLflow has no store of this kind.
    """
    overrides = [text.lstrip("+") for text in config.origin.overrides if _GIVEN.match(text)]
    choice = dict(config.origin.choices).get("tracking", LOCAL)
    from_environment = os.environ.get(URI_VARIABLE)
    if from_environment and not overrides and choice == LOCAL:
        return _supported(from_environment, URI_VARIABLE), URI_VARIABLE
    uri = _supported(config.tracking.uri, "tracking.uri")
    return uri, "tracking.uri" if any(text.startswith("tracking.uri=") for text in overrides) else f"tracking={choice}"


def _supported(uri: str, path: str) -> str:
    if not _SUPPORTED.match(uri):
        rule = "must be a server, http://..., or a database, such as sqlite:///FILE or postgresql://..."
        raise ConfigError(Fault(path, rule, redacted(uri)))
    return uri


def redacted(text: str) -> str:
    """`text` without the user names and passwords of URIs in it."""
    return _CREDENTIALS.sub("***", text)


def sqlite_path(uri: str) -> Path | None:
    """The file of a SQLite store; None for any other."""
    found = _SQLITE.match(uri)
    return Path(found["path"]) if found else None


def is_gone(uri: str) -> bool:
    """Whether the file of a SQLite store is not there: deleted, or moved with its folder."""
    path = sqlite_path(uri)
    return path is not None and not path.exists()


def anchored(uri: str) -> str:
    """`uri` with the path of a SQLite file made absolute: a script may change its directory."""
    found = _SQLITE.match(uri)
    if found is None:
        return uri
    start, end = found.span("path")
    return f"{uri[:start]}{Path(found['path']).absolute()}{uri[end:]}"


def artifact_location(uri: str, output_dir: str | Path) -> str | None:
    """Where artifacts of a local store go; None where a server decides."""
    return None if uri.startswith(_REMOTE) else (Path(output_dir) / "artifacts").absolute().as_uri()


def create_store(uri: str) -> None:
    """Make the SQLite store of `uri` if there is none yet; processes that start together make one.

    Migrations take 3-8 s and fail when two processes run them at once, so they run on a scratch file that only
    appears under its name when it is complete.
    """
    path = sqlite_path(uri)
    if path is None or path.exists():
        return
    from filelock import FileLock

    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock", timeout=LOCK_SECONDS):
        if path.exists():
            return
        logger.info("Creating the MLflow store (once)")
        partial = path.with_name(f".{path.name}.partial")
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
            made = Path(scratch) / path.name
            open_client(f"sqlite:///{made}").search_experiments(max_results=1)
            shutil.copyfile(made, partial)
        partial.replace(path)


def import_mlflow() -> None:
    """Takes 1-3 s the first time; with what MLflow reads from the process set before."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read when MLflow is imported
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # prints what it then raises
    # MLflow 3.17 uses what SQLAlchemy 2.1 deprecates; where warnings are errors, nothing would be recorded
    warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"(mlflow|sqlalchemy|alembic)\b")
    import mlflow  # noqa: F401


def open_client(uri: str) -> "MlflowClient":
    """A client of the store at `uri`; a database is connected to at once."""
    import_mlflow()
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri, registry_uri=uri)


_BOUNDS: Final = (
    "MLFLOW_HTTP_REQUEST_TIMEOUT",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR",
)
_bounding = threading.Lock()
_num_bounded = 0
_unbounded: dict[str, str | None] = {}


@contextmanager
def bounded_requests(timeout_seconds: float) -> Iterator[None]:
    """MLflow's requests inside wait `timeout_seconds` at most and are tried once; by default they take up to 247 s.

    MLflow reads this from the environment at each request and offers no other way. Threads that are inside at the same
    time share what the last one set; the first one in and the last one out keep what was there.
    """
    global _num_bounded  # noqa: PLW0603  the environment is one for all threads, too
    with _bounding:
        if _num_bounded == 0:
            _unbounded.update({name: os.environ.get(name) for name in _BOUNDS})
        _num_bounded += 1
        values = (str(math.ceil(timeout_seconds)), "0", "true", "false")
        os.environ.update(dict(zip(_BOUNDS, values, strict=True)))
    try:
        yield
    finally:
        with _bounding:
            _num_bounded -= 1
            if _num_bounded == 0:
                _restore(_unbounded)


def _restore(before: Mapping[str, str | None]) -> None:
    for name, value in before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
