"""The story of one run: check, identify, load, build, fit, export, evaluate, judge, package, record.

Everything before `claimed` only reads; side effects begin there. What has a result already is not trained again
(`reuse.py`).
"""

import logging
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Final

import torch
from rich.console import Console

from mlops_hydra.atomic import write_json_atomic
from mlops_hydra.config.check import as_tree, checked
from mlops_hydra.config.compose import to_yaml
from mlops_hydra.config.objective import NUM_PARAMETERS, TEMPERATURE, Objective, check_gate_metrics, resolve_objective
from mlops_hydra.config.schema import ExperimentConfig
from mlops_hydra.config.targets import as_function
from mlops_hydra.data.digests import remembering
from mlops_hydra.data.sources import Source, open_source
from mlops_hydra.data.splits import Splits
from mlops_hydra.data.summary import summarise
from mlops_hydra.errors import ExportError
from mlops_hydra.evaluation.evaluate import Predicted, evaluate
from mlops_hydra.evaluation.latency import measure_latency
from mlops_hydra.evaluation.plots import write_plots
from mlops_hydra.fitting import calibrate, export, make_observers, setting, start_from, train
from mlops_hydra.judgement import Candidate, Judgement, judged
from mlops_hydra.packaging import files
from mlops_hydra.packaging.bundle import FOLDER as BUNDLE
from mlops_hydra.packaging.bundle import MODEL as GRAPH
from mlops_hydra.packaging.bundle import load_bundle
from mlops_hydra.packaging.bundle_writer import seal_bundle, write_graph
from mlops_hydra.packaging.exporting import Exported
from mlops_hydra.packaging.graph import open_graph
from mlops_hydra.packaging.predictions import one_row, predict_splits, row_numbers, train_targets
from mlops_hydra.packaging.predictor import PredictionGraph
from mlops_hydra.packaging.pyfunc import describe
from mlops_hydra.packaging.result import Result
from mlops_hydra.packaging.trained import read_trained
from mlops_hydra.promotion import enlist
from mlops_hydra.reuse import reused
from mlops_hydra.tracking.claim import Claim, claimed
from mlops_hydra.tracking.find import identified
from mlops_hydra.tracking.folders import GRAPHS, MODEL, RESULT, publish_result
from mlops_hydra.tracking.lineage import code_entries, identify
from mlops_hydra.tracking.mlmodel import write_mlmodel
from mlops_hydra.tracking.recorder import RecordedCheckpoints, Recorder
from mlops_hydra.tracking.run import Run, tracked_experiment
from mlops_hydra.tracking.store import redacted
from mlops_hydra.tracking.versions import check_registration
from mlops_hydra.training.build import Workbench, build_workbench
from mlops_hydra.training.device import refuse_distributed, resolve_device
from mlops_hydra.training.interruption import Interruption
from mlops_hydra.training.loop import FitResult
from mlops_hydra.training.seeding import reproducible

_LATENCY_CALLS: Final = 200
_LATENCY_SECONDS: Final = 1.0
_SETTLE_SECONDS: Final = 5.0

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
                result = _publish(replace(result, run_id=tracked.run_id))
            enlist(config, result, judgement, console)
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
        _describe(config, tracked, splits)
        bench = build_workbench(config, splits, objective, device)
        graph = export(bench, splits, config.trainer.calibrate)
        if (trial := read_trained(tracked.folder)) is not None:
            fitted = trial.restored(graph, tracked.folder)
        else:
            start_from(config, bench)
            observers = [*make_observers(config, console, log), Recorder(tracked)]
            fitted = train(config, splits, bench, objective, observers, RecordedCheckpoints(config, tracked))
        temperature = calibrate(graph, bench)
        _keep(tracked, splits, graph, fitted)
        exported, unpackaged = _export(config, tracked, splits, bench, graph)
        predicted, metrics = _evaluate(config, splits, bench, graph, fitted)
        metrics |= {} if temperature is None else {TEMPERATURE: temperature}
        _draw(tracked.folder, splits, fitted, predicted["test"], objective)
        metrics |= _costs(tracked, splits, bench, graph, exported)
        candidate = _candidate(tracked, splits, objective, metrics, predicted)
        judgement = judged(config, candidate)
        result = _conclude(claim, tracked, fitted, splits, candidate, judgement, unpackaged)
        _package(config, splits, predicted, result)
        _record(tracked, result, fitted)
        _publish(result)  # from here on the run is finished
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
        _write_predictions(folder, splits, predict_splits(bench, splits, graph))


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
    best = fitted.history[fitted.best_epoch - 1]
    metrics[NUM_PARAMETERS] = float(bench.num_parameters)
    return predicted, metrics | {name: value for name, value in best.items() if name != "epoch"}


def _export(
    config: ExperimentConfig, tracked: Run, splits: Splits, bench: Workbench, graph: PredictionGraph
) -> tuple[Exported | None, str]:
    """The graph that leaves the run; or None, and why."""
    if config.packaging == "none":
        return None, "packaging=none"
    state = (config.model, config.data.image_shape, splits.task, config.trainer.calibrate, tracked.lineage.code)
    try:
        with Interruption("when the model is exported"):  # the exporter makes errors of its own of what it catches
            exported = write_graph(
                tracked.folder / MODEL / BUNDLE,
                graph,
                bench,
                splits,
                cache=Path(config.output_dir) / GRAPHS,
                key=str(state),
            )
    except ExportError as error:
        logger.warning("No bundle: %s. The run stays trained and judged, but cannot be promoted", error)
        return None, str(error)
    return exported, ""


def _costs(
    tracked: Run, splits: Splits, bench: Workbench, graph: PredictionGraph, exported: Exported | None
) -> dict[str, float]:
    """Latency of one raw row on one CPU thread, once the delivery of what is recorded leaves the interpreter alone."""
    path = tracked.folder / MODEL / BUNDLE / GRAPH
    loaded, size = None, {}
    if exported is not None:
        loaded = open_graph(path.read_bytes(), exported.inputs, num_classes=exported.graph.num_classes)
        size = {"model_size_mb": path.stat().st_size / 1e6}
    call = one_row(bench, splits, graph.cpu(), loaded)
    tracked.settle(_SETTLE_SECONDS)
    with reproducible(deterministic=False, num_threads=1):
        return size | measure_latency(call, repeats=_LATENCY_CALLS, budget_seconds=_LATENCY_SECONDS)


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


def _describe(config: ExperimentConfig, tracked: Run, splits: Splits) -> None:
    """What the run is of, so that it can be repeated and compared from its record alone."""
    lineage = {**asdict(tracked.lineage), "digest": tracked.lineage.digest, "files": code_entries(config)}
    write_json_atomic(tracked.folder / files.LINEAGE, lineage | {"git": tracked.git})
    write_json_atomic(tracked.folder / files.DATA, summarise(splits))
    files.write_text(tracked.folder / files.CONFIG, redacted(to_yaml(config)))
    for name in (files.LINEAGE, files.DATA, files.CONFIG):
        tracked.log_artifact(tracked.folder / name)


def _keep(tracked: Run, splits: Splits, graph: PredictionGraph, fitted: FitResult) -> None:
    """What was trained, on disk and in the record before anything that comes after can fail."""
    kept = [files.write_weights(tracked.folder, graph), files.write_history(tracked.folder, fitted.history)]
    if splits.schema is not None:
        kept.append(files.write_schema(tracked.folder, splits.schema))
    for path in kept:
        tracked.log_artifact(path)
    tracked.log_environment()


def _write_predictions(folder: Path, splits: Splits, predicted: Mapping[str, Predicted]) -> None:
    rows = {name: row_numbers(splits, name, len(split.targets)) for name, split in predicted.items()}
    files.write_predictions(folder, predicted, rows, splits.classes)


def _package(config: ExperimentConfig, splits: Splits, predicted: Mapping[str, Predicted], result: Result) -> None:
    """What was predicted and judged, and the bundle with all that is known of it."""
    _write_predictions(result.folder, splits, predicted)
    files.write_verdicts(result.folder, result.gates)
    if not result.unpackaged:
        seal_bundle(result.folder / MODEL / BUNDLE, result, name=config.name, classes=splits.classes)
        write_mlmodel(result.folder / MODEL, describe(load_bundle(result.folder / MODEL)))


def _draw(folder: Path, splits: Splits, fitted: FitResult, test: Predicted, objective: Objective) -> None:
    (folder / "plots").mkdir(exist_ok=True)
    with Interruption("when the plots are drawn"):  # matplotlib makes a ValueError of a signal's exception
        write_plots(
            folder / "plots",
            history=fitted.history,
            task=splits.task,
            classes=splits.classes,
            targets=test.targets,
            predictions=test.predictions,
            objective=objective,
        )


def _record(tracked: Run, result: Result, fitted: FitResult) -> None:
    already = fitted.history[fitted.best_epoch - 1]
    final = {name: value for name, value in result.metrics.items() if name not in already}
    tracked.log_metrics(final, step=result.best_epoch)
    tracked.set_tags({"verdict": result.verdict, "objective": str(result.objective), "best_epoch": result.best_epoch})
    packaged = () if result.unpackaged else (MODEL,)
    for name in (files.PREDICTIONS, files.VERDICTS, *packaged, "plots", "run.log"):
        tracked.log_artifact(tracked.folder / name)


def _publish(result: Result) -> Result:
    """`result.json`, before the wait for MLflow and again after it: its id of the run may be known only then."""
    write_json_atomic(result.folder / RESULT, result.as_json())
    publish_result(result.folder)
    return result
