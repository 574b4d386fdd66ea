"""Numbers and codes to what a network reads: imputed, standardised, one-hot or embedded. Part of the model.

`prepare` is fixed once fitted and is applied once to data in memory; `assemble` is learned and runs in every step.
Everything is a buffer or a parameter, so it is saved and exported with the weights. Not here: text (`encoding.py`).

Shapes: n rows, d numeric columns, c categorical columns of which k are embedded, w dense columns.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mlops_hydra.config.schema import EncodingConfig
from mlops_hydra.data.encoding import FIRST_CATEGORY, MISSING, UNKNOWN, Encoded, FeatureSchema
from mlops_hydra.data.values import FloatArray


class FeatureTransform(nn.Module):
    """Its structure follows from the schema and the configuration, its numbers from `fit` or a state dict."""

    impute: Tensor
    mean: Tensor
    inverse_scale: Tensor
    indicators: Tensor
    hot_columns: Tensor
    hot_codes: Tensor
    embedded: Tensor

    def __init__(self, schema: FeatureSchema, encoding: EncodingConfig, shape: Sequence[int] | None = None) -> None:
        super().__init__()
        self.shape = tuple(shape) if shape else None
        num_numeric = len(schema.numeric_names)
        self.register_buffer("impute", torch.zeros(num_numeric, dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(num_numeric, dtype=torch.float64))
        self.register_buffer("inverse_scale", torch.ones(num_numeric, dtype=torch.float64))
        self.register_buffer("indicators", _whole([] if shape else _with_indicator(schema)))
        wide = [len(f.categories) > encoding.max_one_hot for f in schema.categorical_features]
        hot = _one_hot_columns(schema, wide)
        self.register_buffer("hot_columns", _whole([column for column, _ in hot]))
        self.register_buffer("hot_codes", _whole([code for _, code in hot]))
        self.register_buffer("embedded", _whole([i for i, is_wide in enumerate(wide) if is_wide]))
        cardinalities = [len(f.categories) for f, w in zip(schema.categorical_features, wide, strict=True) if w]
        self.embeddings = nn.ModuleList(_embedding(cardinality) for cardinality in cardinalities)
        num_dense = num_numeric + len(self.indicators) + len(hot)
        self.in_features = num_dense + sum(embedding_dim(cardinality) for cardinality in cardinalities)
        if self.shape and int(np.prod(self.shape)) != self.in_features:
            raise ValueError(f"{self.in_features} features do not make an image of shape {self.shape}")

    @property
    def has_embeddings(self) -> bool:
        """Whether `assemble` learns; otherwise it only reshapes."""
        return len(self.embeddings) > 0

    @classmethod
    def fit(
        cls, encoded: Encoded, schema: FeatureSchema, encoding: EncodingConfig, shape: Sequence[int] | None = None
    ) -> "FeatureTransform":
        """Fitted on the rows of `encoded`, which are the training split.

        Args:
            shape: of one row of the result, [channels, height, width]; null: [in_features]. An image has no
                missing-value indicators.
        """
        transform = cls(schema, encoding, shape)
        impute, mean, inverse_scale = _statistics(encoded.numeric, encoding.impute)
        if shape:
            mean, inverse_scale = _by_channel(encoded.numeric, impute, shape)
        transform.impute.copy_(torch.from_numpy(impute))
        transform.mean.copy_(torch.from_numpy(mean))
        transform.inverse_scale.copy_(torch.from_numpy(inverse_scale))
        return transform

    def prepare(self, numeric: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
        """float64 [n, d] with NaN for missing, int64 [n, c] -> float32 [n, w], int64 [n, k]; no gradient."""
        is_missing = torch.isnan(numeric)
        filled = torch.where(is_missing, self.impute, numeric)
        parts = [((filled - self.mean) * self.inverse_scale).to(torch.float32)]
        if len(self.indicators):
            parts.append(is_missing[:, self.indicators].to(torch.float32))
        if len(self.hot_codes):
            parts.append((codes[:, self.hot_columns] == self.hot_codes).to(torch.float32))
        return torch.cat(parts, dim=1), codes[:, self.embedded]

    def assemble(self, dense: Tensor, codes: Tensor) -> Tensor:
        """float32 [n, w], int64 [n, k] -> float32 [n, in_features], or [n, *shape]."""
        learned = [embedding(codes[:, column]) for column, embedding in enumerate(self.embeddings)]
        rows = torch.cat([dense, *learned], dim=1) if learned else dense
        return rows.reshape(rows.shape[0], *self.shape) if self.shape else rows

    def forward(self, numeric: Tensor, codes: Tensor) -> Tensor:
        """Encoded rows to what the network reads."""
        return self.assemble(*self.prepare(numeric, codes))


def embedding_dim(cardinality: int) -> int:
    """fast.ai's rule of thumb for the width of an embedding."""
    return min(50, int(1.6 * float(cardinality) ** 0.56 + 0.5))


def _embedding(cardinality: int) -> nn.Embedding:
    embedding = nn.Embedding(FIRST_CATEGORY + cardinality, embedding_dim(cardinality))
    with torch.no_grad():  # what training never sees stays at zero, the middle of all categories
        embedding.weight[[MISSING, UNKNOWN]] = 0.0
    return embedding


def _with_indicator(schema: FeatureSchema) -> list[int]:
    """Numeric columns that say whether their feature was missing; for a date its first part is enough."""
    firsts = {feature.name: schema.numeric_places[feature.name].start for feature in schema.numeric_features}
    return [firsts[f.name] for f in schema.features if f.name in firsts and f.missing_rate > 0]


def _one_hot_columns(schema: FeatureSchema, wide: Sequence[bool]) -> list[tuple[int, int]]:
    """(categorical column, code) of each one-hot column. An unknown category is all zeros; missing has a column of
    its own only if training had missing values."""
    pairs = []
    for column, (feature, is_wide) in enumerate(zip(schema.categorical_features, wide, strict=True)):
        if not is_wide:
            missing = [MISSING] if feature.missing_rate > 0 else []
            pairs += [
                (column, code) for code in [*missing, *range(FIRST_CATEGORY, FIRST_CATEGORY + len(feature.categories))]
            ]
    return pairs


def _statistics(numeric: FloatArray, how: str) -> tuple[FloatArray, FloatArray, FloatArray]:
    """What replaces a missing value, then mean and 1 / deviation of the imputed columns (0 if constant), each [d]."""
    impute, mean, inverse_scale = np.zeros((3, numeric.shape[1]))
    for column in range(numeric.shape[1]):
        values = numeric[:, column]
        is_missing = np.isnan(values)
        if is_missing.all():
            continue
        impute[column] = getattr(np, how)(values[~is_missing])
        filled = np.where(is_missing, impute[column], values)
        mean[column] = filled.mean()
        deviation = filled.std()
        if filled.min() < filled.max() and deviation > np.finfo(np.float64).tiny:
            inverse_scale[column] = 1 / deviation
    return impute, mean, inverse_scale


def _by_channel(numeric: FloatArray, impute: FloatArray, shape: Sequence[int]) -> tuple[FloatArray, FloatArray]:
    """Mean and 1 / deviation, each [d], that all pixels of a channel share: a pixel that is nearly always black keeps
    its scale, and neighbours stay comparable."""
    filled = np.where(np.isnan(numeric), impute, numeric).reshape(len(numeric), shape[0], -1)
    deviation = filled.std(axis=(0, 2))
    inverse = np.divide(1, deviation, out=np.zeros_like(deviation), where=deviation > 0)
    pixels = filled.shape[2]
    return np.repeat(filled.mean(axis=(0, 2)), pixels), np.repeat(inverse, pixels)


def _whole(numbers: Sequence[int]) -> Any:
    return torch.tensor(numbers, dtype=torch.int64)
