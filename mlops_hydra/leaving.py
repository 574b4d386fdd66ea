"""What a run leaves in its folder and its record: described, kept, exported, timed, drawn, packaged, published.

Each step leaves what it made before the next can fail. Not here: what is trained and how it is judged.
"""

import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Final

from mlops_hydra.atomic import write_json_atomic
from mlops_hydra.config.compose import to_yaml
from mlops_hydra.config.objective import Objective
from mlops_hydra.config.schema import ExperimentConfig
from mlops_hydra.data.splits import Splits
from mlops_hydra.data.summary import summarise
from mlops_hydra.errors import ExportError
from mlops_hydra.evaluation.evaluate import Predicted
from mlops_hydra.evaluation.latency import measure_latency
from mlops_hydra.evaluation.plots import write_plots
from mlops_hydra.packaging import files
from mlops_hydra.packaging.about import FOLDER as BUNDLE
from mlops_hydra.packaging.bundle import MODEL as GRAPH
from mlops_hydra.packaging.bundle import load_bundle
from mlops_hydra.packaging.bundle_writer import seal_bundle, write_graph
from mlops_hydra.packaging.exporting import Exported
from mlops_hydra.packaging.graph import open_graph
from mlops_hydra.packaging.predictions import one_row, row_numbers
from mlops_hydra.packaging.predictor import PredictionGraph
from mlops_hydra.packaging.profile_file import make_profile
from mlops_hydra.packaging.pyfunc import describe as described
from mlops_hydra.packaging.result import UNASKED, Result
from mlops_hydra.tracking.folders import GRAPHS, MODEL, RESULT, publish_result
from mlops_hydra.tracking.lineage import code_entries
from mlops_hydra.tracking.mlmodel import write_mlmodel
from mlops_hydra.tracking.run import Run
from mlops_hydra.tracking.store import redacted
from mlops_hydra.training.build import Workbench
from mlops_hydra.training.interruption import Interruption
from mlops_hydra.training.loop import FitResult
from mlops_hydra.training.seeding import reproducible

_LATENCY_CALLS: Final = 200
_LATENCY_SECONDS: Final = 1.0
_SETTLE_SECONDS: Final = 5.0

logger = logging.getLogger(__name__)


def describe(config: ExperimentConfig, tracked: Run, splits: Splits) -> None:
    """What the run is of, so that it can be repeated and compared from its record alone."""
    lineage = {**asdict(tracked.lineage), "digest": tracked.lineage.digest, "files": code_entries(config)}
    write_json_atomic(tracked.folder / files.LINEAGE, lineage | {"git": tracked.git})
    write_json_atomic(tracked.folder / files.DATA, summarise(splits))
    files.write_text(tracked.folder / files.CONFIG, redacted(to_yaml(config)))
    for name in (files.LINEAGE, files.DATA, files.CONFIG):
        tracked.log_artifact(tracked.folder / name)


def keep(tracked: Run, splits: Splits, graph: PredictionGraph, fitted: FitResult) -> None:
    """What was trained, on disk and in the record before anything that comes after can fail."""
    kept = [files.write_weights(tracked.folder, graph), files.write_history(tracked.folder, fitted.history)]
    if splits.schema is not None:
        kept.append(files.write_schema(tracked.folder, splits.schema))
    for path in kept:
        tracked.log_artifact(path)
    tracked.log_environment()


def export_bundle(
    config: ExperimentConfig, tracked: Run, splits: Splits, bench: Workbench, graph: PredictionGraph
) -> tuple[Exported | None, str]:
    """The graph that leaves the run; or None, and why."""
    if config.packaging == "none":
        return None, UNASKED
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


def costs(
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


def write_predictions(folder: Path, splits: Splits, predicted: Mapping[str, Predicted]) -> None:
    """Of validation and test, with the numbers of their rows."""
    rows = {name: row_numbers(splits, name, len(split.targets)) for name, split in predicted.items()}
    files.write_predictions(folder, predicted, rows, splits.classes)


def package(config: ExperimentConfig, splits: Splits, predicted: Mapping[str, Predicted], result: Result) -> None:
    """What was predicted and judged, and the bundle with all that is known of it."""
    write_predictions(result.folder, splits, predicted)
    files.write_verdicts(result.folder, result.gates)
    if not result.unpackaged:
        profile = make_profile(splits, predicted, bins=config.profile_bins)
        folder = result.folder / MODEL / BUNDLE
        seal_bundle(folder, result, name=config.name, classes=splits.classes, profile=profile)
        write_mlmodel(result.folder / MODEL, described(load_bundle(result.folder / MODEL)))


def draw(folder: Path, splits: Splits, fitted: FitResult, test: Predicted, objective: Objective) -> None:
    """Plots of the history and of the predictions on test."""
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


def record(tracked: Run, result: Result, fitted: FitResult) -> None:
    """What was measured and made, in the record that goes to MLflow."""
    already = fitted.history[fitted.best_epoch - 1]
    final = {name: value for name, value in result.metrics.items() if name not in already}
    tracked.log_metrics(final, step=result.best_epoch)
    tracked.set_tags({"verdict": result.verdict, "objective": str(result.objective), "best_epoch": result.best_epoch})
    packaged = () if result.unpackaged else (MODEL,)
    for name in (files.PREDICTIONS, files.VERDICTS, *packaged, "plots", "run.log"):
        tracked.log_artifact(tracked.folder / name)


def publish(result: Result) -> Result:
    """`result.json`, before the wait for MLflow and again after it: its id of the run may be known only then."""
    write_json_atomic(result.folder / RESULT, result.as_json())
    publish_result(result.folder)
    return result
