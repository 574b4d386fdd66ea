"""What a classifier does at every threshold: counts behind ROC and precision-recall curves, and calibration bins.

`metrics.py` sums them up to one number, `plots.py` draws them. NumPy only. Not here: choosing a threshold.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NUM_BINS = 15


def threshold_counts(positive: NDArray[np.bool_], scores: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    """True and false positives at each distinct threshold, falling; tied scores are one threshold.

    Both arrays start at 0 (nothing is called positive) and end at the number of positives and negatives.
    """
    order = np.argsort(-scores)
    ranked = scores[order]
    last_of_tie = np.append(np.flatnonzero(ranked[1:] != ranked[:-1]), scores.size - 1)
    true_positives = np.cumsum(positive[order], dtype=np.float64)[last_of_tie]
    false_positives = last_of_tie + 1 - true_positives
    return np.append(0.0, true_positives), np.append(0.0, false_positives)


def roc_curve(
    positive: NDArray[np.bool_], scores: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """False and true positive rate at each threshold, both rising from 0 to 1; both classes must occur."""
    true_positives, false_positives = threshold_counts(positive, scores)
    return false_positives / false_positives[-1], true_positives / true_positives[-1]


def area_under_roc(positive: NDArray[np.bool_], scores: NDArray[np.float64]) -> float:
    """The chance that a positive scores above a negative, ties counted half; both classes must occur."""
    false_rate, true_rate = roc_curve(positive, scores)
    return float(np.sum(np.diff(false_rate) * (true_rate[1:] + true_rate[:-1])) / 2)


def average_precision(positive: NDArray[np.bool_], scores: NDArray[np.float64]) -> float:
    """Precision at each threshold, weighted by the recall it adds (a sum of steps: no interpolation)."""
    true_positives, false_positives = threshold_counts(positive, scores)
    precision = true_positives[1:] / (true_positives[1:] + false_positives[1:])
    return float(np.sum(np.diff(true_positives) * precision) / true_positives[-1])


@dataclass(frozen=True, slots=True, eq=False)
class CalibrationBins:
    """Rows by confidence, in `NUM_BINS` bins of equal width over (0, 1]; means are NaN where `rows` is 0."""

    rows: NDArray[np.int64]
    accuracy: NDArray[np.float64]
    confidence: NDArray[np.float64]

    @property
    def error(self) -> float:
        """Expected calibration error (Guo et al. 2017, eq. 3): mean gap of accuracy and confidence over the rows."""
        gaps = np.abs(self.accuracy - self.confidence)[self.rows > 0]
        return float(np.average(gaps, weights=self.rows[self.rows > 0]))


def calibration_bins(targets: NDArray[np.int64], probabilities: NDArray[np.float64]) -> CalibrationBins:
    """Bin the rows by the probability of the predicted class; at least one row."""
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == targets
    bins = np.clip(np.ceil(confidence * NUM_BINS).astype(np.int64) - 1, 0, NUM_BINS - 1)
    rows = np.bincount(bins, minlength=NUM_BINS)
    with np.errstate(invalid="ignore"):
        return CalibrationBins(
            rows=rows,
            accuracy=np.bincount(bins, weights=correct, minlength=NUM_BINS) / rows,
            confidence=np.bincount(bins, weights=confidence, minlength=NUM_BINS) / rows,
        )
