"""What came out of one run: for programs `result.json`, for Python this."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, Literal, Self, get_args

from mlops_hydra.config.objective import Objective
from mlops_hydra.config.section import Task
from mlops_hydra.errors import EXIT_CODES, TrackingError
from mlops_hydra.evaluation.intervals import Interval
from mlops_hydra.evaluation.verdicts import Verdict
from mlops_hydra.tracking.lineage import Lineage
from mlops_hydra.tracking.test_sets import TestSet

UNASKED: Final = "packaging=none"
"""Why there is no bundle where none was wanted."""


@dataclass(frozen=True, slots=True)
class Result:
    """What came out. Metric names are `<split>/<metric>`, without a split where there is none.

    `status` says how it was come by, `reason` why in a line; `store` is the MLflow store that has the run `run_id`.
    `intervals` are of the metrics on test, `test_set` names the rows and `num_candidates` counts what they have judged.
    `unpackaged` says why there is no bundle, and is empty where there is one.
    """

    fingerprint: str
    run_id: str | None
    status: Literal["new", "resumed", "reused"]
    reason: str
    task: Task
    lineage: Lineage
    metrics: Mapping[str, float]
    gates: tuple[Verdict, ...]
    verdict: Literal["passed", "failed", "undecided"]
    objective: Objective
    best_epoch: int
    num_epochs: int
    folder: Path
    warnings: tuple[str, ...]
    store: str = ""
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    test_set: TestSet | None = None
    unpackaged: str = ""

    @property
    def exit_code(self) -> int:
        """0 passed, 3 failed, 4 undecided."""
        return EXIT_CODES[self.verdict]

    @property
    def objective_value(self) -> float:
        """The objective on validation, at the best epoch."""
        return self.metrics[f"val/{self.objective.metric}"]

    def objectives(self, others: Sequence[str]) -> float | list[float]:
        """What a sweep asks for: the objective, or a list of it and of `others`, NaN where one was not measured."""
        values = [self.metrics.get(f"val/{name}", self.metrics.get(name, math.nan)) for name in others]
        return [self.objective_value, *values] if others else self.objective_value

    def as_json(self) -> dict[str, Any]:
        """What `result.json` holds."""
        return {
            "fingerprint": self.fingerprint,
            "run_id": self.run_id,
            "status": self.status,
            "reason": self.reason,
            "task": self.task,
            "lineage": asdict(self.lineage),
            "metrics": dict(self.metrics),
            "intervals": {name: asdict(interval) for name, interval in self.intervals.items()},
            "gates": [asdict(verdict) for verdict in self.gates],
            "verdict": self.verdict,
            "objective": {**asdict(self.objective), "value": self.objective_value},
            "best_epoch": self.best_epoch,
            "num_epochs": self.num_epochs,
            "warnings": list(self.warnings),
            "test_set": asdict(self.test_set) if self.test_set else None,
            "unpackaged": self.unpackaged,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any], folder: Path) -> Self:
        """The inverse of `as_json`; a metric that was not finite is NaN.

        Raises:
            TrackingError: the file is not what a run of this version leaves.
        """
        try:
            _check(data)
            return cls(
                fingerprint=data["fingerprint"],
                run_id=data["run_id"],
                status=data["status"],
                reason=data["reason"],
                task=data["task"],
                lineage=Lineage(**data["lineage"]),
                metrics={name: math.nan if value is None else float(value) for name, value in data["metrics"].items()},
                gates=tuple(Verdict.from_json(gate) for gate in data["gates"]),
                verdict=data["verdict"],
                objective=Objective(data["objective"]["metric"], data["objective"]["direction"]),
                best_epoch=data["best_epoch"],
                num_epochs=data["num_epochs"],
                folder=folder,
                warnings=tuple(data["warnings"]),
                intervals={name: _interval(values) for name, values in data["intervals"].items()},
                test_set=TestSet(**data["test_set"]) if data["test_set"] else None,
                unpackaged=data["unpackaged"],
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            message = f"{folder / 'result.json'} is damaged, or of another version ({type(error).__name__}: {error})"
            raise TrackingError(f"{message}; reuse=never trains again") from error


def _interval(values: Mapping[str, Any]) -> Interval:
    low, high = (math.nan if values[name] is None else float(values[name]) for name in ("low", "high"))
    return Interval(values["n"], low, high)


def _check(data: Mapping[str, Any]) -> None:
    """What no constructor would notice."""
    if data["verdict"] not in EXIT_CODES or data["task"] not in get_args(Task):
        raise ValueError(f"task {data['task']}, verdict {data['verdict']}")
    if f"val/{data['objective']['metric']}" not in data["metrics"]:
        raise ValueError(f"the objective val/{data['objective']['metric']} was not measured")
