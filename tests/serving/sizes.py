"""What processes take of a machine, looked at every second: resident memory, and open files."""

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np


class Size(NamedTuple):
    """Of one process; `anonymous_mb` is what no file backs, `shared_out_mb` counts what n processes share as 1/n."""

    at: float
    resident_mb: float
    anonymous_mb: float
    shared_out_mb: float
    num_files: int


def size_of(pid: int) -> Size:
    """Raises OSError where it is gone."""
    folder = Path(f"/proc/{pid}")
    status, rollup = _kilobytes(folder / "status"), _kilobytes(folder / "smaps_rollup")
    files = len(list((folder / "fd").iterdir()))
    return Size(time.monotonic(), status["VmRSS"] / 1e3, status["RssAnon"] / 1e3, rollup["Pss"] / 1e3, files)


def _kilobytes(path: Path) -> dict[str, int]:
    lines = (line.split() for line in path.read_text().splitlines())
    return {words[0].rstrip(":"): int(words[1]) for words in lines if words[-1:] == ["kB"]}


class Sizes:
    """Of processes by name, sampled within the block."""

    def __init__(self, processes: Callable[[], Mapping[str, int]]) -> None:
        self._processes = processes
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="sizes")
        self.samples: dict[str, list[Size]] = defaultdict(list)

    def __enter__(self) -> "Sizes":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        self._is_over.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._is_over.wait(1):
            for name, pid in self._processes().items():
                with suppress(OSError, KeyError):
                    self.samples[name].append(size_of(pid))

    def ends(self, name: str) -> tuple[Size, Size]:
        """The means of the first and the last tenth, after a warm-up of a tenth."""
        values = np.array(self.samples[name])
        tenth = max(len(values) // 10, 1)
        first, last = values[tenth : 2 * tenth].mean(axis=0), values[-tenth:].mean(axis=0)
        return Size(*first.tolist()), Size(*last.tolist())
