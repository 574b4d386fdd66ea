"""A number that a metric must reach: written down, or the baseline's moved by a margin."""

from dataclasses import dataclass

from mlops_hydra.evaluation.verdicts import Finding, Side
from mlops_hydra.evaluation.wording import tell_apart, with_digits


@dataclass(frozen=True, slots=True)
class Threshold:
    """What must be reached; `origin` says how the value came about where nobody wrote it down."""

    value: float
    direction: Side
    strict: bool = False
    origin: str = ""

    @property
    def sign(self) -> str:
        """>=, >, <= or <."""
        return {"higher": ">", "lower": "<"}[self.direction] + ("" if self.strict else "=")

    def gain_of(self, value: float) -> float:
        """How far `value` lies on the good side; negative on the other."""
        return value - self.value if self.direction == "higher" else self.value - value

    def judge(self, key: str, value: float) -> Finding:
        """Whether the measurement `key` reaches it."""
        gain = self.gain_of(value)
        shown, limit = tell_apart(value, self.value)
        if gain > 0 or (gain == 0 and not self.strict):
            reason = f"{key} {shown} {self.sign} {limit}{self.origin}"
            return Finding("passed", reason, value, self.value)
        return Finding("failed", f"{key} is {shown}, must be {self.sign} {limit}{self.origin}", value, self.value)


def over_baseline(metric: str, baseline: float, *, by: float | str | None, direction: Side) -> Threshold:
    """Without a margin the baseline itself is not enough: it must be beaten."""
    margin = margin_of(by, baseline)
    told = by if isinstance(by, str) else f"{margin:g}"
    change = f" {'+' if direction == 'higher' else '-'} {told}" if margin else ""
    origin = f" (baseline/{metric} {with_digits(baseline, 4)}{change})"
    return Threshold(moved(baseline, margin, direction), direction, strict=margin == 0, origin=origin)


def margin_of(margin: float | str | None, other: float) -> float:
    """In units of the metric: 0.05 is itself, '10%' a tenth of the size of `other`."""
    return abs(other) * float(margin.removesuffix("%")) / 100 if isinstance(margin, str) else float(margin or 0)


def moved(value: float, margin: float, direction: Side) -> float:
    """`value`, better by `margin`; 0.7 - 0.2 is 0.5, not 0.49999999999999994."""
    return float(f"{value + (margin if direction == 'higher' else -margin):.12g}") if margin else value
