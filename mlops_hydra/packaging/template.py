"""An exported graph without the numbers of the model that it was exported from, to be filled with another's.

A tensor that the module has under the same name is left empty; constants stay. So do no traces of source code, which
the exporter writes beside every node. Not here: whether what was filled predicts the same (`exporting.py`).
"""

from collections.abc import Iterator
from operator import attrgetter
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from mlops_hydra.atomic import replacing
from mlops_hydra.errors import ExportError

PREFIX: Final = "wrapped_graph"
"""Name of the module within one that was wrapped around it for the export."""

_EMPTY: Final = "filled from the state of the module"


def strip(model: Any, module: nn.Module) -> Any:
    """Empty the tensors of an onnx.ModelProto that are those of `module`, in place."""
    _forget_sources(model)
    for tensor in model.graph.initializer:
        known = _find(module, tensor.name)
        if known is not None and tensor.raw_data == _bytes_of(known):
            tensor.raw_data, tensor.doc_string = b"", _EMPTY
    return model


def fill(template: Any, module: nn.Module) -> bytes:
    """The template as a whole model with the tensors of `module`.

    Raises:
        ExportError: they do not fit, or are more than a file of ONNX can hold.
    """
    model = type(template)()
    model.CopyFrom(template)
    for tensor in model.graph.initializer:
        if tensor.doc_string != _EMPTY:
            continue
        known = _find(module, tensor.name)
        if known is None or list(known.shape) != list(tensor.dims):
            raise ExportError(f"the kept graph does not fit: {tensor.name}")
        tensor.raw_data, tensor.doc_string = _bytes_of(known), ""
    try:
        return bytes(model.SerializeToString(deterministic=True))
    except Exception as error:  # protobuf has several for it
        raise ExportError("it is larger than 2 GB, which one file of ONNX cannot hold") from error


def write_template(path: Path, template: Any) -> None:
    """Keep a template, atomically.

    Raises:
        TrackingError: the disk does not take it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write(template.SerializeToString(deterministic=True))


def read_template(path: Path) -> Any:
    """What `write_template` wrote, or an error of protobuf's."""
    import onnx

    return onnx.load_model_from_string(path.read_bytes())


def _find(module: nn.Module, name: str) -> Tensor | None:
    """A parameter, a buffer or a plain attribute by its dotted name."""
    try:
        found = attrgetter(name.removeprefix(f"{PREFIX}."))(module)
    except AttributeError:
        return None
    return found if isinstance(found, Tensor) else None


def _bytes_of(tensor: Tensor) -> bytes:
    flat = tensor.detach().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


def _forget_sources(model: Any) -> None:
    del model.metadata_props[:]
    for graph in _graphs(model.graph):
        del graph.metadata_props[:]
        for part in (*graph.input, *graph.output, *graph.value_info, *graph.initializer, *graph.node):
            del part.metadata_props[:]
            part.doc_string = ""
    for function in model.functions:
        for part in (function, *function.node):
            del part.metadata_props[:]
            part.doc_string = ""


def _graphs(graph: Any) -> Iterator[Any]:
    """A graph and those within its nodes."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
                yield from _graphs(inner)
