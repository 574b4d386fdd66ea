"""One process's way of carrying out trials: a trial is a run that ends when its training does.

Same check, same fingerprint, same folder, same record as a run of one's own, so each can take what the other has; only
evaluation on test, gates, plots and packages are left to the run that somebody asks for by itself. What many trials
share is read once: code, data, encoded splits, and the way to MLflow.
"""

import json
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import torch
from rich.console import Console

from mlops_hydra.config.check import as_tree
from mlops_hydra.config.fingerprint import canonical_json, config_digest
from mlops_hydra.config.objective import NUM_PARAMETERS, Objective, resolve_objective
from mlops_hydra.config.schema import ExperimentConfig
from mlops_hydra.config.targets import as_function
from mlops_hydra.data.digests import remembering
from mlops_hydra.data.sources import Source, open_source
from mlops_hydra.data.splits import Splits, Table
from mlops_hydra.errors import ConfigError, Fault, RequestError, TrackingError
from mlops_hydra.evaluation.metrics import score, user_metrics
from mlops_hydra.fitting import export, make_observers, setting, start_from, train
from mlops_hydra.packaging import files
from mlops_hydra.packaging.predictions import as_predicted
from mlops_hydra.packaging.trained import Trained, trained_of, write_trained
from mlops_hydra.sweeps.ear import Report
from mlops_hydra.tracking.claim import Claim, claimed
from mlops_hydra.tracking.decision import Elsewhere, ask_mlflow
from mlops_hydra.tracking.fetch import fetch_run
from mlops_hydra.tracking.find import identified
from mlops_hydra.tracking.lineage import Lineage, code_digest, target_paths
from mlops_hydra.tracking.lookup import fingerprints_in
from mlops_hydra.tracking.post import Post, Shared
from mlops_hydra.tracking.recorded import RecordedRun
from mlops_hydra.tracking.recorder import RecordedCheckpoints, Recorder
from mlops_hydra.tracking.run import Run, tracked_experiment
from mlops_hydra.tracking.store import anchored, redacted, sqlite_path, tracking_uri
from mlops_hydra.training.build import Prepared, Workbench, build_workbench
from mlops_hydra.training.device import resolve_device
from mlops_hydra.training.loop import FitResult, predict
from mlops_hydra.training.manifest import remove_checkpoints
from mlops_hydra.training.observers import Observer, Training

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How it ended: `values` are what the study looks at, in its order, `scores` the objective after each epoch."""

    state: Literal["complete", "pruned"]
    values: tuple[float, ...]
    scores: tuple[float, ...]
    fingerprint: str
    status: Literal["new", "resumed", "reused"]
    folder: Path


class Listener(Observer):
    """Reports the objective after each epoch, and stops the training when the answer says so."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self.pruned = False

    def on_fit_start(self, training: Training) -> None:
        """What was measured before the training was interrupted."""
        for entry in training.history:
            self._report(entry.get(f"val/{training.objective.metric}", math.nan), int(entry["epoch"]))

    def on_epoch_end(self, training: Training) -> None:
        """The last epoch is reported, but nothing is gained by stopping there."""
        value = training.metrics.get(f"val/{training.objective.metric}", math.nan)
        is_last = training.epoch == training.num_epochs
        if self._report(value, training.epoch) and not is_last:
            self.pruned = True
            training.stop()


@dataclass(slots=True)
class Workplace:
    """Carries out trials of one study, one after another.

    Args:
        shared: None where a launcher's job has no study record to belong to.
        keep_checkpoints: of trials that came to their end.
    """

    shared: Shared
    names: Sequence[str]
    keep_checkpoints: bool = False
    _code: dict[tuple[str, ...], str] = field(default_factory=dict)
    _data: dict[str, tuple[Source, str]] = field(default_factory=dict)
    _splits: dict[str, Splits] = field(default_factory=dict)
    _prepared: Prepared = field(default_factory=Prepared)
    _known: frozenset[str] | None = field(default=None)

    def carry_out(
        self, config: ExperimentConfig, report: Report | None = None, tags: Mapping[str, Any] | None = None
    ) -> Outcome:
        """Train, or take what is there.

        Args:
            report: the pruner's ear; None where there is none.
            tags: recorded with the run.

        Raises:
            RequestError, TrainingError: the trial failed; its run is recorded as FAILED.
            TrackingError: the disk does not take what it leaves.
        """
        config = identified(config)
        device = resolve_device(config.trainer.device)
        with remembering(config.output_dir) as digests:
            lineage = self._identify(config)
            with claimed(config, lineage, for_trial=True, elsewhere=self._elsewhere(config)) as claim:
                digests.save()
                if claim.folder is None:
                    return self._taken(config, claim, device)
                with tracked_experiment(config, lineage, claim=claim, shared=self.shared) as tracked:
                    return self._train(config, claim, tracked, device, report, tags or {})

    def _identify(self, config: ExperimentConfig) -> Lineage:
        """As `lineage.identify`, with code and data read once: the code of this process cannot change any more."""
        paths = tuple(sorted({path.partition(".")[0] for path in target_paths(config)}))
        if paths not in self._code:
            self._code[paths] = code_digest(config)
        key = canonical_json(config.data.model_dump(mode="json"))
        if key not in self._data:
            source = open_source(config.data)
            self._data = {key: (source, source.digest())}
        return Lineage(config_digest(config), self._data[key][1], self._code[paths])

    def _elsewhere(self, config: ExperimentConfig) -> Elsewhere:
        """What MLflow has of it. A local store is asked once: what comes later into it has a folder here."""
        uri = anchored(tracking_uri(config)[0])
        if self._known is None and sqlite_path(uri) is not None:
            self._known = fingerprints_in(uri)
        if self._known is not None and config.fingerprint not in self._known:
            return Elsewhere()
        return ask_mlflow(config)

    def _load(self, config: ExperimentConfig) -> Splits:
        """The splits; tables, which nothing changes, are kept for the next trial."""
        key = canonical_json(config.data.model_dump(mode="json"))
        if key not in self._splits:
            splits = self._data[key][0].load()
            if not isinstance(splits.train, Table):
                self._data.pop(key)  # a Dataset may remember what was done with it: each trial opens it anew
                return splits
            self._splits = {key: splits}
        return self._splits[key]

    def _train(
        self,
        config: ExperimentConfig,
        claim: Claim,
        tracked: Run,
        device: torch.device,
        report: Report | None,
        tags: Mapping[str, Any],
    ) -> Outcome:
        with setting(config, tracked.folder) as log:
            splits = self._load(config)
            objective = resolve_objective(config.objective, splits.task)
            files.write_text(tracked.folder / files.CONFIG, redacted(json.dumps(as_tree(config), indent=1)))
            bench = build_workbench(config, splits, objective, device, self._prepared)
            start_from(config, bench)
            listeners = [Listener(report)] if report else []
            observers = [*make_observers(config, Console(quiet=True), log), Recorder(tracked), *listeners]
            fitted = train(config, splits, bench, objective, observers, RecordedCheckpoints(config, tracked))
            values = self._measured(config, splits, bench, objective, fitted)
            trained = Trained.of(fitted, objective, values, pruned=any(one.pruned for one in listeners))
            self._leave(config, tracked, bench, splits, fitted, trained, tags)
            return self._outcome(config, trained, claim, tracked.folder)

    def _leave(
        self,
        config: ExperimentConfig,
        tracked: Run,
        bench: Workbench,
        splits: Splits,
        fitted: FitResult,
        trained: Trained,
        tags: Mapping[str, Any],
    ) -> None:
        """Weights and history, then the word that they are there."""
        files.write_weights(tracked.folder, export(bench, splits, config.trainer.calibrate))
        files.write_history(tracked.folder, fitted.history)
        others = {name: value for name, value in trained.values.items() if f"val/{name}" not in fitted.history[-1]}
        tracked.log_metrics({_recorded_name(name): value for name, value in others.items()}, step=fitted.best_epoch)
        how = {"objective": str(trained.objective), "best_epoch": trained.best_epoch, "trial.state": trained.state}
        tracked.set_tags({**how, **tags})
        write_trained(tracked.folder, trained)
        if trained.state == "pruned":
            tracked.status = "KILLED"
        elif not self.keep_checkpoints:
            remove_checkpoints(tracked.folder)

    def _taken(self, config: ExperimentConfig, claim: Claim, device: torch.device) -> Outcome:
        """The outcome of a run that was there."""
        run = claim.decision.run
        assert run is not None, "a result that is taken is some run's"
        if run.folder is None:
            uri, seconds = anchored(tracking_uri(config)[0]), config.tracking.timeout_seconds
            run = fetch_run(run, uri, config.output_dir, timeout_seconds=seconds)
        assert run.folder is not None, "it was fetched"
        trained = _trained_by(run, run.folder)
        missing = [name for name in self.names if name not in trained.values]
        if missing and trained.state == "trained":
            trained = replace(trained, values={**trained.values, **self._measured_again(config, run.folder, device)})
        return self._outcome(config, trained, claim, run.folder)

    def _outcome(self, config: ExperimentConfig, trained: Trained, claim: Claim, folder: Path) -> Outcome:
        status = {"reuse": "reused", "resume": "resumed"}.get(claim.decision.action, "new")
        return Outcome(
            "pruned" if trained.state == "pruned" else "complete",
            tuple(trained.values.get(name, math.nan) for name in self.names),
            trained.scores,
            config.fingerprint,
            status,  # type: ignore[arg-type]
            folder,
        )

    def _measured(
        self, config: ExperimentConfig, splits: Splits, bench: Workbench, objective: Objective, fitted: FitResult
    ) -> dict[str, float]:
        """What the study looks at, on validation at the best epoch."""
        at_best = fitted.history[fitted.best_epoch - 1] if fitted.best_epoch else {}
        values = {objective.metric: at_best.get(f"val/{objective.metric}", math.nan)}
        others = [name for name in self.names if name != objective.metric]
        values |= {name: at_best[f"val/{name}"] for name in others if f"val/{name}" in at_best}
        if NUM_PARAMETERS in others:
            values[NUM_PARAMETERS] = float(bench.num_parameters)
        if any(name not in values for name in others):
            values = {**_score_on_val(config, splits, bench), **values}
        return {name: value for name, value in values.items() if name in (objective.metric, *others)}

    def _measured_again(self, config: ExperimentConfig, folder: Path, device: torch.device) -> dict[str, float]:
        """The same of a run that was trained when nobody asked for it."""
        splits = self._load(config)
        objective = resolve_objective(config.objective, splits.task)
        with setting(config, folder):
            bench = build_workbench(config, splits, objective, device, self._prepared)
            files.load_weights(export(bench, splits, config.trainer.calibrate), folder)
            return {**_score_on_val(config, splits, bench), NUM_PARAMETERS: float(bench.num_parameters)}


def _recorded_name(name: str) -> str:
    return name if name == NUM_PARAMETERS else f"val/{name}"


def _score_on_val(config: ExperimentConfig, splits: Splits, bench: Workbench) -> dict[str, float]:
    """All metrics, the user's own among them."""
    val = as_predicted(*predict(bench.learner.model, bench.val), export(bench, splits))
    functions = {name: as_function(target) for name, target in config.metrics.items()}
    return {
        **score(splits.task, val.targets, val.predictions),
        **user_metrics(functions, val.targets, val.predictions, splits.task),
    }


def _trained_by(run: RecordedRun, folder: Path) -> Trained:
    """What a trial left, or a finished run."""
    if run.result is None and run.trial is not None:
        return trained_of(folder, run.trial)
    result = run.result
    if result is None:
        raise TrackingError(f"{folder} holds neither a result nor a trial; reuse=never trains again")
    objective = Objective(result["objective"]["metric"], result["objective"]["direction"])
    name = f"val/{objective.metric}"
    history = files.read_history(folder)
    scores = tuple(entry.get(name, math.nan) for entry in history)
    values = {
        key.removeprefix("val/"): math.nan if value is None else float(value)
        for key, value in result["metrics"].items()
        if key.startswith("val/") or key == NUM_PARAMETERS
    }
    best = int(result["best_epoch"])
    at_best = history[best - 1] if 0 < best <= len(history) else {}  # calibration comes after what trials are judged by
    values |= {key.removeprefix("val/"): value for key, value in at_best.items() if key.startswith("val/")}
    return Trained("trained", objective, values, scores, best, values.get(objective.metric, math.nan), False, 0)


def check_builds(configs: Iterable[ExperimentConfig]) -> None:
    """Build what each config trains, without training it.

    Raises:
        RequestError: with the faults of all that cannot be built.
    """
    faults: dict[str, Fault] = {}
    splits: dict[str, Splits] = {}
    for config in configs:
        key = canonical_json(config.data.model_dump(mode="json"))
        try:
            splits[key] = splits.get(key) or open_source(config.data).load()
            if isinstance(splits[key].train, Table):  # a Dataset may be dear to open
                objective = resolve_objective(config.objective, splits[key].task)
                build_workbench(config, splits[key], objective, torch.device("cpu"))
        except RequestError as error:
            faults |= {str(fault): fault for fault in error.faults}
    if faults:
        raise ConfigError(list(faults.values()))


def open_shared(config: ExperimentConfig, parent: str) -> Shared:
    """What all trials of this process share."""
    from mlops_hydra.tracking.git import git_state

    uri = anchored(tracking_uri(config)[0])
    post = Post(uri, Path(config.output_dir).absolute(), config.tracking.timeout_seconds)
    return Shared(post, parent, git_state(Path.cwd()))
