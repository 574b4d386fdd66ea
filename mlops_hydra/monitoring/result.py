"""What a check for drift found: one result for each test of each column, and all of them together as a report.

Not here: how it comes about (`judging.py`), and words and pictures for people.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal, overload

import numpy as np
from numpy.typing import NDArray

from mlops_hydra import errors

Verdict = Literal["drifted", "stable", "undecided"]
Part = Literal["feature", "prediction", "performance"]
Test = Literal["ks", "chi_square", "weekday", "missing", "unreadable", "range", "new_categories", "column", "loss"]
"""ks, chi_square and weekday compare the values; missing, unreadable, range and new_categories the shares of rows whose
value is missing, cannot be read, lies outside of the training range, or is a category that training did not show.
column: the column itself is missing, or there are no rows. loss: the model errs more."""

EXIT_CODES: Final = {"stable": 0, "undecided": errors.EXIT_CODES["undecided"], "drifted": errors.DRIFTED}


@dataclass(frozen=True, slots=True)
class DriftResult:
    """One test of one column.

    `effect` is in `unit`, and counts from `min_effect` on; `detectable` is the smallest one that would have been found
    in 4 of 5 such samples. `adjusted_p` is Benjamini and Hochberg's, over all tests of the check. What was not measured
    is None.
    """

    feature: str
    statistic: float | None
    p_value: float | None
    is_drifted: bool
    test: Test = "ks"
    verdict: Verdict = "stable"
    adjusted_p: float | None = None
    effect: float | None = None
    unit: str = ""
    min_effect: float | None = None
    psi: float | None = None
    detectable: float | None = None
    num_reference: int = 0
    num_current: int = 0
    reason: str = ""
    kind: str = "numeric"
    part: Part = "feature"

    @property
    def severity(self) -> tuple[int, float, float]:
        """Sorts the worst first: by verdict, by the effect in units of what matters, by p."""
        order = {"drifted": 0, "undecided": 1, "stable": 2}[self.verdict]
        times = (self.effect or 0.0) / self.min_effect if self.min_effect else 0.0
        lost = self.test == "column" and self.is_drifted
        return order, -np.inf if lost else -times, 1.0 if self.p_value is None else self.p_value


@dataclass(frozen=True, slots=True)
class Picture:
    """Both distributions of a column, as shares of the rows that have a value.

    Numbers and dates (days since 1970): `edges` [k], and shares [k+1] of the cells (-inf, edges[0]], ...,
    (edges[k-1], inf). Categories: `labels`, and their shares.
    """

    kind: str
    reference: NDArray[np.float64]
    current: NDArray[np.float64]
    edges: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class DriftReport(Sequence[DriftResult]):
    """All results, the worst first. Those of a share that is zero on both sides are counted in `num_tests` alone.

    `false_alarms`: the share of checks of this size that would report a column although nothing drifted, where it was
    estimated. `pictures`: of the columns that drifted, by (part, name). `reference` and `current` say what was
    compared, in words.
    """

    results: tuple[DriftResult, ...]
    alpha: float
    num_reference_rows: int
    num_current_rows: int
    num_tests: int = 0
    notes: tuple[str, ...] = ()
    false_alarms: float | None = None
    pictures: Mapping[tuple[str, str], Picture] = field(default_factory=dict)
    model: Mapping[str, str | None] = field(default_factory=dict)
    reference: str = ""
    current: str = ""

    @overload
    def __getitem__(self, index: int) -> DriftResult: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[DriftResult, ...]: ...
    def __getitem__(self, index: int | slice) -> DriftResult | tuple[DriftResult, ...]:
        return self.results[index]

    def __len__(self) -> int:
        return len(self.results)

    def __iter__(self) -> Iterator[DriftResult]:
        return iter(self.results)

    @property
    def drifted(self) -> tuple[str, ...]:
        """Names of the columns that drifted, the worst first, each once."""
        return tuple(dict.fromkeys(result.feature for result in self.results if result.is_drifted))

    @property
    def verdict(self) -> Verdict:
        """`drifted` if anything is, `undecided` if something could not be told, else `stable`."""
        found = {result.verdict for result in self.results}
        return "drifted" if "drifted" in found else "undecided" if "undecided" in found or not found else "stable"

    @property
    def exit_code(self) -> int:
        """0, 4 or 5."""
        return EXIT_CODES[self.verdict]

    def to_json(self) -> dict[str, Any]:
        """Plain values, without the pictures."""
        return {
            "verdict": self.verdict,
            "drifted": list(self.drifted),
            "model": dict(self.model),
            "reference": {"what": self.reference, "rows": self.num_reference_rows},
            "current": {"what": self.current, "rows": self.num_current_rows},
            "alpha": self.alpha,
            "tests": self.num_tests,
            "false_alarms": self.false_alarms,
            "results": [asdict(result) for result in self.results],
            "notes": list(self.notes),
        }
