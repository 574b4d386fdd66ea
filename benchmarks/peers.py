"""The same training by other means: what a user would write or pick instead of `mlops_hydra`.

Each takes `(data, batch_size, num_epochs)`, trains the multilayer perceptron of `make_model` with Adam, measures
accuracy and macro F1 on the validation rows after each epoch, and returns the last accuracy.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from sklearn.datasets import load_digits, make_classification
from sklearn.metrics import accuracy_score, f1_score
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

LEARNING_RATE: Final = 0.001
NUM_CLASSES: Final = 10


@dataclass(frozen=True, slots=True)
class Data:
    """Standardised rows float32 `[n, 64]`, classes int64 `[n]`; every fifth row of a shuffled table validates."""

    name: str
    train_x: Tensor
    train_y: Tensor
    val_x: Tensor
    val_y: Tensor


Peer = Callable[[Data, int, int], float]


def digits() -> Data:
    """1,438 rows to train on."""
    return _split("digits", *load_digits(return_X_y=True))


def synthetic(rows: int = 200_000) -> Data:
    """A table that does not fit into the caches."""
    x, y = make_classification(
        rows, 64, n_informative=32, n_redundant=8, n_classes=NUM_CLASSES, class_sep=1.5, random_state=0
    )
    return _split(f"{rows:,} rows", x, y)


def _split(name: str, x: np.ndarray, y: np.ndarray) -> Data:
    order = np.random.default_rng(0).permutation(len(x))
    x = (x - x.mean(axis=0)) / (x.std(axis=0) + 1e-6)
    rows, classes = torch.from_numpy(x[order].astype(np.float32)), torch.from_numpy(y[order].astype(np.int64))
    border = len(x) * 4 // 5
    return Data(name, rows[:border].clone(), classes[:border].clone(), rows[border:].clone(), classes[border:].clone())


def make_model() -> nn.Sequential:
    """64-256-128-10 with ReLU, from a fixed seed."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, NUM_CLASSES)
    )  # fmt: skip


def textbook(data: Data, batch_size: int, num_epochs: int) -> float:
    """The loop of the tutorials: DataLoaders, Adam as it comes, scikit-learn's metrics."""
    model = make_model()
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    criterion = nn.CrossEntropyLoss()
    train = DataLoader(TensorDataset(data.train_x, data.train_y), batch_size, shuffle=True)
    val = DataLoader(TensorDataset(data.val_x, data.val_y), batch_size)
    accuracy = 0.0
    for _ in range(num_epochs):
        model.train()
        total = 0.0
        for x, y in train:
            optimizer.zero_grad()
            loss = criterion(model(x), y)
            loss.backward()
            optimizer.step()
            total += loss.item() * len(x)
        model.eval()
        with torch.no_grad():
            pairs = [(model(x).argmax(1), y) for x, y in val]
        predicted, actual = (torch.cat(parts).numpy() for parts in zip(*pairs, strict=True))
        accuracy = accuracy_score(actual, predicted)
        f1_score(actual, predicted, average="macro")
    return accuracy


def by_hand(data: Data, batch_size: int, num_epochs: int) -> float:
    """What one writes who knows: batches indexed from tensors, fused Adam, metrics from one confusion matrix."""
    model = make_model()
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, fused=True)
    accuracy = 0.0
    for _ in range(num_epochs):
        model.train()
        total = torch.zeros(())
        for rows in torch.randperm(len(data.train_x)).split(batch_size):
            x, y = data.train_x.index_select(0, rows), data.train_y.index_select(0, rows)
            optimizer.zero_grad(set_to_none=True)
            loss = functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            total += loss.detach() * len(x)
        accuracy = _validate(model, data)
    return accuracy


def _validate(model: nn.Module, data: Data) -> float:
    model.eval()
    with torch.inference_mode():
        predicted = torch.cat([model(x).argmax(1) for x in data.val_x.split(4096)])
    confusion = torch.bincount(data.val_y * NUM_CLASSES + predicted, minlength=NUM_CLASSES**2).view(NUM_CLASSES, -1)
    hits = confusion.diagonal().double()
    (2 * hits / (confusion.sum(0) + confusion.sum(1)).clamp(min=1)).mean().item()
    return (hits.sum() / confusion.sum()).item()


def make_lightning() -> Peer:
    """Lightning with torchmetrics, everything switched off that is not training.

    Raises:
        ImportError: it is not installed.
    """
    import lightning.pytorch as pl
    from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score

    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)

    class Classifier(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = make_model()
            self.accuracy = MulticlassAccuracy(NUM_CLASSES, average="micro")
            self.f1 = MulticlassF1Score(NUM_CLASSES, average="macro")

        def training_step(self, batch: list[Tensor], _: int) -> Tensor:
            x, y = batch
            loss = functional.cross_entropy(self.net(x), y)
            self.log("loss", loss, on_step=False, on_epoch=True, batch_size=len(x))
            return loss

        def validation_step(self, batch: list[Tensor], _: int) -> None:
            x, y = batch
            outputs = self.net(x)
            for name, metric in (("accuracy", self.accuracy), ("f1", self.f1)):
                metric(outputs, y)
                self.log(name, metric, on_step=False, on_epoch=True)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters(), lr=LEARNING_RATE)

    def lightning(data: Data, batch_size: int, num_epochs: int) -> float:
        trainer = pl.Trainer(
            max_epochs=num_epochs,
            accelerator="cpu",
            devices=1,
            logger=False,
            enable_progress_bar=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
        train = DataLoader(TensorDataset(data.train_x, data.train_y), batch_size, shuffle=True)
        trainer.fit(Classifier(), train, DataLoader(TensorDataset(data.val_x, data.val_y), batch_size))
        return trainer.callback_metrics["accuracy"].item()

    return lightning


def make_skorch() -> Peer:
    """skorch with its own scoring.

    Raises:
        ImportError: it is not installed.
    """
    from skorch import NeuralNetClassifier
    from skorch.callbacks import EpochScoring
    from skorch.dataset import Dataset
    from skorch.helper import predefined_split

    def skorch(data: Data, batch_size: int, num_epochs: int) -> float:
        val = Dataset(data.val_x.numpy(), data.val_y.numpy())
        scores = [(name, EpochScoring(name, lower_is_better=False, name=name)) for name in ("accuracy", "f1_macro")]
        net = NeuralNetClassifier(
            make_model(),
            criterion=nn.CrossEntropyLoss,
            optimizer=torch.optim.Adam,
            lr=LEARNING_RATE,
            batch_size=batch_size,
            max_epochs=num_epochs,
            iterator_train__shuffle=True,
            train_split=predefined_split(val),
            classes=range(NUM_CLASSES),
            callbacks=scores,
            callbacks__valid_acc=None,
            verbose=0,
        )
        net.fit(data.train_x.numpy(), data.train_y.numpy())
        return net.history[-1]["accuracy"]

    return skorch
