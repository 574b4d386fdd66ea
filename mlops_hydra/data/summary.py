"""What the data of a run looked like, in numbers that two runs can be compared by: rows, columns, ranges.

Not the digest, which says whether anything differs at all, and not the reference for drift.
"""

from typing import Any, Final

import numpy as np
import pandas as pd

from mlops_hydra.data.splits import SPLITS, Splits, Table

_MOST_VALUES: Final = 10


def summarise(splits: Splits) -> dict[str, Any]:
    """Plain JSON values: rows of each split, classes, and for tables each column's range over all rows."""
    summary: dict[str, Any] = {"task": splits.task, "classes": [str(label) for label in splits.classes]}
    summary["rows"] = {name: _num_rows(splits, name) for name in SPLITS}
    tables = [split for name in SPLITS if isinstance(split := splits[name], Table)]
    if tables:
        features = pd.concat([table.features for table in tables], ignore_index=True)
        summary["columns"] = {str(name): _column(features[name]) for name in features.columns}
    known = [targets for name in SPLITS if (targets := splits.targets(name)) is not None]
    if known:
        targets = np.concatenate(known)
        names = np.array([str(label) for label in splits.classes], dtype=object)
        summary["target"] = _column(pd.Series(names[targets] if len(names) else targets))
    return summary


def _num_rows(splits: Splits, name: str) -> int | None:
    split: Any = splits[name]
    return len(split) if hasattr(split, "__len__") else None


def _column(series: "pd.Series[Any]") -> dict[str, Any]:
    """Of numbers and dates the range and mean, of anything else how often the most frequent values occur."""
    known = series.dropna()
    column: dict[str, Any] = {"dtype": str(series.dtype), "missing": int(series.isna().sum())}
    if pd.api.types.is_numeric_dtype(series.dtype) and not pd.api.types.is_bool_dtype(series.dtype):
        numbers = known.astype(float)
        return column | ({"min": numbers.min(), "max": numbers.max(), "mean": numbers.mean()} if len(numbers) else {})
    if pd.api.types.is_datetime64_any_dtype(series.dtype):
        return column | ({"min": str(known.min()), "max": str(known.max())} if len(known) else {})
    counts = known.astype(str).value_counts()
    top = sorted(counts.items(), key=lambda item: (-item[1], str(item[0])))[:_MOST_VALUES]
    return column | {"distinct": len(counts), "top": {str(value): int(count) for value, count in top}}
