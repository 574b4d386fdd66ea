"""A prediction graph as ONNX, which predicts without torch and without the user's code.

torch's exporter takes 0.6 to 3 s. What it makes of an architecture is kept without the tensors' data, and filled with
those of the next model in tens of ms. What comes out is compared with the module before anybody gets it.
Not here: which rows it is compared on (`bundle_writer.py`), and running it elsewhere (`bundle.py`).
"""

import copy
import hashlib
import importlib.metadata
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mlops_hydra.atomic import replacing
from mlops_hydra.config.fingerprint import canonical_json
from mlops_hydra.errors import BundleError, ExportError, TrackingError
from mlops_hydra.packaging.golden import TOLERANCE
from mlops_hydra.packaging.graph import DTYPES, Graph, Input, one_line, open_graph
from mlops_hydra.packaging.predictor import PredictionGraph
from mlops_hydra.packaging.template import PREFIX, fill, read_template, strip, write_template
from mlops_hydra.training.seeding import RandomState

Inputs = tuple[Tensor, ...] | Mapping[str, Tensor]

_BATCHES: Final = (1, 7, 1000)  # rows, on which graph and module are compared
_MAX_BATCH_BYTES: Final = 64 * 2**20  # of inputs: 1,000 photographs would take 600 MB
_TRACED_ROWS: Final = 3
_LOGGERS: Final = ("torch.onnx", "torch.export", "torch._export", "torch._dynamo", "torch.fx", "onnxscript", "onnx_ir")
_VERSION: Final = "1"  # of what a cached graph is
_CODES: Final = ("numeric", "codes")


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written: the inputs that the module is called with, the loaded graph, how far it may be off."""

    inputs: tuple[Input, ...]
    graph: Graph
    tolerance: float


def export_graph(graph: PredictionGraph, inputs: Inputs, path: Path, *, cache: Path | None, key: str) -> Exported:
    """Write `graph` as ONNX to `path`, atomically, and compare it with the module.

    The module stays as it is: its device, its mode, and all generators of random numbers.

    Args:
        inputs: what it is called with, each `[n, ...]` with n > 0, by position or by name; it is compared on these.
        cache: folder of the architectures that were exported before; None exports anew.
        key: what decides the architecture; versions and shapes are added here.

    Raises:
        ExportError: it cannot be exported, or the graph predicts something else. The message is one line.
        TrackingError: the disk does not take it.
    """
    with _left_alone(graph):
        module = _on_cpu(graph)
        arrays = name_inputs(graph, inputs)
        called = _Called(module, arrays, isinstance(inputs, Mapping))
        answers = _answers(called)
        kept = None if cache is None else cache / f"{called.digest(key)}.onnx"
        if kept is not None and kept.is_file():
            try:
                return _written(called, answers, read_template(kept), path)
            except Exception:  # whatever is wrong with it, a fresh one is right
                logging.getLogger(__name__).debug("%s does not serve: exported anew", kept, exc_info=True)
        template = strip(_export(called), module)
        exported = _written(called, answers, template, path)
        if kept is not None:
            with suppress(OSError, TrackingError):  # without it the next one is only slower
                write_template(kept, template)
        return exported


def name_inputs(graph: PredictionGraph, inputs: Inputs) -> dict[str, Tensor]:
    """The inputs by the names that they have in ONNX, on the CPU.

    Raises:
        ExportError: one is no tensor of numbers, or there are none.
    """
    if isinstance(inputs, Mapping):
        named: dict[str, Any] = {str(name): value for name, value in inputs.items()}
    elif graph.features is not None:
        named = dict(zip(_CODES, inputs, strict=True))
    else:
        named = {f"input_{place}": value for place, value in enumerate(inputs)}
    for name, value in named.items():
        if not isinstance(value, Tensor) or not value.ndim or _dtype(value) not in DTYPES:
            what = str(value.dtype) if isinstance(value, Tensor) else type(value).__name__
            raise ExportError(f"the input {name!r} is no tensor of rows that onnxruntime takes: {what}")
    if not named or not all(len(value) for value in named.values()):
        raise ExportError("there are no rows to export it with")
    return {name: value.detach().cpu() for name, value in named.items()}


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


@dataclass(frozen=True, slots=True)
class _Called:
    """A module in evaluation mode on the CPU, and how it is called."""

    module: PredictionGraph
    arrays: dict[str, Tensor]
    by_name: bool

    @property
    def inputs(self) -> tuple[Input, ...]:
        return tuple(Input(name, _dtype(value), tuple(value.shape[1:])) for name, value in self.arrays.items())

    def rows(self, number: int) -> dict[str, Tensor]:
        """The first rows, from the start again where there are fewer."""
        return {name: value[torch.arange(number) % len(value)] for name, value in self.arrays.items()}

    def __call__(self, rows: Mapping[str, Tensor]) -> NDArray[np.float64]:
        try:
            outputs = self.module(**rows) if self.by_name else self.module(*rows.values())
            predictions: NDArray[np.float64] = outputs.numpy()
        except Exception as error:  # the user's code
            raise ExportError(f"the model fails on {len(next(iter(rows.values())))} rows: {_reason(error)}") from error
        return predictions

    def digest(self, key: str) -> str:
        """What decides the exported graph but for the numbers in the tensors."""
        versions = {name: importlib.metadata.version(name) for name in ("torch", "onnx", "onnxscript")}
        state = [(name, _dtype(value), list(value.shape)) for name, value in self.module.state_dict().items()]
        inputs = [(item.name, item.dtype, list(item.shape)) for item in self.inputs]
        text = canonical_json([_VERSION, key, versions, self.by_name, inputs, state])
        return hashlib.sha256(text.encode()).hexdigest()


def _on_cpu(graph: PredictionGraph) -> PredictionGraph:
    tensors = [*graph.parameters(), *graph.buffers()]
    if all(tensor.device.type == "cpu" for tensor in tensors):
        return graph
    try:
        return copy.deepcopy(graph).cpu()
    except Exception as error:
        raise ExportError(f"it cannot be copied to the CPU: {one_line(error)}") from error


@contextmanager
def _left_alone(graph: nn.Module) -> Iterator[None]:
    """Within the block it is in evaluation mode and the terminal stays quiet; what fails is still raised."""
    modes = {module: module.training for module in graph.modules()}
    random, levels = RandomState(devices=True), {name: logging.getLogger(name).level for name in _LOGGERS}
    graph.eval()
    for name in _LOGGERS:
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        for module, mode in modes.items():
            module.training = mode
        random.restore()


class _ByName(nn.Module):
    """A module that is called by name as one that is called by position, which is all that torch can make dynamic."""

    def __init__(self, graph: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.add_module(PREFIX, graph)
        self.names = names

    def forward(self, *inputs: Tensor) -> Tensor:
        """One batch."""
        output: Tensor = self.get_submodule(PREFIX)(**dict(zip(self.names, inputs, strict=True)))
        return output


def _export(called: _Called) -> Any:
    """An onnx.ModelProto as torch exports it; the first dimension of every input is free."""
    rows = called.rows(_TRACED_ROWS)
    module = _ByName(called.module, tuple(rows)) if called.by_name else called.module
    free = {"inputs": tuple({0: torch.export.Dim.DYNAMIC} for _ in rows)}
    told = io.StringIO()  # torch prints what it could not export
    try:
        with redirect_stdout(told), redirect_stderr(told):
            program = torch.export.export(module, tuple(rows.values()), dynamic_shapes=free, strict=False)
            onnx = torch.onnx.export(
                program, input_names=list(rows), output_names=["prediction"], optimize=False, verbose=False
            )
        assert onnx is not None, "the exporter gives a program where it writes no file"
        return onnx.model_proto
    except Exception as error:  # the user's code, and torch's many kinds
        raise ExportError(f"torch cannot export it: {_reason(error)}") from error


def _reason(error: BaseException) -> str:
    """The first line of what went wrong first."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300] if lines else ''}"


@dataclass(frozen=True, slots=True)
class _Answer:
    """What the module says of some rows, as numbers [rows, classes] or [rows]."""

    rows: dict[str, Tensor]
    predictions: NDArray[np.float64]

    def __len__(self) -> int:
        return len(next(iter(self.rows.values())))


def _answers(called: _Called) -> list[_Answer]:
    """The module's predictions for batches of several lengths, ascending.

    Raises:
        ExportError: it fails, or they are not finite.
    """
    row_bytes = sum(value[:1].nbytes for value in called.arrays.values())
    largest = max(1, min(_BATCHES[-1], _MAX_BATCH_BYTES // max(1, row_bytes)))
    batches = [called.rows(size) for size in sorted({min(size, largest) for size in _BATCHES})]
    answers = [_Answer(rows, called(rows)) for rows in batches]
    if not np.isfinite(answers[-1].predictions).all():
        raise ExportError("its predictions are not finite")
    return answers


def _written(called: _Called, answers: Sequence[_Answer], template: Any, path: Path) -> Exported:
    """The template with the numbers of the module, compared with it, in a file.

    Raises:
        ExportError: they differ, or do not fit.
    """
    content = fill(template, called.module)
    exported = _compared(called, answers, content)
    with replacing(path) as file:
        file.write(content)
    return exported


def _compared(called: _Called, answers: Sequence[_Answer], content: bytes) -> Exported:
    widest = answers[-1].predictions
    num_classes = widest.shape[1] if called.module.task != "regression" else 0
    tolerance = _tolerance(called.module, widest)
    try:
        graph = open_graph(content, called.inputs, num_classes=num_classes, num_threads=torch.get_num_threads())
        for answer in answers:
            outputs = graph.run({name: value.numpy() for name, value in answer.rows.items()}, len(answer))
            distance = float(np.abs(outputs - answer.predictions).max())
            if not distance <= tolerance:
                difference = f"{distance:.2g} on {len(answer)} rows, {tolerance:.2g} is allowed"
                raise ExportError(f"graph and module differ by {difference}")
    except BundleError as error:
        raise ExportError(f"onnxruntime does not run it: {error}") from error
    return Exported(called.inputs, graph, tolerance)


def _tolerance(graph: PredictionGraph, predictions: NDArray[np.float64]) -> float:
    """For probabilities absolute; for values in units of their distance from the target's mean."""
    if graph.task != "regression":
        return TOLERANCE
    spread = np.abs(predictions - graph.target_mean.item()).max()
    return TOLERANCE * max(float(spread), graph.target_deviation.item())
