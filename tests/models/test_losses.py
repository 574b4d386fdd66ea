"""Cross entropy against its formula, written out."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from mlops_hydra.models import CrossEntropy

LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.0, 0.0, 0.0], [-1.0, 3.0, 1.0], [1.0, 1.0, -2.0]])
TARGETS = torch.tensor([0, 2, 1, 0])
COUNTS = [6, 3, 1]


def by_hand(weights: list[float], smoothing: float = 0.0) -> float:
    """The weighted mean of -log p of the class, mixed with that over all classes (as torch defines smoothing)."""
    log_p = LOGITS.double().log_softmax(1).numpy()
    w, y = np.array(weights), TARGETS.numpy()
    of_class = -w[y] * log_p[np.arange(len(y)), y]
    of_all = -(w * log_p).mean(axis=1)
    return float(((1 - smoothing) * of_class + smoothing * of_all).sum() / w[y].sum())


def test_without_options_it_is_torchs() -> None:
    assert torch.equal(CrossEntropy(COUNTS)(LOGITS, TARGETS), nn.functional.cross_entropy(LOGITS, TARGETS))


def test_balanced_weights_are_inverse_to_the_counts_and_one_on_average_over_rows() -> None:
    weight = CrossEntropy(COUNTS, class_weights="balanced").weight
    assert weight is not None
    assert weight.tolist() == pytest.approx([10 / 18, 10 / 9, 10 / 3])
    assert np.average(weight.numpy(), weights=COUNTS) == pytest.approx(1)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("weights", ["balanced", [1.0, 2.0, 0.5], [1, 0, 3]])
def test_weights_and_smoothing_are_those_of_the_formula(weights: Any, smoothing: float) -> None:
    loss = CrossEntropy(COUNTS, class_weights=weights, label_smoothing=smoothing)
    numbers = [10 / 18, 10 / 9, 10 / 3] if weights == "balanced" else weights
    assert loss(LOGITS, TARGETS).item() == pytest.approx(by_hand(numbers, smoothing), rel=1e-6)


def test_a_stream_has_no_counts_and_needs_none_but_for_balanced() -> None:
    assert CrossEntropy(label_smoothing=0.1)(LOGITS, TARGETS).item() == pytest.approx(by_hand([1.0, 1.0, 1.0], 0.1))
    assert CrossEntropy(class_weights=[1, 2, 3])(LOGITS, TARGETS).item() == pytest.approx(by_hand([1.0, 2.0, 3.0]))
    with pytest.raises(ValueError, match="balanced class_weights need rows of every class"):
        CrossEntropy(class_weights="balanced")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class_weights": [1.0, 2.0]}, "class_weights has 2 numbers for 3 classes"),
        ({"class_weights": "balance"}, "one number a class, or 'balanced', got 'balance'"),
        ({"class_weights": [1.0, -2.0, 1.0]}, "at least 0"),
        ({"label_smoothing": 1.5}, "label_smoothing must be from 0 to 1, got 1.5"),
        ({"label_smoothing": -0.1}, "label_smoothing must be from 0 to 1"),
        ({"class_counts": [3, 0, 1], "class_weights": "balanced"}, "rows of every class"),
    ],
)
def test_bad_arguments_are_refused_in_words(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CrossEntropy(**({"class_counts": COUNTS} | options))
