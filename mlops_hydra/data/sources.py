"""Where data comes from: one Protocol, and how whatever a configuration names becomes one.

`open_source` builds what `data.source` names and wraps it: a table (`table_source.py`), a torch Dataset or a stream of
samples (`dataset_source.py`), three of them, or a Source of the user's own. Not here: reading (`tables.py`), splitting.
"""

import dataclasses
import sys
from collections.abc import Mapping
from typing import Any, Final, Protocol, runtime_checkable

import numpy as np
import pandas as pd

from mlops_hydra.config.schema import DataConfig
from mlops_hydra.config.targets import build
from mlops_hydra.data.checks import check
from mlops_hydra.data.splits import SPLITS, Splits
from mlops_hydra.data.table_source import TableSource
from mlops_hydra.data.tables import Frame, Reader
from mlops_hydra.errors import DataError, Fault

_ACCEPTED: Final = (
    "a table reader (digest() and read()), a pandas DataFrame, a torch Dataset, a mapping of train, val and test to "
    "DataFrames or Datasets, or a source (digest() and load())"
)


@runtime_checkable
class Source(Protocol):
    """What can be learnt from.

    `digest` is called first, reads only, and gives 64 hex digits (or a name) for the full content; `load` is called at
    most once after it.
    """

    def digest(self) -> str: ...

    def load(self) -> Splits: ...


def open_source(config: DataConfig) -> Source:
    """What `data.source` names, as a source whose data is checked when it is loaded.

    A `_target_` that names a parameter `path` or `version` gets `data.path` or `data.version`.

    Raises:
        DataError: it cannot be opened, or something else came out.
    """
    return CheckedSource(
        _wrap(build(config.source, {"path": config.path, "version": config.version}, where="data.source"), config)
    )


@dataclasses.dataclass
class CheckedSource:
    """A source whose content must be the same when it is loaded as when it was named, and fit to learn from."""

    source: Source
    _digest: str | None = None

    def digest(self) -> str:
        """Of the source; kept, to be compared by `load`."""
        self._digest = self.source.digest()
        return self._digest

    def load(self) -> Splits:
        """The splits, with the warnings of `check` added.

        Raises:
            DataError: the content changed since `digest`, or cannot be learnt from.
        """
        splits = self.source.load()
        if not isinstance(splits, Splits):
            raise DataError(Fault("data.source", "load() must return mlops_hydra.data.splits.Splits", type(splits)))
        if self._digest is not None and self.source.digest() != self._digest:
            raise DataError(Fault("data.source", "the data changed while it was being read: run again"))
        return dataclasses.replace(splits, warnings=splits.warnings + check(splits))


def _wrap(built: Any, config: DataConfig) -> Source:
    if isinstance(built, Source):
        return built
    if isinstance(built, pd.DataFrame):
        built = Frame(built)
    if isinstance(built, Reader):
        return TableSource(built, config)
    if isinstance(built, Mapping):
        return _wrap_given(built, config)
    if not _is_dataset(built):
        raise DataError(Fault("data.source", f"{config.source.path} must give {_ACCEPTED}", type(built).__name__))
    from mlops_hydra.data.dataset_source import DatasetSource, is_stream

    if is_stream(built):
        rule = "a stream cannot be split: return a mapping of train, val and test to three iterable datasets"
        raise DataError(Fault("data.source", rule, type(built).__name__))
    return DatasetSource(built, config)


def _wrap_given(built: Mapping[Any, Any], config: DataConfig) -> Source:
    if set(built) != set(SPLITS):
        names = ", ".join(map(str, built))
        raise DataError(Fault("data.source", "a mapping must have the keys train, val and test", names))
    if all(isinstance(part, pd.DataFrame) for part in built.values()):
        return _wrap_given_frames({name: built[name] for name in SPLITS}, config)
    if all(_is_dataset(part) for part in built.values()):
        from mlops_hydra.data.dataset_source import GivenDatasets

        return GivenDatasets(built, config)
    kinds = ", ".join(type(built[name]).__name__ for name in SPLITS)
    raise DataError(Fault("data.source", "a mapping must have three DataFrames or three torch Datasets", kinds))


def _wrap_given_frames(frames: Mapping[str, pd.DataFrame], config: DataConfig) -> Source:
    columns = {name: [str(column) for column in frame.columns] for name, frame in frames.items()}
    faults = [
        Fault(f"data.source[{name!r}]", "must have the columns of train, in that order", columns[name])
        for name in ("val", "test")
        if columns[name] != columns["train"]
    ]
    if config.split.by != "auto":
        faults.append(Fault("data.split.by", "must be auto: this data.source gives three splits", config.split.by))
    if config.split.num_folds is not None:
        faults.append(Fault("data.split.num_folds", "needs one table; this data.source gives three splits"))
    if faults:
        raise DataError(faults)
    given = np.repeat(np.arange(3, dtype=np.int8), [len(frames[name]) for name in SPLITS])
    return TableSource(Frame(pd.concat(list(frames.values()), ignore_index=True)), config, given=given)


def _is_dataset(built: Any) -> bool:
    """A torch Dataset, or anything else with its two methods; torch is not imported to find out."""
    torch_data = sys.modules.get("torch.utils.data")
    if torch_data is not None and isinstance(built, torch_data.Dataset):
        return True
    is_map_style = hasattr(built, "__getitem__") and hasattr(built, "__len__")
    return is_map_style and not isinstance(built, str | bytes | list | tuple | np.ndarray)
