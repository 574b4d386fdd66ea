"""MLflow's registry of models: versions are made of runs, given an alias, and brought here.

Works the same on a database and on a server. Reading creates nothing. Who may be promoted is judged elsewhere; how an
alias moves is `alias.py`, what is written down of it `audit.py`, what a version is `versions.py`.
"""

import hashlib
import logging
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit
from urllib.request import url2pathname

from filelock import FileLock, Timeout

from mlops_hydra.errors import BusyError, Fault, MlopsHydraError, TrackingError, UsageError, nearest
from mlops_hydra.tracking.alias import Mover, State, read_state
from mlops_hydra.tracking.audit import Move, wish
from mlops_hydra.tracking.claim import LOCK
from mlops_hydra.tracking.lease import this_process
from mlops_hydra.tracking.sender import legal_tags
from mlops_hydra.tracking.store import anchored, bounded_requests, create_store, open_client, redacted, sqlite_path
from mlops_hydra.tracking.versions import (
    ModelVersion,
    as_version,
    check_model_name,
    create_model,
    read_version,
    source_of,
    tagged,
    version_before,
    versions_of,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)

__all__ = ["ALIASES", "CHALLENGER", "CHAMPION", "ModelVersion", "Move", "Registry", "check_model_name"]

CHAMPION: Final = "champion"
CHALLENGER: Final = "challenger"
ALIASES: Final = (CHAMPION, CHALLENGER)
PASSED: Final = "passed"
MODELS: Final = "models"  # below output_dir
LOCK_SECONDS: Final = 600  # longest wait for others that promote the same model: each judges first
SOON_SECONDS: Final = 1.0  # a longer wait is announced
MAX_TAG_LENGTH: Final = 5000
_MOST_MODELS: Final = 1000  # that are listed


class Registry:
    """The models of the store at `uri`; what is local is kept in `output_dir/models`.

    Any of its methods raises TrackingError when MLflow cannot be asked or refuses; a request waits `timeout_seconds`
    at most.
    """

    def __init__(self, uri: str, output_dir: str | Path, *, timeout_seconds: float) -> None:
        self._uri = anchored(uri)
        self._models = Path(output_dir).absolute() / MODELS
        self._timeout_seconds = timeout_seconds
        self._owner = this_process()

    def register(self, name: str, *, run_id: str, tags: Mapping[str, str]) -> ModelVersion:
        """The version of a run; made if there is none of it, or of another run of the same `lineage`.

        One that is there gets the tags of today: its gates may have been edited.

        Raises:
            ConfigError: MLflow refuses the name.
            TrackingError: MLflow does not have the run, or not its model.
        """
        check_model_name(name)
        create_store(self._uri)
        with self.lock(name), self._asking() as client:
            source = source_of(client, run_id)
            legal = legal_tags(tags, MAX_TAG_LENGTH)
            found = versions_of(client, name, run_id, source, legal.get("lineage", ""))
            if not found:
                create_model(client, name)
                made = client.create_model_version(name, source, run_id, tags=legal, await_creation_for=0)
                found = versions_of(client, name, run_id, source, legal.get("lineage", "")) or [as_version(made)]
                if found[0].version != int(made.version):  # by somebody who does not share the lock
                    client.delete_model_version(name, made.version)
            return tagged(client, found[0], legal)

    def version_of(self, name: str, alias_or_number: str | int) -> ModelVersion | None:
        """None if there is no such model, alias or version."""
        if self._is_empty():
            return None
        text = str(alias_or_number)
        with self._asking() as client:
            is_number = text.isascii() and text.isdecimal()
            number = int(text) if is_number else read_state(client, name).aliases.get(text)
            return None if number is None else read_version(client, name, number)

    def aliases(self) -> dict[str, list[str]]:
        """The aliases of each registered model, by name."""
        if self._is_empty():
            return {}
        with self._asking() as client:
            models = client.search_registered_models(max_results=_MOST_MODELS)
        return {str(model.name): sorted(map(str, model.aliases)) for model in models}

    def history(self, name: str) -> list[Move]:
        """Every move of an alias of this model, oldest first."""
        return self._state(name).history

    def move(
        self,
        name: str,
        alias: str,
        to: ModelVersion,
        *,
        expected: int | None,
        verdict: str,
        reason: str,
        forced: bool = False,
    ) -> Move | None:
        """Give the alias to a version; None if it has it already.

        Args:
            expected: the version that has it now, as far as the caller knows.
            forced: also one that has not passed; `reason` says why.

        Raises:
            UsageError: the version may not get it, or is gone.
            BusyError: the alias is elsewhere than expected, or somebody else moved it at the same moment.
        """
        assert to.name == name, "a version of this model"
        _check_alias(alias)
        if forced and not reason.strip():
            raise UsageError(Fault("force", "needs a reason, for the audit"))
        with self.lock(name), self._asking() as client:
            there = read_version(client, name, to.version)
            if there is None or there.run_id != to.run_id:
                raise UsageError(Fault(name, f"version {to.version} is not there any more"))
            if there.verdict != PASSED and not forced:
                rule = f"version {to.version} did not pass, so it does not become {alias}; force='reason' does it"
                raise UsageError(Fault(name, rule, there.verdict))
            made = wish(alias, to.version, action="promote", verdict=verdict, reason=reason, forced=forced)
            return self._mover(client, name).move(made, expected=expected)

    def rollback(self, name: str, alias: str = CHAMPION, *, reason: str = "") -> Move:
        """Give the alias back to the version that had it before, of those that still exist.

        Again, it goes further back, never forth: after promotions of 1, 2 and 3, two rollbacks lead to 1. A version
        that somebody gave the alias by hand had it, too; if that one did not pass, the move is marked as forced.

        Raises:
            UsageError: no version had it before.
            BusyError: somebody else moved it at the same moment.
        """
        _check_alias(alias)
        if not any(move.alias == alias for move in self.history(name)):
            raise UsageError(Fault("NAME", f"no {alias} of such a model was ever promoted", name))
        with self.lock(name), self._asking() as client:
            state = read_state(client, name)
            now = state.aliases.get(alias)
            before = version_before(client, name, alias, state)
            if before is None:
                have = "no version has" if now is None else f"version {now} has"
                raise UsageError(Fault(name, f"{have} the alias {alias}, and none that still exists had it before"))
            is_forced = before.verdict != PASSED
            back = wish(
                alias, before.version, action="rollback", verdict=before.verdict, reason=reason, forced=is_forced
            )
            move = self._mover(client, name).move(back, expected=now)
        if move is None:
            raise BusyError(f"{name}@{alias} was moved to version {before.version} by somebody else at the same moment")
        return move

    def fetch(self, version: ModelVersion) -> Path:
        """The folder of its model: where it lies if that is on this machine, else a copy that is made once.

        What is in it is not looked at: it carries its own manifest. A damaged copy may be deleted.

        Raises:
            TrackingError: its files are not there.
        """
        stored = _local_path(version.source)
        if stored is not None:
            if not stored.is_dir():
                raise TrackingError(f"version {version.version} of {version.name}: {stored} is not on this machine")
            return stored
        origin = "\n".join((redacted(self._uri), version.run_id, version.source))
        folder = self._models / version.name / str(version.version) / hashlib.sha256(origin.encode()).hexdigest()[:12]
        if not folder.is_dir():
            self._download(version, folder)
        return folder

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Nobody else that shares `output_dir` registers or moves anything of this model; may be taken again inside.

        Raises:
            BusyError: others have held it for `LOCK_SECONDS`.
            TrackingError: `output_dir` cannot be written to.
        """
        check_model_name(name)
        path = self._models / name / LOCK
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(path, is_singleton=True)
            _acquire(lock, name)
        except Timeout:
            raise BusyError(f"{path}: other processes have been at it for {LOCK_SECONDS} s; try again") from None
        except OSError as error:
            raise TrackingError(f"{path}: cannot be locked: {error.strerror or error}") from error
        try:
            yield
        finally:
            lock.release()

    def _mover(self, client: "MlflowClient", name: str) -> Mover:
        return Mover(client, name, self._owner, patience_seconds=self._timeout_seconds)

    def _state(self, name: str) -> State:
        if self._is_empty():
            return State()
        with self._asking() as client:
            return read_state(client, name)

    def _is_empty(self) -> bool:
        """Whether there is no store yet, or an empty file that MLflow would fill when asked."""
        path = sqlite_path(self._uri)
        return path is not None and not (path.exists() and path.stat().st_size > 0)

    @contextmanager
    def _asking(self) -> Iterator["MlflowClient"]:
        try:
            with bounded_requests(self._timeout_seconds):
                yield open_client(self._uri)
        except MlopsHydraError:
            raise
        except Exception as error:
            reason = redacted(str(error)).partition("\n")[0]
            raise TrackingError(f"the registry of models in MLflow at {redacted(self._uri)}: {reason}") from error

    def _download(self, version: ModelVersion, folder: Path) -> None:
        scratch = folder.with_name(f".fetched-{secrets.token_hex(4)}")
        try:
            scratch.mkdir(parents=True)
            with self._asking():
                from mlflow.artifacts import download_artifacts

                made = Path(download_artifacts(version.source, dst_path=str(scratch), tracking_uri=self._uri))
            if not made.is_dir() or not any(made.iterdir()):
                what = f"version {version.version} of {version.name} is made of {redacted(version.source)}"
                raise TrackingError(f"{what}, where no model is")
            try:
                made.rename(folder)
            except OSError:
                if not folder.is_dir():  # else another process was faster
                    raise
        except OSError as error:
            raise TrackingError(f"{folder}: cannot be written: {error.strerror or error}") from error
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def _check_alias(alias: str) -> None:
    if alias not in ALIASES:
        raise UsageError(Fault("alias", f"must be {' or '.join(ALIASES)}", alias, nearest(alias, ALIASES)))


def _acquire(lock: FileLock, name: str) -> None:
    try:
        lock.acquire(timeout=SOON_SECONDS)
    except Timeout:
        logger.info("Waiting for another process that registers or promotes a version of %s", name)
        lock.acquire(timeout=LOCK_SECONDS)


def _local_path(source: str) -> Path | None:
    parts = urlsplit(source)
    if parts.scheme == "file" and parts.netloc in ("", "localhost"):
        return Path(url2pathname(parts.path))
    return Path(source) if Path(source).is_absolute() else None
