"""What is usually written to serve such a model, as two FastAPI applications: `naive` and `with_onnxruntime`.

    uvicorn --app-dir benchmarks serving_peers:naive

`bare` is the least that could be written: ASGI, msgspec and onnxruntime. All answer POST /predict with
`{"features": [...]}` and POST /predict_batch with `{"rows": [[...], ...]}`. MODEL is the folder of a bundle. They
validate types only, and neither route, count nor log anything.
"""

import itertools
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
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


class _Decoded(msgspec.Struct):
    features: list[float] | None = None
    rows: list[list[float]] | None = None


def bare_application(predict: Predict) -> Any:
    """Not even an error is answered."""
    decode, encode = msgspec.json.Decoder(_Decoded).decode, msgspec.json.Encoder().encode

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            for what in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{what}.complete"})
            return
        message = await receive()
        content = message["body"]
        while message["more_body"]:
            message = await receive()
            content += message["body"]
        body = decode(content)
        rows = body.rows or [body.features]
        probabilities = predict(np.array(rows, np.float32))
        answer = encode({"labels": probabilities.argmax(1).tolist(), "probabilities": probabilities.tolist()})
        head = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(answer))]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        await send({"type": "http.response.body", "body": answer})

    return app


def golden_rows() -> NDArray[np.float64]:
    """A dozen rows [n, 64] that come with the bundle."""
    columns = json.loads((MODEL / "golden.json").read_text())["columns"]
    return np.array(list(columns.values()), dtype=np.float64).T


def __getattr__(name: str) -> Any:
    """Built when uvicorn asks for it: torch is imported by one of them alone."""
    makers: dict[str, Callable[[], Any]] = {
        "naive": lambda: application(with_torch()),
        "with_onnxruntime": lambda: application(with_graph()),
        "bare": lambda: bare_application(with_graph()),
    }
    if name not in makers:
        raise AttributeError(name)
    return makers[name]()
