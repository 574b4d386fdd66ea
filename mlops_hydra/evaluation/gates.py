"""Quality gates: whether a result is good enough, and why.

`judge` is what an experiment calls with its configured gates; `check_gates` is the short form for a script. Both fail
closed: what was not measured, or is not finite, never passes. Not here: measuring, and loading what to compare with.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Final

from mlops_hydra.config.gate import GateConfig
from mlops_hydra.config.objective import COSTS, METRICS, Objective
from mlops_hydra.config.section import Task
from mlops_hydra.errors import Fault, MlopsHydraError, UsageError, nearest
from mlops_hydra.evaluation.thresholds import Threshold, over_baseline
from mlops_hydra.evaluation.verdicts import Decision, Finding, Question, Side, SliceVerdict, Verdict, overall
from mlops_hydra.evaluation.wording import in_a_line, measured, why_not_measured

if TYPE_CHECKING:
    from mlops_hydra.evaluation.evidence import Evidence, Inquiry, Rows

__all__ = ("QualityGate", "Verdict", "check_gates", "judge", "overall")

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
        if measured(self.threshold) is None:
            faults.append(Fault("QualityGate.threshold", "a finite number", self.threshold))
        if self.direction not in _SIDES:
            alike = nearest(str(self.direction), _SIDES)
            faults.append(Fault("QualityGate.direction", "higher or lower", self.direction, alike))
        if faults:
            raise UsageError(faults)


def check_gates(metrics: Mapping[str, float], gates: Sequence[QualityGate]) -> list[str]:
    """One sentence for each gate that failed; empty when all passed."""
    findings = [_reached(gate.metric, metrics, Threshold(gate.threshold, gate.direction)) for gate in gates]
    return [finding.reason for finding in findings if finding.verdict != "passed"]


def judge(
    gates: Mapping[str, GateConfig],
    metrics: Mapping[str, float | None],
    *,
    task: Task,
    objective: Objective,
    evidence: "Evidence | None" = None,
) -> tuple[Verdict, ...]:
    """The verdict of each gate that is meant for the task, in the order of `gates`.

    Args:
        metrics: named `<split>/<metric>`, `baseline/<metric>` (of the test split), or like `latency_p95_ms`.
        evidence: the rows, which slices and comparisons with the champion need; without it such gates fail.
    """
    from mlops_hydra.evaluation.evidence import Inquiry

    inquiry = Inquiry(evidence, task) if evidence else None
    return tuple(
        _judge_one(name, gate, metrics, objective, inquiry)
        for name, gate in gates.items()
        if gate.tasks is None or task in gate.tasks
    )


def _judge_one(
    name: str,
    gate: GateConfig,
    metrics: Mapping[str, float | None],
    objective: Objective,
    inquiry: "Inquiry | None",
) -> Verdict:
    metric = objective.metric if gate.metric == "objective" else gate.metric
    key = metric if metric in COSTS else f"{gate.on}/{metric}"
    direction = gate.direction or _better_side(metric, objective)
    if direction is None:
        reason = f"which side is good is not known for {metric}: set gates.{name}.direction to higher or lower"
        return Verdict(name, key, None, gate.threshold, None, "failed", reason)
    question = Question(name, key, metric, direction)
    value = measured(metrics.get(key))
    if value is None:
        return question.answer(Finding("failed", why_not_measured(key, metrics), threshold=gate.threshold))
    if gate.slice is not None or gate.needs_champion:
        return _judge_rows(gate, question, value, inquiry)
    if gate.threshold is not None:
        return question.answer(Threshold(gate.threshold, direction).judge(key, value))
    baseline = metrics.get(f"baseline/{metric}")
    return question.answer(_over_baseline(question, value, baseline, by=gate.by), compared_with="baseline")


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


def _reached(key: str, metrics: Mapping[str, float | None], threshold: Threshold) -> Finding:
    value = measured(metrics.get(key))
    if value is None:
        return Finding("failed", why_not_measured(key, metrics), threshold=threshold.value)
    return threshold.judge(key, value)


def _over_baseline(question: Question, value: float, baseline: object, *, by: float | str | None) -> Finding:
    number = measured(baseline)
    if number is None:
        reason = f"the baseline has no finite baseline/{question.metric} to compare with: give a threshold instead"
        return Finding("undecided", reason, value)
    threshold = over_baseline(question.metric, number, by=by, direction=question.direction)
    return threshold.judge(question.key, value)


def _judge_rows(gate: GateConfig, question: Question, value: float, inquiry: "Inquiry | None") -> Verdict:
    """A gate on slices or against the champion; `value` is that of all rows."""
    if inquiry is None:
        reason = f"{question.key} needs the rows of {gate.on} to be judged, and only numbers are at hand"
        return question.answer(Finding("failed", reason, value, gate.threshold))
    champion = inquiry.evidence.champion if gate.needs_champion else None
    try:
        finding, slices = _found(gate, question, value, inquiry)
    except MlopsHydraError as error:
        finding, slices = Finding("failed", in_a_line(error), value, gate.threshold), ()
    return question.answer(_settled(gate, finding), compared_with=champion.name if champion else None, slices=slices)


def _found(
    gate: GateConfig, question: Question, value: float, inquiry: "Inquiry"
) -> tuple[Finding, tuple[SliceVerdict, ...]]:
    """What decides, and each slice if there are any.

    Raises:
        MlopsHydraError: rows, column or champion are not what they should be.
    """
    from mlops_hydra.evaluation.champion_gates import without_champion
    from mlops_hydra.evaluation.slice_gates import judge_slices

    slices = None if gate.slice is None else inquiry.slices(gate.on, gate.slice)
    if gate.needs_champion and (said := without_champion(gate, question, inquiry.evidence, value)) is not None:
        return said, ()
    rows = inquiry.paired(gate.on) if gate.needs_champion else inquiry.rows(gate.on)
    look = partial(_look, gate, question, inquiry)
    if gate.slice is None or slices is None:
        return look(rows), ()
    return judge_slices(gate.slice, slices, lambda index: look(rows.only(index)), question.direction)


def _look(gate: GateConfig, question: Question, inquiry: "Inquiry", rows: "Rows") -> Finding:
    """One line of reasoning, on all rows or on a slice of them.

    Raises:
        MlopsHydraError: the metric cannot be measured on them.
    """
    from mlops_hydra.evaluation.champion_gates import against_champion

    if len(rows) < gate.min_rows:
        reason = f"too few rows to judge {question.key}: {len(rows)}, needs at least {gate.min_rows}"
        return Finding("undecided", reason, num_rows=len(rows), rows_to_decide=gate.min_rows)
    if gate.needs_champion:
        return against_champion(gate, question, inquiry, rows)
    assert gate.threshold is not None, "the configuration refuses slices against the baseline"
    metrics = {question.key: inquiry.value(question.metric, rows)}
    return _reached(question.key, metrics, Threshold(gate.threshold, question.direction))


def _settled(gate: GateConfig, finding: Finding) -> Finding:
    """What the gate makes of a finding that more rows would have decided."""
    if finding.verdict != "undecided" or gate.if_undecided is None:
        return finding
    decision: Decision = "passed" if gate.if_undecided == "pass" else "failed"
    reason = f"undecided, which this gate lets {gate.if_undecided} (if_undecided): {finding.reason}"
    return replace(finding, verdict=decision, reason=reason)
