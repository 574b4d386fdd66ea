"""torch Datasets of the user's own: text, images, streams."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, IterableDataset, Subset, TensorDataset

from mlops_hydra.data.dataset_source import read_targets, target_of
from mlops_hydra.data.sources import Source
from mlops_hydra.data.splits import SPLITS
from mlops_hydra.errors import DataError

Opened = Callable[..., Source]


class Texts(Dataset[dict[str, Any]]):
    """Tokens and a label, as dicts."""

    def __init__(self, size: int = 40, shift: int = 0) -> None:
        self.size, self.shift = size, shift

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"tokens": torch.arange(5) + index + self.shift, "text": f"text {index}", "label": index % 3}


class Images(Dataset[tuple[torch.Tensor, int]]):
    def __len__(self) -> int:
        return 30

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.full((3, 4, 4), index, dtype=torch.uint8), index % 2


class Augmented(Images):
    """Different each time a sample is read."""

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.rand(3, 4, 4), index % 2


class Named(Augmented):
    def digest(self) -> str:
        return "images-v1"


class Stream(IterableDataset[tuple[torch.Tensor, float]]):
    def __iter__(self) -> Iterator[tuple[torch.Tensor, float]]:
        return ((torch.ones(2) * number, float(number)) for number in range(10))


def tensors(size: int = 50) -> TensorDataset:
    generator = torch.Generator().manual_seed(0)
    return TensorDataset(torch.rand((size, 4), generator=generator), torch.arange(size) % 3)


def indices(split: Any) -> list[int]:
    assert isinstance(split, Subset)
    return list(split.indices)


def test_text_in_dicts_is_split_by_index_and_scanned(opened: Opened) -> None:
    splits = opened(Texts(), target="label").load()
    assert (splits.task, splits.classes, splits.schema) == ("multiclass", (0, 1, 2), None)
    assert sorted(index for name in SPLITS for index in indices(splits[name])) == list(range(40))
    for name in SPLITS:
        targets = splits.targets(name)
        assert targets is not None
        assert targets.tolist() == [index % 3 for index in indices(splits[name])]


def test_images_are_binary_when_two_codes_occur(opened: Opened) -> None:
    splits = opened(Images()).load()
    assert (splits.task, splits.classes) == ("binary", (0, 1))
    assert splits.train[0][0].shape == (3, 4, 4)  # type: ignore[index]


def test_tensors_stay_tensors(opened: Opened) -> None:
    dataset = tensors()
    splits = opened(dataset).load()
    for name in SPLITS:
        part = splits[name]
        assert isinstance(part, TensorDataset)
        targets = splits.targets(name)
        assert targets is not None
        assert part.tensors[1].tolist() == targets.tolist()


def test_numbers_with_a_fraction_are_a_regression(opened: Opened) -> None:
    splits = opened(TensorDataset(torch.rand(30, 2), torch.rand(30, 1))).load()
    assert splits.task == "regression"
    assert splits.targets("train").dtype == np.float64  # type: ignore[union-attr]


def test_the_digest_follows_every_sample(opened: Opened) -> None:
    assert opened(Texts(), target="label").digest() == opened(Texts(), target="label").digest()
    assert opened(Texts(), target="label").digest() != opened(Texts(shift=1), target="label").digest()
    other = tensors()
    other.tensors[0][-1, -1] += 1e-3
    assert opened(tensors()).digest() != opened(other).digest()


def test_a_dataset_names_itself_or_is_named_by_its_version(opened: Opened) -> None:
    assert opened(Named()).digest() == "images-v1"
    assert opened(Augmented(), version="1").digest() == opened(Augmented(), version="1").digest()
    assert opened(Augmented(), version="1").digest() != opened(Augmented(), version="2").digest()


def test_random_augmentation_without_a_name_is_refused(opened: Opened) -> None:
    with pytest.raises(DataError, match=r"sample 0 differs each time it is read .* set data\.version"):
        opened(Augmented()).digest()


def test_copies_of_a_sample_stay_in_one_split(opened: Opened) -> None:
    x = torch.arange(20.0).repeat(3).reshape(-1, 1)
    splits = opened(TensorDataset(x, x.reshape(-1).long() % 2)).load()
    seen = [set(splits[name].tensors[0].reshape(-1).tolist()) for name in SPLITS]  # type: ignore[union-attr]
    assert not seen[0] & seen[1]
    assert not seen[0] & seen[2]
    assert not seen[1] & seen[2]
    counted = opened(TensorDataset(x, x.reshape(-1).long() % 2), split={"duplicates": "count"}).load()
    assert any("exact copies" in warning for warning in counted.warnings)


def test_three_datasets_keep_their_splits(opened: Opened) -> None:
    parts = {"train": Texts(30), "val": Texts(9, shift=50), "test": Texts(9, shift=90)}
    splits = opened(parts, target="label").load()
    assert [splits[name] for name in SPLITS] == list(parts.values())
    assert splits.classes == (0, 1, 2)
    assert splits.warnings == ()


def test_one_dataset_in_two_splits_is_refused(opened: Opened) -> None:
    part = Texts()
    with pytest.raises(DataError, match="the test split: is the same object as val"):
        opened({"train": Texts(30, shift=70), "val": part, "test": part}, target="label").load()


def test_streams_are_named_by_a_version_and_never_read(opened: Opened) -> None:
    class Unread(Stream):
        def __iter__(self) -> Iterator[tuple[torch.Tensor, float]]:
            raise AssertionError("read")

    source = opened({name: Unread() for name in SPLITS}, version="2024-05", task="regression")
    assert len(source.digest()) == 64
    splits = source.load()
    assert splits.task == "regression"
    assert splits.targets("train") is None
    classes = opened({name: Unread() for name in SPLITS}, version="1", classes=("a", "b")).load()
    assert (classes.task, classes.classes) == ("binary", ("a", "b"))


def test_a_stream_without_version_and_classes_is_refused_with_both(opened: Opened) -> None:
    with pytest.raises(DataError) as caught:
        opened({name: Stream() for name in SPLITS})
    assert [fault.path for fault in caught.value.faults] == ["data.version", "data.classes"]


def test_a_lone_stream_is_refused_with_what_to_do(opened: Opened) -> None:
    with pytest.raises(DataError, match="a stream cannot be split: return a mapping of train, val and test"):
        opened(Stream(), version="1")


def test_targets_of_a_stream_can_be_read() -> None:
    assert read_targets(Stream()).tolist() == [float(number) for number in range(10)]


@pytest.mark.parametrize(
    ("options", "paths"),
    [
        ({"drop": ("x",), "id": "x", "image_shape": (1, 2, 2)}, ["data.drop", "data.id", "data.image_shape"]),
        ({"split": {"by": "time", "column": "x"}}, ["data.split.by"]),
    ],
)
def test_options_for_tables_are_refused(opened: Opened, options: dict[str, Any], paths: list[str]) -> None:
    with pytest.raises(DataError) as caught:
        opened(Images(), **options)
    assert [fault.path for fault in caught.value.faults] == paths


class Broken(Images):
    def __init__(self, target: object) -> None:
        self.target = target

    def __getitem__(self, index: int) -> Any:
        if self.target is None:
            raise OSError("no such image")
        return torch.zeros(1) + index, self.target if index == 7 else index % 2


@pytest.mark.parametrize(
    ("dataset", "options", "message"),
    [
        (Broken(None), {}, "sample 0 cannot be read: OSError: no such image"),
        (Broken("cat"), {}, "sample 7: the target must be one number: .* got 'cat'"),
        (Broken(-1), {}, "sample 7: the target must be a class code, a whole number from 0 to 1, got -1"),
        (Broken(0.5), {"task": "binary", "classes": (0, 1)}, "sample 0: the target must be a class code"),
        (Broken(5), {"task": "binary"}, r"data\.task: binary needs two classes, found 6"),
        (Broken(3), {}, "class 2: has no row in the training split"),
        (Broken(float("nan")), {"task": "regression"}, r"target, row \d+ of \w+: must be a finite number"),
        (Texts(), {}, r"data\.target: names no entry of a sample, which has tokens, text, label, got 'target'"),
        (TensorDataset(torch.zeros(5, 2)), {}, r"a sample must be \(x, y\), or a mapping"),
        (TensorDataset(torch.rand(9, 2), torch.zeros(9).long()), {}, "every sample has the same class"),
    ],
)
def test_samples_that_cannot_be_learnt_from_are_named(
    opened: Opened, dataset: Dataset[Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        opened(dataset, **options).load()


def test_the_target_is_the_last_of_a_sequence_or_an_entry_of_a_mapping() -> None:
    assert target_of((1, 2, 3)) == 3
    assert target_of({"x": 1, "label": 2}, "label") == 2
