"""Quality gates: whether a result is good enough, and why.

`judge` is what an experiment calls with its configured gates; `check_gates` is the short form for a script. Both fail
closed: what was not measured, or is not finite, never passes. Not here: measuring, and models to compare with.
"""

import math
import numbers
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from mlops_hydra.config.gate import GateConfig
from mlops_hydra.config.objective import COSTS, METRICS, Objective
from mlops_hydra.config.section import Task
from mlops_hydra.errors import Fault, UsageError, nearest

Side = Literal["higher", "lower"]
Decision = Literal["passed", "failed", "undecided"]

_SIDES: Final[tuple[Side, ...]] = ("higher", "lower")


@dataclass(frozen=True, slots=True)
class QualityGate:
    """A threshold that a metric must reach; `direction` says which side of it is good, and equality passes."""

    metric: str
    threshold: float
    direction: Side

    def __post_init__(self) -> None:
        faults = []
        if not isinstance(self.metric, str) or not self.metric:
            faults.append(Fault("QualityGate.metric", "the name of a metric", self.metric))
        if _measured(self.threshold) is None:
            faults.append(Fault("QualityGate.threshold", "a finite number", self.threshold))
        if self.direction not in _SIDES:
            alike = nearest(str(self.direction), _SIDES)
            faults.append(Fault("QualityGate.direction", "higher or lower", self.direction, alike))
        if faults:
            raise UsageError(faults)


def check_gates(metrics: Mapping[str, float], gates: Sequence[QualityGate]) -> list[str]:
    """One sentence for each gate that failed; empty when all passed."""
    verdicts = [
        _compare(_Question(gate.metric, gate.metric), metrics, _Bar(gate.threshold, gate.direction)) for gate in gates
    ]
    return [verdict.reason for verdict in verdicts if verdict.verdict != "passed"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a gate decided, and why in a sentence; `value` is None where there was no finite number."""

    name: str
    metric: str
    value: float | None
    threshold: float | None
    direction: Side | None
    verdict: Decision
    reason: str


def judge(
    gates: Mapping[str, GateConfig],
    metrics: Mapping[str, float | None],
    *,
    task: Task,
    objective: Objective,
) -> tuple[Verdict, ...]:
    """The verdict of each gate that is meant for the task, in the order of `gates`.

    `metrics` are named `<split>/<metric>`, `baseline/<metric>` (of the test split), or like `latency_p95_ms`.
    """
    return tuple(
        _judge_one(name, gate, metrics=metrics, objective=objective)
        for name, gate in gates.items()
        if gate.tasks is None or task in gate.tasks
    )


def overall(verdicts: Iterable[Verdict]) -> Decision:
    """The worst of all: failed, then undecided; passed when there is none."""
    decisions = {verdict.verdict for verdict in verdicts}
    if "failed" in decisions:
        return "failed"
    return "undecided" if "undecided" in decisions else "passed"


@dataclass(frozen=True, slots=True)
class _Question:
    """Which gate asks for which measurement."""

    name: str
    key: str

    def answer(
        self, verdict: Decision, reason: str, *, value: float | None = None, bar: "_Bar | None" = None
    ) -> Verdict:
        threshold, direction = (bar.threshold, bar.direction) if bar else (None, None)
        return Verdict(self.name, self.key, value, threshold, direction, verdict, reason)


@dataclass(frozen=True, slots=True)
class _Bar:
    """What must be reached; `origin` says how the threshold came about where nobody wrote it down."""

    threshold: float
    direction: Side
    strict: bool = False
    origin: str = ""

    @property
    def sign(self) -> str:
        return {"higher": ">", "lower": "<"}[self.direction] + ("" if self.strict else "=")

    def reached_by(self, value: float) -> bool:
        gain = value - self.threshold if self.direction == "higher" else self.threshold - value
        return gain > 0 if self.strict else gain >= 0


def _judge_one(name: str, gate: GateConfig, *, metrics: Mapping[str, float | None], objective: Objective) -> Verdict:
    metric = objective.metric if gate.metric == "objective" else gate.metric
    question = _Question(name, metric if metric in COSTS else f"{gate.on}/{metric}")
    direction = gate.direction or _better_side(metric, objective)
    if direction is None:
        reason = f"which side is good is not known for {metric}: set gates.{name}.direction to higher or lower"
        return question.answer("failed", reason)
    if gate.threshold is not None:
        return _compare(question, metrics, _Bar(gate.threshold, direction))
    value = _measured(metrics.get(question.key))
    if value is None:
        return question.answer("failed", _why_not_measured(question.key, metrics))
    baseline = _measured(metrics.get(f"baseline/{metric}"))
    if baseline is None:
        reason = f"the baseline has no finite baseline/{metric} to compare with: give a threshold instead"
        return question.answer("undecided", reason, value=value)
    return _compare(question, metrics, _bar_over_baseline(metric, baseline, by=gate.by, direction=direction))


def _compare(question: _Question, metrics: Mapping[str, float | None], bar: _Bar) -> Verdict:
    value = _measured(metrics.get(question.key))
    if value is None:
        return question.answer("failed", _why_not_measured(question.key, metrics), bar=bar)
    shown, limit = _tell_apart(value, bar.threshold)
    if bar.reached_by(value):
        return question.answer("passed", f"{question.key} {shown} {bar.sign} {limit}{bar.origin}", value=value, bar=bar)
    reason = f"{question.key} is {shown}, must be {bar.sign} {limit}{bar.origin}"
    return question.answer("failed", reason, value=value, bar=bar)


def _bar_over_baseline(metric: str, baseline: float, *, by: float | str | None, direction: Side) -> _Bar:
    """Without a margin the baseline itself is not enough: it must be beaten."""
    margin = abs(baseline) * float(by.removesuffix("%")) / 100 if isinstance(by, str) else float(by or 0)
    gain = margin if direction == "higher" else -margin
    told = by if isinstance(by, str) else f"{abs(margin):g}"
    change = f" {'+' if gain > 0 else '-'} {told}" if gain else ""
    origin = f" (baseline/{metric} {_with_digits(baseline, 4)}{change})"
    threshold = float(f"{baseline + gain:.12g}") if gain else baseline  # 0.7 - 0.2 is 0.5, not 0.49999999999999994
    return _Bar(threshold, direction, strict=gain == 0, origin=origin)


def _better_side(metric: str, objective: Objective) -> Side | None:
    if metric in COSTS:
        return "lower"
    if metric == objective.metric:
        goal = objective.direction
    elif metric in METRICS:
        goal = METRICS[metric].direction
    else:
        return None
    return "higher" if goal == "maximize" else "lower"


def _measured(value: object) -> float | None:
    """None for everything that is no finite number."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real) or not math.isfinite(value):
        return None
    return float(value)


def _why_not_measured(key: str, metrics: Mapping[str, float | None]) -> str:
    if metrics.get(key) is not None:
        return f"{key} could not be measured: it is {metrics[key]}, not a finite number"
    names = sorted(name for name, value in metrics.items() if _measured(value) is not None)
    alike = nearest(key, names)
    if alike:
        return f"{key} was not measured; did you mean {' or '.join(alike)}?"
    return f"{key} was not measured; measured: {', '.join(names) or 'nothing'}"


def _tell_apart(value: float, threshold: float) -> tuple[str, str]:
    """Both with as few digits, from 4 on, as show that they differ."""
    for digits in range(4, 18):
        shown, limit = _with_digits(value, digits), _with_digits(threshold, digits)
        if shown != limit or value == threshold:
            break
    return shown, limit


def _with_digits(value: float, digits: int) -> str:
    """Significant digits, but never fewer than stand before the point: 12346 rather than 1.235e+04."""
    return f"{value:.{max(digits, min(17, len(str(int(abs(value))))))}g}"
