"""An ONNX graph that onnxruntime runs on the CPU: it takes what it is declared to take, or it is refused.

Needs NumPy and onnxruntime alone. Not here: where the bytes come from, and raw rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import onnxruntime  # type: ignore[import-untyped]
from numpy.typing import NDArray

from mlops_hydra.errors import BundleError
from mlops_hydra.packaging.external_data import inspect

_DTYPES: Final = {
    "tensor(double)": "float64",
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(int16)": "int16",
    "tensor(int8)": "int8",
    "tensor(uint8)": "uint8",
    "tensor(bool)": "bool",
}
DTYPES: Final = frozenset(_DTYPES.values())
_SILENT: Final = 4  # what goes wrong is raised; onnxruntime would print it besides


@dataclass(frozen=True, slots=True)
class Input:
    """One input of a graph: `shape` is that of one row, `dtype` NumPy's name."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Graph:
    """A loaded graph. `inputs` are the declared ones that it reads; the exporter drops those that change nothing."""

    inputs: tuple[Input, ...]
    num_classes: int
    _session: Any
    _outputs: list[str]

    def run(self, arrays: Mapping[str, NDArray[Any]], num_rows: int) -> NDArray[np.float64]:
        """One batch by input name, each [n, ...] -> float64 [n, classes], or [n] for a regression.

        Raises:
            BundleError: onnxruntime gives up, or the graph gives another shape.
        """
        try:
            (output,) = self._session.run(self._outputs, {item.name: arrays[item.name] for item in self.inputs})
        except Exception as error:  # onnxruntime's errors have no other base
            raise BundleError(f"the graph fails: {one_line(error)}") from error
        needed = (num_rows, self.num_classes) if self.num_classes else (num_rows,)
        if output.shape != needed:
            raise BundleError(f"the graph gives {list(output.shape)}, needed is {list(needed)}")
        result: NDArray[np.float64] = output
        return result


def open_graph(content: bytes, inputs: Sequence[Input], *, num_classes: int, num_threads: int = 1) -> Graph:
    """Load a graph that takes some of `inputs`, and nothing else.

    Args:
        content: the ONNX model, whole.
        num_classes: 0 for a regression.

    Raises:
        BundleError: it refers to other files, has operators onnxruntime does not know, or takes or gives something
            else than declared.
    """
    has_branches = inspect(content)
    options = onnxruntime.SessionOptions()
    if has_branches:  # folding a constant If within a Loop crashes onnxruntime 1.32: torch's EmbeddingBag has one
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads, options.inter_op_num_threads = num_threads, 1
    options.log_severity_level = _SILENT
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors have no other base
        raise BundleError(f"the graph cannot be loaded: {one_line(error)}") from error
    declared = {item.name: item for item in inputs}
    for given in session.get_inputs():
        if given.name not in declared:
            raise BundleError(f"the graph takes {given.name!r}; declared are {', '.join(declared)}")
        _check_input(given, declared[given.name])
    read = {given.name for given in session.get_inputs()}
    outputs = session.get_outputs()
    _check_output(outputs, num_classes)
    return Graph(tuple(item for item in inputs if item.name in read), num_classes, session, [outputs[0].name])


def _check_input(given: Any, declared: Input) -> None:
    dtype = _DTYPES.get(given.type, given.type)
    if dtype != declared.dtype:
        raise BundleError(f"the graph takes {declared.name!r} as {dtype}, declared is {declared.dtype}")
    if not given.shape or isinstance(given.shape[0], int) or tuple(given.shape[1:]) != declared.shape:
        wanted = ["n", *declared.shape]
        raise BundleError(f"the graph takes {declared.name!r} of shape {list(given.shape)}, declared is {wanted}")


def _check_output(outputs: Sequence[Any], num_classes: int) -> None:
    given = [(output.type, output.shape) for output in outputs]
    wide = [num_classes] if num_classes else []
    if len(given) != 1 or given[0][0] != "tensor(double)" or len(given[0][1]) != 1 + len(wide):
        needed = ["n", *wide]
        raise BundleError(f"the graph gives {given}, needed is one output of type double and shape {needed}")


def one_line(error: BaseException, limit: int = 300) -> str:
    """The message of an error as one line of at most `limit` characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= limit else f"{text[: limit - 3]}..."
