"""The story of one run: check, identify, load, build, fit, export, evaluate, judge, package, record.

Everything before `claimed` only reads; side effects begin there. What has a result already is not trained again
(`reuse.py`).
"""

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console

from mlops_hydra.config.check import as_tree, checked
from mlops_hydra.config.objective import NUM_PARAMETERS, TEMPERATURE, Objective, check_gate_metrics, resolve_objective
from mlops_hydra.config.schema import ExperimentConfig
from mlops_hydra.config.targets import as_function
from mlops_hydra.data.digests import remembering
from mlops_hydra.data.sources import Source, open_source
from mlops_hydra.data.splits import Splits
from mlops_hydra.errors import MlopsHydraError
from mlops_hydra.evaluation.evaluate import Predicted, evaluate
from mlops_hydra.fitting import calibrate, export, make_observers, setting, start_from, train
from mlops_hydra.judgement import Candidate, Judgement, judged
from mlops_hydra.leaving import (
    costs,
    describe,
    draw,
    export_bundle,
    keep,
    package,
    publish,
    record,
    write_predictions,
)
from mlops_hydra.packaging import files
from mlops_hydra.packaging.predictions import predict_splits, row_numbers, train_targets
from mlops_hydra.packaging.predictor import PredictionGraph
from mlops_hydra.packaging.result import Result
from mlops_hydra.packaging.trained import read_trained
from mlops_hydra.promotion import enlist
from mlops_hydra.reuse import reused
from mlops_hydra.tracking.claim import Claim, claimed
from mlops_hydra.tracking.find import identified
from mlops_hydra.tracking.folders import RESULT
from mlops_hydra.tracking.lineage import identify
from mlops_hydra.tracking.recorder import RecordedCheckpoints, Recorder
from mlops_hydra.tracking.run import Run, tracked_experiment
from mlops_hydra.tracking.versions import check_registration
from mlops_hydra.training.build import Workbench, build_workbench
from mlops_hydra.training.device import refuse_distributed, resolve_device
from mlops_hydra.training.loop import FitResult

logger = logging.getLogger(__name__)


def run(config: ExperimentConfig, *, console: Console | None = None) -> Result:
    """Train, judge and record one experiment, or take the result that it has already.

    Raises:
        RequestError: the configuration or the data is wrong; nothing was trained.
        TrainingError: training could not go on; the run is recorded as FAILED.
        TrackingError: `output_dir` cannot be written to.
        BusyError: another process trains the same.
    """
    console = console or Console()
    config = identified(_checked(config))
    check_registration(config)
    refuse_distributed()
    device = resolve_device(config.trainer.device)
    with remembering(config.output_dir) as digests:
        source = open_source(config.data)
        lineage = identify(config, source)
        with claimed(config, lineage) as claim:  # side effects begin
            console.print(claim.decision.reason, highlight=False, markup=False, soft_wrap=True)
            digests.save()
            if claim.folder is None:
                result, judgement = reused(config, claim, source)
            else:
                with tracked_experiment(config, lineage, claim=claim) as tracked:
                    result, judgement = _train(config, source, claim, tracked, device, console)
                result = publish(replace(result, run_id=tracked.run_id))
            try:
                enlist(config, result, judgement, console)
            except MlopsHydraError:
                what = f"Run {result.fingerprint} {result.verdict} and is recorded"
                text = f"{what}, but register={config.register} failed:"
                console.print(text, highlight=False, markup=False, soft_wrap=True)
                raise
            return result


def _train(
    config: ExperimentConfig, source: Source, claim: Claim, tracked: Run, device: torch.device, console: Console
) -> tuple[Result, Judgement]:
    with setting(config, tracked.folder) as log:
        splits = source.load()
        for warning in splits.warnings:
            logger.warning("%s", warning)
        objective = resolve_objective(config.objective, splits.task)
        check_gate_metrics(config.gates, splits.task)
        describe(config, tracked, splits)
        bench = build_workbench(config, splits, objective, device)
        graph = export(bench, splits, config.trainer.calibrate)
        if (trial := read_trained(tracked.folder)) is not None:
            fitted = trial.restored(graph, tracked.folder)
        else:
            start_from(config, bench)
            observers = [*make_observers(config, console, log), Recorder(tracked)]
            fitted = train(config, splits, bench, objective, observers, RecordedCheckpoints(config, tracked))
        calibrate(graph, bench)
        keep(tracked, splits, graph, fitted)
        exported, unpackaged = export_bundle(config, tracked, splits, bench, graph)
        predicted, metrics = _evaluate(config, splits, bench, graph, fitted)
        draw(tracked.folder, splits, fitted, predicted["test"], objective)
        metrics |= costs(tracked, splits, bench, graph, exported)
        candidate = _candidate(tracked, splits, objective, metrics, predicted)
        judgement = judged(config, candidate)
        result = _conclude(claim, tracked, fitted, splits, candidate, judgement, unpackaged)
        package(config, splits, predicted, result)
        record(tracked, result, fitted)
        publish(result)  # from here on the run is finished
        tracked.log_artifact(tracked.folder / RESULT)
        return result, judgement


def train_unrecorded(
    config: ExperimentConfig, source: Source, folder: Path, device: torch.device, console: Console
) -> None:
    """The same training without a record or gates: history, weights and predictions in `folder`."""
    with setting(config, folder) as log:
        splits = source.load()
        objective = resolve_objective(config.objective, splits.task)
        bench = build_workbench(config, splits, objective, device)
        graph = export(bench, splits, config.trainer.calibrate)
        start_from(config, bench)
        fitted = train(config, splits, bench, objective, make_observers(config, console, log))
        calibrate(graph, bench)
        files.write_weights(folder, graph)
        files.write_history(folder, fitted.history)
        write_predictions(folder, splits, predict_splits(bench, splits, graph))


def _checked(config: ExperimentConfig) -> ExperimentConfig:
    """The same config, checked again: one made by hand is held to the same rules as a composed one."""
    again = checked(as_tree(config))
    again._origin = config.origin
    return again


def _evaluate(
    config: ExperimentConfig, splits: Splits, bench: Workbench, graph: PredictionGraph, fitted: FitResult
) -> tuple[dict[str, Predicted], dict[str, float]]:
    """Predictions on validation and test, and every number that is recorded of the run but its speed."""
    predicted = predict_splits(bench, splits, graph)
    metrics = evaluate(
        predicted,
        train_targets(splits, config.data.target),
        task=splits.task,
        num_classes=len(splits.classes),
        functions={name: as_function(target) for name, target in config.metrics.items()},
    )
    metrics[NUM_PARAMETERS] = float(bench.num_parameters)
    best = {name: value for name, value in fitted.history[fitted.best_epoch - 1].items() if name != "epoch"}
    if graph.temperature is not None:  # what was measured while it trained was not calibrated yet
        return predicted, best | metrics | {TEMPERATURE: graph.temperature.item()}
    return predicted, metrics | best


def _candidate(
    tracked: Run,
    splits: Splits,
    objective: Objective,
    metrics: Mapping[str, float],
    predicted: Mapping[str, Predicted],
) -> Candidate:
    return Candidate(
        lineage=tracked.lineage,
        task=splits.task,
        objective=objective,
        classes=tuple(str(label) for label in splits.classes),
        metrics=metrics,
        predicted=predicted,
        rows={name: row_numbers(splits, name, len(split.targets)) for name, split in predicted.items()},
        splits=lambda: splits,
    )


def _conclude(
    claim: Claim,
    tracked: Run,
    fitted: FitResult,
    splits: Splits,
    candidate: Candidate,
    judgement: Judgement,
    unpackaged: str,
) -> Result:
    return Result(
        fingerprint=tracked.fingerprint,
        run_id=tracked.run_id,
        status="resumed" if claim.resumed else "new",
        reason=claim.decision.reason,
        task=candidate.task,
        lineage=tracked.lineage,
        metrics=candidate.metrics,
        gates=judgement.verdicts,
        verdict=judgement.verdict,
        objective=candidate.objective,
        best_epoch=fitted.best_epoch,
        num_epochs=len(fitted.history),
        folder=tracked.folder,
        warnings=(*splits.warnings, *judgement.warnings),
        store=tracked.store,
        intervals=judgement.intervals,
        test_set=judgement.test_set,
        unpackaged=unpackaged,
    )
