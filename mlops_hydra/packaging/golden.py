"""Golden rows: a dozen rows of the test split, and what the graph said of them when it was packaged.

Tables keep raw values in JSON, as `encode` takes them; models of torch Datasets keep arrays as safetensors.
Not here: which rows are chosen (`bundle_writer.py`).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from mlops_hydra.data.encoding import FeatureSchema
from mlops_hydra.errors import BundleError
from mlops_hydra.packaging.graph import Input
from mlops_hydra.packaging.seal import Sealed, read_json_text
from mlops_hydra.packaging.tensors import read_tensors

GOLDEN: Final = "golden.json"
ARRAYS: Final = "golden.safetensors"
TOLERANCE: Final = 1e-5
"""How far a probability may be off; for values in units of how far they lie from the target's mean."""
_MAX_JSON_BYTES, _MAX_ARRAY_BYTES = 64 * 2**20, 2**30


@dataclass(frozen=True, slots=True)
class Golden:
    """`rows`: raw columns, lists of n values, or arrays [n, ...] by input. predictions: [n, classes] or [n].

    timestamps: the columns of dates that came as datetimes; others came as text.
    """

    rows: Mapping[str, Any]
    predictions: NDArray[np.float64]
    tolerance: float
    timestamps: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.predictions)

    def check(self, outputs: NDArray[np.float64]) -> None:
        """Raises BundleError when a graph says something else."""
        distance = float(np.abs(outputs - self.predictions).max())
        if not distance <= self.tolerance:  # NaN is no agreement
            allowed = f"{self.tolerance:.3g} is allowed"
            raise BundleError(f"golden predictions are not reproduced: {distance:.3g} off, {allowed}")

    def as_json(self, *, with_rows: bool) -> dict[str, Any]:
        """What `read_golden` reads; without rows, these are in a file of arrays."""
        return {
            "tolerance": self.tolerance,
            "timestamps": list(self.timestamps),
            "columns": dict(self.rows) if with_rows else None,
            "predictions": self.predictions.tolist(),
        }


def read_golden(sealed: Sealed, schema: FeatureSchema | None, inputs: Sequence[Input], num_classes: int) -> Golden:
    """The golden rows of a bundle, which fit its schema, or its inputs if it has none.

    Raises:
        BundleError: they are not what they should be.
    """
    try:
        data = read_json_text(sealed.read(GOLDEN, max_bytes=_MAX_JSON_BYTES))
        predictions = np.array(data["predictions"], dtype=np.float64)
        tolerance, timestamps = data["tolerance"], tuple(data["timestamps"])
        rows = _columns(data["columns"], schema) if schema else _arrays(sealed, inputs)
        lengths = {len(values) for values in rows.values()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise BundleError(f"{GOLDEN}: cannot be read") from error
    if lengths != {len(predictions)} or not len(predictions):
        raise BundleError(f"{GOLDEN}: rows and predictions differ in number, or there are none")
    if predictions.shape[1:] != ((num_classes,) if num_classes else ()) or not np.isfinite(predictions).all():
        raise BundleError(f"{GOLDEN}: predictions must be finite, one for each class")
    is_number = isinstance(tolerance, float) and math.isfinite(tolerance)
    if not is_number or tolerance <= 0 or (num_classes and tolerance > TOLERANCE):
        raise BundleError(f"{GOLDEN}: the tolerance must be a number above 0, for classes at most {TOLERANCE}")
    return Golden(rows, predictions, tolerance, timestamps)


def _columns(columns: dict[str, list[Any]], schema: FeatureSchema) -> dict[str, list[Any]]:
    if list(columns) != list(schema.names) or not all(isinstance(values, list) for values in columns.values()):
        raise BundleError(f"{GOLDEN}: its columns are not those of the schema")
    return columns


def _arrays(sealed: Sealed, inputs: Sequence[Input]) -> dict[str, NDArray[Any]]:
    arrays = read_tensors(sealed.read(ARRAYS, max_bytes=_MAX_ARRAY_BYTES))
    for item in inputs:
        array = arrays.get(item.name)
        if array is None or array.shape[1:] != item.shape or array.dtype.name != item.dtype:
            raise BundleError(f"{ARRAYS}: {item.name!r} is not what the graph takes")
    return {item.name: arrays[item.name] for item in inputs}
