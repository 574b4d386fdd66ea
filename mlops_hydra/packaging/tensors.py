"""The safetensors format, read without a library: a header of JSON that may lie, then plain numbers.

https://huggingface.co/docs/safetensors. Not here: writing it, and dtypes that NumPy lacks.
"""

import json
import math
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from mlops_hydra.errors import BundleError

LENGTH_BYTES: Final = 8
MAX_HEADER_BYTES: Final = 16 * 2**20
_ITEM_BYTES: Final = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U64": 8, "U32": 4, "U16": 2,
    "U8": 1, "BOOL": 1, "C64": 8, "F8_E4M3": 1, "F8_E5M2": 1,
}  # fmt: skip
_DTYPES: Final = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U8": "u1",
    "BOOL": "?",
}  # fmt: skip


def header_length(start: bytes, num_bytes: int) -> int:
    """Length in bytes of the header of a file of `num_bytes` that begins with the 8 bytes `start`.

    Raises:
        BundleError: it is no safetensors file.
    """
    length = int.from_bytes(start, "little")
    if len(start) != LENGTH_BYTES or not 2 <= length <= min(MAX_HEADER_BYTES, num_bytes - LENGTH_BYTES):
        raise BundleError("is no safetensors file")
    return length


def read_header(header: bytes, num_data_bytes: int) -> dict[str, Any]:
    """What each tensor is, by name; the data that follows must be `num_data_bytes` long, without gaps.

    Raises:
        BundleError: it is no such header.
    """
    try:
        entries = json.loads(header)
        entries.pop("__metadata__", None)
        spans = sorted(_span(entry) for entry in entries.values())
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise BundleError("is no safetensors file: its header cannot be read") from error
    end = 0
    for begin, stop in spans:
        if begin != end:
            raise BundleError("is no safetensors file: tensors overlap, or leave a gap")
        end = stop
    if end != num_data_bytes:
        raise BundleError(f"is no safetensors file: {end} bytes are declared, {num_data_bytes} are there")
    return dict(entries)


def _span(entry: Mapping[str, Any]) -> tuple[int, int]:
    begin, end = entry["data_offsets"]
    sizes = entry["shape"]
    if not all(type(number) is int and number >= 0 for number in (begin, end, *sizes)):
        raise ValueError("a size is no whole number")
    if end - begin != math.prod(sizes) * _ITEM_BYTES[entry["dtype"]]:
        raise ValueError("shape and length differ")
    return begin, end


def read_tensors(content: bytes) -> dict[str, NDArray[Any]]:
    """The arrays of a whole file by name.

    Raises:
        BundleError: it is no safetensors file, or one of a dtype that NumPy lacks.
    """
    start = LENGTH_BYTES + header_length(content[:LENGTH_BYTES], len(content))
    arrays = {}
    for name, entry in read_header(content[LENGTH_BYTES:start], len(content) - start).items():
        if entry["dtype"] not in _DTYPES:
            raise BundleError(f"has a tensor of dtype {entry['dtype']}")
        begin, end = entry["data_offsets"]
        flat = np.frombuffer(content[start + begin : start + end], dtype=_DTYPES[entry["dtype"]])
        arrays[name] = flat.reshape(entry["shape"])
    return arrays
