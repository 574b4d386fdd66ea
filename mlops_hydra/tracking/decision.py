"""What a request means for what is already there: train anew, go on, take a finished result, or leave it to another.

`choose` is the decision table; it is given what was found and looks at nothing. `decide` finds it: in the folders of
`output_dir`, then in MLflow. Both only read.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mlops_hydra.config.schema import ExperimentConfig
from mlops_hydra.errors import TrackingError
from mlops_hydra.tracking.lineage import Lineage
from mlops_hydra.tracking.lookup import runs_in_mlflow
from mlops_hydra.tracking.recorded import RecordedRun, ago, local_runs, starting_runs
from mlops_hydra.tracking.store import anchored, tracking_uri
from mlops_hydra.training.manifest import newest_manifest

Action = Literal["new", "resume", "reuse", "busy"]
Reuse = Literal["auto", "config", "never"]


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do, with which run of the past, and why in one line."""

    action: Action
    reason: str
    run: RecordedRun | None = None


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """What MLflow has of this fingerprint, or why that is not known."""

    runs: tuple[RecordedRun, ...] = ()
    unknown: str = ""


def decide(config: ExperimentConfig, lineage: Lineage) -> Decision:
    """The decision for a run, as things are now."""
    return with_folders(config, lineage, ask_mlflow(config))


def ask_mlflow(config: ExperimentConfig) -> Elsewhere:
    """What MLflow has; it waits `tracking.timeout_seconds` at most, and no answer is no error."""
    if config.reuse == "never":
        return Elsewhere()
    uri = anchored(tracking_uri(config)[0])
    try:
        found = runs_in_mlflow(uri, config.fingerprint, timeout_seconds=config.tracking.timeout_seconds)
    except TrackingError as error:
        return Elsewhere(unknown=f"{error}; {Path(config.output_dir) / 'runs'} decided")
    return Elsewhere(tuple(found))


def with_folders(
    config: ExperimentConfig, lineage: Lineage, elsewhere: Elsewhere, *, for_trial: bool = False
) -> Decision:
    """The decision from the folders as they are now and from what MLflow said."""
    here = starting_runs(config.output_dir, config.fingerprint, lineage)  # first: else one that begins now is missed
    here += local_runs(config.output_dir, config.fingerprint)
    known = {run.run_id for run in here}
    runs = [*here, *(run for run in elsewhere.runs if run.run_id not in known)]
    ours = [run for run in runs if run.name == config.name and not run.is_script]
    decision = choose(ours, lineage, config.reuse, config.fingerprint, for_trial=for_trial)
    if elsewhere.unknown:
        return Decision(decision.action, f"{decision.reason} ({elsewhere.unknown})", decision.run)
    return decision


def choose(
    runs: Sequence[RecordedRun], lineage: Lineage, reuse: Reuse, fingerprint: str, *, for_trial: bool = False
) -> Decision:
    """The decision table.

    Args:
        runs: all of one fingerprint.
        lineage: what is asked for now.
        for_trial: a training that ended, or was pruned, is enough; a run goes on where it stands.
    """
    if reuse == "never":
        return Decision("new", "New run: reuse=never")
    same = [run for run in runs if run.lineage == lineage]
    other = _newest([run for run in runs if run.lineage != lineage], "finished")
    enough = (_newest(same, "trained") or _newest(same, "pruned")) if for_trial else None
    return (
        _take_finished(_newest(same, "finished") or enough, other if reuse == "config" else None, lineage)
        or _leave_or_go_on([run for run in same if run.folder is not None])
        or Decision("new", _why_new(other, _newest(same, "running", "failed", "killed"), lineage, fingerprint))
    )


def _take_finished(same: RecordedRun | None, other: RecordedRun | None, lineage: Lineage) -> Decision | None:
    if same is not None:
        return Decision("reuse", f"Reused run {same.label} ({_when(same)}); reuse=never trains again", same)
    if other is not None:
        why = f"reuse=config takes it although the {_changed(other.lineage, lineage)} changed since"
        return Decision("reuse", f"Reused run {other.label} ({_when(other)}); {why}", other)
    return None


def _leave_or_go_on(here: Sequence[RecordedRun]) -> Decision | None:
    """What to do with unfinished runs of the same lineage that have a folder."""
    busy = _newest(here, "running")
    if busy is not None:
        since = f", begun {ago(time.time() - busy.owner.since)}" if busy.owner else ""
        return Decision("busy", f"Run {busy.label} is being trained by {busy.owner}{since}", busy)
    unfinished = _newest(here, "trained") or _newest(here, "failed", "killed", "pruned")
    if unfinished is not None:
        reason = f"Resumed run {unfinished.label} ({_when(unfinished)}) {_from_where(unfinished)}"
        return Decision("resume", reason, unfinished)
    return None


def _why_new(other: RecordedRun | None, elsewhere: RecordedRun | None, lineage: Lineage, fingerprint: str) -> str:
    if other is not None:
        changed = _changed(other.lineage, lineage)
        return f"New run: the {changed} changed since run {other.label} ({_when(other)}); reuse=config takes that one"
    if elsewhere is not None:
        return f"New run: MLflow has run {elsewhere.label} of the same, {elsewhere.state}, but its folder is not here"
    return f"New run: nothing finished is recorded for {fingerprint}"


def _newest(runs: Sequence[RecordedRun], *states: str) -> RecordedRun | None:
    """Of those in one of these states; one whose folder is here rather than one that only MLflow has."""
    found = [run for run in runs if run.state in states]
    return max(found, key=lambda run: (run.folder is not None, run.time), default=None)


def _when(run: RecordedRun) -> str:
    return f"{run.state} {run.ago}"


def _from_where(run: RecordedRun) -> str:
    if run.state == "trained":
        return "by a trial of a sweep: nothing is left to train"
    manifest = newest_manifest(run.folder) if run.folder else None
    return f"from epoch {manifest.epoch}, step {manifest.step}" if manifest else "from the start: it has no checkpoint"


def _changed(before: Lineage, now: Lineage) -> str:
    """Which parts differ; the config does not, since the fingerprint is the same."""
    return (
        " and the ".join(part for part in ("data", "code") if getattr(before, part) != getattr(now, part)) or "config"
    )
