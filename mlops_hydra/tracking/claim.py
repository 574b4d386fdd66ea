"""A run's folder, taken by one process at a time: of two that want the same, one trains.

Side effects begin here. Decisions are made under a lock that is held for milliseconds; what holds a folder for the
time of a run is its lease.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from mlops_hydra.config.schema import ExperimentConfig
from mlops_hydra.errors import BusyError, TrackingError
from mlops_hydra.tracking.decision import Decision, Elsewhere, ask_mlflow, with_folders
from mlops_hydra.tracking.folders import RUNS, create_run_folder
from mlops_hydra.tracking.lease import Lease
from mlops_hydra.tracking.lineage import Lineage
from mlops_hydra.tracking.recorded import RecordedRun, local_runs, reap

logger = logging.getLogger(__name__)

LOCK: Final = ".lock"
LOCK_SECONDS: Final = 60
LOOK_SECONDS: Final = 0.5  # between two looks at a run that another process trains


@dataclass(frozen=True, slots=True)
class Claim:
    """What was decided; `folder` is where to train, and None for a result that is only taken."""

    decision: Decision
    folder: Path | None
    reaped: tuple[RecordedRun, ...] = ()
    """Runs of the same fingerprint whose process was found dead; their records now end."""
    is_script: bool = False
    """Whether a user's script records in it what it likes: no run of ours goes on there."""

    @property
    def resumed(self) -> bool:
        """Whether the folder has a record that goes on."""
        return self.decision.action == "resume"


@contextmanager
def claimed(
    config: ExperimentConfig, lineage: Lineage, *, for_trial: bool = False, elsewhere: Elsewhere | None = None
) -> Iterator[Claim]:
    """Decide, and hold the folder of the run for the time of the block.

    Args:
        for_trial: see `decision.choose`.
        elsewhere: what MLflow has, if that is known already.

    Raises:
        BusyError: another process trains the same, and `on_busy=exit`.
        TrackingError: `output_dir` cannot be written to.
    """
    elsewhere, told = elsewhere or ask_mlflow(config), False
    reaped: tuple[RecordedRun, ...] = ()
    while True:
        claim, lease = _take(config, lineage, elsewhere, for_trial=for_trial)
        decision, reaped = claim.decision, reaped + claim.reaped
        if decision.action != "busy":
            break
        if config.on_busy == "exit":
            raise BusyError(
                f"{decision.reason}. Wait for its result with on_busy=wait, or train another with reuse=never"
            )
        if not told:
            logger.info("%s: waiting for it (on_busy=wait)", decision.reason)
            told = True
        time.sleep(LOOK_SECONDS)
    try:
        yield replace(claim, reaped=reaped)
    finally:
        if lease is not None:
            lease.release()


@contextmanager
def claimed_anew(config: ExperimentConfig, lineage: Lineage) -> Iterator[Claim]:
    """A folder of its own, whatever there is."""
    with locked(config.output_dir):
        folder = create_run_folder(config.output_dir, config.fingerprint, lineage.digest)
        lease = Lease.take(folder, config.name)
    try:
        yield Claim(Decision("new", "New run"), folder, is_script=True)
    finally:
        lease.release()


def _take(
    config: ExperimentConfig, lineage: Lineage, elsewhere: Elsewhere, *, for_trial: bool
) -> tuple[Claim, Lease | None]:
    """What was decided, and for training the lease of the folder."""
    with locked(config.output_dir):
        decision = with_folders(config, lineage, elsewhere, for_trial=for_trial)
        resumed = decision.run.folder if decision.run is not None and decision.action == "resume" else None
        here = local_runs(config.output_dir, config.fingerprint)
        dead = [run for run in here if run.state != "running" and run.folder != resumed]
        reaped = tuple(run for run in dead if not run.is_ended and reap(run))
        if decision.action in ("busy", "reuse"):
            return Claim(decision, None, reaped), None
        folder = resumed or create_run_folder(config.output_dir, config.fingerprint, lineage.digest)
        return Claim(decision, folder, reaped), Lease.take(folder, config.name)


@contextmanager
def locked(output_dir: str | Path) -> Iterator[None]:
    """Nobody else decides, takes or reaps in the block, which is short.

    Raises:
        TrackingError: `output_dir` cannot be written to.
    """
    folder = Path(output_dir) / RUNS
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK, timeout=LOCK_SECONDS)
        lock.acquire()
    except Timeout:
        raise TrackingError(f"{folder / LOCK}: another process has held it for {LOCK_SECONDS} s") from None
    except OSError as error:
        message = f"output_dir: no folder for the run can be made in {folder.parent.absolute()}: {error.strerror}"
        raise TrackingError(f"{message}. Choose another with output_dir=...") from error
    try:
        yield
    finally:
        lock.release()
