"""A convolutional network for small images."""

from collections.abc import Sequence

from torch import Tensor, nn


class CNN(nn.Module):
    """Blocks of convolution, batch normalisation, ReLU and halving, then two linear layers."""

    def __init__(
        self,
        in_shape: tuple[int, int, int],
        out_features: int,
        *,
        channels: Sequence[int] = (32, 64),
        hidden: int = 64,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if len(in_shape) != 3:
            raise ValueError(f"images have the shape [channels, height, width], got {list(in_shape)}")
        if any(number < 1 for number in (*channels, hidden)):
            raise ValueError(f"every layer needs at least one unit, got channels={list(channels)}, hidden={hidden}")
        before, height, width = in_shape
        blocks: list[nn.Module] = []
        for after in channels:
            blocks += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
            blocks.append(nn.MaxPool2d(2))
            before, height, width = after, height // 2, width // 2
        if height < 1 or width < 1:
            shape = f"{in_shape[1]} x {in_shape[2]}"
            raise ValueError(f"channels={list(channels)} halves an image of {shape} pixels to nothing; use fewer")
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Sequential(
            nn.Flatten(),
            nn.Linear(before * height * width, hidden),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(hidden, out_features),
        )

    def forward(self, x: Tensor) -> Tensor:
        """float32 `[batch, channels, height, width]` -> `[batch, out_features]`."""
        output: Tensor = self.head(self.blocks(x))
        return output
