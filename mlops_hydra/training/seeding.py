"""Where randomness comes from, and how a process is set up so that it gives the same bits each time.

Every consumer of randomness has a seed of its own, derived from the experiment's by name, so that one that draws more
numbers moves no other.
"""

import os
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, Self, cast

import numpy as np
import torch

_WORKSPACE: Final = "CUBLAS_WORKSPACE_CONFIG"


def set_all_seeds(seed: int) -> None:
    """Seed Python, NumPy and torch (all devices). Repeatable runs need `reproducible` as well."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


@contextmanager
def reproducible(*, deterministic: bool, num_threads: int | None) -> Iterator[None]:
    """Within the block only deterministic algorithms are used, and `num_threads` CPU threads an operation.

    The number of threads is part of it: it decides the order in which sums are made.
    """
    debugging: Any = torch.utils.deterministic
    before = torch.get_num_threads(), torch.get_deterministic_debug_mode()
    benchmark, fill = torch.backends.cudnn.benchmark, debugging.fill_uninitialized_memory
    workspace = os.environ.get(_WORKSPACE)
    try:
        if deterministic:
            os.environ.setdefault(_WORKSPACE, ":4096:8")  # read when CUDA starts
            torch.use_deterministic_algorithms(True)
            debugging.fill_uninitialized_memory = False  # a debugging aid that costs time
            torch.backends.cudnn.benchmark = False
        if num_threads is not None:
            torch.set_num_threads(num_threads)
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.set_deterministic_debug_mode(before[1])
        torch.backends.cudnn.benchmark, debugging.fill_uninitialized_memory = benchmark, fill
        if workspace is None:
            os.environ.pop(_WORKSPACE, None)


class RandomState:
    """Python's, NumPy's and torch's generators as one value that can be swapped in and out.

    Args:
        devices: CUDA's and MPS's too, where they are in use.
    """

    def __init__(self, *, devices: bool = False) -> None:
        self._python = random.getstate()
        self._numpy = np.random.get_state()
        self._torch = torch.get_rng_state()
        self._cuda: list[torch.Tensor] = []
        self._mps: torch.Tensor | None = None
        if devices and torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            self._cuda = torch.cuda.get_rng_state_all()
        if devices and torch.backends.mps.is_available():
            self._mps = torch.mps.get_rng_state()

    def restore(self) -> None:
        """Make the generators continue from here."""
        random.setstate(self._python)
        np.random.set_state(self._numpy)
        torch.set_rng_state(self._torch)
        if self._cuda and len(self._cuda) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(self._cuda)
        if self._mps is not None and torch.backends.mps.is_available():
            torch.mps.set_rng_state(self._mps)

    def as_plain(self) -> dict[str, Any]:
        """Tensors and plain values, fit for a file that is read with `weights_only=True`."""
        name, keys, *rest = cast("tuple[Any, ...]", self._numpy)
        return {
            "python": self._python,
            "numpy": [name, torch.from_numpy(np.asarray(keys).astype(np.int64)), *rest],
            "torch": self._torch,
            "cuda": self._cuda,
            "mps": self._mps,
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Self:
        """The inverse of `as_plain`."""
        state = cls()
        name, keys, *rest = plain["numpy"]
        state._python = plain["python"]
        state._numpy = cast("Any", (name, keys.numpy().astype(np.uint32), *rest))
        state._torch, state._cuda, state._mps = plain["torch"], plain["cuda"], plain["mps"]
        return state
