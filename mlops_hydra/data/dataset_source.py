"""torch Datasets as a source: hashed and scanned for targets in one pass, then split by index.

A sample is `(x, ..., y)`, or a mapping whose entry `data.target` is what is predicted.
Classes are codes from 0. Streams (iterable datasets) come as three, and are neither hashed nor scanned.
Not here: tables (`table_source.py`), and loading in batches (`training/`).
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset, IterableDataset, Subset, TensorDataset

from mlops_hydra.config.schema import DataConfig
from mlops_hydra.config.section import Task
from mlops_hydra.data.checks import copy_warnings
from mlops_hydra.data.digests import as_array, digest_sample
from mlops_hydra.data.encoding import ClassLabel
from mlops_hydra.data.splits import SPLITS, Splits, assign
from mlops_hydra.data.values import IntArray
from mlops_hydra.errors import DataError, Fault, nearest

_TABLES_ONLY: Final[dict[str, object]] = {"keep": None, "drop": (), "kinds": {}, "id": None, "image_shape": None}


def is_stream(dataset: object) -> bool:
    """Whether it can only be iterated."""
    return isinstance(dataset, IterableDataset)


def target_of(sample: Any, key: str | None = None) -> Any:
    """The target of a sample, or of a batch: the last of a sequence, or the entry `key` of a mapping.

    Raises:
        DataError: there is none.
    """
    if isinstance(sample, Mapping):
        if key in sample:
            return sample[key]
        rule = f"names no entry of a sample, which has {', '.join(map(str, sample))}"
        raise DataError(Fault("data.target", rule, key, nearest(str(key), map(str, sample))))
    if isinstance(sample, list | tuple) and len(sample) >= 2:
        return sample[-1]
    rule = "a sample must be (x, y), or a mapping with the entry data.target"
    raise DataError(Fault("data.source", rule, type(sample).__name__))


def read_targets(samples: Iterable[Any], key: str | None = None) -> NDArray[Any]:
    """int64 [n] if all targets are whole numbers or booleans, else float64 [n]; iterates over everything.

    Raises:
        DataError: a sample has no target, or one that is not a single number.
    """
    return _as_targets([_number(target_of(sample, key), index) for index, sample in enumerate(samples)])


@dataclass(frozen=True, slots=True)
class _Scan:
    """What one pass over a Dataset shows: its digest, targets [n], and a hash [n] of each sample if it was hashed."""

    digest: str
    targets: NDArray[Any]
    hashes: NDArray[np.uint64] | None


@dataclass(frozen=True)
class DatasetSource:
    """One map-style Dataset, split by index."""

    dataset: Dataset[Any]
    config: DataConfig

    def __post_init__(self) -> None:
        _refuse(self.config, by=("auto", "random", "stratified"))

    def digest(self) -> str:
        """Its own `digest()`, else of `data.version`, else of every sample (read once)."""
        return self._scan.digest

    def load(self) -> Splits:
        """Three Subsets; a TensorDataset becomes three TensorDatasets."""
        scan, split = self._scan, self.config.split
        task, classes = _task_and_classes(self.config, scan.targets)
        targets = _checked_targets(scan.targets, task, classes, "data.source")
        linked = None
        if split.duplicates == "together" and scan.hashes is not None:
            linked = np.unique(scan.hashes, return_inverse=True)[1]
        assigned = assign(
            split,
            num_rows=len(targets),
            labels=None if task == "regression" else targets,
            linked=linked,
        )
        rows = {name: np.flatnonzero(assigned == part) for part, name in enumerate(SPLITS)}
        return Splits(
            train=_subset(self.dataset, rows["train"]),
            val=_subset(self.dataset, rows["val"]),
            test=_subset(self.dataset, rows["test"]),
            task=task,
            classes=classes,
            scanned={name: targets[indices] for name, indices in rows.items()},
            warnings=_copies({name: scan.hashes[i] for name, i in rows.items()} if scan.hashes is not None else {}),
        )

    @cached_property
    def _scan(self) -> _Scan:
        return _scan(self.dataset, self.config, "data.source")


@dataclass(frozen=True)
class GivenDatasets:
    """Three Datasets or streams, split by the user."""

    parts: Mapping[str, Dataset[Any]]
    config: DataConfig

    def __post_init__(self) -> None:
        _refuse(self.config, by=("auto",))
        if not any(is_stream(part) for part in self.parts.values()):
            return
        faults = []
        if self.config.version is None and not all(_names_itself(part) for part in self.parts.values()):
            faults.append(Fault("data.version", "is needed: a stream cannot be hashed, so name its content"))
        if self.config.classes is None and self.config.task != "regression":
            faults.append(Fault("data.classes", "is needed for a stream, or data.task=regression"))
        if faults:
            raise DataError(faults)

    def digest(self) -> str:
        """Over the digests of the three."""
        digests = [scan.digest for scan in self._scans.values()]
        return hashlib.sha256(" ".join(digests).encode()).hexdigest()

    def load(self) -> Splits:
        """The three as they are."""
        scanned = {name: scan.targets for name, scan in self._scans.items() if not is_stream(self.parts[name])}
        known = scanned.get("train", np.empty(0, dtype=np.int64))
        task, classes = _task_and_classes(self.config, known)
        checked = {n: _checked_targets(t, task, classes, f"data.source[{n!r}]") for n, t in scanned.items()}
        hashes = {name: scan.hashes for name, scan in self._scans.items() if scan.hashes is not None}
        return Splits(
            train=self.parts["train"],
            val=self.parts["val"],
            test=self.parts["test"],
            task=task,
            classes=classes,
            scanned=checked,
            warnings=_copies(hashes),
        )

    @cached_property
    def _scans(self) -> dict[str, _Scan]:
        return {name: _scan(self.parts[name], self.config, f"data.source[{name!r}]") for name in SPLITS}


def _refuse(config: DataConfig, *, by: Sequence[str]) -> None:
    """Faults for options that mean nothing without columns, or when the splits are given."""
    named = [name for name, unset in _TABLES_ONLY.items() if getattr(config, name) != unset]
    faults = [Fault(f"data.{name}", "is for tables; a torch Dataset prepares its own samples") for name in named]
    if config.split.by not in by:
        faults.append(Fault("data.split.by", f"must be {' or '.join(by)} for this data.source", config.split.by))
    if len(by) == 1 and config.split.num_folds is not None:
        faults.append(Fault("data.split.num_folds", "needs one Dataset; this data.source gives three splits"))
    if faults:
        raise DataError(faults)


def _scan(dataset: Dataset[Any], config: DataConfig, where: str) -> _Scan:
    own: Any = getattr(dataset, "digest", None)
    name = str(own()) if callable(own) else None
    if name is None and config.version is not None:
        name = hashlib.sha256(f"version {config.version}".encode()).hexdigest()
    if is_stream(dataset):
        return _Scan(name or "", np.empty(0), None)
    if name is not None:
        return _Scan(name, read_targets(_samples(dataset, where), config.target), None)
    samples, targets, digests = _samples(dataset, where), [], []
    for index, sample in enumerate(samples):
        digests.append(digest_sample(sample))
        targets.append(_number(target_of(sample, config.target), index))
    if digests and digest_sample(_sample(dataset, 0, where)) != digests[0]:
        rule = "sample 0 differs each time it is read (random augmentation?): give digest() -> str, or set data.version"
        raise DataError(Fault(where, rule))
    return _Scan(hashlib.sha256(b"".join(digests)).hexdigest(), _as_targets(targets), _short(digests))


def _names_itself(dataset: object) -> bool:
    return callable(getattr(dataset, "digest", None))


def _samples(dataset: Any, where: str) -> Iterator[Any]:
    if not hasattr(dataset, "__len__"):
        raise DataError(Fault(where, "a map-style Dataset needs __len__", type(dataset).__name__))
    if type(dataset) is TensorDataset:  # NumPy views: indexing tensors takes ten times as long
        return zip(*(as_array(tensor) for tensor in dataset.tensors), strict=True)
    return (_sample(dataset, index, where) for index in range(len(dataset)))


def _sample(dataset: Any, index: int, where: str) -> Any:
    if type(dataset) is TensorDataset:
        return tuple(as_array(tensor)[index] for tensor in dataset.tensors)
    try:
        return dataset[index]
    except Exception as error:
        rule = f"sample {index} cannot be read: {type(error).__name__}: {error}"
        raise DataError(Fault(where, rule)) from error


def _short(digests: Sequence[bytes]) -> NDArray[np.uint64]:
    return np.frombuffer(b"".join(digest[:8] for digest in digests), dtype=np.uint64)


def _number(target: Any, index: int) -> int | float | bool:
    if not isinstance(target, bool | int | float | str):
        array = as_array(target)
        target = array.item() if array.size == 1 else target
    if not isinstance(target, bool | int | float):
        rule = "the target must be one number: a class code from 0, or a quantity"
        raise DataError(Fault(f"data.source, sample {index}", rule, target))
    return target


def _as_targets(numbers: Sequence[int | float | bool]) -> NDArray[Any]:
    is_whole = all(isinstance(number, int) for number in numbers)
    return np.array(numbers, dtype=np.int64 if is_whole else np.float64)


def _task_and_classes(config: DataConfig, targets: NDArray[Any]) -> tuple[Task, tuple[ClassLabel, ...]]:
    """Whole numbers are class codes, as in torch; other numbers are a quantity."""
    if config.task == "regression" or (config.task == "auto" and not config.classes and targets.dtype.kind == "f"):
        return "regression", ()
    classes = config.classes or tuple(range(int(targets.max(initial=-1)) + 1))
    if config.task == "binary" and len(classes) != 2:
        raise DataError(Fault("data.task", f"binary needs two classes, found {len(classes)}"))
    if len(classes) < 2:
        raise DataError(Fault("data.source", "every sample has the same class: nothing to learn"))
    inferred: Task = "binary" if len(classes) == 2 else "multiclass"
    return inferred if config.task == "auto" else config.task, classes


def _checked_targets(targets: NDArray[Any], task: Task, classes: Sequence[ClassLabel], where: str) -> NDArray[Any]:
    if task == "regression":
        return targets.astype(np.float64)
    whole = targets.astype(np.int64) if targets.dtype.kind == "i" else np.full(len(targets), -1)
    strange = np.flatnonzero((whole < 0) | (whole >= len(classes)))
    if len(strange):
        rule = f"the target must be a class code, a whole number from 0 to {len(classes) - 1}"
        raise DataError(Fault(f"{where}, sample {strange[0]}", rule, targets[strange[0]].item()))
    return whole


def _copies(hashes: Mapping[str, NDArray[np.uint64]]) -> tuple[str, ...]:
    return tuple(copy_warnings(hashes)) if len(hashes) == len(SPLITS) else ()


def _subset(dataset: Dataset[Any], indices: IntArray) -> Dataset[Any]:
    if type(dataset) is TensorDataset:
        return TensorDataset(*(tensor[indices] for tensor in dataset.tensors))
    return Subset(dataset, indices.tolist())
