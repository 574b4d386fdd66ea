"""What a gate says: a decision, the numbers behind it, and the reason in a sentence. Not here: how it is reached."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, Self, get_args

Side = Literal["higher", "lower"]
Decision = Literal["passed", "failed", "undecided"]

WORST_FIRST: Final[tuple[Decision, ...]] = ("failed", "undecided", "passed")


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found on some rows; the fields mean what they mean in `Verdict`."""

    verdict: Decision
    reason: str
    value: float | None = None
    threshold: float | None = None
    low: float | None = None
    high: float | None = None
    num_rows: int | None = None
    rows_to_decide: int | None = None


@dataclass(frozen=True, slots=True)
class SliceVerdict:
    """What was found on the rows with one value in the column; `slice` is None for those that lack it."""

    slice: str | None
    verdict: Decision
    reason: str
    num_rows: int
    value: float | None = None
    low: float | None = None
    high: float | None = None
    rows_to_decide: int | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a gate decided, and why.

    Attributes:
        value: of the metric; None where there was no finite number. With slices, that of the worst.
        threshold: what it had to reach: as configured, or the other's value moved by the margin.
        low, high: bounds of value minus the champion's value on the same rows.
        compared_with: the champion's name, or "baseline"; None where nothing was compared.
        num_rows: that a comparison, or the worst slice, rests on.
        rows_to_decide: roughly how many rows would have decided what stayed undecided.
        slices: one for each value of the column, the worst first.
    """

    name: str
    metric: str
    value: float | None
    threshold: float | None
    direction: Side | None
    verdict: Decision
    reason: str
    low: float | None = None
    high: float | None = None
    compared_with: str | None = None
    num_rows: int | None = None
    rows_to_decide: int | None = None
    slices: tuple[SliceVerdict, ...] = ()

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """From what `asdict` gave, read back from JSON; files from before comparisons and slices lack those fields.

        Raises:
            TypeError: fields that are missing, or of another version.
            ValueError: a decision that there is none of.
        """
        slices = tuple(SliceVerdict(**found) for found in data.get("slices", ()))
        verdict = cls(**{**data, "slices": slices})
        for decision in (verdict.verdict, *(found.verdict for found in slices)):
            if decision not in get_args(Decision):
                raise ValueError(f"a verdict is one of {', '.join(get_args(Decision))}, got {decision!r}")
        return verdict


@dataclass(frozen=True, slots=True)
class Question:
    """Which gate asks for which measurement (`key` is `<split>/<metric>`), and which way is good."""

    name: str
    key: str
    metric: str
    direction: Side

    def answer(
        self, finding: Finding, *, compared_with: str | None = None, slices: tuple[SliceVerdict, ...] = ()
    ) -> Verdict:
        """The verdict that the finding makes."""
        return Verdict(
            name=self.name,
            metric=self.key,
            value=finding.value,
            threshold=finding.threshold,
            direction=self.direction,
            verdict=finding.verdict,
            reason=finding.reason,
            low=finding.low,
            high=finding.high,
            compared_with=compared_with,
            num_rows=finding.num_rows,
            rows_to_decide=finding.rows_to_decide,
            slices=slices,
        )


def overall(verdicts: Iterable[Verdict]) -> Decision:
    """The worst of all: failed, then undecided; passed when there is none."""
    decisions = {verdict.verdict for verdict in verdicts}
    return next((decision for decision in WORST_FIRST if decision in decisions), "passed")
