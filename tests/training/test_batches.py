"""Rows in batches: none lost, none twice, and the same whatever loads them."""

import random
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.data import Dataset, IterableDataset

from mlops_hydra.errors import DataError
from mlops_hydra.training.batches import LoaderBatches, TensorBatches
from mlops_hydra.training.seeding import RandomState

SIZES = st.integers(1, 300), st.integers(1, 70)


def tensor_batches(num_rows: int, batch_size: int, seed: int | None = 0) -> TensorBatches:
    rows = torch.arange(num_rows)
    return TensorBatches((rows.float()[:, None], rows.flip(0)), rows, batch_size, seed)


class Drawing(Dataset[Any]):
    """Items of which every number is drawn at random, but for the row."""

    def __init__(self, num_rows: int = 11) -> None:
        self.num_rows = num_rows

    def __len__(self) -> int:
        return self.num_rows

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        drawn = [random.random(), float(np.random.rand()), float(torch.rand(())), float(torch.randn(()))]
        return torch.tensor([row, *drawn]), row


class Named(Drawing):
    """The same as mappings, with text."""

    def __getitem__(self, row: int) -> Any:
        inputs, target = super().__getitem__(row)
        return {"text": f"row {row}", "numbers": inputs, "label": target}


class Stream(IterableDataset[Any]):
    def __init__(self, num_rows: int = 11, *, fails: bool = False) -> None:
        self.num_rows, self.fails = num_rows, fails

    def __iter__(self) -> Iterator[Any]:
        for row in range(self.num_rows):
            yield torch.tensor([row, random.random(), float(np.random.rand()), float(torch.rand(()))]), row
        if self.fails:
            np.random.rand()
            raise ZeroDivisionError


class Adding(nn.Module):
    """Sums what it is given."""

    def forward(self, *inputs: Tensor, **named: Tensor) -> Tensor:
        return torch.stack([tensor.reshape(len(tensor), -1).sum(1) for tensor in (*inputs, *named.values())]).sum(0)


def loaded(dataset: Dataset[Any], **options: Any) -> LoaderBatches:
    options = {"batch_size": 4, "seed": 0, "shuffle": not isinstance(dataset, IterableDataset)} | options
    return LoaderBatches(dataset, **options)


def flat(batches: LoaderBatches, *epochs: int) -> list[Any]:
    """Every number of every batch, in order."""
    return [[part.tolist() for part in batch] for epoch in epochs for batch in batches.epoch(epoch)]


@given(*SIZES, st.integers(0, 3))
def test_each_row_comes_exactly_once_an_epoch(num_rows: int, batch_size: int, epoch: int) -> None:
    batches = list(tensor_batches(num_rows, batch_size).epoch(epoch))
    rows = torch.cat([targets for *_, targets in batches])
    assert sorted(rows.tolist()) == list(range(num_rows))
    for first, second, targets in batches:
        assert torch.equal(first[:, 0], targets.float())
        assert torch.equal(second, num_rows - 1 - targets)


@given(*SIZES)
def test_batches_are_full_but_for_the_last_and_a_single_row_joins_the_one_before(
    num_rows: int, batch_size: int
) -> None:
    for seed in (None, 0):
        batches = tensor_batches(num_rows, batch_size, seed)
        sizes = [len(targets) for *_, targets in batches.epoch(1)]
        assert len(sizes) == batches.num_batches
        assert set(sizes[:-1]) <= {batch_size}
        assert sizes[-1] <= batch_size + (batch_size > 1)
        assert sizes[-1] > 1 or num_rows == 1 or batch_size == 1


@given(st.integers(1, 40), st.integers(1, 9))
@settings(max_examples=30, deadline=None)
def test_a_loader_gives_the_rows_of_an_epoch_like_tensors_do(num_rows: int, batch_size: int) -> None:
    """In memory, map-style and as a stream: the same sizes, and for the first two the same order."""
    in_memory = [targets.tolist() for *_, targets in tensor_batches(num_rows, batch_size, 7).epoch(2)]
    mapped = [rows.tolist() for _, rows in loaded(Drawing(num_rows), batch_size=batch_size, seed=7).epoch(2)]
    streamed = [rows.tolist() for _, rows in loaded(Stream(num_rows), batch_size=batch_size).epoch(2)]
    assert mapped == in_memory
    assert [len(batch) for batch in streamed] == [len(batch) for batch in in_memory]
    assert [row for batch in streamed for row in batch] == list(range(num_rows))


def test_batches_are_what_indexing_by_hand_gives() -> None:
    inputs, targets = torch.randn(1000, 3), torch.arange(1000)
    for first, rows in TensorBatches((inputs,), targets, 7, shuffle_seed=0).epoch(1):
        assert torch.equal(first, inputs[rows])


def test_no_rows_are_no_batches() -> None:
    assert tensor_batches(0, 4).num_batches == 0
    assert list(tensor_batches(0, 4).epoch(1)) == []


def test_the_order_depends_on_seed_and_epoch_and_nothing_else() -> None:
    def order(seed: int | None, epoch: int, batch_size: int = 8) -> list[int]:
        return torch.cat([rows for *_, rows in tensor_batches(500, batch_size, seed).epoch(epoch)]).tolist()

    first = order(0, 1)
    torch.manual_seed(99)
    assert order(0, 1) == first
    assert order(0, 1, batch_size=3) == first
    assert order(0, 2) != first
    assert order(1, 1) != first
    assert order(None, 1) == order(None, 2) == list(range(500))


def test_an_epoch_can_be_begun_again_and_two_can_be_read_side_by_side() -> None:
    batches = tensor_batches(40, 8)
    begun = batches.epoch(1)
    next(begun)
    whole = [targets.tolist() for *_, targets in batches.epoch(1)]
    assert whole == [targets.tolist() for *_, targets in batches.epoch(1)]
    assert [targets.tolist() for *_, targets in begun] == whole[1:]


@pytest.mark.parametrize("shuffle", [True, False])
def test_loader_workers_change_nothing_even_if_items_are_drawn_at_random(shuffle: bool) -> None:
    alone, helped = loaded(Drawing(), shuffle=shuffle), loaded(Drawing(), shuffle=shuffle, num_workers=2)
    assert flat(alone, 1, 2, 1) == flat(helped, 1, 2, 1)


def test_what_an_item_draws_depends_on_seed_epoch_and_row_alone() -> None:
    def drawn(epoch: int, **options: Any) -> dict[int, list[float]]:
        batches = loaded(Drawing(), **options).epoch(epoch)
        return {int(row): numbers.tolist()[1:] for inputs, rows in batches for row, numbers in zip(rows, inputs)}  # noqa: B905

    first = drawn(1)
    assert len({tuple(numbers) for numbers in first.values()}) == 11
    assert drawn(1, shuffle=False, batch_size=3) == first
    assert all(drawn(2)[row] != first[row] for row in first)
    assert all(drawn(1, seed=1)[row] != first[row] for row in first)


def test_a_stream_draws_the_same_in_this_process_and_in_another() -> None:
    alone, helped = loaded(Stream()), loaded(Stream(), num_workers=1)
    first = flat(alone, 1)
    assert first == flat(helped, 1)
    assert first != flat(alone, 2)
    assert flat(alone, 1) == first


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("dataset", [Drawing(), Named(), Stream()], ids=lambda dataset: type(dataset).__name__)
def test_reading_leaves_the_generators_of_this_process_alone(dataset: Dataset[Any], num_workers: int) -> None:
    def numbers() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    before = RandomState()
    expected = [numbers() for _ in range(5)]
    before.restore()
    seen = []
    for epoch in (1, 2):
        for index, _ in enumerate(loaded(dataset, num_workers=num_workers).epoch(epoch)):
            if index < 2:
                seen.append(numbers())  # between two batches
    loaded(dataset).sample()
    assert [*seen, numbers()] == expected


@pytest.mark.parametrize("num_read", [1, 9])
def test_a_stream_that_fails_or_is_left_early_leaves_the_generators_alone(num_read: int) -> None:
    before = RandomState()
    expected = random.random(), float(np.random.rand()), float(torch.rand(()))
    before.restore()
    batches = loaded(Stream(9, fails=True)).epoch(1)
    with suppress(ZeroDivisionError):
        for _ in range(num_read):
            next(batches)
    assert (random.random(), float(np.random.rand()), float(torch.rand(()))) == expected


def test_two_workers_on_a_stream_are_refused() -> None:
    with pytest.raises(DataError, match=r"data\.num_workers: a stream is read .*, got 2"):
        loaded(Stream(), num_workers=2)


def test_the_length_of_a_stream_is_not_known_and_its_sample_not_read() -> None:
    assert loaded(Stream()).num_batches is None
    assert loaded(Stream()).sample() is None
    assert loaded(Drawing(9)).num_batches == 2


def test_a_model_is_called_with_the_entries_of_a_mapping_but_the_target() -> None:
    class Numbers(Named):
        def __getitem__(self, row: int) -> Any:
            return {"a": torch.tensor([row, 1.0]), "b": torch.tensor([10.0 * row]), "label": row}

    batches = loaded(Numbers(), target="label")
    outputs, targets = batches.forward(Adding(), next(iter(batches.epoch(1))))
    assert torch.equal(outputs, 11.0 * targets + 1)
    with pytest.raises(DataError, match=r"data\.target: batches have a, b, label"):
        loaded(Numbers(), target="lable").forward(Adding(), next(iter(batches.epoch(1))))


def test_outputs_with_logits_are_read_from_there() -> None:
    class WithLogits(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return type("Output", (), {"logits": x[:, :2]})()

    batches = loaded(Drawing())
    outputs, targets = batches.forward(WithLogits(), next(iter(batches.epoch(1))))
    assert outputs.shape == (4, 2)
    assert torch.equal(outputs[:, 0], targets.float())


def test_items_that_are_neither_pairs_nor_mappings_are_refused() -> None:
    class Lone(Drawing):
        def __getitem__(self, row: int) -> Any:
            return torch.tensor([row])

    batches = loaded(Lone())
    with pytest.raises(DataError, match=r"items of a Dataset are \(x, y\) or mappings"):
        batches.forward(Adding(), next(iter(batches.epoch(1))))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64, torch.bool, torch.float64])
def test_class_codes_of_any_type_become_whole_numbers(dtype: torch.dtype) -> None:
    class Typed(Drawing):
        def __getitem__(self, row: int) -> Any:
            return torch.tensor([float(row)]), torch.tensor([row % 2]).to(dtype)

    batches = loaded(Typed(), shuffle=False)
    _, targets = batches.forward(Adding(), next(iter(batches.epoch(0))))
    assert targets.dtype == torch.int64
    assert targets.tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("dtype", [torch.int64, torch.float64])
def test_targets_of_a_regression_are_a_column_in_full_precision(dtype: torch.dtype, autocast: bool) -> None:
    class Quantities(Drawing):
        def __getitem__(self, row: int) -> Any:
            return torch.rand(3, dtype=torch.float64), torch.tensor(1001 + row).to(dtype)

    batches = loaded(Quantities(), shuffle=False, regression=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        outputs, targets = batches.forward(nn.Linear(3, 1), next(iter(batches.epoch(0))))
    assert targets.dtype == torch.float32
    assert targets.tolist() == [[1001.0], [1002.0], [1003.0], [1004.0]]
    assert outputs.shape == targets.shape


def test_the_sample_is_the_first_two_rows() -> None:
    assert tensor_batches(9, 4).sample()[-1].tolist() == [0, 1]
    sample = loaded(Drawing()).sample()
    assert sample is not None
    assert sample[1].tolist() == [0, 1]
    assert len(loaded(Drawing(1)).sample()[1]) == 1  # type: ignore[index]
