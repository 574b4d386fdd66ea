"""Afterwards: records that MLflow missed, and runs whose process died without a word.

A run that nobody trains any more is reaped: its record gets the end that its process could not write. What has not
been delivered is delivered to the store that the run was meant for.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from filelock import FileLock, Timeout

from mlops_hydra.tracking.claim import locked
from mlops_hydra.tracking.delivery import Delivery, delivered_to, is_waiting
from mlops_hydra.tracking.folders import RUNS, STUDIES
from mlops_hydra.tracking.recorded import RecordedRun, local_runs, read_run, reap
from mlops_hydra.tracking.spool import SPOOL, read_spool
from mlops_hydra.tracking.store import is_gone, redacted

LOCK: Final = ".delivery.lock"


@dataclass(frozen=True, slots=True)
class Store:
    """Where to deliver; `given`: a person named it, so it is meant for every run that waits."""

    uri: str
    given: bool
    timeout_seconds: float


@dataclass(frozen=True, slots=True)
class Delivered:
    """What became of one record that waited: `problem` is empty if it arrived."""

    run: RecordedRun
    num_records: int
    problem: str = ""


def reap_dead(output_dir: str | Path, runs: Sequence[RecordedRun]) -> list[RecordedRun]:
    """Write the end of every run whose process is dead; gives those runs."""
    dead = _dead(runs)
    if not dead:
        return []
    with locked(output_dir):  # and looked at again: another process may have taken one meanwhile
        now = [read_run(run.folder) for run in dead if run.folder is not None]
        return [run for run in _dead([run for run in now if run is not None]) if reap(run)]


def _dead(runs: Sequence[RecordedRun]) -> list[RecordedRun]:
    return [run for run in runs if not run.is_ended and run.state != "running"]


def sync(output_dir: str | Path, store: Store) -> Iterator[Delivered]:
    """Reap, then deliver whatever waits, run by run."""
    reap_dead(output_dir, local_runs(output_dir))
    for run in [*_studies(output_dir), *local_runs(output_dir)]:
        if run.folder is not None and run.state != "running" and is_waiting(run.folder):
            yield deliver_rest(run, run.folder, output_dir, store)


def _studies(output_dir: str | Path) -> list[RecordedRun]:
    """The records of studies, which those of their trials look for in MLflow."""
    found = (read_run(folder) for folder in sorted((Path(output_dir) / STUDIES).glob("*")))
    return [study for study in found if study is not None]


def deliver_rest(run: RecordedRun, folder: Path, output_dir: str | Path, store: Store) -> Delivered:
    """Deliver what waits of one run; takes `timeout_seconds` at most."""
    before = delivered_to(folder)
    uri = _destination(before.uri, store)
    waiting = len(read_spool(folder / SPOOL, before.offset if before.uri == redacted(uri) else 0)[0])
    if "***" in uri:
        return Delivered(run, waiting, f"meant for {uri}: say tracking.uri=... with its credentials")
    delivery = Delivery(folder, uri=uri, output_dir=output_dir, timeout_seconds=store.timeout_seconds)
    try:
        with FileLock(Path(output_dir) / RUNS / LOCK, timeout=0):  # two at once would make two runs in MLflow
            delivery.start()
            delivery.finish()
    except Timeout:
        return Delivered(run, waiting, "are left to another process that delivers")
    return Delivered(run, waiting, "" if delivery.is_complete else f"{redacted(uri)} did not take all of it")


def _destination(meant_for: str, store: Store) -> str:
    """The store that the run was recorded for; its credentials are not on the disk, but the asked one may have them."""
    if store.given or not meant_for or meant_for == redacted(store.uri) or is_gone(meant_for):
        return store.uri
    return meant_for
