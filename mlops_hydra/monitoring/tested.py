"""A test that was carried out, before anybody knows what the others say: what becomes a `DriftResult`."""

from dataclasses import dataclass
from typing import Final

from mlops_hydra.monitoring.profile import ColumnProfile
from mlops_hydra.monitoring.result import DriftResult, Part, Test, Verdict

SPREADS: Final = "spreads"
OF_ROWS: Final = "of the rows"
GROWTH: Final = "growth"


@dataclass(slots=True, kw_only=True)
class Tested:
    """As the fields of `DriftResult`; `must_see`: an effect that it has to be able to find, if there is one.

    `column` is None where it is about the model's errors.
    """

    name: str
    part: Part
    test: Test
    column: ColumnProfile | None
    sizes: tuple[int, int]
    statistic: float | None
    p_value: float | None
    effect: float | None
    unit: str
    min_effect: float
    psi: float | None = None
    detectable: float | None = None
    must_see: float | None = None
    adjusted_p: float | None = None

    def verdict(self, alpha: float) -> Verdict:
        """At a false discovery rate of `alpha`."""
        if self.p_value is None:
            return "undecided"
        if self.adjusted_p is not None and self.adjusted_p < alpha:
            effect = self.effect or 0.0
            return "drifted" if effect > 0 and effect >= self.min_effect else "stable"
        is_blind = self.must_see is not None and (self.detectable is None or self.detectable > self.must_see)
        return "undecided" if is_blind else "stable"

    def result(self, verdict: Verdict, reason: str) -> DriftResult:
        """With what is known in the end."""
        return DriftResult(
            self.name,
            self.statistic,
            self.p_value,
            is_drifted=verdict == "drifted",
            test=self.test,
            verdict=verdict,
            adjusted_p=self.adjusted_p,
            effect=self.effect,
            unit=self.unit,
            min_effect=self.min_effect,
            psi=self.psi,
            detectable=self.detectable,
            num_reference=self.sizes[0],
            num_current=self.sizes[1],
            reason=reason,
            kind="numeric" if self.column is None else self.column.kind,
            part=self.part,
        )
