"""What one writes with Hydra, torch and MLflow before knowing better: everything imported at the top.

`startup.py` runs it beside ours: the same rows, split sizes, model, optimizer and epochs, the same kind of record.
"""

import time

import hydra
import matplotlib.pyplot as plt
import mlflow
import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from sklearn import metrics
from sklearn.calibration import calibration_curve
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from torch.utils.data import DataLoader, TensorDataset


def load(cfg: DictConfig) -> dict[str, TensorDataset]:
    """The breast cancer table in three splits, standardised."""
    x, y = load_breast_cancer(return_X_y=True)
    x_rest, x_test, y_rest, y_test = train_test_split(x, y, test_size=0.2, stratify=y, random_state=cfg.seed)
    x_train, x_val, y_train, y_val = train_test_split(
        x_rest, y_rest, test_size=0.25, stratify=y_rest, random_state=cfg.seed
    )
    scaler = StandardScaler().fit(x_train)
    return {
        name: TensorDataset(torch.tensor(scaler.transform(rows), dtype=torch.float32), torch.tensor(classes))
        for name, rows, classes in (("train", x_train, y_train), ("val", x_val, y_val), ("test", x_test, y_test))
    }


def make_model(cfg: DictConfig) -> torch.nn.Sequential:
    """Layers with ReLU and dropout between them."""
    layers: list[torch.nn.Module] = []
    width = 30
    for units in cfg.model.hidden:
        layers += [torch.nn.Linear(width, units), torch.nn.ReLU(), torch.nn.Dropout(cfg.model.dropout)]
        width = units
    return torch.nn.Sequential(*layers, torch.nn.Linear(width, 2))


def predict(model: torch.nn.Module, loader: DataLoader) -> tuple[np.ndarray, np.ndarray, float]:
    """Probabilities `[n, 2]`, classes `[n]` and the mean loss."""
    model.eval()
    outputs, targets = [], []
    with torch.no_grad():
        for x, y in loader:
            outputs.append(model(x))
            targets.append(y)
    logits, classes = torch.cat(outputs), torch.cat(targets)
    loss = torch.nn.functional.cross_entropy(logits, classes).item()
    return logits.softmax(1).numpy(), classes.numpy(), loss


def measure(probabilities: np.ndarray, classes: np.ndarray) -> dict[str, float]:
    """What scikit-learn says."""
    predicted = probabilities.argmax(1)
    return {
        "accuracy": metrics.accuracy_score(classes, predicted),
        "balanced_accuracy": metrics.balanced_accuracy_score(classes, predicted),
        "f1": metrics.f1_score(classes, predicted),
        "roc_auc": metrics.roc_auc_score(classes, probabilities[:, 1]),
        "average_precision": metrics.average_precision_score(classes, probabilities[:, 1]),
        "log_loss": metrics.log_loss(classes, probabilities),
    }


def train(cfg: DictConfig, model: torch.nn.Module, loaders: dict[str, DataLoader]) -> dict[str, list[float]]:
    """The training loop; tells when the first step is done."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=cfg.optimizer.lr, weight_decay=cfg.optimizer.weight_decay)
    criterion = torch.nn.CrossEntropyLoss()
    history: dict[str, list[float]] = {"train_loss": [], "val_loss": []}
    for epoch in range(cfg.epochs):
        model.train()
        total = 0.0
        for x, y in loaders["train"]:
            optimizer.zero_grad()
            loss = criterion(model(x), y)
            loss.backward()
            optimizer.step()
            if not epoch and not total:
                print("FIRST_STEP", time.monotonic(), flush=True)
            total += loss.item() * len(x)
        probabilities, classes, val_loss = predict(model, loaders["val"])
        history["train_loss"].append(total / len(loaders["train"].dataset))
        history["val_loss"].append(val_loss)
        accuracy = metrics.accuracy_score(classes, probabilities.argmax(1))
        f1 = metrics.f1_score(classes, probabilities.argmax(1))
        losses = {name: values[-1] for name, values in history.items()}
        mlflow.log_metrics({**losses, "val_accuracy": accuracy, "val_f1": f1}, step=epoch)
    return history


def draw(history: dict[str, list[float]], probabilities: np.ndarray, classes: np.ndarray) -> None:
    """Learning curves, confusion matrix, ROC and calibration."""
    plt.figure()
    for name, values in history.items():
        plt.plot(values, label=name)
    plt.legend()
    plt.savefig("learning_curves.png")
    metrics.ConfusionMatrixDisplay.from_predictions(classes, probabilities.argmax(1))
    plt.savefig("confusion_matrix.png")
    metrics.RocCurveDisplay.from_predictions(classes, probabilities[:, 1])
    plt.savefig("roc.png")
    plt.figure()
    plt.plot(*calibration_curve(classes, probabilities[:, 1], n_bins=10), marker="o")
    plt.savefig("calibration.png")
    for name in ("learning_curves", "confusion_matrix", "roc", "calibration"):
        mlflow.log_artifact(f"{name}.png")


@hydra.main(config_path="conf", config_name="config", execution_whitelist=[])
def main(cfg: DictConfig) -> None:
    """Train, judge and record."""
    plt.switch_backend("agg")
    torch.set_num_threads(1)
    torch.manual_seed(cfg.seed)
    mlflow.set_tracking_uri("sqlite:///mlflow.db")
    mlflow.set_experiment("naive")
    with mlflow.start_run():
        mlflow.log_params({"seed": cfg.seed, "epochs": cfg.epochs, **cfg.model, **cfg.optimizer})
        splits = load(cfg)
        loaders = {
            name: DataLoader(split, cfg.batch_size, shuffle=name == "train", num_workers=0)
            for name, split in splits.items()
        }
        model = make_model(cfg)
        history = train(cfg, model, loaders)
        probabilities, classes, _ = predict(model, loaders["test"])
        measured = measure(probabilities, classes)
        mlflow.log_metrics({f"test_{name}": value for name, value in measured.items()})
        draw(history, probabilities, classes)
        torch.save(model.state_dict(), "model.pt")
        OmegaConf.save(cfg, "experiment.yaml")
        for name in ("model.pt", "experiment.yaml"):
            mlflow.log_artifact(name)
    print(measured)


if __name__ == "__main__":
    main()
