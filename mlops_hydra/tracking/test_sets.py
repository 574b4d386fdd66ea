"""How many models a test set has judged: the more, the likelier that the best of them was lucky.

A file a test set in `output_dir/test_sets/`, with a line for each candidate; processes only append to it.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TextIO

import numpy as np
from numpy.typing import NDArray

from mlops_hydra.errors import TrackingError

TEST_SETS: Final = "test_sets"


@dataclass(frozen=True, slots=True)
class TestSet:
    """`digest` names data and rows; `num_candidates` counts runs of different lineage, this one among them."""

    __test__ = False  # for pytest

    digest: str
    num_candidates: int


def test_set_digest(data: str, rows: NDArray[Any]) -> str:
    """12 hex digits over the data digest and the numbers [n] of the test rows."""
    content = hashlib.sha256(data.encode())
    content.update(np.ascontiguousarray(rows, dtype=np.int64).tobytes())
    return content.hexdigest()[:12]


test_set_digest.__test__ = False  # type: ignore[attr-defined]  # for pytest


def count_candidate(output_dir: str | Path, digest: str, candidate: str) -> TestSet:
    """Note that `candidate`, the lineage of a run, is judged on the test set; asking again does not count twice.

    Raises:
        TrackingError: `output_dir` cannot be written to.
    """
    path = Path(output_dir) / TEST_SETS / f"{digest}.txt"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+", encoding="utf-8", errors="replace") as file:
            known = _lines(file)
            if candidate not in known:
                file.write(f"\n{candidate}\n")  # what a crash left of a line stays one of its own
                file.flush()
                known = _lines(file)  # with those that others wrote meanwhile
    except OSError as error:
        raise TrackingError(f"{path}: cannot be written: {error.strerror}") from error
    return TestSet(digest, len(known))


def _lines(file: TextIO) -> set[str]:
    file.seek(0)
    return {line.strip() for line in file if line.strip()}
