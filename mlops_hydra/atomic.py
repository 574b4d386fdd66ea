"""Files that are there whole or not at all, also after a crash: a temporary name, fsync, rename.

A reader sees the old content or the new one. What goes into the files is their owners' business.
"""

import errno
import json
import math
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Final

from mlops_hydra.errors import TrackingError

_REFUSALS: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS})


@contextmanager
def written_to(folder: Path) -> Iterator[None]:
    """For what others write below `folder` in the block.

    Raises:
        TrackingError: the disk is full, or takes nothing.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in _REFUSALS:
            raise
        raise TrackingError(f"{error.filename or folder}: cannot be written: {error.strerror}") from error


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file that takes the place of `path` when the block ends without an error, and leaves no trace otherwise.

    Raises:
        TrackingError: the disk does not take it.
    """
    partial = path.with_name(f".{path.name}-{secrets.token_hex(4)}.partial")
    try:
        with partial.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise TrackingError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Make a rename last through a power failure, where the system can."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_json_atomic(path: Path, data: Mapping[str, Any]) -> None:
    """Write `data` as `json_text`.

    Raises:
        TrackingError: the disk does not take the file.
    """
    text = json_text(data)
    with replacing(path) as file:
        file.write(text.encode("utf-8"))


def json_text(data: Mapping[str, Any]) -> str:
    """`data` as JSON for people and programs; NaN and infinities, which JSON lacks, become null."""
    return json.dumps(_finite(data), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(inner) for key, inner in value.items()}
    return [_finite(inner) for inner in value] if isinstance(value, list | tuple) else value


def read_json(path: Path) -> dict[str, Any] | None:
    """The JSON object in `path`; None where there is none, or something else."""
    try:
        data = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None
    return data if isinstance(data, dict) else None
