"""Rows in batches: from tensors in memory, or from a torch Dataset through a DataLoader.

The order of an epoch depends on (seed, epoch) alone, and what a Dataset draws at random on (seed, epoch, row) alone:
any number of loader workers gives the same batches, and an epoch can be begun again.
"""

import random
from collections.abc import Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any, Final, Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler, get_worker_info

from mlops_hydra.errors import DataError, Fault
from mlops_hydra.training.seeding import RandomState, derive_seed, set_all_seeds

_GATHERED_BATCHES: Final = 64  # gathered in one go: 2 us a step instead of 8, and memory stays bounded


class Batches(Protocol):
    """One split in batches."""

    @property
    def num_batches(self) -> int | None:
        """Batches an epoch; None if only reading tells."""

    def epoch(self, number: int) -> Iterator[Any]:
        """The batches of epoch `number`, on the device."""

    def forward(self, model: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
        """`(outputs [rows, ...], targets [rows, ...])` of one batch."""


@dataclass(frozen=True, slots=True)
class TensorBatches:
    """Tensors in memory, indexed on their device; never collated row by row.

    Args:
        inputs: what the model is called with, each `[n, ...]`.
        targets: int64 `[n]` or float32 `[n, 1]`.
        shuffle_seed: None keeps the order.
    """

    inputs: tuple[Tensor, ...]
    targets: Tensor
    batch_size: int
    shuffle_seed: int | None = None

    @property
    def num_batches(self) -> int:
        """Batches an epoch. A last one of a single row joins the one before: batch normalisation needs two."""
        full, rest = divmod(len(self.targets), self.batch_size)
        return max(1, full + (rest > 1 or (rest == 1 and self.batch_size == 1)))

    def epoch(self, number: int) -> Iterator[tuple[tuple[Tensor, ...], Tensor]]:
        """Tuples `(inputs, targets)` of `batch_size` rows."""
        if self.shuffle_seed is None:
            yield from self._split((*self.inputs, self.targets))
            return
        generator = torch.Generator().manual_seed(derive_seed(self.shuffle_seed, "order", number))
        order = torch.randperm(len(self.targets), generator=generator).to(self.targets.device)
        for chunk in self._split((order,), _GATHERED_BATCHES):
            rows = chunk[1]
            yield from self._split(tuple(tensor.index_select(0, rows) for tensor in (*self.inputs, self.targets)))

    def _split(self, tensors: tuple[Tensor, ...], batches: int = 1) -> Iterator[tuple[tuple[Tensor, ...], Tensor]]:
        size = self.batch_size * batches
        total = len(tensors[0])
        sizes = [size] * (total // size) + ([total % size] if total % size else [])
        if len(sizes) > 1 and sizes[-1] == 1 and self.batch_size > 1:
            sizes[-2:] = [sizes[-2] + 1]
        for parts in zip(*(torch.split(tensor, sizes) for tensor in tensors), strict=True):
            yield parts[:-1], parts[-1]

    def forward(self, model: nn.Module, batch: tuple[tuple[Tensor, ...], Tensor]) -> tuple[Tensor, Tensor]:
        """Outputs and targets of one batch."""
        inputs, targets = batch
        return model(*inputs), targets


class LoaderBatches:
    """A torch Dataset that need not fit in memory.

    Items are `(x, y)`, or mappings whose entry `target` is what is predicted and whose other entries the model takes
    as keyword arguments.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        *,
        batch_size: int,
        seed: int,
        shuffle: bool,
        num_workers: int = 0,
        device: torch.device | None = None,
        target: str | None = None,
    ) -> None:
        self._device, self._target = device or torch.device("cpu"), target
        self._sampler: _EpochSampler | None = None
        self._stream: _SeededStream | None = None
        options: dict[str, Any] = {"generator": torch.Generator(), "pin_memory": self._device.type == "cuda"}
        if isinstance(dataset, IterableDataset):
            if num_workers > 1:
                rule = "a stream is read in its own order by one process; use 0 or 1"
                raise DataError(Fault("data.num_workers", rule, num_workers))
            self._stream = _SeededStream(dataset, seed)
            self._loader: DataLoader[Any] = DataLoader(self._stream, batch_size, num_workers=num_workers, **options)
        else:
            num_rows = len(cast("Sized", dataset))
            self._sampler = _EpochSampler(num_rows, batch_size, seed if shuffle else None)
            options |= {"num_workers": num_workers, "persistent_workers": num_workers > 0}
            self._loader = DataLoader(_SeededItems(dataset, seed), batch_sampler=self._sampler, **options)

    @property
    def num_batches(self) -> int | None:
        """Batches an epoch; None for a stream."""
        return None if self._sampler is None else len(self._sampler)

    def epoch(self, number: int) -> Iterator[Any]:
        """Collated batches on the device."""
        if self._sampler is not None:
            self._sampler.epoch = number
        if self._stream is not None:
            self._stream.epoch = number
        for batch in self._loader:
            yield _moved(batch, self._device)

    def forward(self, model: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
        """Outputs and targets of one batch; outputs with a `logits` attribute are read from there."""
        if isinstance(batch, Mapping):
            if self._target not in batch:
                rule = f"batches have {', '.join(map(str, batch))}; name the entry to predict in data.target"
                raise DataError(Fault("data.target", rule, self._target))
            outputs = model(**{key: value for key, value in batch.items() if key != self._target})
            targets = batch[self._target]
        elif isinstance(batch, Sequence) and len(batch) >= 2:
            *inputs, targets = batch
            outputs = model(*inputs)
        else:
            rule = "items of a Dataset are (x, y) or mappings"
            raise DataError(Fault("data.source", rule, type(batch).__name__))
        outputs = getattr(outputs, "logits", outputs)
        return outputs, targets.to(outputs.dtype).reshape(-1, 1) if targets.is_floating_point() else targets


def _moved(batch: Any, device: torch.device) -> Any:
    if isinstance(batch, Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, Mapping):
        return {key: _moved(value, device) for key, value in batch.items()}
    if isinstance(batch, list | tuple):
        return tuple(_moved(value, device) for value in batch)
    return batch


class _EpochSampler(Sampler[list[tuple[int, int]]]):
    """Batches of keys `(epoch, row)`: the epoch travels with the row to workers that live longer than one."""

    def __init__(self, num_rows: int, batch_size: int, shuffle_seed: int | None) -> None:
        self._rows = TensorBatches((), torch.arange(num_rows), batch_size, shuffle_seed)
        self.epoch = 0

    def __len__(self) -> int:
        return self._rows.num_batches

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for _, rows in self._rows.epoch(self.epoch):
            yield [(self.epoch, row) for row in rows.tolist()]


class _SeededItems(Dataset[Any]):
    """Each item is made with generators seeded by (seed, epoch, row), and leaves those of this process alone."""

    def __init__(self, dataset: Dataset[Any], seed: int) -> None:
        self._dataset, self._seed = dataset, seed

    def __getitem__(self, key: tuple[int, int]) -> Any:
        epoch, row = key
        before = None if get_worker_info() else RandomState()
        seed = derive_seed(self._seed, "item", epoch, row)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.default_generator.manual_seed(seed)
        try:
            return self._dataset[row]
        finally:
            if before is not None:
                before.restore()


class _SeededStream(IterableDataset[Any]):
    """The stream draws from generators of its own, seeded by (seed, epoch)."""

    def __init__(self, dataset: IterableDataset[Any], seed: int) -> None:
        self._dataset, self._seed, self.epoch = dataset, seed, 0

    def __iter__(self) -> Iterator[Any]:
        outside = RandomState()
        set_all_seeds(derive_seed(self._seed, "stream", self.epoch))
        items = iter(self._dataset)
        while True:
            try:
                item = next(items)
            except StopIteration:
                outside.restore()
                return
            inside = RandomState()
            outside.restore()
            yield item
            outside = RandomState()
            inside.restore()
