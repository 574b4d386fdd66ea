"""A folder of files that are exactly what its manifest says: SHA-256 and length of each, and none besides.

It shows damage and carelessness. It is no signature: who can write the folder can write the manifest.
Not here: what the files mean.
"""

import hashlib
import json
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from mlops_hydra.atomic import write_json_atomic
from mlops_hydra.errors import BundleError

MANIFEST: Final = "manifest.json"
FORMAT: Final = 1
_MAX_MANIFEST_BYTES: Final = 2**20
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}")
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")


def seal(folder: Path) -> None:
    """Write the manifest of all that is in `folder`, atomically.

    Raises:
        TrackingError: the disk does not take it.
    """
    for leftover in folder.glob(".*.partial"):  # of a process that was killed
        leftover.unlink()
    files = {}
    for path in sorted(folder.iterdir()):
        if path.name != MANIFEST:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            files[path.name] = {"sha256": digest, "bytes": path.stat().st_size}
    write_json_atomic(folder / MANIFEST, {"format": FORMAT, "files": files})


def read_json_text(content: bytes) -> Any:
    """JSON as the standard has it: without NaN and infinities.

    Raises:
        ValueError: it is something else, or nested too deeply.
    """
    try:
        return json.loads(content, parse_constant=_refuse_constant)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _refuse_constant(word: str) -> None:
    raise ValueError(f"{word} is no JSON")


@dataclass(frozen=True, slots=True)
class Entry:
    """What the manifest says of one file."""

    sha256: str
    num_bytes: int


@dataclass(frozen=True, slots=True)
class Sealed:
    """A folder whose names and lengths fit its manifest; contents are checked when they are read."""

    folder: Path
    entries: dict[str, Entry]

    def read(self, name: str, *, max_bytes: int) -> bytes:
        """The content of a file, which has the digest of the manifest.

        Raises:
            BundleError: it is missing, larger than `max_bytes`, or was changed.
        """
        if name not in self.entries:
            raise BundleError(f"{self.folder}: {name} is missing")
        entry = self.entries[name]
        if entry.num_bytes > max_bytes:
            raise BundleError(f"{self.folder / name}: has {entry.num_bytes} bytes, more than {max_bytes}")
        with _opened(self.folder / name, entry.num_bytes) as file:
            content = file.read(entry.num_bytes + 1)
        if len(content) != entry.num_bytes or hashlib.sha256(content).hexdigest() != entry.sha256:
            raise BundleError(f"{self.folder / name}: was changed after it was packaged")
        return content

    def check(self, name: str, *, start_bytes: int) -> bytes:
        """Check a file of any length piece by piece, and give its first bytes, at most `start_bytes`."""
        entry = self.entries[name]
        with _opened(self.folder / name, entry.num_bytes) as file:
            digest = hashlib.sha256(start := file.read(start_bytes))
            while piece := file.read(2**20):
                digest.update(piece)
        if digest.hexdigest() != entry.sha256:
            raise BundleError(f"{self.folder / name}: was changed after it was packaged")
        return start


def open_sealed(folder: Path) -> Sealed:
    """Read the manifest of `folder`, and compare names, kinds and lengths of what is there with it.

    Raises:
        BundleError: they differ, something is no plain file, or the manifest is none.
    """
    entries = _read_manifest(folder)
    try:
        with os.scandir(folder) as found:
            there = {item.name: item.stat(follow_symlinks=False) for item in found}
    except OSError as error:
        raise BundleError(f"{folder}: cannot be read: {error.strerror}") from error
    for name, entry in entries.items():
        if name not in there:
            raise BundleError(f"{folder}: {name} is missing")
        if not stat.S_ISREG(there[name].st_mode):
            raise BundleError(f"{folder / name}: is no plain file")
        if there[name].st_size != entry.num_bytes:
            raise BundleError(f"{folder / name}: was changed after it was packaged")
    if strange := sorted(there.keys() - entries.keys() - {MANIFEST}):
        raise BundleError(f"{folder}: {strange[0]} is not in {MANIFEST}")
    return Sealed(folder, entries)


def _read_manifest(folder: Path) -> dict[str, Entry]:
    path = folder / MANIFEST
    if not folder.is_dir() or not (path.is_symlink() or path.exists()):
        raise BundleError(f"{folder}: is no bundle: there is no {MANIFEST}")
    with _opened(path, None) as file:
        content = file.read(_MAX_MANIFEST_BYTES + 1)
    if len(content) > _MAX_MANIFEST_BYTES:
        raise BundleError(f"{path}: is larger than {_MAX_MANIFEST_BYTES} bytes")
    try:
        manifest = read_json_text(content)
        if manifest["format"] != FORMAT:
            raise BundleError(f"{path}: is of format {manifest['format']!r}; this version reads {FORMAT}")
        return {name: _entry(name, entry) for name, entry in manifest["files"].items()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise BundleError(f"{path}: is no manifest") from error


def _entry(name: str, entry: Any) -> Entry:
    digest, num_bytes = entry["sha256"], entry["bytes"]
    if not _NAME.fullmatch(name) or name == MANIFEST:
        raise BundleError(f"{MANIFEST}: {name!r} is no name of a file in the bundle")
    if not _DIGEST.fullmatch(digest) or type(num_bytes) is not int or num_bytes < 0:
        raise ValueError(name)
    return Entry(digest, num_bytes)


def _opened(path: Path, num_bytes: int | None) -> IO[bytes]:
    """The plain file at `path`, never what a link points to, and without waiting for a pipe."""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        handle = os.open(path, flags)
    except OSError as error:
        raise BundleError(f"{path}: cannot be read: {error.strerror}") from error
    status = os.fstat(handle)
    if not stat.S_ISREG(status.st_mode) or (num_bytes is not None and status.st_size != num_bytes):
        os.close(handle)
        raise BundleError(f"{path}: is no plain file, or was changed after it was packaged")
    return os.fdopen(handle, "rb")
