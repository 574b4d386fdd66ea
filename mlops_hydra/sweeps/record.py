"""The study as a run of its own in MLflow, above those of its trials: what is searched, the best so far, how many.

Written through a spool like any run, in the study's folder. Machines that work on one study write one run.
"""

import hashlib
import json
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from optuna.trial import FrozenTrial, TrialState

from mlops_hydra.config.fingerprint import canonical_json
from mlops_hydra.config.schema import ExperimentConfig
from mlops_hydra.errors import TrackingError
from mlops_hydra.sweeps.plan import Plan
from mlops_hydra.tracking.post import Post
from mlops_hydra.tracking.spool import SPOOL, Spool, has_params, now_ms
from mlops_hydra.tracking.store import redacted

STATES: Final = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}


def parent_id(plan: Plan) -> str:
    """What names the record of the study, on every machine alike."""
    digest = hashlib.sha256(canonical_json(dict(plan.identity)).encode()).hexdigest()
    return f"study {plan.name} {digest[:12]}"


def counted(trials: Sequence[FrozenTrial]) -> dict[str, int]:
    """How many trials are in each state."""
    found = Counter(trial.state for trial in trials)
    return {name: found[state] for state, name in STATES.items() if found[state]}


class StudyRecord:
    """From `begin` to `end`; `update` in between as often as one likes."""

    def __init__(self, plan: Plan, folder: Path, post: Post) -> None:
        self._plan, self._folder = plan, folder
        self._spool = Spool(folder / SPOOL)
        self._delivery = post.open(folder, at_once=True)
        self._best: dict[str, float] = {}
        self._num_ended = -1

    def begin(self, config: ExperimentConfig, git: Mapping[str, Any]) -> None:
        """What the study is of; one that goes on says so."""
        path = self._folder / SPOOL
        if has_params(path):
            self._spool.append("resume", time=now_ms())
        else:
            self._spool.append("start", **self._start(config, git))
            self._spool.append("params", values=self._params())
        self._spool.append("tags", values={"n_trials": str(self._plan.total)})
        self._delivery.start()

    def _start(self, config: ExperimentConfig, git: Mapping[str, Any]) -> dict[str, Any]:
        tags = {"mlflow.runName": self._plan.name, "study": self._plan.name, "storage": redacted(self._plan.storage)}
        return {
            "id": parent_id(self._plan),
            "experiment": config.name,
            "run_name": self._plan.name,
            "time": now_ms(),
            "tags": {**tags, **{name: str(value) for name, value in git.items() if value is not None}},
            "description": redacted(shlex.join(config.origin.overrides)),
            "script": False,
        }

    def _params(self) -> dict[str, str]:
        space = {f"space.{name}": str(one) for name, one in self._plan.space.distributions.items()}
        objectives = {f"objective.{name}": direction for name, direction in self._plan.objectives}
        how = {"sampler": str(self._plan.sampler), "pruner": str(self._plan.pruner), "seed": str(self._plan.seed)}
        return {**space, **objectives, **how, "identity": json.dumps(self._plan.identity, sort_keys=True)}

    def update(self, trials: Sequence[FrozenTrial], best: Sequence[FrozenTrial]) -> None:
        """Counts and the best so far, at the number of trials that ended."""
        counts = counted(trials)
        num_ended = sum(trial.state.is_finished() for trial in trials)
        if num_ended == self._num_ended:
            return
        self._num_ended = num_ended
        values: dict[str, float] = {f"trials/{name}": float(n) for name, n in counts.items() if name != "waiting"}
        if len(best) == 1 and len(self._plan.objectives) == 1:
            values[f"best/{self._plan.objectives[0][0]}"] = float(best[0].value or 0.0)
        self._spool.append("metrics", step=num_ended, time=now_ms(), values=values)

    def end(self, status: str, tags: Mapping[str, Any]) -> None:
        """How it ended, and the files it left."""
        try:
            self._spool.append("tags", values={name: str(value) for name, value in tags.items()})
            for name in ("optimization_results.yaml", "trials.parquet", "plots", "experiment", "result.json"):
                if (self._folder / name).exists():
                    self._spool.append("artifact", path=name, to="")
            self._spool.append("end", status=status, time=now_ms())
        finally:
            self._spool.close()
            self._delivery.finish()

    def abandon(self, status: str) -> None:
        """The end of a study that was interrupted, as far as the disk takes it."""
        try:
            self.end(status, {})
        except TrackingError:
            return
