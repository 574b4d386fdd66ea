"""What is usually written to serve such a model, as two FastAPI applications: `naive` and `with_onnxruntime`.

    uvicorn --app-dir benchmarks serving_peers:naive

Both answer POST /predict with `{"features": [...]}` and POST /predict_batch with `{"rows": [[...], ...]}`. MODEL is the
folder of a bundle. They validate types only, and neither route, count nor
log anything.
"""

import itertools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from fastapi import FastAPI
from numpy.typing import NDArray
from pydantic import BaseModel

Predict = Callable[[NDArray[np.float32]], NDArray[Any]]
SIZES = (64, 256, 128, 10)
MODEL = Path(os.environ.get("MODEL", "."))


class One(BaseModel):
    """A row."""

    features: list[float]


class Many(BaseModel):
    """Rows."""

    rows: list[list[float]]


class OneAnswer(BaseModel):
    """Of a row."""

    label: int
    probabilities: list[float]


class ManyAnswers(BaseModel):
    """Of rows."""

    labels: list[int]
    probabilities: list[list[float]]


def application(predict: Predict) -> FastAPI:
    """The two routes around a model."""
    app = FastAPI()

    @app.post("/predict")
    async def one(body: One) -> OneAnswer:
        probabilities = predict(np.asarray([body.features], np.float32))[0]
        return OneAnswer(label=int(probabilities.argmax()), probabilities=probabilities.tolist())

    @app.post("/predict_batch")
    async def many(body: Many) -> ManyAnswers:
        probabilities = predict(np.asarray(body.rows, np.float32))
        return ManyAnswers(labels=probabilities.argmax(1).tolist(), probabilities=probabilities.tolist())

    return app


def with_torch() -> Predict:
    """scikit-learn scales, torch predicts; with random weights, which take as long as any."""
    import torch
    from sklearn.preprocessing import StandardScaler

    torch.set_num_threads(1)
    layers: list[torch.nn.Module] = []
    for size, next_size in itertools.pairwise(SIZES):
        layers += [torch.nn.Linear(size, next_size), torch.nn.ReLU()]
    net = torch.nn.Sequential(*layers[:-1]).eval()
    scaler = StandardScaler().fit(golden_rows())

    def predict(rows: NDArray[np.float32]) -> NDArray[Any]:
        with torch.no_grad():
            scaled = torch.tensor(scaler.transform(rows), dtype=torch.float32)
            answer: NDArray[Any] = torch.softmax(net(scaled), -1).numpy()
        return answer

    return predict


def with_graph() -> Predict:
    """onnxruntime runs what the bundle holds, scaling included."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(MODEL / "model.onnx", options, providers=["CPUExecutionProvider"])

    def predict(rows: NDArray[np.float32]) -> NDArray[Any]:
        codes = np.empty((len(rows), 0), np.int64)
        answer: NDArray[Any] = session.run(None, {"numeric": rows.astype(np.float64), "codes": codes})[0]
        return answer

    return predict


def golden_rows() -> NDArray[np.float64]:
    """A dozen rows [n, 64] that come with the bundle."""
    columns = json.loads((MODEL / "golden.json").read_text())["columns"]
    return np.array(list(columns.values()), dtype=np.float64).T


def __getattr__(name: str) -> FastAPI:
    """Built when uvicorn asks for it: torch is imported by one of them alone."""
    makers = {"naive": with_torch, "with_onnxruntime": with_graph}
    if name not in makers:
        raise AttributeError(name)
    return application(makers[name]())
