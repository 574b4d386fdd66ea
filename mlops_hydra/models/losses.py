"""Losses that need to know the training data."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn


class CrossEntropy(nn.CrossEntropyLoss):
    """Cross entropy with class weights that YAML can write.

    Args:
        class_counts: rows of each class in the training split; passed by mlops_hydra, but for a stream.
        class_weights: one number a class, or `balanced`: inversely proportional to the counts, 1 on average over rows.
        label_smoothing: share of the target spread over all classes, from 0 to 1.
    """

    def __init__(
        self,
        class_counts: Sequence[int] | None = None,
        *,
        class_weights: Sequence[float] | Literal["balanced"] | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        if not 0 <= label_smoothing <= 1:
            raise ValueError(f"label_smoothing must be from 0 to 1, got {label_smoothing}")
        super().__init__(weight=_weights(class_weights, class_counts), label_smoothing=label_smoothing)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:  # noqa: A002  torch's own names
        """Logits float32 `[batch, classes]` and codes int64 `[batch]` -> scalar."""
        return super().forward(input, target)


def _weights(given: Sequence[float] | str | None, class_counts: Sequence[int] | None) -> Tensor | None:
    if given is None:
        return None
    if given == "balanced":
        if class_counts is None or min(class_counts) < 1:
            raise ValueError(f"balanced class_weights need rows of every class, got class_counts={class_counts}")
        counts = torch.tensor(class_counts, dtype=torch.float32)
        return counts.sum() / (len(counts) * counts)
    if isinstance(given, str):
        raise ValueError(f"class_weights are one number a class, or 'balanced', got {given!r}")
    if class_counts is not None and len(given) != len(class_counts):
        raise ValueError(f"class_weights has {len(given)} numbers for {len(class_counts)} classes")
    if any(number < 0 for number in given):
        raise ValueError(f"class_weights must be at least 0, got {list(given)}")
    return torch.tensor([float(number) for number in given])
