"""A packaged model is one of MLflow's, and needs no pickle."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import TensorDataset

from mlops_hydra import compose
from mlops_hydra.config.objective import Objective
from mlops_hydra.data.sources import open_source
from mlops_hydra.data.splits import Splits
from mlops_hydra.fitting import export
from mlops_hydra.packaging.bundle import Bundle, load_bundle
from mlops_hydra.packaging.bundle_writer import seal_bundle, write_graph
from mlops_hydra.packaging.pyfunc import describe
from mlops_hydra.packaging.result import Result
from mlops_hydra.tracking.lineage import Lineage
from mlops_hydra.tracking.mlmodel import write_mlmodel
from mlops_hydra.training.build import build_workbench


def packaged(folder: Path, *overrides: str, splits: Splits | None = None) -> Path:
    """An untrained model with MLflow's files in `folder`."""
    config, objective = compose(overrides), Objective("log_loss", "minimize")
    splits = splits or open_source(config.data).load()
    bench = build_workbench(config, splits, objective, torch.device("cpu"))
    write_graph(folder / "bundle", export(bench, splits), bench, splits, cache=None, key="")
    lineage, rest = Lineage("a" * 64, "b" * 64, "c" * 64), (objective, 1, 1, folder, ())
    result = Result("1234567e8901", None, "new", "", splits.task, lineage, {}, (), "passed", *rest)
    seal_bundle(folder / "bundle", result, name="model", classes=splits.classes)
    write_mlmodel(folder, describe(load_bundle(folder)))
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a table with every kind of column; numbers, booleans, words and dates are missing here and there."""
    folder, rng, size = tmp_path_factory.mktemp("model"), np.random.default_rng(0), 300
    frame = pd.DataFrame(
        {
            "height": rng.normal(170, 10, size),
            "age": rng.normal(40, 10, size),
            "count": rng.integers(0, 50, size),
            "active": rng.random(size) < 0.5,
            "city": rng.choice(["Köln", "Wien"], size),
            "zone": rng.integers(1, 4, size),
            "day": (pd.Timestamp("2024-01-01") + pd.to_timedelta(rng.integers(0, 700, size), unit="D")).astype(str),
            "moment": pd.Timestamp("2024-01-01") + pd.to_timedelta(rng.integers(0, 700, size), unit="h"),
            "target": rng.choice(["no", "yes"], size),
        }
    )
    frame["active"] = frame["active"].astype(object)
    for name in ("height", "active", "city", "moment"):
        frame.loc[rng.random(size) < 0.2, name] = None
    frame.to_parquet(folder / "table.parquet")
    source = ["data=parquet", f"data.path={folder / 'table.parquet'}", "data.target=target"]
    return packaged(folder / "packaged", *source, "+data.kinds.zone=categorical", "model=linear")


@pytest.fixture
def bundle(model: Path) -> Bundle:
    return load_bundle(model)


def loaded(folder: Path) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of importing mlflow.pyfunc
        import mlflow.pyfunc

        return mlflow.pyfunc.load_model(str(folder))


@pytest.fixture(autouse=True)
def _no_pickle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")


def test_mlflow_predicts_what_the_bundle_does(model: Path, bundle: Bundle) -> None:
    frame = pd.DataFrame(bundle.golden.rows).astype({"moment": "datetime64[us]"})
    predicted = loaded(model).predict(frame)
    assert list(predicted) == ["prediction", "p_no", "p_yes"]
    np.testing.assert_array_equal(predicted[["p_no", "p_yes"]], bundle.outputs(bundle.golden.rows))
    assert predicted["prediction"].tolist() == bundle.predict(bundle.golden.rows).tolist()


def test_the_signature_has_the_types_of_the_raw_values_where_mlflow_leaves_them_alone(model: Path) -> None:
    signature = loaded(model).metadata.signature
    columns = {
        column.name: (str(column.type).removeprefix("DataType."), column.required) for column in signature.inputs.inputs
    }
    assert columns == {
        "height": ("double", False),
        "age": ("double", True),
        "count": ("Any", False),
        "active": ("Any", False),
        "city": ("string", False),
        "zone": ("Any", False),
        "day": ("string", True),
        "moment": ("datetime", False),
    }
    outputs = [(column.name, column.type.name) for column in signature.outputs.inputs]
    assert outputs == [("prediction", "string"), ("p_no", "double"), ("p_yes", "double")]


def test_columns_that_may_be_missing_can_be_left_out(model: Path, bundle: Bundle) -> None:
    frame = pd.DataFrame(bundle.golden.rows).drop(columns=["height", "active", "city", "moment"])
    without = {name: [None] * 12 for name in ("height", "active", "city", "moment")}
    expected = bundle.outputs({**bundle.golden.rows, **without})
    np.testing.assert_array_equal(loaded(model).predict(frame)[["p_no", "p_yes"]], expected)


def test_the_example_is_one_that_the_model_takes(model: Path) -> None:
    served = loaded(model)
    assert len(served.predict(served.input_example)) == 12
    assert set(json.loads((model / "serving_input_example.json").read_text())) == {"dataframe_split"}


def test_what_it_needs_is_pinned_and_nothing_is_pickled(model: Path) -> None:
    lines = (model / "requirements.txt").read_text().split()
    assert [line.split("==")[0] for line in lines] == ["mlops_hydra", "numpy", "onnxruntime", "pandas"]
    assert all(line.count("==") == 1 for line in lines)
    assert {path.name for path in model.iterdir()} == {
        "MLmodel", "bundle", "input_example.json", "python_env.yaml", "requirements.txt", "serving_input_example.json",
    }  # fmt: skip


def test_the_files_are_written_in_no_time(model: Path, bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "bundle").symlink_to(model / "bundle")
    before = time.perf_counter()
    write_mlmodel(tmp_path, describe(bundle))
    assert time.perf_counter() - before < 0.2


def test_a_model_of_tensors_takes_arrays(tmp_path: Path) -> None:
    images = torch.rand(20, 1, 8, 8)
    data, targets = TensorDataset(images, torch.arange(20) % 2), np.arange(20) % 2
    scanned = dict.fromkeys(("train", "val", "test"), targets)
    folder = packaged(tmp_path, "model=cnn", splits=Splits(data, data, data, "binary", (0, 1), scanned=scanned))
    served = loaded(folder)
    expected = load_bundle(folder).outputs(images.numpy())
    np.testing.assert_array_equal(served.predict(images.numpy())[["p_0", "p_1"]], expected)
    assert served.predict(images.numpy())["prediction"].tolist() == expected.argmax(axis=1).tolist()
    assert served.input_example.shape == (1, 1, 8, 8)


@pytest.mark.slow
def test_mlflow_serves_it(model: Path, bundle: Bundle, tmp_path: Path) -> None:
    """`mlflow models serve` on loopback, about 15 s."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mlflow = str(Path(sys.executable).with_name("mlflow"))
    command = [mlflow, "models", "serve", "-m", str(model), "--env-manager", "local", "-h", "127.0.0.1"]
    environment = os.environ | {
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PATH": f"{Path(mlflow).parent}:{os.environ['PATH']}",
    }
    log = (tmp_path / "log").open("w")
    server = subprocess.Popen(
        [*command, "-p", str(port)], env=environment, stdout=log, stderr=log, cwd=tmp_path, start_new_session=True
    )
    try:
        answer = posted(f"http://127.0.0.1:{port}", (model / "serving_input_example.json").read_bytes())
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)
        log.close()
    rows = json.loads(answer)["predictions"]
    np.testing.assert_allclose([[row["p_no"], row["p_yes"]] for row in rows], bundle.golden.predictions, atol=1e-12)


def posted(url: str, body: bytes) -> bytes:
    """The answer to a prediction, once the server is up."""
    deadline = time.monotonic() + 60
    while True:
        try:
            urllib.request.urlopen(f"{url}/ping", timeout=5).close()
            break
        except (urllib.error.URLError, ConnectionError):
            assert time.monotonic() < deadline, "the server did not come up"
            time.sleep(0.2)
    request = urllib.request.Request(f"{url}/invocations", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as response:
        return bytes(response.read())
