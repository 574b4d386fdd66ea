"""From what a person calls a run to its folder: a fingerprint, a folder's name, MLflow's id, or a path.

What is not here is looked for in MLflow and fetched (`fetch.py`).
"""

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mlops_hydra.config.fingerprint import family_digest
from mlops_hydra.config.schema import ExperimentConfig
from mlops_hydra.errors import Fault, UsageError, nearest
from mlops_hydra.tracking.fetch import fetch_run
from mlops_hydra.tracking.folders import run_folders
from mlops_hydra.tracking.lineage import Lineage
from mlops_hydra.tracking.lookup import run_in_mlflow, runs_in_mlflow
from mlops_hydra.tracking.recorded import RecordedRun, local_runs, read_run
from mlops_hydra.tracking.spool import SPOOL, first_record
from mlops_hydra.tracking.store import anchored, tracking_uri

logger = logging.getLogger(__name__)

_RUN_ID: Final = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Place:
    """Where runs are looked for: the folder of everything local, and the store of MLflow."""

    output_dir: str
    uri: str
    timeout_seconds: float


def start_of(config: ExperimentConfig, *, fetch: bool = False) -> RecordedRun | None:
    """The run whose weights `init_from` asks for.

    Raises:
        UsageError: there is none, or it is not finished.
        TrackingError: it is only in MLflow, which cannot be asked.
    """
    if config.init_from is None:
        return None
    uri = anchored(tracking_uri(config)[0])
    place = Place(config.output_dir, uri, config.tracking.timeout_seconds)
    return find_run(config.init_from, place, where="init_from", fetch=fetch)


def identified(config: ExperimentConfig) -> ExperimentConfig:
    """The config with `init_from`, however it names a run, as the lineage of that run: so it is part of the name."""
    start = start_of(config)
    return config if start is None else config.model_copy(update={"init_from": start.lineage.digest})


def shorter_run(config: ExperimentConfig, lineage: Lineage) -> RecordedRun | None:
    """A finished run here of the same data and code, whose config differs in the length of the training alone."""
    wanted = {"family": family_digest(config), "lineage.data": lineage.data, "lineage.code": lineage.code}
    alike = [
        run
        for folder in run_folders(config.output_dir)
        if wanted.items() <= (first_record(folder / SPOOL) or {"tags": {}})["tags"].items()
        and (run := read_run(folder)) is not None
        and run.state == "finished"
    ]
    return max(alike, key=lambda run: run.time, default=None)


def find_run(text: str, place: Place, *, where: str = "RUN", fetch: bool = True) -> RecordedRun:
    """The finished run that `text` names; of several the newest, and then a line says so.

    Args:
        fetch: make a folder of a run that only MLflow has; else it is given without one.

    Raises:
        UsageError: there is none, or it is not finished.
        TrackingError: MLflow was needed and cannot be asked, or the files of the run cannot be fetched.
    """
    here = _here(text, place)
    finished = [run for run in here if run.state == "finished" and not run.is_script]
    if not finished:
        finished = [run for run in _in_mlflow(text, place) if run.state == "finished"]
    if finished:
        chosen = max(finished, key=lambda run: (run.folder is not None, run.time))
        if len(finished) > 1:
            message = "%s=%s names %d finished runs; the newest of them, %s (%s), is taken"
            logger.info(message, where, text, len(finished), chosen.label, chosen.ago)
        if chosen.folder is not None or not fetch:
            return chosen
        return fetch_run(chosen, place.uri, place.output_dir, timeout_seconds=place.timeout_seconds)
    if here:
        last = here[-1]
        why = (
            "of a script, which has no result" if last.is_script else f"that is not finished ({last.state} {last.ago})"
        )
        raise UsageError(Fault(where, f"names a run {why}", text))
    raise UsageError(
        Fault(where, "no such run, here or in MLflow; `mlops-hydra runs` lists them", text, _alike(text, place))
    )


def _here(text: str, place: Place) -> list[RecordedRun]:
    path = Path(text)
    if path.parts[1:] and (run := read_run(path) if path.is_dir() else None):
        return [run]
    if found := local_runs(place.output_dir, text) if re.fullmatch(r"[0-9a-f]+", text) else []:
        return found
    if _RUN_ID.fullmatch(text):
        return [run for run in local_runs(place.output_dir) if run.run_id == text]
    named = _in_folders(place, lambda name: name == text)
    if any(run.state == "finished" for run in named):
        return named
    return _in_folders(place, lambda name: name.partition("-")[0] == text) or named  # one of the same lineage


def _in_folders(place: Place, is_named: Callable[[str], bool]) -> list[RecordedRun]:
    found = (read_run(folder) for folder in run_folders(place.output_dir) if is_named(folder.name))
    return sorted((run for run in found if run is not None), key=lambda run: run.began)


def _in_mlflow(text: str, place: Place) -> list[RecordedRun]:
    if _RUN_ID.fullmatch(text):
        run = run_in_mlflow(place.uri, text, timeout_seconds=place.timeout_seconds)
        return [run] if run else []
    if not re.fullmatch(r"[0-9a-f]{12}", text):
        return []
    found = runs_in_mlflow(place.uri, text, timeout_seconds=place.timeout_seconds)
    return found or runs_in_mlflow(place.uri, text, tag="lineage", timeout_seconds=place.timeout_seconds)


def _alike(text: str, place: Place) -> tuple[str, ...]:
    names = {name for folder in run_folders(place.output_dir) for name in (folder.name, folder.parent.name)}
    started = tuple(sorted(name for name in names if text and name.startswith(text)))
    return started[:2] or nearest(text, names)
