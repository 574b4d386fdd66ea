"""Bootstrap resamples as weights of rows, the metrics of `metrics.py` under them, and intervals from their values.

    weights       [rows, resamples]  float32: how often a row was drawn; each column adds up to the number of rows
    values        [resamples]        float64: a metric in each resample, NaN where it is undefined there

A resample is never more than a column of weights, and weights exist for a few resamples at a time. Not here: what is
resampled for, and metrics of the user's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from mlops_hydra.config.section import Task
from mlops_hydra.evaluation.curves import NUM_BINS
from mlops_hydra.evaluation.metrics import _SMALLEST_PROBABILITY

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Weights = NDArray[np.float32]
Values = NDArray[np.float64]

_CHUNK: Final = 1 << 21  # weights at a time: 8 MiB stay in the cache of a core or near it
_FEWEST: Final = 8  # resamples at a time, however many rows
_WORDS: Final = 1 << 14  # random numbers of 64 bits at a time: 128 KiB
_SMALL_PRODUCT: Final = 9216  # weights: for more, OpenBLAS starts threads, which wait for each other on a busy machine


def in_resamples(
    measure: Callable[[Weights], dict[str, Values]], num_rows: int, *, resamples: int, seed: int
) -> dict[str, Values]:
    """What `measure` says of weights `[rows, few]`, put together for all resamples; the same on every call.

    One after the other: two threads were no faster, because SciPy's sparse products hold the interpreter lock.
    """
    rng = np.random.Generator(np.random.SFC64(seed))
    size = max(_FEWEST, _CHUNK // num_rows // _FEWEST * _FEWEST)
    sizes = [min(size, resamples - start) for start in range(0, resamples, size)]
    chunks = [measure(draw_weights(rng, num_rows, size)) for size in sizes]
    return {name: np.concatenate([chunk[name] for chunk in chunks]) for name in chunks[0]}


def draw_weights(rng: np.random.Generator, num_rows: int, resamples: int) -> Weights:
    """Multinomial counts, n of n with replacement, `[rows, resamples]`.

    Independent Poisson counts with a mean a little below 1, topped up with rows drawn one by one until there are n:
    given how many there were before, both are multinomial, and so is their sum (Kingman, Poisson Processes, 1993,
    section 2.2). The Poisson probabilities are rounded to 16 bits. 5x as fast as drawing every row.
    """
    mean = max(0.0, 1 - 6 / math.sqrt(num_rows))  # six deviations: more than n is one in a billion, and drawn again
    while True:
        weights = _poisson(rng, mean, num_rows * resamples).reshape(num_rows, resamples)
        missing = num_rows - _product(np.ones((1, num_rows)), weights)[0].astype(np.int64)
        if (missing >= 0).all():
            break
    columns = np.repeat(np.arange(resamples), missing)
    rows = rng.integers(num_rows, size=columns.size)
    np.add.at(weights.reshape(-1), rows * resamples + columns, np.float32(1))
    return weights


def _poisson(rng: np.random.Generator, mean: float, size: int) -> Weights:
    """Counts `[size]` by comparing 16 random bits with the distribution function."""
    if mean == 0:
        return np.zeros(size, dtype=np.float32)
    chances = np.cumsum([math.exp(-mean) * mean**count / math.factorial(count) for count in range(12)])
    limits = [np.uint16(limit) for limit in np.rint(chances * 65536) if limit < 65536]
    counts = np.empty(size, dtype=np.float32)
    for start in range(0, size, 4 * _WORDS):
        part = counts[start : start + 4 * _WORDS]
        words = rng.integers(0, 2**64, -(-part.size // 4), dtype=np.uint64).view(np.uint16)[: part.size]
        above = np.empty(part.size, dtype=np.bool_)
        total = np.zeros(part.size, dtype=np.uint8)
        for limit in limits:
            np.greater_equal(words, limit, out=above)
            np.add(total, above.view(np.uint8), out=total)
        part[:] = total
    return counts


def percentiles(values: Values, num_rows: int, confidence: float) -> tuple[float, float]:
    """The interval that holds `confidence` of the values; NaN both when fewer than half of them are defined.

    Expanded percentiles (Hesterberg 2015, What Teachers Should Know about the Bootstrap, section 4.1.2): as much wider
    as Student's t with n - 1 degrees and n - 1 in the variance are; plain percentiles are 4 % too narrow for 30 rows.
    """
    from scipy.special import stdtrit

    defined = values[np.isfinite(values)]
    if num_rows < 2 or 2 * defined.size < values.size:
        return math.nan, math.nan
    reach = math.sqrt(num_rows / (num_rows - 1)) * float(stdtrit(num_rows - 1, (1 + confidence) / 2))
    tail = NormalDist().cdf(-reach)
    low, high = np.quantile(defined, [tail, 1 - tail])
    return float(low), float(high)


class _Part(Protocol):
    """Some metrics of weighted rows."""

    def __call__(self, weights: Weights) -> dict[str, Values]: ...


class WeightedMetrics:
    """Metrics of rows that count as often as their weights say; with all weights 1 they are those of `metrics.score`.

    Targets and predictions are finite, fit each other and the task, and are at least one row.
    """

    def __init__(self, task: Task, targets: NDArray[Any], predictions: Values, names: Sequence[str]) -> None:
        self._names = tuple(names)
        wanted = set(names)
        parts: list[_Part] = []
        if task == "regression":
            parts.append(_Errors(targets, predictions))
        else:
            predicted = predictions.argmax(axis=1)
            if wanted & {"accuracy", "balanced_accuracy", "f1"}:
                parts.append(_Counts(task, targets, predicted, predictions.shape[1]))
            if wanted & {"log_loss", "calibration_error"}:
                calibration = "calibration_error" in wanted
                parts.append(_Probabilities(targets, predicted, predictions, calibration=calibration))
            if wanted & {"roc_auc", "average_precision"}:
                parts.append(_Areas(task, targets, predictions))
        self._parts = parts

    def __call__(self, weights: Weights) -> dict[str, Values]:
        """A value for each resample, under the names that were asked for."""
        found = {name: values for part in self._parts for name, values in part(weights).items()}
        return {name: found[name] for name in self._names}


def _product(features: Values, weights: Weights) -> Values:
    """Weighted sums `[features, resamples]` of features `[features, rows]`, multiplied in float64, few rows a time."""
    total = np.zeros((len(features), weights.shape[1]))
    step = max(1, _SMALL_PRODUCT // weights.shape[1])
    for start in range(0, len(weights), step):
        rows = slice(start, start + step)
        total += features[:, rows] @ weights[rows].astype(np.float64)
    return total


class _Errors:
    """Rmse, mae and r2."""

    def __init__(self, targets: NDArray[Any], predictions: Values) -> None:
        errors = predictions - targets
        centred = targets - targets[0]
        centred = centred - centred.mean()
        self._features = np.stack([errors**2, np.abs(errors), centred, centred**2]).astype(np.float64)

    def __call__(self, weights: Weights) -> dict[str, Values]:
        square, absolute, mean, mean_of_squares = _product(self._features, weights) / len(weights)
        variance = mean_of_squares - mean**2
        constant = variance <= 1e-12 * mean_of_squares  # one and the same target in all rows, but for rounding
        explained = 1 - square / np.where(constant, 1, variance)
        return {"rmse": np.sqrt(square), "mae": absolute, "r2": np.where(constant, np.nan, explained)}


class _Counts:
    """Accuracies and F1 from the cells of the confusion matrix that occur."""

    def __init__(self, task: Task, targets: NDArray[Any], predicted: NDArray[np.int64], num_classes: int) -> None:
        cells, cell = np.unique(targets * num_classes + predicted, return_inverse=True)
        self._cells = _sums(cell, np.arange(targets.size), (cells.size, targets.size))
        self._true, self._said = np.divmod(cells, num_classes)
        self._task, self._num_classes = task, num_classes

    def __call__(self, weights: Weights) -> dict[str, Values]:
        cells = (self._cells @ weights).astype(np.float64)
        hits, support, claimed = np.zeros((3, self._num_classes, weights.shape[1]))
        right = self._true == self._said
        np.add.at(hits, self._true[right], cells[right])
        np.add.at(support, self._true, cells)
        np.add.at(claimed, self._said, cells)
        there = support > 0
        f1s = 2 * hits / np.maximum(support + claimed, 1)
        judged = there | (claimed > 0)
        measured = {
            "balanced_accuracy": (hits / np.maximum(support, 1)).sum(axis=0) / there.sum(axis=0),
            "f1": f1s[-1] if self._task == "binary" else f1s.sum(axis=0) / judged.sum(axis=0),
        }
        one_class = there.sum(axis=0) < 2
        open_ended = {name: np.where(one_class, np.nan, values) for name, values in measured.items()}
        return {"accuracy": hits.sum(axis=0) / len(weights), **open_ended}


class _Probabilities:
    """Log loss, and calibration error if it is wanted: that takes 15 times as long."""

    def __init__(
        self, targets: NDArray[Any], predicted: NDArray[np.int64], probabilities: Values, *, calibration: bool
    ) -> None:
        rows = np.arange(targets.size)
        self._features = np.zeros((1 + NUM_BINS if calibration else 1, targets.size))
        self._features[0] = -np.log(np.maximum(probabilities[rows, targets], _SMALLEST_PROBABILITY))
        if calibration:
            confidence = probabilities[rows, predicted]
            bins = np.clip(np.ceil(confidence * NUM_BINS).astype(np.int64) - 1, 0, NUM_BINS - 1)
            self._features[1 + bins, rows] = (predicted == targets) - confidence

    def __call__(self, weights: Weights) -> dict[str, Values]:
        loss, *gaps = _product(self._features, weights) / len(weights)
        measured = {"log_loss": loss}
        if gaps:
            measured["calibration_error"] = np.abs(gaps).sum(axis=0)
        return measured


class _Areas:
    """Areas under the ROC and precision-recall curves: of the positive class, or the mean over those that occur."""

    def __init__(self, task: Task, targets: NDArray[Any], probabilities: Values) -> None:
        self._binary = task == "binary"
        codes = [1] if self._binary else np.unique(targets)
        self._classes = [_Ranking(targets == code, probabilities[:, code]) for code in codes]

    def __call__(self, weights: Weights) -> dict[str, Values]:
        areas = np.zeros((2, weights.shape[1]))
        occurring = np.zeros(weights.shape[1])
        one_class = np.zeros(weights.shape[1], dtype=np.bool_)
        for ranking in self._classes:
            positives, *of_class = ranking(weights)
            areas += np.where(positives > 0, of_class, 0)
            occurring += positives > 0
            one_class |= positives == len(weights)
        one_class |= occurring == 0
        roc_auc, precision = np.where(one_class, np.nan, areas / np.maximum(occurring, 1))
        return {"roc_auc": roc_auc, "average_precision": precision}


class _Ranking:
    """One class against the rest, rows sorted by score once; a step is a distinct score that a positive has.

    Running sums over the steps are the dear part, so the steps are laid out `[slabs, blocks]`, a block being
    successive steps one in each slab: sums then run over slabs, all blocks and resamples at a time.
    """

    def __init__(self, positive: NDArray[np.bool_], scores: Values) -> None:
        order = np.argsort(-scores)
        ranked, positive = scores[order], positive[order]
        tie = np.append(0, np.cumsum(ranked[1:] != ranked[:-1]))
        steps = np.unique(tie[positive])
        step = np.searchsorted(steps, tie)
        before = ~positive & (step < steps.size)  # negatives below the last positive change no step
        even = before.copy()
        even[before] = steps[step[before]] == tie[before]
        self._num_slabs = min(max(math.isqrt(steps.size) // 4, 1), 64)
        num_blocks = max(1, -(-steps.size // self._num_slabs))
        place = step % self._num_slabs * num_blocks + step // self._num_slabs
        shape = (self._num_slabs * num_blocks, positive.size)
        self._positives = _sums(place[positive], order[positive], shape)
        self._negatives = _sums(place[before], order[before], shape)
        self._tied_places, tied = np.unique(place[even], return_inverse=True)
        self._tied = _sums(tied, order[even], (self._tied_places.size, positive.size))

    def __call__(self, weights: Weights) -> tuple[Values, Values, Values]:
        """Weight of the positives, and both areas, one a resample; the areas mean nothing without both classes."""
        hits = self._positives @ weights
        positives, above, gained = self._sums_over_steps(hits, self._negatives @ weights)
        if self._tied_places.size:
            pairs = np.multiply(hits[self._tied_places], self._tied @ weights, dtype=np.float64)
            above -= pairs.sum(axis=0) / 2
        negatives = len(weights) - positives
        return positives, 1 - above / np.maximum(positives * negatives, 1), gained / np.maximum(positives, 1)

    def _sums_over_steps(self, hits: Weights, misses: Weights) -> tuple[Values, Values, Values]:
        """Positives, pairs with the negative at or above the positive, and precisions summed over the positives."""
        shape = (self._num_slabs, -1, hits.shape[1])
        hits, misses = hits.reshape(shape), misses.reshape(shape)
        true, total = _running_totals(hits)
        false, _ = _running_totals(misses)
        pairs, precisions = np.zeros((2, *true.shape))
        some, term = np.empty((2, *true.shape))
        for new_hits, new_misses in zip(hits, misses, strict=True):
            some[:] = new_hits
            true += some
            false += new_misses
            pairs += np.multiply(some, false, out=term)
            np.add(true, false, out=term)
            np.maximum(term, 1, out=term)
            np.divide(true, term, out=term)
            term *= some
            precisions += term
        return total, pairs.sum(axis=0), precisions.sum(axis=0)


def _running_totals(slabs: Weights) -> tuple[Values, Values]:
    """Of `[slabs, blocks, resamples]`: what lies before each block, and the total."""
    totals = np.cumsum(slabs.sum(axis=0), axis=0, dtype=np.float64)
    return np.vstack([np.zeros_like(totals[:1]), totals[:-1]]), totals[-1]


def _sums(groups: NDArray[np.int64], rows: NDArray[np.int64], shape: tuple[int, int]) -> csr_array:
    """A matrix `[groups, all rows]` that adds up `rows` [k] by their `groups` [k]."""
    from scipy.sparse import csr_array

    order = np.argsort(groups, kind="stable")
    ends = np.searchsorted(groups[order], np.arange(shape[0] + 1)).astype(np.int32)
    return csr_array((np.ones(rows.size, dtype=np.float32), rows[order].astype(np.int32), ends), shape=shape)
