"""Rows in batches: from tensors in memory, or from a torch Dataset through a DataLoader.

The order of an epoch depends on (seed, epoch) alone, and what a Dataset draws at random on (seed, epoch, row) alone:
any number of loader workers gives the same batches, and an epoch can be begun again.
"""

import random
import signal
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import KW_ONLY, dataclass, field
from itertools import islice
from typing import Any, Final, Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler, default_collate, get_worker_info

from mlops_hydra.config.seeds import derive_seed
from mlops_hydra.errors import DataError, Fault
from mlops_hydra.training.seeding import RandomState, set_all_seeds

_GATHERED_BATCHES: Final = 64  # gathered in one go: 2 us a step instead of 8, and memory stays bounded


class Batches(Protocol):
    """One split in batches."""

    @property
    def num_batches(self) -> int | None:
        """Batches an epoch; None if only reading tells."""

    def epoch(self, number: int, skip: int = 0) -> Iterator[Any]:
        """The batches of epoch `number`, on the device, but for the first `skip`: the same as they come without."""

    def forward(self, model: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
        """`(outputs [rows, ...], targets [rows, ...])` of one batch."""

    def sample(self) -> Any | None:
        """A batch of the first two rows; None if reading them would use them up."""


def as_targets(targets: Tensor, *, regression: bool) -> Tensor:
    """Targets as losses take them: float32 `[n, 1]`, or int64 `[n]` for classes."""
    return targets.float().reshape(-1, 1) if regression else targets.long().reshape(-1)


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
        return full + (rest > 1 or (rest == 1 and full == 0))

    def epoch(self, number: int, skip: int = 0) -> Iterator[tuple[Tensor, ...]]:
        """Tuples `(*inputs, targets)` of `batch_size` rows."""
        if self.shuffle_seed is None:
            yield from islice(self._split((*self.inputs, self.targets)), skip, None)
            return
        generator = torch.Generator().manual_seed(derive_seed(self.shuffle_seed, "order", number))
        order = torch.randperm(len(self.targets), generator=generator).to(self.targets.device)
        chunks, inside = divmod(skip, _GATHERED_BATCHES)
        for chunk in islice(self._split((order,), _GATHERED_BATCHES), chunks, None):
            gathered = tuple(tensor.index_select(0, *chunk) for tensor in (*self.inputs, self.targets))
            yield from islice(self._split(gathered), inside, None)
            inside = 0

    def _split(self, tensors: tuple[Tensor, ...], batches: int = 1) -> Iterator[tuple[Tensor, ...]]:
        size = self.batch_size * batches
        total = len(tensors[0])
        sizes = [size] * (total // size) + ([total % size] if total % size else [])
        if len(sizes) > 1 and sizes[-1] == 1 and self.batch_size > 1:
            sizes[-2:] = [sizes[-2] + 1]
        yield from zip(*(torch.split(tensor, sizes) for tensor in tensors), strict=True)

    def forward(self, model: nn.Module, batch: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Outputs and targets of one batch."""
        return model(*batch[:-1]), batch[-1]

    def sample(self) -> tuple[Tensor, ...]:
        """The first two rows."""
        return tuple(tensor[:2] for tensor in (*self.inputs, self.targets))


@dataclass(eq=False)
class LoaderBatches:
    """A torch Dataset that need not fit in memory.

    Items are `(x, y)`, or mappings whose entry `target` is what is predicted and whose other entries the model takes
    as keyword arguments.
    """

    dataset: Dataset[Any]
    _: KW_ONLY
    batch_size: int
    seed: int
    shuffle: bool
    regression: bool = False
    num_workers: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    target: str | None = None
    _items: "_SeededItems | None" = field(init=False, default=None)
    _sampler: "_EpochSampler | None" = field(init=False, default=None)
    _stream: "_SeededStream | None" = field(init=False, default=None)
    _loader: DataLoader[Any] = field(init=False)

    def __post_init__(self) -> None:
        options: dict[str, Any] = {"generator": torch.Generator(), "pin_memory": self.device.type == "cuda"}
        options["num_workers"] = self.num_workers
        options["worker_init_fn"] = _leave_ctrl_c_to_the_parent
        if isinstance(self.dataset, IterableDataset):
            if self.num_workers > 1:
                rule = "a stream is read in its own order by one process; use 0 or 1"
                raise DataError(Fault("data.num_workers", rule, self.num_workers))
            self._stream = _SeededStream(self.dataset, self.seed, self.batch_size)
            self._loader = DataLoader(self._stream, None, collate_fn=default_collate, **options)
            return
        num_rows = len(cast("Sized", self.dataset))
        self._items = _SeededItems(self.dataset, self.seed)
        self._sampler = _EpochSampler(num_rows, self.batch_size, self.seed if self.shuffle else None)
        options["persistent_workers"] = self.num_workers > 0
        self._loader = DataLoader(self._items, batch_sampler=self._sampler, **options)

    @property
    def num_batches(self) -> int | None:
        """Batches an epoch; None for a stream."""
        return None if self._sampler is None else len(self._sampler)

    def epoch(self, number: int, skip: int = 0) -> Iterator[Any]:
        """Collated batches on the device; those of a stream are read to be skipped."""
        if self._sampler is not None:
            self._sampler.epoch, self._sampler.skip = number, skip
        if self._stream is not None:
            self._stream.epoch = number
        for batch in islice(self._loader, 0 if self._sampler is not None else skip, None):
            yield _moved(batch, self.device)

    def forward(self, model: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
        """Outputs and targets of one batch; outputs with a `logits` attribute are read from there."""
        if isinstance(batch, Mapping):
            if self.target not in batch:
                rule = f"batches have {', '.join(map(str, batch))}; name the entry to predict in data.target"
                raise DataError(Fault("data.target", rule, self.target))
            outputs = model(**{key: value for key, value in batch.items() if key != self.target})
            targets = batch[self.target]
        elif isinstance(batch, Sequence) and len(batch) >= 2:
            *inputs, targets = batch
            outputs = model(*inputs)
        else:
            rule = "items of a Dataset are (x, y) or mappings"
            raise DataError(Fault("data.source", rule, type(batch).__name__))
        return getattr(outputs, "logits", outputs), as_targets(targets, regression=self.regression)

    def sample(self) -> Any | None:
        """The first two rows; None for a stream."""
        if self._items is None or self._sampler is None:
            return None
        keys = [(0, row) for row in range(min(2, self._sampler.num_rows))]
        return _moved(default_collate(self._items.__getitems__(keys)), self.device)


def _leave_ctrl_c_to_the_parent(_: int) -> None:
    """It reaches the workers of a terminal's process too, but the training wants to end its step first."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _moved(batch: Any, device: torch.device) -> Any:
    """On the device; float64, which is what NumPy and Python floats collate to, becomes float32."""
    if isinstance(batch, Tensor):
        return batch.to(device, torch.float32 if batch.dtype == torch.float64 else None, non_blocking=True)
    if isinstance(batch, Mapping):
        return {key: _moved(value, device) for key, value in batch.items()}
    if isinstance(batch, list | tuple):
        return tuple(_moved(value, device) for value in batch)
    return batch


class _EpochSampler(Sampler[list[tuple[int, int]]]):
    """Batches of keys `(epoch, row)`: the epoch travels with the row to workers that live longer than one."""

    def __init__(self, num_rows: int, batch_size: int, shuffle_seed: int | None) -> None:
        self._rows = TensorBatches((), torch.arange(num_rows), batch_size, shuffle_seed)
        self.num_rows, self.epoch, self.skip = num_rows, 0, 0

    def __len__(self) -> int:
        return self._rows.num_batches

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        for (rows,) in self._rows.epoch(self.epoch, self.skip):
            yield [(self.epoch, row) for row in rows.tolist()]


class _SeededItems(Dataset[Any]):
    """Each item is made with generators seeded by (seed, epoch, row), and leaves those of this process alone."""

    def __init__(self, dataset: Dataset[Any], seed: int) -> None:
        self._dataset, self._seed = dataset, seed

    def __getitems__(self, keys: Sequence[tuple[int, int]]) -> list[Any]:
        before = None if get_worker_info() else RandomState()
        try:
            return [self._item(*key) for key in keys]
        finally:
            if before is not None:
                before.restore()

    def _item(self, epoch: int, row: int) -> Any:
        seed = derive_seed(self._seed, "item", epoch, row)
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.default_generator.manual_seed(seed)
        try:
            return self._dataset[row]
        except Exception as error:
            error.add_note(f"in item {row} of {type(self._dataset).__name__}, epoch {epoch}")
            raise


class _SeededStream(IterableDataset[Any]):
    """Batches of a stream, which draws from generators of its own, seeded by (seed, epoch)."""

    def __init__(self, dataset: IterableDataset[Any], seed: int, batch_size: int) -> None:
        self._dataset, self._seed, self._batch_size, self.epoch = dataset, seed, batch_size, 0

    def __iter__(self) -> Iterator[list[Any]]:
        batches, inside = _in_batches(self._dataset, self._batch_size), None
        while True:
            outside = RandomState()
            try:
                if inside is None:
                    set_all_seeds(derive_seed(self._seed, "stream", self.epoch))
                else:
                    inside.restore()
                batch = next(batches)
            except StopIteration:
                return
            finally:  # generators change hands once a batch: 90 us each time
                inside = RandomState()
                outside.restore()
            yield batch


def _in_batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Lists of `size`; a last one of a single item joins the one before, as in memory."""
    held: list[Any] = []
    for item in items:
        held.append(item)
        if len(held) == (size + 2 if size > 1 else 1):
            yield held[:size]
            held = held[size:]
    if held:
        yield held
