"""From a configuration and its data to a trained model: what a run, a trial and a verification do alike.

Seeds and threads, observers, the weights it starts from, `fit`. Nothing is recorded here, and nothing judged.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from rich.console import Console
from torch import Tensor

from mlops_hydra.atomic import written_to
from mlops_hydra.config.objective import Objective
from mlops_hydra.config.schema import ExperimentConfig
from mlops_hydra.config.seeds import derive_seed
from mlops_hydra.config.targets import as_function, build
from mlops_hydra.data.splits import Splits
from mlops_hydra.errors import ConfigError, Fault
from mlops_hydra.evaluation.baseline import Baseline
from mlops_hydra.evaluation.calibration import fit_temperature
from mlops_hydra.evaluation.metrics import EpochMetrics, user_metrics
from mlops_hydra.packaging import files
from mlops_hydra.packaging.predictions import as_predicted
from mlops_hydra.packaging.predictor import PredictionGraph
from mlops_hydra.tracking.find import start_of
from mlops_hydra.training.build import Workbench
from mlops_hydra.training.checkpoints import Checkpoints
from mlops_hydra.training.loop import FitResult, fit, predict
from mlops_hydra.training.observers import check_observer
from mlops_hydra.training.progress import PlainProgress, make_progress
from mlops_hydra.training.seeding import reproducible, set_all_seeds


@contextmanager
def setting(config: ExperimentConfig, folder: Path) -> Iterator[Console]:
    """Seeds, threads and algorithms for the time of the run, and its log file."""
    trainer = config.trainer
    handler = _RunLog(folder / "run.log", encoding="utf-8", delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    package = logging.getLogger("mlops_hydra")
    package.addHandler(handler)
    try:
        with (
            written_to(folder),
            (folder / "run.log").open("a", encoding="utf-8") as file,
            reproducible(deterministic=trainer.deterministic, num_threads=trainer.num_threads),
        ):
            set_all_seeds(config.seed)
            yield Console(file=file, width=200)
    finally:
        package.removeHandler(handler)
        handler.close()


class _RunLog(logging.FileHandler):
    """Its lines are on the terminal too: a full disk is told by whoever cannot do without it."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  logging's name
        """Nothing, where logging would print a traceback."""


def make_observers(config: ExperimentConfig, console: Console, log: Console) -> list[object]:
    """The user's callbacks, then the progress on the terminal and in the log of the run.

    Raises:
        ConfigError: a callback has no hook.
    """
    own = {name: build(target, where=f"callbacks.{name}") for name, target in config.callbacks.items()}
    for name, observer in own.items():
        check_observer(name, observer)
    return [*own.values(), make_progress(config.progress, console), PlainProgress(log)]


def start_from(config: ExperimentConfig, bench: Workbench) -> None:
    """Load the weights that `init_from` names, if it does."""
    start = start_of(config, fetch=True)
    if start is not None and start.folder is not None:
        files.start_from_weights(bench.network, bench.features, start.folder)


def train(
    config: ExperimentConfig,
    splits: Splits,
    bench: Workbench,
    objective: Objective,
    observers: list[object],
    checkpoints: Checkpoints | None = None,
) -> FitResult:
    """`fit` as the config asks for it; the network of `bench` then has the best weights."""
    _try_metrics(config, splits)
    measure = _measure(config, splits, bench, objective)
    set_all_seeds(derive_seed(config.seed, "fit"))
    return fit(
        bench.learner,
        bench.train,
        bench.val,
        settings=config.trainer,
        objective=objective,
        measure=measure,
        observers=observers,
        checkpoints=checkpoints,
    )


def _measure(
    config: ExperimentConfig, splits: Splits, bench: Workbench, objective: Objective
) -> Callable[[Tensor, Tensor], dict[str, float]]:
    """What is measured after each epoch: the cheap metrics, and the objective if it is the user's own."""
    cheap = EpochMetrics(splits.task, len(splits.classes), objective.metric, bench.scale.deviation)
    own = {name: as_function(config.metrics[name]) for name in config.metrics if name == objective.metric}
    if not own:
        return cheap
    graph = export(bench, splits)

    def with_own(outputs: Tensor, targets: Tensor) -> dict[str, float]:
        split = as_predicted(outputs, targets, graph)
        return cheap(outputs, targets) | user_metrics(own, split.targets, split.predictions, splits.task)

    return with_own


def _try_metrics(config: ExperimentConfig, splits: Splits) -> None:
    """The user's metrics on what the baseline says of validation: one that fails is told before training, not after."""
    train, val = splits.targets("train"), splits.targets("val")
    if train is None or val is None or not config.metrics:
        return
    functions = {name: as_function(target, where=f"metrics.{name}") for name, target in config.metrics.items()}
    guess = Baseline.fit(train, splits.task, len(splits.classes)).predict(len(val))
    user_metrics(functions, val, guess, splits.task)


def export(bench: Workbench, splits: Splits, calibrate: Literal["none", "temperature"] = "none") -> PredictionGraph:
    """Features, network and the way back to the target's units as one module.

    Raises:
        ConfigError: a regression has no probabilities to calibrate.
    """
    calibrated = calibrate == "temperature"
    if calibrated and splits.task == "regression":
        raise ConfigError(Fault("trainer.calibrate", "is for probabilities; this is a regression", calibrate))
    return PredictionGraph(
        bench.network, features=bench.features, task=splits.task, scale=bench.scale, calibrated=calibrated
    )


def calibrate(graph: PredictionGraph, bench: Workbench) -> None:
    """Fit the temperature of a graph that has one, on validation."""
    if graph.temperature is None:
        return
    outputs, targets = predict(bench.learner.model, bench.val)
    graph.temperature.fill_(fit_temperature(outputs.cpu().numpy(), targets.cpu().numpy()))
