"""Reports as a check makes them, made by hand: small, large, empty, and with everything wrong at once."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from mlops_hydra.monitoring.result import DriftReport, DriftResult, Picture

SCRIPT = "<script>alert(1)</script>"
HOSTILE = ("[red]income[/red]", SCRIPT, 'a" onload="alert(1)', "line\nbreak\x1b[31m", "", "http://example.org/?a=1&b=2")


def result(feature: str, verdict: str = "stable", **changes) -> DriftResult:
    """One numeric test of 10,000 rows against 100,000."""
    drifts = verdict == "drifted"
    made = DriftResult(
        feature,
        statistic=0.17 if drifts else 0.008,
        p_value=1e-30 if drifts else 0.4,
        is_drifted=drifts,
        verdict=verdict,
        adjusted_p=6e-29 if drifts else 0.82,
        effect=0.42 if drifts else 0.021,
        unit="spreads",
        min_effect=0.1,
        psi=0.14 if drifts else 0.002,
        detectable=0.052,
        num_reference=100_000,
        num_current=10_000,
        reason="the values moved by 0.42 spreads, and 0.1 matters" if drifts else "",
    )
    return replace(made, **changes)


def of_rows(feature: str, verdict: str, *, test: str, effect: float, reason: str, **changes) -> DriftResult:
    """A test of a share of rows."""
    own = {"test": test, "effect": effect, "unit": "of the rows", "min_effect": 0.01, "detectable": None, "psi": None}
    return result(feature, verdict, **(own | {"reason": reason} | changes))


def gone(feature: str) -> DriftResult:
    """A column that the current data lacks."""
    reason = "the column is missing in the current data"
    return DriftResult(feature, None, None, is_drifted=True, test="column", verdict="drifted", reason=reason)


def worse(growth: float = 0.31, verdict: str = "drifted") -> DriftResult:
    """The model's log loss."""
    reason = "the model errs more: log_loss grew from 0.412 to 0.54, by 31 %"
    own = {"test": "loss", "effect": growth, "unit": "growth", "reason": reason if verdict == "drifted" else ""}
    return result("log_loss", verdict, **own, part="performance", detectable=0.04, psi=None)


def unknown(feature: str, **changes) -> DriftResult:
    """A test that saw too few rows."""
    own = {"detectable": 0.31, "num_current": 120, "effect": 0.12, "reason": "120 rows are too few to see 0.1 spreads"}
    return result(feature, "undecided", **(own | changes))


def report(results: Sequence[DriftResult], **changes) -> DriftReport:
    """Sorted as a check sorts."""
    made = DriftReport(
        tuple(sorted(results, key=lambda each: each.severity)),
        alpha=0.05,
        num_reference_rows=100_000,
        num_current_rows=10_000,
        reference="what credit@champion was trained on",
        current="new.parquet",
        model={"name": "credit", "version": "7", "fingerprint": "3f2a91c04b7d", "run": None},
    )
    return replace(made, **changes)


def bells(shift: float, *, bins: int = 64) -> Picture:
    """A normal column with a spike at zero, whose continuous part moved by `shift` deviations."""
    rng = np.random.default_rng(0)
    before, now = rng.normal(50, 10, 20_000), rng.normal(50 + 10 * shift, 10, 5_000)
    before[::12], now[::9] = 30.0, 30.0
    inner = np.unique(np.concatenate([np.quantile(before, np.arange(1, bins) / bins), [30.0, np.nextafter(30, 0)]]))
    return of_values(before, now, np.unique([np.nextafter(before.min(), -np.inf), *inner, before.max()]))


def of_values(before: np.ndarray, now: np.ndarray, edges: np.ndarray, kind: str = "numeric") -> Picture:
    """Both counted over the same edges."""
    shares = [
        np.bincount(np.searchsorted(edges, values), minlength=len(edges) + 1) / max(len(values), 1)
        for values in (before, now)
    ]
    return Picture(kind, *shares, edges=edges)


def points(values: Sequence[float], before: Sequence[float], now: Sequence[float]) -> Picture:
    """Values with cells of their own; shares in order, with those of the two outer cells."""
    edges = np.unique([edge for value in values for edge in (np.nextafter(value, -np.inf), value)])
    shares = np.zeros((2, len(edges) + 1))
    cells = [0, *np.searchsorted(edges, values), len(edges)]
    shares[:, cells] = before, now
    return Picture("numeric", *shares, edges=edges)


def categories(labels: Sequence[str], before: Sequence[float], now: Sequence[float]) -> Picture:
    """Shares of categories."""
    return Picture("categorical", np.array(before), np.array(now), labels=tuple(labels))


def of_credit() -> DriftReport:
    """54 columns of which five drifted, two that cannot be told, and the model's outputs and losses."""
    tested = [result(f"feature_{number:02d}", effect=0.0005 * number) for number in range(46)]
    significant = result("balance", adjusted_p=0.003, effect=0.061)
    zips = of_rows(
        "zip_code", "drifted", test="chi_square", effect=0.083, min_effect=0.05, kind="categorical", psi=0.06,
        reason="8.3 % of the rows are in another category, and 5 % matters",
    )  # fmt: skip
    new = of_rows(
        "zip_code", "drifted", test="new_categories", effect=0.021, kind="categorical",
        reason="2.1 % of the rows have a category that training did not show: 90210 (120), 10001 (61), 73301 (29)",
    )  # fmt: skip
    missing = of_rows(
        "years_employed", "drifted", test="missing", effect=0.064, adjusted_p=2.4e-5,
        reason="7.1 % of the rows have no value, before 0.7 %",
    )  # fmt: skip
    old = of_rows(
        "number_of_open_credit_lines_at_other_banks_last_12_months", "drifted", test="range", effect=0.034,
        reason="3.4 % of the rows lie outside of 0 to 24, the range in training",
    )  # fmt: skip
    predicted = of_rows(
        "prediction", "drifted", test="chi_square", effect=0.11, min_effect=0.05, part="prediction",
        kind="categorical", reason="11 % of the rows are in another category, and 5 % matters",
    )  # fmt: skip
    others = [unknown("rare_flag"), unknown("signup_date", test="weekday", kind="date", unit="of the rows")]
    outputs = [predicted, result("confidence", part="prediction"), worse()]
    results = [*tested, significant, result("income", "drifted"), zips, new, missing, old, gone("branch"), *others]
    labels = [f"{10_000 + 37 * number}" for number in range(26)]
    shares = np.random.default_rng(1).dirichlet(np.ones(26), size=2)
    pictures = {
        ("feature", "income"): bells(0.42),
        ("feature", "zip_code"): categories(labels, *shares),
        ("feature", old.feature): points(range(13), [0, *[1 / 13] * 13, 0], [0, *[0.9 / 13] * 13, 0.1]),
        ("prediction", "prediction"): categories(["bad", "good"], [0.3, 0.7], [0.41, 0.59]),
    }
    notes = ("The current data has 1 column that is no feature: export_time.", "The profile is of 100,000 rows.")
    return report([*results, *outputs], notes=notes, false_alarms=0.032, pictures=pictures)


def of_faults() -> DriftReport:
    """Every fault of a table at once, in columns with hostile names."""
    tested = [result(name, "drifted", reason=f"{name} moved") for name in HOSTILE]
    long = gone("x" * 300)
    endless = result("endless", "drifted", effect=float("inf"), statistic=float("nan"), psi=float("inf"))
    pictures = {("feature", name): points([1.0], [0, 1, 0], [0, 0, 1]) for name in HOSTILE[1:2]}
    return report([*tested, long, endless], pictures=pictures, notes=(SCRIPT,), current=SCRIPT, model={SCRIPT: SCRIPT})
