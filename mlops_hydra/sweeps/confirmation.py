"""Whether the best of a study is better or was lucky: the best few are trained again over new seeds and compared.

Every candidate gets the same seeds, so differences are taken pair by pair.
"""

import hashlib
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from optuna.distributions import CategoricalDistribution
from optuna.trial import FrozenTrial, TrialState

from mlops_hydra.config.fingerprint import canonical_json
from mlops_hydra.config.frozen import FrozenMap, Target
from mlops_hydra.config.search import ConfirmConfig
from mlops_hydra.config.section import Direction
from mlops_hydra.sweeps.plan import GRID, Plan
from mlops_hydra.sweeps.space import Space, as_overrides

LEVEL: Final = 0.05
"""Of the test that decides whether a difference is called more than luck."""
SAME: Final = 1e-9  # of a difference: what rounding makes of equal ones


@dataclass(frozen=True, slots=True)
class Candidate:
    """A trial of the study, and its values over the new seeds (NaN where a run failed).

    `behind` is how much worse than the winner it is on average, in units of the objective; `p_value` that of a paired
    t-test, corrected for the number of pairs (Holm), NaN where it cannot be computed. Of the winner: 0 and NaN.
    """

    number: int
    overrides: tuple[str, ...]
    values: tuple[float, ...]
    behind: float = 0.0
    p_value: float = math.nan

    @property
    def mean(self) -> float:
        """Over the runs that came to their end; NaN if there is none."""
        finite = self._finite()
        return float(np.mean(finite)) if finite else math.nan

    @property
    def deviation(self) -> float:
        """Standard deviation of a single run; NaN for fewer than two."""
        finite = self._finite()
        return float(np.std(finite, ddof=1)) if len(finite) > 1 else math.nan

    def _finite(self) -> list[float]:
        return [value for value in self.values if math.isfinite(value)]

    @property
    def verdict(self) -> str:
        """Whether the winner is better than this one by more than luck."""
        if math.isnan(self.p_value):
            return ""
        return "worse than the winner" if self.p_value < LEVEL else "may be as good as the winner"

    def as_row(self) -> dict[str, Any]:
        """For a table and for `result.json`."""
        return {
            "trial": self.number,
            "mean": self.mean,
            "deviation": self.deviation,
            "runs": len(self._finite()),
            "behind": self.behind,
            "p": self.p_value,
            "verdict": self.verdict,
            "overrides": " ".join(self.overrides),
        }


def candidates_of(ranked: Sequence[FrozenTrial], top_k: int) -> list[FrozenTrial]:
    """The best trials, each point once."""
    chosen: dict[str, FrozenTrial] = {}
    for trial in ranked:
        chosen.setdefault(canonical_json(trial.params), trial)
    return list(chosen.values())[:top_k]


def confirmation_plan(plan: Plan, chosen: Sequence[FrozenTrial], asked: ConfirmConfig) -> Plan:
    """The study of candidates by seeds: a grid, which is interrupted, continued and shared like any other."""
    seeds = [plan.seed + 1 + number for number in range(asked.seeds)]
    distributions = {
        "candidate": CategoricalDistribution(list(range(len(chosen)))),
        "seed": CategoricalDistribution(seeds),
    }
    identity = {**plan.identity, "candidates": [as_overrides(trial.params) for trial in chosen], "seeds": seeds}
    digest = hashlib.sha256(canonical_json(identity).encode()).hexdigest()[:6]
    return replace(
        plan,
        name=f"{plan.name}-confirm-{digest}",
        total=len(chosen) * len(seeds),
        space=Space(distributions),
        sampler=Target(GRID, FrozenMap({})),
        pruner=None,
        identity=identity,
        max_failure_rate=1.0,
        custom_search_space=None,
    )


def compared(chosen: Sequence[FrozenTrial], trials: Sequence[FrozenTrial], direction: Direction) -> list[Candidate]:
    """The candidates, the winner first: the best mean over the seeds on which all of its runs ended."""
    by_seed: dict[int, dict[int, float]] = {}
    for trial in trials:
        if trial.state == TrialState.COMPLETE and trial.value is not None:
            by_seed.setdefault(trial.params["candidate"], {})[trial.params["seed"]] = trial.value
    seeds = sorted({trial.params["seed"] for trial in trials if "seed" in trial.params})
    found = [
        Candidate(
            trial.number,
            tuple(as_overrides(trial.params)),
            tuple(by_seed.get(index, {}).get(seed, math.nan) for seed in seeds),
        )
        for index, trial in enumerate(chosen)
    ]
    sign = 1 if direction == "minimize" else -1
    found.sort(key=lambda one: (sum(map(math.isnan, one.values)), sign * one.mean if one._finite() else math.inf))
    return _against_the_first(found, sign)


def _against_the_first(found: Sequence[Candidate], sign: int) -> list[Candidate]:
    """All pairs count in the correction, because the same numbers decided which is the first.

    With the pairs of the first alone, one of ten equal candidates was called worse in 10 % of 4,000 simulations.
    """
    pairs = list(itertools.combinations(found, 2))
    tested = [_paired(one.values, other.values, sign) for one, other in pairs]
    corrected = _holm([p for _, p in tested])
    winner, *others = found  # whose pairs come first
    against = zip(others, tested, corrected, strict=False)
    return [winner, *(replace(one, behind=behind, p_value=p) for one, (behind, _), p in against)]


def _paired(winner: Sequence[float], other: Sequence[float], sign: int) -> tuple[float, float]:
    """Mean difference and two-sided p-value over the seeds that both have.

    Where all differences are the same a t-test knows no spread, and the signs decide: 2 / 2**n, or 1 for equal values.
    """
    from scipy import stats

    pairs = [(a, b) for a, b in zip(winner, other, strict=True) if math.isfinite(a) and math.isfinite(b)]
    differences = np.array([sign * (b - a) for a, b in pairs])
    if not len(differences):
        return math.nan, math.nan
    if len(differences) < 2:
        return float(differences.mean()), math.nan
    if np.ptp(differences) <= SAME * np.abs(differences).max():
        return float(differences.mean()), 2 / 2 ** len(differences) if differences.any() else 1.0
    return float(differences.mean()), float(stats.ttest_1samp(differences, 0.0).pvalue)


def _holm(p_values: Sequence[float]) -> list[float]:
    """Holm's correction for several comparisons; NaN stays."""
    order = sorted((p, index) for index, p in enumerate(p_values) if not math.isnan(p))
    corrected, largest = list(p_values), 0.0
    for rank, (p, index) in enumerate(order):
        largest = max(largest, min(1.0, p * (len(order) - rank)))
        corrected[index] = largest
    return corrected


def rows(candidates: Sequence[Candidate]) -> list[Mapping[str, Any]]:
    """For people and programs."""
    return [candidate.as_row() for candidate in candidates]
