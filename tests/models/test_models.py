"""The models that come with the package."""

from typing import Any

import pytest
import torch
from torch import nn

from mlops_hydra.models import CNN, MLP, Linear

IMAGE = (2, 9, 6)
MODELS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "linear": (lambda out: Linear(5, out), (5,)),
    "mlp": (lambda out: MLP(5, out, hidden=(7, 3), dropout=0.5), (5,)),
    "mlp without hidden layers": (lambda out: MLP(5, out, hidden=()), (5,)),
    "cnn": (lambda out: CNN(IMAGE, out, channels=(4, 8), hidden=6, dropout=0.5), IMAGE),
    "cnn without convolutions": (lambda out: CNN(IMAGE, out, channels=()), IMAGE),
}
every_model = pytest.mark.parametrize(("make", "shape"), MODELS.values(), ids=MODELS)


@every_model
@pytest.mark.parametrize("out_features", [1, 2, 10])
@pytest.mark.parametrize("rows", [0, 1, 7])
def test_rows_go_in_and_outputs_come_out_also_for_one_row_or_none(
    make: Any, shape: tuple[int, ...], out_features: int, rows: int
) -> None:
    outputs = make(out_features).eval()(torch.randn(rows, *shape))
    assert outputs.shape == (rows, out_features)
    assert outputs.dtype == torch.float32


@every_model
def test_in_evaluation_a_row_has_one_answer_whatever_it_comes_with(make: Any, shape: tuple[int, ...]) -> None:
    model, rows = make(3).eval(), torch.randn(8, *shape)
    together = model(rows)
    assert torch.equal(together, model(rows))
    torch.testing.assert_close(torch.cat([model(row[None]) for row in rows]), together)


@every_model
def test_every_weight_gets_a_gradient(make: Any, shape: tuple[int, ...]) -> None:
    model = make(3)
    model(torch.randn(16, *shape)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


@every_model
def test_the_same_seed_gives_the_same_weights(make: Any, shape: tuple[int, ...]) -> None:
    first, second = ({}, {})
    for weights in (first, second):
        torch.manual_seed(3)
        weights.update(make(3).state_dict())
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_mlp_has_the_layers_that_were_asked_for() -> None:
    widths = [layer.out_features for layer in MLP(5, 2, hidden=(7, 3)).modules() if isinstance(layer, nn.Linear)]
    assert widths == [7, 3, 2]
    assert not any(isinstance(layer, nn.Dropout) for layer in MLP(5, 2).modules())
    assert sum(isinstance(layer, nn.Dropout) for layer in MLP(5, 2, hidden=(7, 3), dropout=0.1).modules()) == 2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MLP(5, 2, hidden=(8, 0)), r"at least one unit in each layer, got \[8, 0\]"),
        (lambda: MLP(5, 2, dropout=1.5), "dropout probability has to be between 0 and 1"),
        (lambda: MLP(5, 2, dropout=-0.5), "dropout probability has to be between 0 and 1"),
        (lambda: CNN(IMAGE, 2, channels=(4, 4, 4)), r"channels=\[4, 4, 4\] halves an image of 9 x 6 pixels to nothing"),
        (lambda: CNN(IMAGE, 2, channels=(4, 0)), r"at least one unit, got channels=\[4, 0\]"),
        (lambda: CNN(IMAGE, 2, hidden=0), "at least one unit.*hidden=0"),
        (lambda: CNN((8, 8), 2), r"images have the shape \[channels, height, width\], got \[8, 8\]"),  # type: ignore[arg-type]
    ],
)
def test_arguments_that_make_no_network_are_refused_in_words(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
