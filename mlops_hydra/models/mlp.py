"""A multilayer perceptron."""

from collections.abc import Sequence

from torch import Tensor, nn


class MLP(nn.Module):
    """Fully connected layers with ReLU and dropout between them."""

    def __init__(
        self, in_features: int, out_features: int, *, hidden: Sequence[int] = (64, 32), dropout: float = 0.0
    ) -> None:
        super().__init__()
        if any(units < 1 for units in hidden):
            raise ValueError(f"hidden needs at least one unit in each layer, got {list(hidden)}")
        layers: list[nn.Module] = []
        for units in hidden:
            layers += [nn.Linear(in_features, units), nn.ReLU()]
            if dropout:
                layers.append(nn.Dropout(dropout))
            in_features = units
        self.layers = nn.Sequential(*layers, nn.Linear(in_features, out_features))

    def forward(self, x: Tensor) -> Tensor:
        """float32 `[batch, in_features]` -> `[batch, out_features]`."""
        output: Tensor = self.layers(x)
        return output
