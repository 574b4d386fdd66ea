"""The bootstrap behind gates against `scipy.stats.bootstrap`, on the same rows and as many resamples.

    python benchmarks/gates.py
    python benchmarks/gates.py --rounds 5

Wall-clock seconds; SciPy gets its vectorised percentile method where it has one, in batches that fit the memory, and
measures one metric a call, ours all of the task. The area under the ROC curve it can only call row set by row set.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from rounds import Ratio, interleaved, print_target
from scipy import stats

from mlops_hydra.config.section import Task
from mlops_hydra.evaluation.comparison import compare
from mlops_hydra.evaluation.curves import area_under_roc
from mlops_hydra.evaluation.intervals import bootstrap_intervals

NUM_RESAMPLES = 2000
BATCH = 50  # resamples at a time: 40 MB of positions at 100,000 rows

Rows = tuple[NDArray[np.int64] | NDArray[np.float64], NDArray[np.float64]]


def rows_of(task: Task, num_rows: int, num_classes: int = 2, seed: int = 0) -> Rows:
    """Targets and predictions that know something about them."""
    rng = np.random.default_rng(seed)
    if task == "regression":
        values = rng.normal(size=num_rows)
        return values, values + rng.normal(scale=0.5, size=num_rows)
    targets = rng.integers(0, num_classes, num_rows)
    logits = rng.normal(size=(num_rows, num_classes))
    logits[np.arange(num_rows), targets] += 1.5
    return targets, np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)


def ours(task: Task, rows: Rows) -> Callable[[], float]:
    """Seconds of intervals of every metric of the task."""
    return timed(lambda: bootstrap_intervals(task, *rows, resamples=NUM_RESAMPLES))


def scipys(statistic: Callable[..., object], *samples: NDArray[np.generic], vectorized: bool) -> Callable[[], float]:
    """Seconds of SciPy's interval of one metric."""
    return timed(
        lambda: stats.bootstrap(
            samples,
            statistic,
            paired=True,
            vectorized=vectorized,
            n_resamples=NUM_RESAMPLES,
            batch=BATCH if vectorized else 1,
            method="percentile",
            rng=np.random.default_rng(0),
        )
    )


def timed(work: Callable[[], object]) -> Callable[[], float]:
    """The same work, returning how many seconds it took."""

    def measure() -> float:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    return measure


def accuracy(hits: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    """Of hits (0 or 1)."""
    return hits.mean(axis=axis)


def rmse(errors: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    """Of errors in units of the target."""
    return np.sqrt((errors**2).mean(axis=axis))


def roc_auc(targets: NDArray[np.int64], chances: NDArray[np.float64]) -> float:
    """Of the positive class."""
    return area_under_roc(targets == 1, chances)


def against_scipy(num_rows: int, num_ranked: int, rounds: int) -> None:
    """Tables for two tasks of many rows, and for an area of fewer."""
    targets, chances = rows_of("binary", num_rows)
    values, predicted = rows_of("regression", num_rows)
    ranked, ranked_chances = rows_of("binary", num_ranked)
    hits = (chances.argmax(axis=1) == targets).astype(np.float64)
    duels = {
        f"binary, {num_rows:,} rows: all 7 / SciPy's accuracy": (
            ours("binary", (targets, chances)),
            scipys(accuracy, hits, vectorized=True),
        ),
        f"regression, {num_rows:,} rows: all 3 / SciPy's rmse": (
            ours("regression", (values, predicted)),
            scipys(rmse, predicted - values, vectorized=True),
        ),
        f"binary, {num_ranked:,} rows: all 7 / SciPy's roc_auc": (
            ours("binary", (ranked, ranked_chances)),
            scipys(roc_auc, ranked, ranked_chances[:, 1], vectorized=False),
        ),
    }
    for what, (mine, theirs) in duels.items():
        measured = interleaved({"ours": mine, "SciPy": theirs}, rounds)
        seconds = {name: statistics.median(times) for name, times in measured.items()}
        print(f"\n{what}")
        print(f"  ours {seconds['ours']:.3f} s, SciPy {seconds['SciPy']:.3f} s, {rounds} rounds")
        print_target("SciPy / ours", Ratio.of(measured["SciPy"], measured["ours"]), ">=", 1)
        if what.startswith(f"binary, {num_rows:,}"):
            absolute = Ratio.of(measured["ours"], [1.0] * rounds)
            print_target("seconds for all metrics of 100,000 rows", absolute, "<=", 2)


def by_size(rounds: int) -> None:
    """What an experiment pays after training, and what a comparison with the champion costs."""
    kinds: tuple[tuple[Task, int], ...] = (("binary", 2), ("multiclass", 10), ("regression", 1))
    print(f"\nmilliseconds by rows, median of {rounds} rounds")
    for task, num_classes in kinds:
        for num_rows in (200, 10_000, 100_000):
            rows = rows_of(task, num_rows, num_classes)
            times = interleaved({"ours": ours(task, rows)}, rounds)["ours"]
            print(f"  {task:<12} {num_classes:>3} classes {num_rows:>8,} rows {statistics.median(times) * 1e3:9.1f}")
    targets, candidate = rows_of("binary", 5000)
    champion = (candidate + np.random.default_rng(1).dirichlet([5, 5], size=5000)) / 2
    for metric in ("accuracy", "log_loss", "roc_auc"):
        work = timed(lambda metric=metric: compare(metric, "binary", targets, candidate, champion))
        times = interleaved({"compare": work}, rounds)["compare"]
        print(f"  comparison by {metric:<9} {5000:>8,} rows {statistics.median(times) * 1e3:18.1f}")


def main() -> None:
    """Read the arguments and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--ranked-rows", type=int, default=10_000, help="where SciPy calls a function per resample")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    against_scipy(arguments.rows, arguments.ranked_rows, arguments.rounds)
    by_size(arguments.rounds)


if __name__ == "__main__":
    main()
