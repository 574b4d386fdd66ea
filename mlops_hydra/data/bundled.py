"""The tables that scikit-learn brings along, read from its files: importing scikit-learn takes a second.

Behind `tables.SklearnTable`. Names and values are those of `sklearn.datasets`, which a test compares.
"""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from mlops_hydra.data.files import existing_file
from mlops_hydra.errors import DataError, Fault, nearest

TARGET: Final = "target"
_DIABETES: Final = ("age", "sex", "bmi", "bp", "s1", "s2", "s3", "s4", "s5", "s6")
_WINE: Final = (
    "alcohol",
    "malic_acid",
    "ash",
    "alcalinity_of_ash",
    "magnesium",
    "total_phenols",
    "flavanoids",
    "nonflavanoid_phenols",
    "proanthocyanins",
    "color_intensity",
    "hue",
    "od280/od315_of_diluted_wines",
    "proline",
)
_CELL: Final = (
    "radius",
    "texture",
    "perimeter",
    "area",
    "smoothness",
    "compactness",
    "concavity",
    "concave points",
    "symmetry",
    "fractal dimension",
)
_BREAST_CANCER: Final = (
    *(f"mean {name}" for name in _CELL),
    *(f"{name} error" for name in _CELL),
    *(f"worst {name}" for name in _CELL),
)
_DIGITS: Final = tuple(f"pixel_{row}_{column}" for row in range(8) for column in range(8))
FILES: Final[dict[str, tuple[str, ...]]] = {
    "breast_cancer": ("breast_cancer.csv",),
    "wine": ("wine_data.csv",),
    "digits": ("digits.csv.gz",),
    "diabetes": ("diabetes_data_raw.csv.gz", "diabetes_target.csv.gz"),
}


def paths_of(name: str) -> list[Path]:
    """The files of a table.

    Raises:
        DataError: no such table, or scikit-learn is not installed.
    """
    if name not in FILES:
        raise DataError(Fault("data.source.name", f"choose from {', '.join(FILES)}", name, nearest(name, FILES)))
    found = importlib.util.find_spec("sklearn")
    if found is None or not found.submodule_search_locations:
        raise DataError(Fault("data.source", "needs scikit-learn: pip install scikit-learn", name))
    folder = Path(found.submodule_search_locations[0], "datasets", "data")
    return [existing_file(str(folder / file)) for file in FILES[name]]


def read(name: str) -> pd.DataFrame:
    """All rows: the features float64, then the column `target` (class names for breast_cancer and wine)."""
    first, *others = paths_of(name)
    if name == "diabetes":
        return _read_numbers(first, _DIABETES, separator=" ").join(_read_numbers(others[0], [TARGET]))
    if name == "digits":
        return _read_numbers(first, [*_DIGITS, TARGET]).astype({TARGET: np.int64})
    frame = _read_numbers(first, [*(_WINE if name == "wine" else _BREAST_CANCER), TARGET], skip=1)
    with first.open(encoding="utf-8") as file:
        _, _, *class_names = file.readline().strip().split(",")
    return frame.assign(**{TARGET: [class_names[int(code)] for code in frame[TARGET]]})


def _read_numbers(path: Path, names: Sequence[str], *, separator: str = ",", skip: int = 0) -> pd.DataFrame:
    return pd.read_csv(path, sep=separator, names=list(names), skiprows=skip, dtype=np.float64)
