"""From a module to a graph: what it predicts, what it leaves alone, what is kept of it, and why some have none."""

import logging
import random
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from mlops_hydra.errors import ExportError
from mlops_hydra.packaging import exporting
from mlops_hydra.packaging.exporting import Inputs, export_graph
from mlops_hydra.packaging.predictor import PredictionGraph
from mlops_hydra.training.scale import TargetScale
from tests.sampled import some

ROWS = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
SCALE = TargetScale(1000.0, 50.0)


def small(seed: int = 0) -> PredictionGraph:
    torch.manual_seed(seed)
    layers = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Dropout(0.5), nn.Linear(3, 2))
    return PredictionGraph(layers, features=None, task="binary")


def of(model: nn.Module, task: Any = "binary") -> PredictionGraph:
    return PredictionGraph(model, features=None, task=task, scale=SCALE if task == "regression" else None)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds what torch made of `small`."""
    folder = tmp_path_factory.mktemp("cache")
    export_graph(small(), (ROWS,), folder / "first.onnx", cache=folder / "kept", key="small")
    return folder / "kept"


@pytest.fixture
def no_exporter(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise AssertionError("torch's exporter was called")

    monkeypatch.setattr(exporting, "_export", fail)


def outputs(path: Path, *arrays: Tensor) -> Any:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [item.name for item in session.get_inputs()]
    return session.run(None, {name: array.numpy() for name, array in zip(names, arrays, strict=True)})[0]


# What is kept


def test_a_kept_graph_is_filled_with_the_numbers_of_the_next_model(cache: Path, tmp_path: Path, no_exporter: None):
    graph = small(seed=1).eval()
    export_graph(graph, (ROWS,), tmp_path / "model.onnx", cache=cache, key="small")
    np.testing.assert_allclose(outputs(tmp_path / "model.onnx", ROWS), graph(ROWS).detach(), atol=1e-6)


def test_kept_or_not_the_file_is_the_same(cache: Path, tmp_path: Path):
    export_graph(small(seed=2), (ROWS,), tmp_path / "kept.onnx", cache=cache, key="small")
    export_graph(small(seed=2), (ROWS,), tmp_path / "fresh.onnx", cache=None, key="small")
    assert (tmp_path / "kept.onnx").read_bytes() == (tmp_path / "fresh.onnx").read_bytes()


def test_what_is_kept_holds_no_weights_and_nothing_tells_of_source_code(cache: Path, tmp_path: Path):
    (kept,) = cache.iterdir()
    assert all(not tensor.raw_data for tensor in onnx.load_model_from_string(kept.read_bytes()).graph.initializer)
    export_graph(small(), (ROWS,), tmp_path / "model.onnx", cache=cache, key="small")
    for content in (kept.read_bytes(), (tmp_path / "model.onnx").read_bytes()):
        assert b"stack_trace" not in content and b".py" not in content and b"forward" not in content


@pytest.mark.parametrize("damage", some([b"not protobuf", "another graph"], every=2))
def test_a_kept_graph_that_does_not_serve_is_exported_anew(cache: Path, tmp_path: Path, damage: bytes | str):
    (kept,) = cache.iterdir()
    own = tmp_path / "cache"
    own.mkdir()
    content = kept.read_bytes()
    damaged = damage
    if isinstance(damaged, str):
        model = onnx.load_model_from_string(content)
        (relu,) = (node for node in model.graph.node if node.op_type == "Relu")
        relu.op_type = "Tanh"
        damaged = model.SerializeToString()
    (own / kept.name).write_bytes(damaged)
    graph = small(seed=3).eval()
    export_graph(graph, (ROWS,), tmp_path / "model.onnx", cache=own, key="small")
    np.testing.assert_allclose(outputs(tmp_path / "model.onnx", ROWS), graph(ROWS).detach(), atol=1e-6)
    assert (own / kept.name).read_bytes() == content


def test_key_shapes_and_types_tell_architectures_apart(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    digests = []
    monkeypatch.setattr(exporting, "_export", lambda called: digests.append(called.digest("x")) or 1 / 0)
    for graph, inputs in [
        (small(), (ROWS,)),
        (of(nn.Linear(4, 2)), {"input": ROWS}),
        (of(nn.Linear(4, 2)), (ROWS,)),
        (of(nn.Linear(4, 3)), (ROWS,)),
        (of(nn.Linear(4, 2).double()), (ROWS.double(),)),
    ]:
        with pytest.raises(ZeroDivisionError):
            export_graph(graph, inputs, tmp_path / "model.onnx", cache=tmp_path, key="x")
    assert len(set(digests)) == 5


def test_a_cache_that_cannot_be_written_is_only_slower(tmp_path: Path):
    (tmp_path / "file").write_text("in the way")
    graph = of(nn.Linear(4, 2)).eval()
    export_graph(graph, (ROWS,), tmp_path / "model.onnx", cache=tmp_path / "file" / "below", key="")
    np.testing.assert_allclose(outputs(tmp_path / "model.onnx", ROWS), graph(ROWS).detach(), atol=1e-6)


TWO = """
import sys, torch
from pathlib import Path
from mlops_hydra.packaging.exporting import export_graph
from mlops_hydra.packaging.predictor import PredictionGraph
graph = PredictionGraph(torch.nn.Linear(4, 2), features=None, task="binary")
export_graph(graph, (torch.randn(9, 4),), Path(sys.argv[1]), cache=Path("cache"), key="")
"""


@pytest.mark.slow
def test_two_processes_at_once_keep_one_graph(tmp_path: Path):
    """About 6 s: both start from nothing."""
    started = [subprocess.Popen([sys.executable, "-c", TWO, f"{n}.onnx"], cwd=tmp_path) for n in range(2)]
    assert [process.wait(60) for process in started] == [0, 0]
    assert len(list((tmp_path / "cache").iterdir())) == 1 and len(list(tmp_path.glob("*.onnx"))) == 2


# What it leaves alone


def test_the_module_and_the_process_are_as_before(tmp_path: Path):
    graph = small()
    graph.model[3].eval()
    modes = [module.training for module in graph.modules()]
    state = {name: value.clone() for name, value in graph.state_dict().items()}
    torch.manual_seed(5), np.random.seed(5), random.seed(5)
    expected = torch.rand(1), np.random.rand(1), random.random()
    torch.manual_seed(5), np.random.seed(5), random.seed(5)
    threads, filters = torch.get_num_threads(), list(warnings.filters)
    levels = {
        name: logger.level for name, logger in logging.root.manager.loggerDict.items() if hasattr(logger, "level")
    }
    export_graph(graph, (ROWS,), tmp_path / "model.onnx", cache=None, key="")
    assert (torch.rand(1), np.random.rand(1), random.random()) == expected
    assert torch.is_grad_enabled() and torch.get_num_threads() == threads and warnings.filters == filters
    assert [module.training for module in graph.modules()] == modes and modes != [graph.training] * len(modes)
    assert all(torch.equal(value, state[name]) for name, value in graph.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in graph.parameters())
    assert all(logging.getLogger(name).level == level for name, level in levels.items())


def test_also_when_it_fails(tmp_path: Path):
    graph = of(Undecided()).train()
    with pytest.raises(ExportError):
        export_graph(graph, (ROWS,), tmp_path / "model.onnx", cache=None, key="")
    assert all(module.training for module in graph.modules()) and torch.is_grad_enabled()
    assert list(tmp_path.iterdir()) == []


def test_the_terminal_stays_quiet(tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture):
    export_graph(of(nn.Linear(4, 2)), (ROWS,), tmp_path / "model.onnx", cache=None, key="")
    with pytest.raises(ExportError):
        export_graph(of(Undecided()), (ROWS,), tmp_path / "other.onnx", cache=None, key="")
    assert capfd.readouterr() == ("", "")
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


# What can be exported


class Several(nn.Module):
    """Ways to hold numbers: a tied weight, a buffer that is not saved, a plain attribute, an embedding, a zero."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.tied = self.embedding
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 2)
        nn.init.zeros_(self.first.bias), nn.init.zeros_(self.second.bias)
        self.register_buffer("unsaved", torch.randn(4), persistent=False)
        self.plain = torch.randn(4)

    def forward(self, x: Tensor, words: Tensor) -> Tensor:
        mixed = self.embedding(words).mean(1) * self.unsaved + self.tied(words).amax(1) * self.plain
        output: Tensor = self.second(self.first(x + mixed).tanh())
        return output


class Sequence(nn.Module):
    """A recurrent layer and an attention layer over [n, 6, 4]."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
        self.recurrent = nn.GRU(4, 5, batch_first=True)
        self.head = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.head(self.recurrent(self.attention(x))[0][:, -1])
        return output


class Logits(nn.Linear):
    """Answers as models of the transformers library do."""

    def forward(self, x: Tensor) -> Any:
        return type("Output", (), {"logits": super().forward(x)})()


WORDS = torch.arange(20)[:, None] % 7 + torch.zeros(1, 3, dtype=torch.int64)
SENTENCES = torch.randn(20, 6, 4, generator=torch.Generator().manual_seed(0))
IMAGES = torch.arange(20 * 12, dtype=torch.int64).reshape(20, 3, 2, 2).to(torch.uint8)


class Bytes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(12, 1)

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.head((x.float() / 255).flatten(1))
        return output


@pytest.mark.parametrize(
    ("make", "inputs", "task"),
    [
        (Several, (ROWS, WORDS), "binary"),
        (Several, {"words": WORDS, "x": ROWS}, "binary"),
        pytest.param(Sequence, (SENTENCES,), "binary", marks=pytest.mark.slow),
        (lambda: Logits(4, 3), (ROWS,), "multiclass"),
        (Bytes, (IMAGES,), "regression"),
    ],
    ids=["two inputs", "inputs by name", "attention and recurrence", "logits", "bytes, regression"],
)
def test_graph_and_module_say_the_same_fresh_and_kept(
    make: Callable[[], nn.Module], inputs: Inputs, task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for seed in (0, 1):
        torch.manual_seed(seed)
        graph = of(make(), task).eval()
        exported = export_graph(graph, inputs, tmp_path / f"{seed}.onnx", cache=tmp_path / "cache", key="")
        named = exporting.name_inputs(graph, inputs)
        for rows in (1, 2, 20):
            arrays = {name: value[:rows].numpy() for name, value in named.items()}
            with torch.no_grad():
                part = {name: value[:rows] for name, value in named.items()}
                expected = graph(**part) if isinstance(inputs, dict) else graph(*part.values())
            np.testing.assert_allclose(exported.graph.run(arrays, rows), expected, rtol=1e-5, atol=1e-6)
        monkeypatch.setattr(exporting, "_export", lambda _: pytest.fail("exported twice"))


# What cannot


class Undecided(nn.Module):
    """Goes another way for other data."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :2] if x.sum() > 0 else x[:, 2:]


class Three(nn.Module):
    """Only knows batches of three rows."""

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(-1)[:12].reshape(3, 4)[:, :2]


class Noise(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[:, :2] + torch.rand_like(x[:, :2])


class Overflow(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return (x[:, :2] * 1e30).square()


class ByNumPy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.from_numpy(np.sort(x.numpy(), axis=1))[:, :2]


class OfCompany(nn.Module):
    """What a row gives depends on the rows beside it, and on how many there are."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :2] * 3 if x.shape[0] > 2 else x[:, :2]


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (Undecided(), "torch cannot export it: .*data-dependent"),
        (Three(), "."),
        (Noise(), "differ"),
        (Overflow(), "predictions are not finite"),
        (ByNumPy(), "torch cannot export it|differ"),
        (OfCompany(), "graph and module differ by .* on 1 rows"),
        (nn.Linear(5, 2), "torch cannot export it|fails"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_cannot_be_exported_says_why_in_one_line_and_leaves_nothing(model: Any, reason: str, tmp_path: Path):
    with pytest.raises(ExportError) as caught:
        export_graph(of(model), (ROWS,), tmp_path / "model.onnx", cache=tmp_path, key="")
    message = str(caught.value)
    assert re.search(reason, message, re.IGNORECASE) and "\n" not in message and len(message) < 500, message
    assert caught.value.exit_code == 1 and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("inputs", "reason"),
    [
        ((), "there are no rows"),
        ((ROWS[:0],), "there are no rows"),
        (((ROWS, ROWS),), "'input_0' is no tensor .*: tuple"),
        ({"x": ROWS, "text": ["a"] * 20}, "'text' is no tensor .*: list"),
        ((ROWS.to(torch.complex64),), "complex64"),
        ((torch.tensor(1.0),), "no tensor of rows"),
    ],
)
def test_inputs_that_a_graph_cannot_take_are_named(inputs: Any, reason: str, tmp_path: Path):
    with pytest.raises(ExportError, match=reason):
        export_graph(small(), inputs, tmp_path / "model.onnx", cache=None, key="")
