"""What a person has in a project of their own: Datasets, models, a step, a callback. Copied to where a test runs."""

import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, IterableDataset, TensorDataset

WORDS = {"good": 1, "great": 1, "bad": 0, "awful": 0, "film": None, "plot": None, "music": None, "scene": None}


class Reviews(Dataset[Any]):
    """Sentences whose one telling word decides; tokens are padded to six with 0."""

    def __init__(self, num_rows: int = 120) -> None:
        chosen = random.Random(0)
        self.rows = []
        for _ in range(num_rows):
            telling = chosen.choice(["good", "great", "bad", "awful"])
            text = [*chosen.sample(["film", "plot", "music", "scene"], chosen.randint(1, 4)), telling]
            self.rows.append((" ".join(chosen.sample(text, len(text))), WORDS[telling]))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> dict[str, Any]:
        text, label = self.rows[row]
        tokens = [list(WORDS).index(word) + 1 for word in re.findall(r"\w+", text)]
        return {"tokens": torch.tensor(tokens + [0] * (6 - len(tokens))), "label": label}


class BagOfWords(nn.Module):
    """Mean of the words' embeddings, and a linear layer."""

    def __init__(self, out_features: int, width: int = 8) -> None:
        super().__init__()
        self.embedding = nn.EmbeddingBag(len(WORDS) + 1, width, padding_idx=0)
        self.head = nn.Linear(width, out_features)

    def forward(self, tokens: Tensor) -> Tensor:
        """int64 [batch, 6] -> [batch, out_features]."""
        output: Tensor = self.head(self.embedding(tokens))
        return output


def step(model: nn.Module, batch: dict[str, Tensor], *, scale: float = 1.0) -> Tensor:
    return scale * nn.functional.cross_entropy(model(tokens=batch["tokens"]), batch["label"])


class Images(Dataset[Any]):
    """Bright in the left or in the right half, with noise that is drawn anew at each reading."""

    def __len__(self) -> int:
        return 90

    def digest(self) -> str:
        return "images of three kinds"

    def __getitem__(self, row: int) -> tuple[Any, int]:
        noise = 0.1 * np.random.rand(1, 8, 8) + 0.1 * torch.rand(1, 8, 8).numpy() + 0.1 * random.random()
        image = noise.astype(np.float32)
        kind = row % 3
        image[0, :, kind * 3 : kind * 3 + 2] += 1
        return image, kind


class Numbers(IterableDataset[Any]):
    """A stream in which y = 2 x + 1."""

    def __init__(self, num_rows: int) -> None:
        self.num_rows = num_rows

    def __iter__(self) -> Iterator[tuple[Tensor, float]]:
        for row in range(self.num_rows):
            x = (row * 37 % 100) / 100
            yield torch.tensor([x]), 2 * x + 1


def streams(version: str) -> dict[str, Numbers]:
    return {"train": Numbers(65), "val": Numbers(33), "test": Numbers(20)}


def arrays() -> TensorDataset:
    """float64, as NumPy makes them."""
    inputs = torch.from_numpy(np.random.default_rng(0).normal(size=(200, 5)))
    return TensorDataset(inputs, (inputs.sum(dim=1) > 0).long())


class Diary:
    """One hook only."""

    def on_epoch_end(self, training: Any) -> None:
        training.log_metric("own_number", training.epoch)
        Path("diary.txt").write_text(f"epoch {training.epoch}", encoding="utf-8")
        training.log_artifact("diary.txt")
