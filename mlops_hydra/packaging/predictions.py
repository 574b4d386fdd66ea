"""What a trained model says of each split, as arrays in the target's own units and in the order of the rows."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlops_hydra.data.dataset_source import read_targets
from mlops_hydra.data.splits import Splits, Table
from mlops_hydra.evaluation.evaluate import Predicted
from mlops_hydra.packaging.predictor import PredictionGraph, Predictor
from mlops_hydra.training.build import Workbench
from mlops_hydra.training.loop import predict


def predict_splits(bench: Workbench, splits: Splits, graph: PredictionGraph) -> dict[str, Predicted]:
    """Validation and test; targets as they came, where they are known, rather than scaled to float32 and back."""
    predicted = {}
    for name, batches in (("val", bench.val), ("test", bench.test)):
        split = as_predicted(*predict(bench.learner.model, batches), graph)
        known = splits.targets(name)
        predicted[name] = split if known is None else Predicted(known, split.predictions)
    return predicted


def as_predicted(outputs: Tensor, targets: Tensor, graph: PredictionGraph) -> Predicted:
    """Outputs and targets as the model sees them -> arrays in the target's units."""
    predictions = graph.finish(outputs.cpu()).numpy()
    actual = graph.finish(targets.cpu()) if graph.task == "regression" else targets.cpu()
    return Predicted(actual.numpy(), predictions)


def train_targets(splits: Splits, target: str | None) -> NDArray[Any]:
    """Class codes or values `[n]` of the training split; a stream is read once more for them."""
    known = splits.targets("train")
    return read_targets(cast("Iterable[Any]", splits.train), target) if known is None else known


def one_row(bench: Workbench, splits: Splits, graph: PredictionGraph) -> Callable[[], object]:
    """A call that predicts one row, as raw as it comes."""
    if isinstance(splits.test, Table) and splits.schema is not None:
        predictor = Predictor(graph, splits.schema)
        row = {str(name): [values[0]] for name, values in splits.test.columns().items()}
        return lambda: predictor.predict(row)
    batch = next(iter(bench.test.epoch(0)))
    model = bench.learner.model.cpu().eval()
    one = _first_row(batch)
    return torch.no_grad()(lambda: bench.test.forward(model, one))


def _first_row(batch: Any) -> Any:
    if isinstance(batch, Tensor):
        return batch[:1].cpu()
    if isinstance(batch, Mapping):
        return {key: _first_row(value) for key, value in batch.items()}
    return tuple(_first_row(value) for value in batch) if isinstance(batch, tuple | list) else batch


def row_numbers(splits: Splits, name: str, num_rows: int) -> NDArray[Any]:
    """Where the rows of a split stand in the source, from 0; a Dataset counts its own."""
    split = splits[name]
    return split.rows if isinstance(split, Table) else np.arange(num_rows)
