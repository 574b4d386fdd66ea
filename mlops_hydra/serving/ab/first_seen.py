"""Units by the hashes of their ids, and when each was first seen in which arm: small, and merged as hours come.

Not here: which requests count (`exposures.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from mlops_hydra.config.ab import Unit

if TYPE_CHECKING:
    import pyarrow as pa

_KEYS: Final = {"user_id": "mlops-hydra:user", "request_id": "mlops-hydra:reqs"}  # pandas wants 16 letters

Ids = NDArray[np.uint64]
Times = NDArray[np.int64]


def hashed(values: pa.Array | pa.ChunkedArray, kind: Unit) -> Ids:
    """64 bits of each id; 0 where there is none. A user and a request of one name are two."""
    import pandas as pd
    import pyarrow as pa

    whole = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    coded = whole.cast(pa.string()).dictionary_encode()
    names = coded.dictionary.to_numpy(zero_copy_only=False)
    hashes = np.append(pd.util.hash_array(names, hash_key=_KEYS[kind], categorize=False), np.uint64(0))
    codes = coded.indices.fill_null(len(names)).to_numpy()
    return np.asarray(hashes[codes], dtype=np.uint64)


@dataclass(frozen=True, slots=True)
class FirstSeen:
    """First exposures, one for each pair of unit and arm, ascending."""

    unit: Ids
    arm: NDArray[np.int16]
    time: Times

    def __len__(self) -> int:
        return len(self.unit)

    @classmethod
    def merged(cls, parts: Sequence[FirstSeen]) -> FirstSeen:
        """The earliest of each pair."""
        unit = np.concatenate([np.empty(0, np.uint64), *(part.unit for part in parts)])
        arm = np.concatenate([np.empty(0, np.int16), *(part.arm for part in parts)])
        time = np.concatenate([np.empty(0, np.int64), *(part.time for part in parts)])
        order = np.lexsort((time, arm, unit))
        unit, arm, time = unit[order], arm[order], time[order]
        is_first = starts_of_runs(unit) | starts_of_runs(arm)
        return cls(unit[is_first], arm[is_first], time[is_first])


def starts_of_runs(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Where a value differs from the one before, and at the first."""
    is_start = np.ones(len(values), dtype=bool)
    is_start[1:] = values[1:] != values[:-1]
    return is_start
