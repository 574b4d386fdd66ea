"""Losses that need to know the training data."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn


class CrossEntropy(nn.CrossEntropyLoss):
    """Cross entropy with class weights that YAML can write.

    Args:
        class_counts: rows of each class in the training split; passed by mlops_hydra.
        class_weights: one number a class, or `balanced`: inversely proportional to the counts, 1 on average over rows.
        label_smoothing: share of the target spread over all classes, from 0 to 1.
    """

    def __init__(
        self,
        class_counts: Sequence[int],
        *,
        class_weights: Sequence[float] | Literal["balanced"] | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        weight = None
        counts = torch.tensor(class_counts, dtype=torch.float32)
        if class_weights == "balanced":
            weight = counts.sum() / (len(counts) * counts)
        elif class_weights is not None:
            if len(class_weights) != len(counts):
                raise ValueError(f"class_weights has {len(class_weights)} numbers for {len(counts)} classes")
            weight = torch.tensor([float(number) for number in class_weights])
        super().__init__(weight=weight, label_smoothing=label_smoothing)

    def forward(self, input: Tensor, target: Tensor) -> Tensor:  # noqa: A002  torch's own names
        """Logits float32 `[batch, classes]` and codes int64 `[batch]` -> scalar."""
        return super().forward(input, target)
