"""Whether an ONNX model is all in its own bytes, and whether it branches, read from the protobuf wire format.

The onnx package, which could tell, would take 30 MB of a serving process. Walks from the model down to every tensor;
https://protobuf.dev/programming-guides/encoding. Not here: whether the model is valid, which onnxruntime decides.
"""

from collections.abc import Iterator
from typing import Final

from mlops_hydra.errors import BundleError

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

_INNER: Final[dict[str, dict[int, str]]] = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
"""Which fields of onnx.proto lead to a tensor."""

_NODE_DOMAIN: Final = 7
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14
_DOMAINS: Final = ("", "ai.onnx", "ai.onnx.ml")
_LOCAL: Final = "pkg."  # functions that the model itself brings


def inspect(model: bytes) -> bool:
    """Whether the graph has branches or loops.

    Raises:
        BundleError: a tensor is kept in another file, a node is of no standard operator set, or it is no model.
    """
    try:
        return _walk(memoryview(model), "model")
    except (ValueError, IndexError, RecursionError) as error:
        raise BundleError("the graph is no ONNX model") from error


def _walk(message: memoryview, kind: str) -> bool:
    inner, has_branches = _INNER[kind], False
    for field, value in _fields(message):
        if kind == "tensor" and (field == _EXTERNAL_DATA or (field == _DATA_LOCATION and value != 0)):
            raise BundleError("the graph keeps a tensor in another file")
        if kind == "node" and field == _NODE_DOMAIN and isinstance(value, memoryview):
            domain = bytes(value).decode()
            if domain not in _DOMAINS and not domain.startswith(_LOCAL):
                raise BundleError(f"the graph has an operator of {domain!r}, which is no standard set")
        if field in inner and isinstance(value, memoryview):
            branches = kind == "attribute" and inner[field] == "graph"
            has_branches |= _walk(value, inner[field]) or branches
    return has_branches


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Number and value of each field, in order; fixed-width values are passed over as 0."""
    place = 0
    while place < len(message):
        tag, place = _varint(message, place)
        field, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            value, place = _varint(message, place)
            yield field, value
        elif wire == _BYTES:
            length, place = _varint(message, place)
            if length > len(message) - place:
                raise ValueError("a field is longer than its message")
            yield field, message[place : place + length]
            place += length
        elif wire in (_FIXED64, _FIXED32):
            place += 8 if wire == _FIXED64 else 4
            yield field, 0
        else:
            raise ValueError(f"wire type {wire}")


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    """The number that begins at `place`, and where it ends."""
    number = 0
    for shift in range(0, 70, 7):
        byte = message[place]
        place += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, place
    raise ValueError("a number of more than ten bytes")
