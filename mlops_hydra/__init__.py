"""mlops_hydra: declarative machine-learning experiments.

Same code + same data + same config = same result, so a result has a name. The public names below are imported when
they are first used: `import mlops_hydra` loads neither torch nor mlflow.
"""

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from mlops_hydra.config.compose import compose as compose
    from mlops_hydra.config.schema import ExperimentConfig as ExperimentConfig
    from mlops_hydra.evaluation.gates import QualityGate as QualityGate
    from mlops_hydra.evaluation.gates import check_gates as check_gates
    from mlops_hydra.experiment import run as run
    from mlops_hydra.monitoring.detection import detect_drift as detect_drift
    from mlops_hydra.monitoring.result import DriftReport as DriftReport
    from mlops_hydra.monitoring.result import DriftResult as DriftResult
    from mlops_hydra.packaging.bundle import Bundle as Bundle
    from mlops_hydra.packaging.bundle import load_bundle as load_bundle
    from mlops_hydra.packaging.result import Result as Result
    from mlops_hydra.serving.router import Router as Router
    from mlops_hydra.serving.router import get_model_variant as get_model_variant
    from mlops_hydra.serving.schemas import PredictionRequest as PredictionRequest
    from mlops_hydra.serving.schemas import PredictionResponse as PredictionResponse
    from mlops_hydra.sweeps.ear import report as report
    from mlops_hydra.sweeps.sweep import StudyResult as StudyResult
    from mlops_hydra.sweeps.sweep import sweep as sweep
    from mlops_hydra.tracking.run import tracked_experiment as tracked_experiment
    from mlops_hydra.training.observers import Observer as Observer
    from mlops_hydra.training.observers import Training as Training
    from mlops_hydra.training.seeding import set_all_seeds as set_all_seeds
    from mlops_hydra.training.stopping import EarlyStopping as EarlyStopping

__version__ = "0.1.0"

_HOMES: Final = {
    "Bundle": "packaging.bundle",
    "DriftReport": "monitoring.result",
    "DriftResult": "monitoring.result",
    "EarlyStopping": "training.stopping",
    "ExperimentConfig": "config.schema",
    "Observer": "training.observers",
    "PredictionRequest": "serving.schemas",
    "PredictionResponse": "serving.schemas",
    "QualityGate": "evaluation.gates",
    "Result": "packaging.result",
    "Router": "serving.router",
    "StudyResult": "sweeps.sweep",
    "Training": "training.observers",
    "check_gates": "evaluation.gates",
    "compose": "config.compose",
    "detect_drift": "monitoring.detection",
    "get_model_variant": "serving.router",
    "load_bundle": "packaging.bundle",
    "report": "sweeps.ear",
    "run": "experiment",
    "set_all_seeds": "training.seeding",
    "sweep": "sweeps.sweep",
    "tracked_experiment": "tracking.run",
}
__all__ = sorted(_HOMES)  # noqa: PLE0605  the names are those of the table


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'mlops_hydra' has no attribute {name!r}")
    return getattr(importlib.import_module(f"mlops_hydra.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *_HOMES]
