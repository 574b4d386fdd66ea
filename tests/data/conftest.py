"""What a user's configuration and a user's table look like."""

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mlops_hydra.config.schema import DataConfig
from mlops_hydra.data.sources import Source, open_source

DEFAULTS: dict[str, Any] = {
    "source": {"_target_": "users_module.make"},
    "path": None,
    "target": "target",
    "task": "auto",
    "classes": None,
    "keep": None,
    "drop": (),
    "kinds": {},
    "id": None,
    "image_shape": None,
    "version": None,
    "num_workers": 0,
}
SPLIT: dict[str, Any] = {
    "by": "auto",
    "column": None,
    "val": 0.2,
    "test": 0.2,
    "num_folds": None,
    "fold": None,
    "seed": 0,
    "duplicates": "together",
}
ENCODING = {"impute": "mean", "max_one_hot": 4, "max_categories": 100}


@pytest.fixture
def data_config() -> Callable[..., DataConfig]:
    """A configuration with the defaults, but for what is given; `split` and `encoding` are merged."""

    def make(**fields: Any) -> DataConfig:
        merged = {"split": SPLIT | fields.pop("split", {}), "encoding": ENCODING | fields.pop("encoding", {})}
        return DataConfig(**DEFAULTS | fields | merged)

    return make


@pytest.fixture
def opened(data_config: Callable[..., DataConfig], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Source]:
    """The source that a user's function makes by returning something."""

    def open_returned(returned: Any, **fields: Any) -> Source:
        module = ModuleType("users_module")
        module.make = lambda: returned  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "users_module", module)
        return open_source(data_config(**fields))

    return open_returned


@pytest.fixture
def mixed() -> pd.DataFrame:
    """200 rows of every kind, a tenth of the values missing, names beyond ASCII; `ja` or `nein` is the target."""
    rng = np.random.default_rng(0)
    size = 200
    frame = pd.DataFrame(
        {
            "größe": rng.normal(170, 10, size),
            "数量": pd.array(rng.integers(0, 50, size), dtype="Int64"),
            "aktiv": pd.array(rng.random(size) < 0.5, dtype="boolean"),
            "stadt": rng.choice(["Köln", "Wien", "Zürich"], size),
            "date": pd.Timestamp("2024-01-01") + pd.to_timedelta(rng.integers(0, 700, size), unit="D"),
            "text date": [f"2023-{month:02d}-11" for month in rng.integers(1, 13, size)],
        }
    )
    frame = frame.mask(rng.random(frame.shape) < 0.1)
    return frame.assign(target=rng.choice(["ja", "nein"], size))
