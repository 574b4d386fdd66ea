"""One tracked run, from its folder to its final status: what a user's script and `experiment.py` record with.

Everything goes to the spool first (`spool.py`) and to MLflow behind the training's back (`delivery.py`). What is
recorded of the results is the caller's.
"""

import json
import logging
import math
import shlex
import shutil
import signal
import threading
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Final, NoReturn

from mlops_hydra.atomic import write_json_atomic
from mlops_hydra.config.fingerprint import family_digest, flatten, identity, neutral_values
from mlops_hydra.config.schema import ExperimentConfig
from mlops_hydra.errors import TERMINATED, Fault, TrackingError, UsageError
from mlops_hydra.tracking.claim import Claim, claimed_anew
from mlops_hydra.tracking.delivery import Delivery
from mlops_hydra.tracking.environment import environment
from mlops_hydra.tracking.git import GitState, git_state
from mlops_hydra.tracking.lineage import Lineage, identify
from mlops_hydra.tracking.post import PostedDelivery, Shared
from mlops_hydra.tracking.spool import SPOOL, Spool, first_record, has_params, now_ms, recorded_metrics
from mlops_hydra.tracking.store import anchored, redacted, tracking_uri

logger = logging.getLogger(__name__)

ENVIRONMENT: Final = "environment.json"
PATCH: Final = "code.patch"


class Run:
    """What a run records with. Threads may share it."""

    def __init__(
        self,
        folder: Path,
        *,
        fingerprint: str,
        lineage: Lineage,
        spool: Spool,
        delivery: Delivery,
        already: frozenset[tuple[str, int]] = frozenset(),
    ) -> None:
        self.status = "FINISHED"
        """As which the run ends if nothing goes wrong; KILLED for a trial that was pruned."""
        self.is_trial = isinstance(delivery, PostedDelivery)
        self.folder = folder
        self.fingerprint = fingerprint
        self.lineage = lineage
        self._spool = spool
        self._delivery = delivery
        self._already = already

    @property
    def run_id(self) -> str | None:
        """MLflow's id; None until MLflow knows the run, and for good if it could not be reached."""
        return self._delivery.run_id

    @property
    def store(self) -> str:
        """The MLflow store that the record goes to, without credentials."""
        return self._delivery.store

    @property
    def git(self) -> dict[str, Any]:
        """Commit, branch, and whether files were changed since, as they were when the run began."""
        tags = (first_record(self._spool.path) or {"tags": {}})["tags"]
        names = {"commit": "mlflow.source.git.commit", "branch": "git.branch", "dirty": "git.dirty"}
        return {name: tags.get(tag) for name, tag in names.items()}

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Record numbers, NaN and infinities among them; costs the caller some microseconds.

        A run that goes on measures again what it had measured after its checkpoint: the first record stands.

        Raises:
            UsageError: a value is no number.
        """
        step, values = int(step), _numbers(metrics)
        if self._already:
            values = {name: value for name, value in values.items() if (name, step) not in self._already}
        if values:
            self._spool.append("metrics", step=step, time=now_ms(), values=values)
        self._delivery.wake()

    def sync(self) -> None:
        """Make what was recorded last through a power failure: before something is written that relies on it."""
        self._spool.sync()

    def log_artifact(self, path: str | Path) -> None:
        """Record a file or folder; one from elsewhere is first copied into the run's folder.

        Raises:
            UsageError: there is no such file.
        """
        source = Path(path)
        if not source.exists():
            raise UsageError(Fault(str(path), "no such file or folder to record"))
        root = self.folder.resolve()
        if source.resolve().is_relative_to(root):
            relative = source.resolve().relative_to(root)
            to = relative.parent.as_posix()
        else:
            relative, to = _copy_into(source, self.folder, "artifacts"), "."
        self._spool.append("artifact", path=relative.as_posix(), to="" if to == "." else to)

    def log_environment(self) -> None:
        """Record where this process runs; when a run ends without it, that is done then."""
        write_json_atomic(self.folder / ENVIRONMENT, environment())
        self.log_artifact(self.folder / ENVIRONMENT)

    def settle(self, seconds: float) -> None:
        """Wait, `seconds` at most, until delivery rests for a while: before measuring how fast something is."""
        self._delivery.settle(seconds)

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Record tags; a later value replaces an earlier one."""
        self._spool.append("tags", values={name: _text(value) for name, value in tags.items()})


@contextmanager
def tracked_experiment(
    config: ExperimentConfig,
    lineage: Lineage | None = None,
    *,
    claim: Claim | None = None,
    shared: Shared | None = None,
) -> Iterator[Run]:
    """Record what happens inside as one run: FINISHED, FAILED (an exception) or KILLED (Ctrl-C, SIGTERM, exit).

    On the way out it waits for MLflow, `tracking.timeout_seconds` at most. A store that cannot be reached is a
    warning, never an error.

    Args:
        lineage: if it is known already; else data and code are read to find it.
        claim: a folder that is held already, perhaps with a record that goes on; else a new one is made.
        shared: of the study that it is a trial of; its record is then sent by the way, and nothing waits for MLflow.

    Raises:
        TrackingError: `output_dir` cannot be written to; nothing inside has run then.
        ConfigError: MLflow has no store of the kind that `tracking.uri` names.
    """
    uri, _ = tracking_uri(config)
    lineage = lineage or identify(config)
    status, error = "KILLED", None
    held = nullcontext(claim) if claim is not None else claimed_anew(config, lineage)
    with _sigterm_unwinds(), held as place:
        run = _begin(config, lineage, anchored(uri), place, shared)
        try:
            yield run
            status = run.status
        except Exception as raised:
            status, error = "FAILED", raised
            raise
        finally:
            _end(run, status, error)


def _begin(config: ExperimentConfig, lineage: Lineage, uri: str, claim: Claim, shared: Shared | None) -> Run:
    assert claim.folder is not None, "what is only taken is not recorded again"
    folder = claim.folder.absolute()
    already = recorded_metrics(folder / SPOOL) if claim.resumed else frozenset()
    spool = Spool(folder / SPOOL)
    others = [reaped.folder for reaped in claim.reaped if reaped.folder is not None]
    delivery = shared.post.open(folder, others) if shared else _own_delivery(config, folder, uri, others)
    run = Run(folder, fingerprint=config.fingerprint, lineage=lineage, spool=spool, delivery=delivery, already=already)
    try:
        if claim.resumed:
            spool.append("resume", time=now_ms())
        if not claim.resumed or not has_params(folder / SPOOL):
            _record_origin(run, config, claim, shared)
    except BaseException:
        spool.close()
        raise
    delivery.start()
    return run


def _own_delivery(config: ExperimentConfig, folder: Path, uri: str, others: list[Path]) -> Delivery:
    return Delivery(
        folder,
        uri=uri,
        output_dir=Path(config.output_dir).absolute(),
        timeout_seconds=config.tracking.timeout_seconds,
        others=others,
    )


def _record_origin(run: Run, config: ExperimentConfig, claim: Claim, shared: Shared | None) -> None:
    """What the run is of. The params come last: where they are, an earlier process has come to the end of this."""
    git = shared.git if shared else git_state(Path.cwd())
    if not claim.resumed:
        run._spool.append(
            "start",
            id=uuid.uuid4().hex,
            experiment=config.name,
            run_name=config.fingerprint,
            time=now_ms(),
            tags=_tags(config, run.lineage, git),
            description=redacted(shlex.join(config.origin.overrides)),
            script=claim.is_script,
            **({"parent": shared.parent} if shared else {}),
        )
    if git.patch is not None and shared is None:  # a study records it once
        _write_patch(run.folder / PATCH, git.patch)
        run.log_artifact(run.folder / PATCH)
    run._spool.append("params", values={name: _text(value) for name, value in flatten(identity(config)).items()})


def _write_patch(path: Path, patch: str) -> None:
    try:
        path.write_text(patch, encoding="utf-8", errors="surrogateescape", newline="")
    except OSError as error:
        raise TrackingError(f"{path}: cannot be written: {error.strerror}") from error


def _end(run: Run, status: str, error: Exception | None) -> None:
    with _uninterrupted():
        _write_end(run, status, error)
    run._delivery.finish()


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Signals are ignored for the milliseconds that the last record takes: the run is ending anyway."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _write_end(run: Run, status: str, error: Exception | None) -> None:
    try:
        is_recorded = run.is_trial or (run.folder / ENVIRONMENT).exists()
        if (status != "FINISHED" and not run.is_trial) or not is_recorded:
            run.log_environment()
        if error is not None:
            run.set_tags({"error": f"{type(error).__name__}: {error}"})
        run._spool.append("end", status=status, time=now_ms())
    except TrackingError as unwritten:
        logger.warning("The end of the run is not recorded: %s", unwritten)
    run._spool.close()


def _tags(config: ExperimentConfig, lineage: Lineage, git: GitState) -> dict[str, str]:
    """What can be searched for in MLflow; our own names win over the user's."""
    neutral = flatten(neutral_values(config))
    own = {name.removeprefix("tags."): value for name, value in neutral.items() if name.startswith("tags.")}
    rest = {name: value for name, value in neutral.items() if name.partition(".")[0] != "tags"}
    ours = {
        "mlflow.runName": config.fingerprint,  # MLflow refuses a run whose name and this tag differ
        "fingerprint": config.fingerprint,
        "family": family_digest(config),
        "lineage": lineage.digest,
        "lineage.config": lineage.config,
        "lineage.data": lineage.data,
        "lineage.code": lineage.code,
        "git.branch": git.branch,
        "git.dirty": git.dirty,
        "mlflow.source.git.commit": git.commit,
    }
    choices = {group: option for group, option in config.origin.choices if option != "None"}
    tags = {**rest, **own, **choices, **ours}
    return {name: redacted(_text(value)) for name, value in tags.items() if value not in (None, {}, [])}


def _text(value: Any) -> str:
    """Text as it is, anything else as JSON writes it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _numbers(metrics: Mapping[str, float]) -> dict[str, float | str]:
    try:
        values = {name: float(value) for name, value in metrics.items()}
    except (TypeError, ValueError, RuntimeError):  # torch raises the last for a tensor of several numbers
        faults = [Fault(f"metric {name}", "must be a number", value) for name, value in metrics.items()]
        raise UsageError([fault for fault in faults if not _is_number(fault.value)]) from None
    return {name: value if math.isfinite(value) else str(value) for name, value in values.items()}


def _is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError, RuntimeError):
        return False
    return True


def _copy_into(source: Path, folder: Path, below: str) -> Path:
    """Copy a file or folder to `folder / below`; its new path relative to `folder`."""
    relative = Path(below) / source.resolve().name
    try:
        (folder / below).mkdir(exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, folder / relative, dirs_exist_ok=True)
        else:
            shutil.copy2(source, folder / relative)
    except OSError as error:
        raise TrackingError(f"{source}: cannot be copied into {folder}: {error}") from error
    return relative


@contextmanager
def _sigterm_unwinds() -> Iterator[None]:
    """SIGTERM inside raises SystemExit, so that the run ends KILLED instead of staying RUNNING for ever.

    A handler that is already there is left alone, and only a main thread can set one.
    """
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _exit_terminated)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _exit_terminated(*_: object) -> NoReturn:
    raise SystemExit(TERMINATED)
