"""The answer of an A/B test, as a program gets it: `result.json`. Not here: how it comes about, and words."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from mlops_hydra.config.section import Direction
from mlops_hydra.serving.ab.effect import MISMATCH_BELOW, Effect, Mismatch, Sample

Verdict = Literal["better", "worse", "open", "untrustworthy"]
Status = Literal["judged", "too_few", "nothing"]
NOT_JUDGED = 4


@dataclass(frozen=True, slots=True)
class Arm:
    """Who saw it: `expected` share of the units, `outcomes` of those that have one, and when each version was first."""

    num_units: int
    expected: float
    outcomes: Sample
    versions: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class DayEffect:
    """The effects by treatment at one look, `time` in us since 1970."""

    time: int
    exposed: Mapping[str, int]
    effects: Mapping[str, Effect]


@dataclass(frozen=True, slots=True)
class AbResult:
    """What the test says, at the last of `days`, since `first` (us since 1970).

    `has_times`: a day has what was known on it, else what is known now of those who were exposed by then.
    """

    name: str
    outcome: str
    unit: str
    control: str
    direction: Direction
    confidence: float
    planned_users: int
    arms: Mapping[str, Arm]
    mismatch: Mismatch
    days: tuple[DayEffect, ...]
    is_binary: bool = False
    has_times: bool = False
    first: int | None = None
    left_out: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    sentence: str = ""

    @property
    def effects(self) -> Mapping[str, Effect]:
        """By treatment, as of now."""
        return self.days[-1].effects if self.days else {}

    @property
    def num_units(self) -> int:
        """In all arms."""
        return sum(arm.num_units for arm in self.arms.values())

    @property
    def units(self) -> str:
        """What was counted."""
        return f"{self.unit}s"

    @property
    def status(self) -> Status:
        """Whether there is an interval for some treatment."""
        if not self.days:
            return "nothing"
        return "judged" if any(effect.is_judged for effect in self.effects.values()) else "too_few"

    def verdict_of(self, arm: str) -> Verdict:
        """Of one treatment."""
        if self.mismatch.is_found:
            return "untrustworthy"
        sign = self.effects[arm].sign * (1 if self.direction == "maximize" else -1)
        return "open" if not sign else "better" if sign > 0 else "worse"

    @property
    def verdict(self) -> Verdict:
        """`better` if some treatment is, `worse` if all are."""
        found: set[Verdict] = {self.verdict_of(arm) for arm in self.effects}
        if self.mismatch.is_found:
            return "untrustworthy"
        return "better" if "better" in found else "worse" if found == {"worse"} else "open"

    @property
    def exit_code(self) -> int:
        """0 where something could be said, else 4."""
        return 0 if self.status == "judged" and self.verdict != "untrustworthy" else NOT_JUDGED

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "name": self.name,
            "status": self.status,
            "verdict": self.verdict,
            "sentence": self.sentence,
            "outcome": self.outcome,
            "unit": self.unit,
            "control": self.control,
            "direction": self.direction,
            "confidence": self.confidence,
            "planned_users": self.planned_users,
            "first": None if self.first is None else _text(self.first),
            "last": _text(self.days[-1].time) if self.days else None,
            "arms": {name: _arm(arm, self.num_units) for name, arm in self.arms.items()},
            "srm": {
                "p": self.mismatch.p,
                "threshold": MISMATCH_BELOW,
                "statistic": self.mismatch.statistic,
                "single_look_p": self.mismatch.single_look_p,
            },
            "effects": {arm: {**_effect(each), "verdict": self.verdict_of(arm)} for arm, each in self.effects.items()},
            "left_out": dict(self.left_out),
            "notes": list(self.notes),
            "warnings": list(self.warnings),
            "days": [
                {
                    "until": _text(day.time),
                    "units": dict(day.exposed),
                    "effects": {arm: _effect(each) for arm, each in day.effects.items()},
                }
                for day in self.days
            ],
        }


def _arm(arm: Arm, total: int) -> dict[str, Any]:
    return {
        "units": arm.num_units,
        "share": arm.num_units / total if total else None,
        "expected_share": arm.expected,
        "with_outcome": arm.outcomes.num_units,
        "mean": arm.outcomes.mean,
        "variance": arm.outcomes.variance,
        "versions": {version: _text(time) for version, time in arm.versions.items()},
    }


def _effect(effect: Effect) -> dict[str, Any]:
    names = ("difference", "low", "high", "relative", "relative_low", "relative_high", "detectable", "detectable_later")
    return {name: getattr(effect, name) for name in names}


def _text(microseconds: int) -> str:
    return datetime.fromtimestamp(microseconds / 1e6, UTC).isoformat()
