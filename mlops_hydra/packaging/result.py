"""What came out of one run: for programs `result.json`, for Python this."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from mlops_hydra.config.objective import Objective
from mlops_hydra.errors import EXIT_CODES
from mlops_hydra.evaluation.gates import Verdict
from mlops_hydra.tracking.lineage import Lineage


@dataclass(frozen=True, slots=True)
class Result:
    """What came out. Metric names are `<split>/<metric>`, without a split where there is none."""

    fingerprint: str
    run_id: str | None
    status: Literal["new"]
    lineage: Lineage
    metrics: Mapping[str, float]
    gates: tuple[Verdict, ...]
    verdict: Literal["passed", "failed", "undecided"]
    objective: Objective
    best_epoch: int
    num_epochs: int
    folder: Path
    warnings: tuple[str, ...]

    @property
    def exit_code(self) -> int:
        """0 passed, 3 failed, 4 undecided."""
        return EXIT_CODES[self.verdict]

    @property
    def objective_value(self) -> float:
        """The objective on validation, at the best epoch."""
        return self.metrics[f"val/{self.objective.metric}"]

    def as_json(self) -> dict[str, Any]:
        """What `result.json` holds."""
        return {
            "fingerprint": self.fingerprint,
            "run_id": self.run_id,
            "status": self.status,
            "lineage": asdict(self.lineage),
            "metrics": dict(self.metrics),
            "intervals": {},
            "gates": [asdict(verdict) for verdict in self.gates],
            "verdict": self.verdict,
            "objective": {**asdict(self.objective), "value": self.objective_value},
        }
