"""From rows to predictions: the fitted features, the model and the way back to the target's units, as one module.

Evaluation, latency and prediction all go through here. Not here: encoding of raw text (`data/encoding.py`), files.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mlops_hydra.config.section import Task
from mlops_hydra.data.encoding import FeatureSchema, encode
from mlops_hydra.data.features import FeatureTransform
from mlops_hydra.data.values import Values
from mlops_hydra.training.scale import TargetScale


class PredictionGraph(nn.Module):
    """Encoded rows to probabilities `[n, classes]`, or to values `[n]` in the target's units.

    With `features` it is called with `(numeric float64 [n, d], codes int64 [n, c])`, else with what `model` takes.
    With `calibrated` it has a temperature, which is 1 until somebody fits it.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        features: FeatureTransform | None,
        task: Task,
        scale: TargetScale | None = None,
        calibrated: bool = False,
    ) -> None:
        super().__init__()
        self.features, self.model, self.task = features, model, task
        scale = scale or TargetScale()
        self.register_buffer("target_mean", torch.tensor(scale.mean, dtype=torch.float64))
        self.register_buffer("target_deviation", torch.tensor(scale.deviation, dtype=torch.float64))
        self.register_buffer("temperature", torch.tensor(1.0, dtype=torch.float64) if calibrated else None)

    target_mean: Tensor
    target_deviation: Tensor
    temperature: Tensor | None

    def forward(self, *inputs: Any, **named: Any) -> Tensor:
        """One batch."""
        outputs = self.model(self.features(*inputs)) if self.features is not None else self.model(*inputs, **named)
        return self.finish(getattr(outputs, "logits", outputs))

    def finish(self, outputs: Tensor) -> Tensor:
        """Model outputs `[n, out_features]` -> float64 probabilities `[n, classes]` or values `[n]`."""
        if self.task == "regression":
            return outputs.reshape(-1).double() * self.target_deviation + self.target_mean
        wide = outputs.double() if self.temperature is None else outputs.double() / self.temperature
        return wide.softmax(dim=1)


@dataclass(frozen=True, slots=True)
class Predictor:
    """Raw rows to predictions, on the CPU: what a person who has a row and a model needs."""

    graph: PredictionGraph
    schema: FeatureSchema

    def __post_init__(self) -> None:
        self.graph.eval()

    @torch.inference_mode()
    def predict(self, columns: Mapping[str, Values]) -> NDArray[np.float64]:
        """Raw columns of n rows -> probabilities `[n, classes]` or values `[n]`.

        Raises:
            DataError: a column is missing, or a value is not of its kind.
        """
        encoded = encode(columns, self.schema)
        predictions: NDArray[np.float64] = self.graph(
            torch.from_numpy(encoded.numeric), torch.from_numpy(encoded.codes)
        ).numpy()
        return predictions
