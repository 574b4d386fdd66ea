"""What leaves a run predicts alone what the run predicted."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from mlops_hydra import compose
from mlops_hydra.config.objective import Objective, resolve_objective
from mlops_hydra.data.sources import open_source
from mlops_hydra.data.splits import Splits, Table
from mlops_hydra.errors import BundleError, DataError, ExportError, UsageError
from mlops_hydra.fitting import export
from mlops_hydra.packaging.bundle import Bundle, load_bundle
from mlops_hydra.packaging.bundle_writer import seal_bundle, write_graph
from mlops_hydra.packaging.predictor import PredictionGraph
from mlops_hydra.packaging.result import Result
from mlops_hydra.tracking.lineage import Lineage
from mlops_hydra.training.build import build_workbench

LINEAGE = Lineage("a" * 64, "b" * 64, "c" * 64)


def packaged(folder: Path, *overrides: str, splits: Splits | None = None) -> tuple[PredictionGraph, Splits]:
    """An untrained model in `folder`."""
    config = compose(overrides)
    splits = splits or open_source(config.data).load()
    objective = resolve_objective(config.objective, splits.task)
    torch.manual_seed(0)
    bench = build_workbench(config, splits, objective, torch.device("cpu"))
    graph = export(bench, splits).eval()
    write_graph(folder, graph, bench, splits, cache=None, key="")
    seal_bundle(folder, result_of(splits, objective, folder), name="model", classes=splits.classes)
    return graph, splits


def result_of(splits: Splits, objective: Objective, folder: Path, verdict: Any = "passed") -> Result:
    metrics = {"test/accuracy": 0.75, "test/roc_auc": float("nan")}
    about: Any = {"warnings": (), "gates": (), "verdict": verdict, "objective": objective}
    numbers: Any = {"best_epoch": 1, "num_epochs": 1}
    return Result("1234567e8901", "run", "new", "", splits.task, LINEAGE, metrics, folder=folder, **about, **numbers)


def mixed_table(path: Path, target: str) -> None:
    """400 rows of every kind, a tenth of the values missing; 30 of one column's categories."""
    rng = np.random.default_rng(0)
    size = 400
    frame = pd.DataFrame(
        {
            "größe": rng.normal(170, 10, size),
            "zahl": rng.integers(0, 50, size),
            "aktiv": rng.random(size) < 0.5,
            "stadt": rng.choice(["Köln", "Wien", "Zürich"], size),
            "kunde": rng.choice([f"k{number}" for number in range(30)], size),
            "tag": (pd.Timestamp("2024-01-01") + pd.to_timedelta(rng.integers(0, 700, size), unit="D")).astype(str),
        }
    )
    frame = frame.mask(rng.random(frame.shape) < 0.1)
    values = {"wort": rng.choice(["ja", "nein", "weiß nicht"], size), "wert": rng.normal(1e6, 3, size)}
    frame.assign(**{target: values[target]}).to_csv(path, index=False)


Made = tuple[Path, PredictionGraph, Splits]
TABLES = {
    "numbers, two classes": ("data=breast_cancer", "model=linear"),
    "numbers, three classes": ("data=wine", "model=mlp"),
    "images": ("data=digits", "model=cnn"),
    "a value": ("data=diabetes", "model=mlp"),
    "every kind": ("data=csv", "data.path=wort.csv", "data.target=wort", "model=mlp", "model.dropout=0.2"),
    "every kind, a value": ("data=csv", "data.path=wert.csv", "data.target=wert", "model=linear"),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Made]:
    """A model of `TABLES`, packaged once; its folder is not to be changed."""
    known: dict[str, Made] = {}

    def make(name: str) -> Made:
        if name not in known:
            place = tmp_path_factory.mktemp("bundle")
            with pytest.MonkeyPatch.context() as patch:
                patch.chdir(place)
                for target in ("wort", "wert"):
                    mixed_table(place / f"{target}.csv", target)
                known[name] = (place / "model", *packaged(place / "model" / "bundle", *TABLES[name]))
        return known[name]

    return make


@pytest.fixture(scope="module")
def table(made: Callable[[str], Made]) -> Made:
    return made("every kind")


def expected_of(graph: PredictionGraph, splits: Splits) -> Any:
    from mlops_hydra.packaging.predictor import Predictor

    assert isinstance(splits.test, Table) and splits.schema is not None
    return Predictor(graph, splits.schema).predict(splits.test.columns())


# What it predicts


@pytest.mark.parametrize("name", TABLES)
def test_a_bundle_predicts_what_the_module_does(made: Callable[[str], Made], name: str) -> None:
    folder, graph, splits = made(name)
    bundle, expected = load_bundle(folder), expected_of(graph, splits)
    assert isinstance(splits.test, Table)
    columns = splits.test.columns()
    if splits.task == "regression":
        np.testing.assert_allclose(bundle.predict(columns), expected, rtol=1e-5)
        with pytest.raises(UsageError, match="predicts a value"):
            bundle.predict_proba(columns)
    else:
        np.testing.assert_allclose(bundle.predict_proba(columns), expected, atol=1e-5)
        labels = [splits.classes[code] for code in expected.argmax(axis=1)]
        assert bundle.predict(columns).tolist() == labels
    assert (bundle.task, bundle.classes, bundle.schema) == (splits.task, splits.classes, splits.schema)
    assert len(bundle.golden) == 12


def test_columns_rows_and_frames_are_the_same_to_it(table: Made) -> None:
    folder, graph, splits = table
    bundle, expected = load_bundle(folder / "bundle"), expected_of(graph, splits)[:5]
    assert isinstance(splits.test, Table)
    frame = splits.test.features.iloc[:5]
    rows = json.loads(frame.to_json(orient="records"))
    columns = {str(name): [row[name] for row in rows] for name in frame}
    for given in (frame, rows, columns, splits.test.columns() | {"other": 3}):
        np.testing.assert_allclose(bundle.outputs(given)[:5], expected, atol=1e-5)
    np.testing.assert_allclose(bundle.outputs(rows[:1]), expected[:1], atol=1e-5)
    assert bundle.outputs([]).shape == (0, 3) and bundle.predict([]).shape == (0,)


def test_rows_that_it_cannot_read_are_told(table: Made) -> None:
    bundle = load_bundle(table[0])
    rows = [{name: values[i] for name, values in bundle.golden.rows.items()} for i in range(3)]
    with pytest.raises(DataError, match="column 'stadt', row 1: is missing"):
        bundle.predict([rows[0], {k: v for k, v in rows[1].items() if k != "stadt"}])
    with pytest.raises(DataError, match="column 'zahl', row 0: must be a number"):
        bundle.predict([rows[0] | {"zahl": "viele"}])
    for wrong in (rows[0], rows[0] | {"stadt": "Wien"}, {"stadt": "Wien"}):
        with pytest.raises(UsageError, match=r"list of values; give one row as .*\[row\]"):
            bundle.predict(wrong)
    for wrong in (3, "rows", [1, 2], None, np.zeros((2, 6))):
        with pytest.raises(UsageError, match="columns by name, a list of rows"):
            bundle.predict(wrong)


def test_what_is_known_of_the_run_is_there(table: Made) -> None:
    bundle = load_bundle(table[0])
    assert (bundle.name, bundle.fingerprint, bundle.run_id) == ("model", "1234567e8901", "run")
    assert bundle.lineage == LINEAGE.digest and bundle.verdict == "passed"
    assert bundle.metrics == {"test/accuracy": 0.75, "test/roc_auc": None}
    names = {path.name for path in bundle.folder.iterdir()}
    assert names == {
        "bundle.json", "graph.json", "manifest.json", "model.onnx", "weights.safetensors", "schema.json",
        "profile.json", "golden.json", "metrics.json", "verdicts.json", "lineage.json",
    }  # fmt: skip


def test_its_weights_rebuild_the_module(table: Made) -> None:
    from mlops_hydra.packaging.files import load_weights

    folder, graph, _ = table
    before = {name: value.clone() for name, value in graph.state_dict().items()}
    for parameter in graph.parameters():
        parameter.data.zero_()
    load_weights(graph, folder / "bundle")
    assert all(torch.equal(value, before[name]) for name, value in graph.state_dict().items())


def test_it_can_be_judged_and_sealed_again(tmp_path: Path) -> None:
    _, splits = packaged(tmp_path, "data=wine", "model=linear")
    graph = (tmp_path / "model.onnx").read_bytes()
    objective = Objective("log_loss", "minimize")
    seal_bundle(tmp_path, result_of(splits, objective, tmp_path, "failed"), name="model", classes=splits.classes)
    assert load_bundle(tmp_path).verdict == "failed" and (tmp_path / "model.onnx").read_bytes() == graph


def test_a_bundle_that_was_only_begun_is_none(tmp_path: Path) -> None:
    packaged(tmp_path, "data=wine", "model=linear")
    (tmp_path / "manifest.json").unlink()
    for place in (tmp_path, tmp_path.parent, tmp_path / "nowhere"):
        with pytest.raises(BundleError, match=r"is no bundle: there is no manifest\.json"):
            load_bundle(place)


def test_predictions_that_are_not_finite_are_not_packaged(tmp_path: Path) -> None:
    config = compose(["data=wine", "model=linear"])
    splits = open_source(config.data).load()
    bench = build_workbench(config, splits, Objective("log_loss", "minimize"), torch.device("cpu"))
    next(bench.network.parameters()).data.fill_(float("nan"))
    with pytest.raises(ExportError, match="not finite"):
        write_graph(tmp_path, export(bench, splits), bench, splits, cache=None, key="")


# torch Datasets


class Named(Dataset[Any]):
    def __len__(self) -> int:
        return 40

    def __getitem__(self, row: int) -> dict[str, Any]:
        return {"words": torch.tensor([row % 7, 1]), "size": np.float64(row), "target": row % 2}


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        yield from ((torch.rand(3), row % 2) for row in range(40))


class Texts(Named):
    def __getitem__(self, row: int) -> Any:
        return "text", torch.rand(3), row % 2


class WordModel(nn.Module):
    def __init__(self, out_features: int) -> None:
        super().__init__()
        self.words, self.size = nn.EmbeddingBag(7, out_features), nn.Linear(1, out_features)

    def forward(self, words: Tensor, size: Tensor) -> Tensor:
        output: Tensor = self.words(words) + self.size(size[:, None] / 40)
        return output


class TextModel(nn.Linear):
    def __init__(self, out_features: int) -> None:
        super().__init__(3, out_features)

    def forward(self, text: Any, x: Tensor) -> Tensor:
        return super().forward(x)


def splits_of(part: Any) -> Splits:
    targets = np.arange(40) % 2
    return Splits(part, part, part, "binary", (0, 1), scanned=dict.fromkeys(("train", "val", "test"), targets))


def own_model(name: str) -> list[str]:
    return ["model=linear", f"model._target_={__name__}.{name}", "data.target=target"]


IMAGES = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def test_a_model_of_tensors_takes_arrays(tmp_path: Path) -> None:
    data = TensorDataset(IMAGES, torch.arange(40) % 2)
    graph, _ = packaged(tmp_path, "model=cnn", splits=splits_of(data))
    bundle = load_bundle(tmp_path)
    assert bundle.schema is None and bundle.classes == (0, 1) and len(bundle.golden) == 12
    expected = graph(IMAGES).detach().numpy()
    for given in (IMAGES.numpy(), IMAGES.double().numpy(), IMAGES.tolist(), {"input_0": IMAGES.numpy()}):
        np.testing.assert_allclose(bundle.predict_proba(given), expected, atol=1e-5)
    assert bundle.predict(IMAGES.numpy()).tolist() == expected.argmax(axis=1).tolist()
    for wrong in (IMAGES[0].numpy(), IMAGES[:, :, :7].numpy(), np.zeros((3, 1, 8, 8), dtype=complex), [[1], [1, 2]]):
        with pytest.raises(DataError, match="rows, input_0"):
            bundle.predict(wrong)
    assert not (tmp_path / "schema.json").exists()


def test_a_model_of_named_inputs_takes_them_by_name(tmp_path: Path) -> None:
    graph, _ = packaged(tmp_path, *own_model("WordModel"), splits=splits_of(Named()))
    bundle = load_bundle(tmp_path)
    words, size = torch.tensor([[1, 2], [3, 4], [0, 6]]), torch.tensor([1.0, 2.0, 3.0])
    expected = graph(words=words, size=size).detach().numpy()
    np.testing.assert_allclose(bundle.outputs({"words": words.numpy(), "size": size.numpy()}), expected, atol=1e-5)
    np.testing.assert_allclose(bundle.outputs((words.numpy(), [1, 2, 3])), expected, atol=1e-5)
    with pytest.raises(UsageError, match="arrays for words, size"):
        bundle.outputs({"words": words.numpy()})
    with pytest.raises(DataError, match="differ in their number"):
        bundle.outputs((words.numpy(), [1.0]))
    assert bundle.golden.rows["size"].tolist()[0] == 0 and bundle.golden.rows["size"].tolist()[-1] == 39


def test_a_stream_gives_its_first_rows(tmp_path: Path) -> None:
    packaged(tmp_path, *own_model("OfThree"), splits=splits_of(Stream()))
    assert len(load_bundle(tmp_path).golden) == 12


class OfThree(nn.Linear):
    def __init__(self, out_features: int) -> None:
        super().__init__(3, out_features)


def test_a_model_that_reads_text_cannot_be_packaged(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="'input_0' is no tensor of rows that onnxruntime takes: tuple"):
        packaged(tmp_path, *own_model("TextModel"), splits=splits_of(Texts()))
    with pytest.raises(BundleError):
        load_bundle(tmp_path)


# What it needs

ALONE = """
import json, sys
from mlops_hydra.packaging.bundle import load_bundle
rows = json.load(open(sys.argv[2]))
load_bundle(sys.argv[1]).predict(rows)
heavy = {"torch", "mlflow", "scipy", "pandas", "onnx", "sklearn", "safetensors", "hydra"} & set(sys.modules)
assert not heavy, heavy
print([int(l.split()[1]) // 1024 for l in open("/proc/self/status") if l.startswith("VmHWM")][0])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_it_predicts_without_torch_mlflow_scipy_and_pandas_in_100_mb(table: Made, tmp_path: Path) -> None:
    bundle: Bundle = load_bundle(table[0])
    (tmp_path / "rows.json").write_text(json.dumps(dict(bundle.golden.rows)))
    command = [sys.executable, "-c", ALONE, str(table[0]), str(tmp_path / "rows.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 100, "MB at most"
