"""Values outside of what training saw, counted for many rows at once: a hundred take NumPy hardly longer than one."""

from collections.abc import MutableMapping
from typing import Any, Final

import numpy as np

from mlops_hydra.serving.rows import Arrays, RowReader

_MAX_WAITING: Final = 2**14  # values; to count so many takes 30 us


class UnusualValues:
    """Adds to `counts`: an array for the columns of these names. For the event loop alone."""

    def __init__(self, counts: MutableMapping[tuple[str, ...], Any]) -> None:
        self._counts = counts
        self._waiting: dict[RowReader, list[Arrays]] = {}
        self._num_waiting = 0

    def add(self, reader: RowReader, arrays: Arrays) -> None:
        """What was predicted; it is counted soon, or by `count`."""
        if not reader.names:  # nothing is known of what training saw
            return
        self._waiting.setdefault(reader, []).append(arrays)
        self._num_waiting += sum(array.size for array in arrays.values())
        if self._num_waiting >= _MAX_WAITING:
            self.count()

    def count(self) -> None:
        """All that waits."""
        for reader, batches in self._waiting.items():
            together = {name: np.concatenate([arrays[name] for arrays in batches]) for name in batches[0]}
            found = reader.unusual(together)
            if found is not None:
                self._counts[reader.names] = self._counts.get(reader.names, 0) + found
        self._waiting.clear()
        self._num_waiting = 0
