"""One linear layer."""

from torch import Tensor, nn


class Linear(nn.Module):
    """Logistic regression for classes, linear regression for a number."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__()
        self.layer = nn.Linear(in_features, out_features)

    def forward(self, x: Tensor) -> Tensor:
        """float32 `[batch, in_features]` -> `[batch, out_features]`."""
        output: Tensor = self.layer(x)
        return output
