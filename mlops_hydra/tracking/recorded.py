"""What is known of a run that was recorded, from its folder: what it is of, how far it came, who works on it.

Only reads. What MLflow knows of runs whose folders are elsewhere comes in the same form, from `lookup.py`.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from mlops_hydra.atomic import read_json
from mlops_hydra.errors import EXIT_CODES
from mlops_hydra.tracking.delivery import delivered_to
from mlops_hydra.tracking.folders import RESULT, TRIAL, run_folders
from mlops_hydra.tracking.lease import Owner, live_owner
from mlops_hydra.tracking.lineage import Lineage
from mlops_hydra.tracking.spool import SPOOL, Record, Spool, ending, first_record

State = Literal["finished", "trained", "pruned", "running", "failed", "killed"]
"""`trained`: by a trial of a sweep, to the end, and not judged; `pruned`: stopped by one on the way."""
_VERDICTS: Final = tuple(EXIT_CODES)
_NEEDED: Final = ("fingerprint", "lineage", "metrics", "gates", "verdict", "objective", "best_epoch", "num_epochs")


@dataclass(frozen=True, slots=True)
class RecordedRun:
    """A run of the past, or one of another process now.

    `time` (seconds since 1970) is that of its end, or of its last sign of life; `folder` is None where only MLflow has
    the run; `owner` is who trains it now; `result` is what `result.json` holds, if it is finished, `trial` what
    `trial.json` does, if a sweep trained it.
    """

    fingerprint: str
    lineage: Lineage
    name: str
    state: State
    began: float
    time: float
    overrides: str = ""
    folder: Path | None = None
    run_id: str | None = None
    owner: Owner | None = None
    result: dict[str, Any] | None = None
    trial: dict[str, Any] | None = None
    family: str = ""
    is_ended: bool = True
    """Whether its record says how it ended; that of a process that was killed does not."""
    is_script: bool = False
    """Whether a user's script recorded it with `tracked_experiment`: it has no result, and nothing to go on from."""

    @property
    def verdict(self) -> str | None:
        """What the gates said; None if they were not asked."""
        return self.result["verdict"] if self.result else None

    @property
    def label(self) -> str:
        """What a person calls it: its folder's name, else MLflow's id."""
        return self.folder.name if self.folder else self.run_id or self.lineage.digest

    @property
    def ago(self) -> str:
        """How long ago `time` is."""
        return ago(time.time() - self.time)


def local_runs(output_dir: str | Path, fingerprint: str = "*") -> list[RecordedRun]:
    """The runs that have a folder, oldest first; a folder without a readable beginning of a record is none."""
    found = (read_run(folder) for folder in run_folders(output_dir, fingerprint))
    return sorted((run for run in found if run is not None), key=lambda run: run.began)


def starting_runs(output_dir: str | Path, fingerprint: str, lineage: Lineage) -> list[RecordedRun]:
    """Runs of `lineage` whose process has its folder but no record yet: for milliseconds, while git is asked."""
    runs = []
    for folder in run_folders(output_dir, fingerprint):
        owner = live_owner(folder) if folder.name.partition("-")[0] == lineage.digest else None
        if owner is not None and first_record(folder / SPOOL) is None:
            since, name = owner.since, owner.experiment
            runs.append(RecordedRun(fingerprint, lineage, name, "running", since, since, folder=folder, owner=owner))
    return runs


def read_run(folder: Path) -> RecordedRun | None:
    """What the folder holds; None if that is no record of a run."""
    start = first_record(folder / SPOOL)
    if start is None:
        return None
    tags = start["tags"]
    lineage = Lineage(*(tags.get(f"lineage.{part}", "") for part in ("config", "data", "code")))
    owner, result, trial = live_owner(folder), read_result(folder), read_trial(folder)
    end = ending(folder / SPOOL)
    return RecordedRun(
        fingerprint=tags.get("fingerprint", folder.parent.name),
        lineage=lineage,
        name=start["experiment"],
        state=_state(owner, result, trial, end, is_script=bool(start.get("script"))),
        began=start["time"] / 1000,
        time=end["time"] / 1000 if end and owner is None else _last_change(folder),
        overrides=start.get("description", ""),
        folder=folder,
        run_id=delivered_to(folder).run_id,
        owner=owner,
        result=result,
        trial=trial,
        family=tags.get("family", ""),
        is_ended=end is not None,
        is_script=bool(start.get("script")),
    )


def read_result(folder: Path) -> dict[str, Any] | None:
    """`result.json` of a run that `experiment.run` has finished; None for anything else."""
    result = read_json(folder / RESULT)
    is_ours = result is not None and all(key in result for key in _NEEDED) and result["verdict"] in _VERDICTS
    return result if is_ours else None


def read_trial(folder: Path) -> dict[str, Any] | None:
    """`trial.json` of a run that a sweep trained to the end or pruned; None for anything else."""
    trial = read_json(folder / TRIAL)
    return trial if trial is not None and trial.get("state") in ("trained", "pruned") else None


def _state(
    owner: Owner | None,
    result: dict[str, Any] | None,
    trial: dict[str, Any] | None,
    end: Record | None,
    *,
    is_script: bool,
) -> State:
    """A run of ours is finished when its result is there, one of a script when it says so."""
    if owner is not None:
        return "running"
    if result is None and trial is not None:
        return "trained" if trial["state"] == "trained" else "pruned"
    status = end["status"] if end is not None else "KILLED"
    if result is not None or (is_script and status == "FINISHED"):
        return "finished"
    return "failed" if status == "FAILED" else "killed"


def _last_change(folder: Path) -> float:
    return (folder / SPOOL).stat().st_mtime


def reap(run: RecordedRun) -> bool:
    """Write the end that a dead process could not write: FINISHED if what it was for is there, else KILLED.

    The caller holds the lock of `claim.py` and has seen that nobody trains it. False if it has ended after all.
    """
    if run.folder is None or ending(run.folder / SPOOL) is not None:
        return False
    spool = Spool(run.folder / SPOOL)
    if run.result is not None:
        spool.append("artifact", path=RESULT, to="")
    is_done = run.result is not None or run.state == "trained"
    spool.append("end", status="FINISHED" if is_done else "KILLED", time=int(run.time * 1000))
    spool.close()
    return True


def ago(seconds: float) -> str:
    """For people: `3 s ago`, `5 min ago`, `2 h ago`, `4 days ago`."""
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size or (unit != "days" and seconds >= size):
            return f"{int(seconds // size)} {unit} ago"
    return f"{max(0, int(seconds))} s ago"
