"""From rows to predictions in the target's units."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mlops_hydra import compose
from mlops_hydra.config.objective import resolve_objective
from mlops_hydra.data.sources import open_source
from mlops_hydra.data.splits import Splits, Table
from mlops_hydra.errors import DataError
from mlops_hydra.packaging.predictor import PredictionGraph, Predictor
from mlops_hydra.training.build import Workbench, build_workbench
from mlops_hydra.training.loop import predict
from mlops_hydra.training.scale import TargetScale


def built(*overrides: str) -> tuple[Workbench, Splits]:
    config = compose(overrides)
    splits = open_source(config.data).load()
    torch.manual_seed(0)
    objective = resolve_objective(config.objective, splits.task)
    return build_workbench(config, splits, objective, torch.device("cpu")), splits


def graph_of(bench: Workbench, splits: Splits) -> PredictionGraph:
    return PredictionGraph(bench.network, features=bench.features, task=splits.task, scale=bench.scale).eval()


@pytest.mark.parametrize(
    "overrides",
    [("data=breast_cancer",), ("data=digits", "model=cnn"), ("data=diabetes",), ("data=wine", "model=linear")],
)
def test_raw_rows_are_predicted_as_training_saw_them(overrides: tuple[str, ...]) -> None:
    bench, splits = built(*overrides)
    assert isinstance(splits.test, Table)
    assert splits.schema is not None
    graph = graph_of(bench, splits)
    outputs, _ = predict(bench.learner.model, bench.test)
    expected = graph.finish(outputs).numpy()
    predictions = Predictor(graph, splits.schema).predict(splits.test.columns())
    np.testing.assert_allclose(predictions, expected, rtol=1e-6, atol=1e-9)
    assert predictions.shape == (
        (len(splits.test),) if splits.task == "regression" else (len(splits.test), len(splits.classes))
    )


def test_one_row_of_plain_values_is_enough_and_a_missing_column_is_named() -> None:
    bench, splits = built("data=wine", "model=linear")
    assert isinstance(splits.test, Table)
    assert splits.schema is not None
    predictor = Predictor(graph_of(bench, splits), splits.schema)
    row: dict[str, Any] = {name: [values[0].item()] for name, values in splits.test.columns().items()}
    everything = predictor.predict(splits.test.columns())
    np.testing.assert_allclose(predictor.predict(row), everything[:1], rtol=1e-6)
    del row["alcohol"]
    with pytest.raises(DataError, match="alcohol"):
        predictor.predict(row)


def test_probabilities_sum_to_one_in_double_precision() -> None:
    graph = PredictionGraph(nn.Identity(), features=None, task="multiclass")
    probabilities = graph(torch.tensor([[1000.0, 0.0, -1000.0], [0.1, 0.2, 0.3]]))
    assert probabilities.dtype == torch.float64
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(2, dtype=torch.float64), rtol=0, atol=1e-15)
    assert probabilities[0].tolist() == [1.0, 0.0, 0.0]


def test_values_come_back_in_the_units_of_the_target() -> None:
    targets = np.array([1e6, 1e6 + 3, 1e6 + 9])
    scale = TargetScale.fit(targets)
    graph = PredictionGraph(nn.Identity(), features=None, task="regression", scale=scale)
    np.testing.assert_allclose(graph(scale.standardised(targets)).numpy(), targets, rtol=1e-9)
    assert graph(scale.standardised(targets)).shape == (3,)


@pytest.mark.parametrize("targets", [[2.5, 2.5], [7.0]])
def test_a_constant_target_is_only_centred(targets: list[float]) -> None:
    scale = TargetScale.fit(np.array(targets))
    assert scale.deviation == 1.0
    assert scale.standardised(np.array(targets)).tolist() == [[0.0]] * len(targets)


def test_models_that_answer_with_logits_or_take_names_are_understood() -> None:
    class Named(nn.Module):
        def forward(self, *, words: Tensor) -> Any:
            return type("Output", (), {"logits": words})()

    graph = PredictionGraph(Named(), features=None, task="binary")
    assert graph(words=torch.zeros(3, 2)).tolist() == [[0.5, 0.5]] * 3


def test_the_scale_is_saved_with_the_weights() -> None:
    saved = PredictionGraph(nn.Linear(1, 1), features=None, task="regression", scale=TargetScale(5.0, 2.0)).state_dict()
    graph = PredictionGraph(nn.Linear(1, 1), features=None, task="regression")
    graph.load_state_dict(saved)
    assert graph(torch.zeros(1, 1)).item() == pytest.approx(5 + 2 * saved["model.bias"].item())
