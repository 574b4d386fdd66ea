"""Bundles of graphs that are written by hand: in milliseconds, of models that would take seconds to export."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file

from mlops_hydra.data.encoding import FeatureSchema, encode
from mlops_hydra.packaging.golden import Golden
from mlops_hydra.packaging.graph import Input, open_graph
from mlops_hydra.packaging.seal import seal

Arrays = dict[str, np.ndarray]
_TYPES = {"float64": TensorProto.DOUBLE, "float32": TensorProto.FLOAT, "int64": TensorProto.INT64}


def regression(trained: Path, folder: Path) -> Path:
    """A value for the rows of the table that `trained` is a bundle of: half the sum of its numbers."""
    shutil.copytree(trained, folder)
    _change(folder / "schema.json", lambda data: data | {"task": "regression", "classes": []})
    schema = FeatureSchema.from_json((folder / "schema.json").read_text())
    inputs = [Input("numeric", "float64", (len(schema.numeric_names),)), Input("codes", "int64", (1,))]
    nodes = [
        helper.make_node("IsNaN", ["numeric"], ["is_nan"]),
        helper.make_node("Where", ["is_nan", "zero", "numeric"], ["filled"]),
        helper.make_node("ReduceSum", ["filled", "last"], ["sum"], keepdims=0),
        helper.make_node("Mul", ["sum", "half"], ["output"]),
    ]
    constants = {"zero": np.float64(0), "half": np.float64(0.5), "last": np.array([1])}
    graph = _write_graph(folder, inputs, nodes, constants, num_classes=0)
    rows = json.loads((folder / "golden.json").read_text())["columns"]
    encoded = encode(rows, schema)
    outputs = graph.run({"numeric": encoded.numeric, "codes": encoded.codes}, len(encoded))
    return _finish(folder, Golden(rows, outputs, 1e-5), task="regression", classes=[])


def of_arrays(trained: Path, folder: Path) -> Path:
    """Two classes for an image of 2 x 3 and three words of a vocabulary of seven: no table, and no schema."""
    shutil.copytree(trained, folder)
    (folder / "schema.json").unlink()
    inputs = [Input("image", "float32", (2, 3)), Input("words", "int64", (3,))]
    nodes = [
        helper.make_node("Gather", ["table", "words"], ["looked_up"]),
        helper.make_node("ReduceSum", ["looked_up", "one"], ["of_words"], keepdims=0),
        helper.make_node("Cast", ["image"], ["wide"], to=TensorProto.DOUBLE),
        helper.make_node("ReduceMean", ["wide", "one"], ["of_columns"], keepdims=0),
        helper.make_node("MatMul", ["of_columns", "weights"], ["of_image"]),
        helper.make_node("Add", ["of_words", "of_image"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["output"], axis=1),
    ]
    rng = np.random.default_rng(0)
    constants = {"table": rng.normal(size=(7, 2)), "weights": rng.normal(size=(3, 2)), "one": np.array([1])}
    graph = _write_graph(folder, inputs, nodes, constants, num_classes=2)
    rows = {"image": rng.random((4, 2, 3), dtype=np.float32), "words": rng.integers(0, 7, (4, 3))}
    save_file(rows, folder / "golden.safetensors")
    return _finish(folder, Golden({}, graph.run(rows, 4), 1e-5), task="binary", classes=[0, 1])


def _write_graph(
    folder: Path, inputs: Sequence[Input], nodes: Sequence[Any], constants: Arrays, *, num_classes: int
) -> Any:
    wide = [num_classes] if num_classes else []
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(i.name, _TYPES[i.dtype], ["n", *i.shape]) for i in inputs],
        [helper.make_tensor_value_info("output", TensorProto.DOUBLE, ["n", *wide])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    declared = [{"name": i.name, "dtype": i.dtype, "shape": list(i.shape)} for i in inputs]
    (folder / "graph.json").write_text(json.dumps({"inputs": declared, "num_classes": num_classes}))
    return open_graph(model.SerializeToString(), inputs, num_classes=num_classes)


def _finish(folder: Path, golden: Golden, **about: Any) -> Path:
    (folder / "golden.json").write_text(json.dumps(golden.as_json(with_rows=bool(golden.rows))))
    _change(folder / "bundle.json", lambda data: data | about)
    seal(folder)
    return folder


def _change(path: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
