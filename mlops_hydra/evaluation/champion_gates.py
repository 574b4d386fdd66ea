"""Gates against the champion: both models on the same rows, and the interval of their difference decides.

Passed is what lies wholly on the good side of the limit, failed what lies wholly on the other; the rest is undecided.
Slices are compared one by one at the same confidence: among many, one may fail by chance, but none passes by it. Not
here: the statistics (`comparison.py`).
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlops_hydra.config.gate import GateConfig
from mlops_hydra.evaluation.evidence import Evidence, Inquiry, Rows
from mlops_hydra.evaluation.thresholds import margin_of, moved
from mlops_hydra.evaluation.verdicts import Decision, Finding, Question
from mlops_hydra.evaluation.wording import interval, measured, num, tell_apart, with_digits

if TYPE_CHECKING:
    from mlops_hydra.evaluation.comparison import Comparison


def without_champion(gate: GateConfig, question: Question, evidence: Evidence, value: float) -> Finding | None:
    """What is said of a measured `value` where there is nothing to compare it with; None where there is."""
    told = f"{question.key} is {with_digits(value, 4)}"
    if evidence.no_champion:
        return Finding("failed", f"{told}, and the champion cannot be asked: {evidence.no_champion}", value)
    if evidence.champion is None:
        decision: Decision = "passed" if gate.if_no_champion == "pass" else "failed"
        reason = f"{told}, and there is no champion yet (if_no_champion: {gate.if_no_champion})"
        return Finding(decision, reason, value)
    if evidence.champion.is_candidate:
        return Finding("passed", f"{told}, and this model is the champion itself: nothing to compare it with", value)
    return None


def against_champion(gate: GateConfig, question: Question, inquiry: Inquiry, rows: Rows) -> Finding:
    """Whether the gain over the champion on these rows is enough.

    Raises:
        MlopsHydraError: the metric cannot be measured of one of them.
    """
    compared = _compared(question.metric, inquiry, rows)
    candidate = measured(compared.candidate)
    numbers = [measured(number) for number in (compared.champion, compared.low, compared.high)]
    if candidate is None or None in numbers:
        reason = f"{question.key} is {compared.candidate:.4g}, the champion's {compared.champion:.4g} on the same"
        reason += f" {num(len(rows), 'row')}: a difference of {compared.low:.3g} to {compared.high:.3g} decides nothing"
        return Finding("failed", reason, candidate, num_rows=len(rows))
    limit = _Limit.of(gate, question, compared.champion)
    decision = limit.decide(compared.low, compared.high)
    needed = compared.rows_to_decide(limit.difference) if decision == "undecided" else None
    reason = _reason(question, compared, limit, confidence=inquiry.evidence.confidence)
    if decision == "undecided":
        reason += f"; about {num(needed, 'row')} would decide" if needed else "; more rows like these may never decide"
    return Finding(
        decision,
        reason,
        value=candidate,
        threshold=moved(float(compared.champion), limit.difference, "higher"),
        low=float(compared.low),
        high=float(compared.high),
        num_rows=len(rows),
        rows_to_decide=needed,
    )


def _compared(metric: str, inquiry: Inquiry, rows: Rows) -> "Comparison":
    from mlops_hydra.evaluation.comparison import compare

    assert rows.champion is not None, "whoever compares has asked the champion"
    evidence = inquiry.evidence
    return compare(
        metric,
        inquiry.task,
        rows.targets,
        rows.candidate,
        rows.champion,
        function=evidence.functions.get(metric),
        resamples=evidence.resamples,
        confidence=evidence.confidence,
        seed=evidence.seed,
    )


@dataclass(frozen=True, slots=True)
class _Limit:
    """Where the difference, candidate minus champion in units of the metric, becomes good enough."""

    difference: float
    higher_is_better: bool
    strict: bool
    origin: str

    @classmethod
    def of(cls, gate: GateConfig, question: Question, champion: float) -> "_Limit":
        """Without a margin, better is anything above 0; a percentage is of the champion's value on these rows."""
        wish = gate.by if gate.better_than else gate.tolerance
        margin = margin_of(wish, champion)
        higher = question.direction == "higher"
        origin = f" ({wish} of {with_digits(abs(champion), 4)})" if isinstance(wish, str) else ""
        difference = margin if (gate.better_than is not None) == higher else -margin
        return cls(difference, higher, strict=gate.better_than is not None and margin == 0, origin=origin)

    @property
    def sign(self) -> str:
        """>=, >, <= or <."""
        return (">" if self.higher_is_better else "<") + ("" if self.strict else "=")

    def decide(self, low: float, high: float) -> Decision:
        """From the bounds of the difference."""
        bounds = (low - self.difference, high - self.difference)
        worst, best = bounds if self.higher_is_better else (-bounds[1], -bounds[0])
        if worst > 0 or (worst == 0 and not self.strict):
            return "passed"
        return "failed" if best < 0 or (best == 0 and self.strict) else "undecided"


def _reason(question: Question, compared: "Comparison", limit: _Limit, *, confidence: float) -> str:
    own, other = tell_apart(compared.candidate, compared.champion)
    difference, bar = interval(
        compared.candidate - compared.champion,
        compared.low,
        compared.high,
        limit=limit.difference,
        confidence=confidence,
    )
    told = f"{question.key} is {own}, the champion has {other} on the same {num(compared.num_rows, 'row')}"
    return f"{told}: {difference}, must be {limit.sign} {bar}{limit.origin}"
