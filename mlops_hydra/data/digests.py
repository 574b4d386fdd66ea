"""SHA-256 over everything that a source holds: files, arrays, tables, samples of a Dataset.

Equal content gives an equal digest, and any change of a value, a type, a name or an order another one.
Not here: what a digest is compared with.
"""

import hashlib
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mlops_hydra.atomic import read_json, write_json_atomic
from mlops_hydra.errors import DataError, Fault, TrackingError

DIGESTS: Final = "runs/.digests.json"
_BLOCK_BYTES: Final = 2**20
_SETTLED_NS: Final = 2_000_000_000


def digest_files(paths: Iterable[Path]) -> str:
    """64 hex digits over the bytes of one file, or of several in this order.

    Within `remembering`, a single file that has not been touched since it was read is not read again.
    """
    paths, memory = list(paths), _MEMORY.get()
    if memory is not None and len(paths) == 1:
        return memory.digest(paths[0])
    return _read_files(paths)


def _read_files(paths: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb", buffering=0) as file:
            buffer = memoryview(bytearray(_BLOCK_BYTES))
            while length := file.readinto(buffer):
                digest.update(buffer[:length])
    return digest.hexdigest()


class DigestMemory:
    """Digests of files by path, good for as long as size, time of change and inode are the same; in one JSON file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known: dict[str, Any] = read_json(path) or {}
        self._new: dict[str, list[Any]] = {}

    def digest(self, path: Path) -> str:
        """From memory, or by reading the file."""
        name, before = str(path.resolve()), _stamp(path)
        for known in (self._new.get(name), self._known.get(name)):
            match known:
                case [*stamp, str(digest)] if stamp == before:
                    return digest
        now = time.time_ns()
        digest = _read_files([path])
        # a file that is being written may change again within the same tick of the clock, and look the same
        if _stamp(path) == before and now - max(before[1], before[2]) > _SETTLED_NS:
            self._new[name] = [*before, digest]
        return digest

    def save(self) -> None:
        """Write what was learnt; a memory that cannot be written is only slower."""
        if self._new:
            with suppress(TrackingError):
                write_json_atomic(self._path, {**(read_json(self._path) or {}), **self._new})
            self._known, self._new = {**self._known, **self._new}, {}


def _stamp(path: Path) -> list[int]:
    """Size, times of change in ns (of content, of inode), inode."""
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


_MEMORY: Final[ContextVar[DigestMemory | None]] = ContextVar("digests", default=None)


@contextmanager
def remembering(output_dir: str | Path) -> Iterator[DigestMemory]:
    """Within the block, digests of unchanged files come from a file below `output_dir`; only `save` writes it."""
    memory = DigestMemory(Path(output_dir) / DIGESTS)
    token = _MEMORY.set(memory)
    try:
        yield memory
    finally:
        _MEMORY.reset(token)


def digest_frame(frame: pd.DataFrame) -> str:
    """64 hex digits over names, dtypes, every value and where values are missing; the index does not count."""
    digest = hashlib.sha256(f"{frame.shape}".encode())
    for place, name in enumerate(frame.columns):
        series = frame.iloc[:, place]
        digest.update(_framed(f"{name!r} {series.dtype}"))
        digest.update(_column_bytes(series))
    return digest.hexdigest()


def _column_bytes(series: "pd.Series[Any]") -> bytes:
    if isinstance(series.dtype, np.dtype) and series.dtype.kind in "biufcmM":
        return _array_bytes(series.to_numpy())
    objects = series.astype(object)
    texts = [b"" if absent else _framed_value(v) for v, absent in zip(objects, series.isna(), strict=True)]
    return _array_bytes(series.isna().to_numpy()) + b"".join(texts)


def _framed_value(value: Any) -> bytes:
    return _framed(value) if isinstance(value, str) else _framed(f"{type(value).__name__} {value!r}") + b"\x00"


def digest_sample(sample: Any) -> bytes:
    """32 bytes over one sample of a Dataset: tensors, arrays, images, plain values, and containers of them.

    Raises:
        DataError: it holds something else.
    """
    digest = hashlib.sha256()
    for part in _sample_parts(sample):
        digest.update(part)
    return digest.digest()


def _sample_parts(value: Any) -> Iterable[bytes]:
    if value is None or isinstance(value, bool | int | float | str | bytes | np.generic | Path):
        yield _framed(f"{type(value).__name__} {value!r}")
    elif isinstance(value, Mapping):
        yield _framed(f"mapping {len(value)}")
        for key in value:
            yield from _sample_parts(key)
            yield from _sample_parts(value[key])
    elif isinstance(value, list | tuple):
        yield _framed(f"{type(value).__name__} {len(value)}")
        for inner in value:
            yield from _sample_parts(inner)
    else:
        yield _array_bytes(as_array(value))


def as_array(value: Any) -> NDArray[Any]:
    """A tensor, an array or an image as a NumPy array.

    Raises:
        DataError: it is none of these, or holds Python objects.
    """
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        dense = value.detach().cpu()
        array = np.asarray((dense.float() if value.dtype == torch.bfloat16 else dense).numpy())  # NumPy has no bfloat16
    elif hasattr(value, "__array__") or hasattr(value, "__array_interface__"):
        array = np.asarray(value)
    else:
        array = np.empty(0, dtype=object)
    if array.dtype.kind == "O":
        rule = f"holds a {type(value).__name__}, which cannot be hashed: give it digest() -> str, or set data.version"
        raise DataError(Fault("data.source", rule))
    return array


def row_hashes(features: pd.DataFrame, targets: NDArray[Any]) -> NDArray[np.uint64]:
    """uint64 [n]: equal for rows that are exact copies, target included; two others share one by a rare chance."""
    hashes = np.asarray(pd.util.hash_pandas_object(features, index=False), dtype=np.uint64)
    return hashes ^ (np.asarray(pd.util.hash_array(targets), dtype=np.uint64) * np.uint64(31))


def _array_bytes(array: NDArray[Any]) -> bytes:
    return _framed(f"{array.dtype.str} {array.shape}") + np.ascontiguousarray(array).tobytes()


def _framed(text: str) -> bytes:
    """Prefixed by its length, so that neighbours cannot run into each other."""
    content = text.encode("utf-8", "surrogatepass")
    return len(content).to_bytes(8, "little") + content
