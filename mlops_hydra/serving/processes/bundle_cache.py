"""Copies of the bundles that are served: the registry may be down at the next start, and its files may be replaced.

A copy appears under its name when it is complete and has been read again. Its name is never used for another content:
who finds the same path finds the same model.
"""

import itertools
import os
import re
import secrets
import shutil
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

from mlops_hydra.errors import BundleError
from mlops_hydra.packaging.bundle import Bundle, load_bundle

KEEP_SECONDS: Final = 600.0  # workers may be about to load what was to be served a moment ago
_LINEAGE: Final = re.compile(r"\w{1,64}")


class BundleCache:
    """The copies in `folder`; one process at a time writes there."""

    def __init__(self, folder: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder = folder
        self._clock = clock
        self._unused_since: dict[Path, float] = {}

    def find(self, version: str, lineage: str) -> Bundle | None:
        """The copy of a version that is whole; None if there is none."""
        for folder in self._names(version, lineage):
            if not folder.exists():
                return None
            with suppress(BundleError):
                return load_bundle(folder)
        return None

    def add(self, bundle: Bundle, version: str) -> Bundle:
        """A copy of it, read again.

        Raises:
            BundleError: what was read from the copy is not what was written.
            OSError: the disk does not take it; nothing is left of it.
        """
        scratch = self._folder / f".{secrets.token_hex(4)}"
        try:
            scratch.mkdir(parents=True)
            for path in bundle.folder.iterdir():
                _copy(path, scratch / path.name)
            copy = load_bundle(scratch)
            folder = next(path for path in self._names(version, copy.lineage) if not path.exists())
            scratch.rename(folder)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return replace(copy, folder=folder)

    def sweep(self, used: Collection[Path]) -> None:
        """Remove what has not been used for `KEEP_SECONDS`, and what a killed process left half written."""
        now = self._clock()
        there = list(self._folder.iterdir()) if self._folder.is_dir() else []
        unused = [path for path in there if path not in used]
        self._unused_since = {path: self._unused_since.get(path, now) for path in unused}
        for path, since in self._unused_since.items():
            if now - since >= KEEP_SECONDS or path.name.startswith("."):
                shutil.rmtree(path, ignore_errors=True)

    def _names(self, version: str, lineage: str) -> Iterator[Path]:
        """The first one, and others for when that holds something damaged."""
        name = f"{version}-{lineage}" if _LINEAGE.fullmatch(lineage) else version
        yield self._folder / name
        yield from (self._folder / f"{name}-{number}" for number in itertools.count(2))


def _copy(source: Path, copy: Path) -> None:
    with source.open("rb") as reader, copy.open("xb") as writer:
        shutil.copyfileobj(reader, writer, 2**20)
        writer.flush()
        os.fsync(writer.fileno())
