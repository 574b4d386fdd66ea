"""Equal content has equal digests, and every change another one."""

import hashlib
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from mlops_hydra.data import digests
from mlops_hydra.data.digests import DIGESTS, digest_files, digest_frame, digest_sample, remembering, row_hashes
from mlops_hydra.errors import DataError


def frame() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "number": [1.0, np.nan, 3.0],
            "whole": [1, 2, 3],
            "flag": [True, False, True],
            "text": ["a", None, "c"],
            "date": pd.to_datetime(["2024-01-01", None, "2024-01-03"]),
            "nullable": pd.array([1, None, 3], dtype="Int64"),
            "object": [1, "1", None],
            "category": pd.Categorical(["x", "y", "x"]),
        }
    )


CHANGES: dict[str, Callable[[pd.DataFrame], pd.DataFrame]] = {
    "a number": lambda f: f.assign(number=[1.0, np.nan, 3.0000000000000004]),
    "a missing number": lambda f: f.assign(number=[1.0, 0.0, 3.0]),
    "a flag": lambda f: f.assign(flag=[True, True, True]),
    "a text beside a missing one": lambda f: f.assign(text=["b", None, "c"]),
    "which text is missing": lambda f: f.assign(text=[None, "a", "c"]),
    "a text for a missing one": lambda f: f.assign(text=["a", "", "c"]),
    "a date": lambda f: f.assign(date=pd.to_datetime(["2024-01-02", None, "2024-01-03"])),
    "a nullable": lambda f: f.assign(nullable=pd.array([1, 2, 3], dtype="Int64")),
    "a type inside": lambda f: f.assign(object=["1", 1, None]),
    "a type": lambda f: f.astype({"whole": "int32"}),
    "a category": lambda f: f.assign(category=pd.Categorical(["y", "x", "x"])),
    "a name": lambda f: f.rename(columns={"flag": "flags"}),
    "the order of columns": lambda f: f[f.columns[::-1]],
    "the order of rows": lambda f: f.iloc[::-1],
    "a row less": lambda f: f.iloc[:-1],
}


def test_equal_tables_have_equal_digests() -> None:
    assert digest_frame(frame()) == digest_frame(frame().set_index(np.array([5, 6, 7])))


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_any_change_of_a_table_changes_its_digest(change: str) -> None:
    assert digest_frame(CHANGES[change](frame())) != digest_frame(frame())


def test_a_change_in_the_last_of_many_rows_counts() -> None:
    many = pd.DataFrame({"text": ["a"] * 20_000, "flag": True})
    other = many.copy()
    other.loc[19_999, "text"] = "b"
    assert digest_frame(many) != digest_frame(other)


SAMPLES = [
    (torch.zeros(2, 3), 1),
    (torch.zeros(3, 2), 1),
    (torch.zeros(2, 3, dtype=torch.float64), 1),
    (torch.zeros(2, 3), True),
    (torch.zeros(2, 3), 1.0),
    (torch.zeros(2, 3), "1"),
    [torch.zeros(2, 3), 1],
    {"x": torch.zeros(2, 3), "y": 1},
    {"x": torch.zeros(2, 3), "z": 1},
    {"x": {"y": 1}},
    {"x": ("y", 1)},
    (b"1", None),
    ("1", None),
    ("ab", "c"),
    ("a", "bc"),
    np.zeros((2, 3)),
    np.array(["a", "b"]),
    np.float32(1),
    torch.ones(2, dtype=torch.bfloat16),
]


def test_samples_that_differ_have_different_digests() -> None:
    assert len({digest_sample(sample) for sample in SAMPLES}) == len(SAMPLES)


@pytest.mark.parametrize("place", range(len(SAMPLES)))
def test_the_same_sample_has_the_same_digest(place: int) -> None:
    assert digest_sample(SAMPLES[place]) == digest_sample(SAMPLES[place])


@pytest.mark.parametrize("strange", [object(), {1, 2}, np.array([object()])])
def test_what_cannot_be_hashed_is_refused_with_what_to_do(strange: object) -> None:
    with pytest.raises(DataError, match=r"cannot be hashed: give it digest\(\) -> str, or set data\.version"):
        digest_sample((strange, 1))


def test_exact_copies_of_a_row_have_the_same_hash_and_others_do_not() -> None:
    features = pd.DataFrame({"a": [1.0, 1.0, 1.0, np.nan, np.nan], "b": ["x", "x", "x", None, None]})
    first, copy, other_target, missing, missing_copy = row_hashes(features, np.array([0, 0, 1, 0, 0])).tolist()
    assert first == copy
    assert missing == missing_copy
    assert len({first, other_target, missing}) == 3


@pytest.fixture
def settled(tmp_path: Path) -> Path:
    """A file that nobody has touched for a while, as far as its time of change says."""
    (tmp_path / DIGESTS).parent.mkdir()  # a run makes it before it saves
    path = tmp_path / "data.csv"
    path.write_bytes(b"a,b\n1,2\n")
    return path


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Every file that is read to be hashed; time stands still, far ahead of any file."""
    read, real = [], digests._read_files
    monkeypatch.setattr(digests, "_read_files", lambda paths: read.extend(paths) or real(paths))
    later = time.time_ns() + 3600 * 10**9
    monkeypatch.setattr(digests.time, "time_ns", lambda: later)
    return read


def remembered(path: Path, *, save: bool = True) -> str:
    with remembering(path.parent) as memory:
        digest = digest_files([path])
        if save:
            memory.save()
    return digest


def test_an_unchanged_file_is_read_once(settled: Path, reads: list[Path]) -> None:
    first = remembered(settled)
    assert remembered(settled) == first == hashlib.sha256(settled.read_bytes()).hexdigest()
    assert reads == [settled]


def test_within_one_command_it_is_read_once_without_a_memory_on_disk(settled: Path, reads: list[Path]) -> None:
    with remembering(settled.parent):
        assert digest_files([settled]) == digest_files([settled])
    assert reads == [settled]


def test_outside_of_the_block_and_for_several_files_nothing_is_remembered(settled: Path, reads: list[Path]) -> None:
    remembered(settled)
    digest_files([settled])
    with remembering(settled.parent):
        digest_files([settled, settled])
    assert len(reads) == 4


def test_only_save_writes(settled: Path, reads: list[Path]) -> None:
    remembered(settled, save=False)
    assert [path for path in settled.parent.rglob("*") if path.is_file()] == [settled]
    remembered(settled)
    before = (settled.parent / DIGESTS).stat()
    remembered(settled)
    assert (settled.parent / DIGESTS).stat() == before, "nothing was learnt"


CHANGES_ON_DISK: dict[str, Callable[[Path], object]] = {
    "another size": lambda path: path.write_bytes(b"a,b\n1,2\n3,4\n"),
    "the same size": lambda path: path.write_bytes(b"a,b\n1,3\n"),
    "the same size and time": lambda path: (
        status := path.stat(),
        path.write_bytes(b"a,b\n1,3\n"),
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns)),
    ),
    "another file in its place": lambda path: (
        status := path.stat(),
        path.with_name("new").write_bytes(b"a,b\n1,3\n"),
        os.utime(path.with_name("new"), ns=(status.st_atime_ns, status.st_mtime_ns)),
        path.with_name("new").replace(path),
    ),
}


@pytest.mark.parametrize("change", CHANGES_ON_DISK)
def test_a_file_that_changed_is_read_again(settled: Path, reads: list[Path], change: str) -> None:
    before = remembered(settled)
    CHANGES_ON_DISK[change](settled)
    after = remembered(settled)
    assert after == hashlib.sha256(settled.read_bytes()).hexdigest() != before
    assert remembered(settled) == after and len(reads) == 2


def test_a_file_that_was_touched_just_now_is_not_remembered(settled: Path) -> None:
    remembered(settled)
    assert not (settled.parent / DIGESTS).exists()


def test_a_file_from_the_future_is_not_remembered(settled: Path) -> None:
    ahead = time.time() + 3600
    os.utime(settled, (ahead, ahead))
    remembered(settled)
    assert not (settled.parent / DIGESTS).exists()


def test_two_commands_at_once_lose_nothing_of_each_other(settled: Path, reads: list[Path]) -> None:
    other = settled.with_name("other.csv")
    other.write_bytes(b"x")
    with remembering(settled.parent) as first, remembering(settled.parent) as second:
        first.digest(settled)
        second.digest(other)
        first.save()
        second.save()
    remembered(settled)
    remembered(other)
    assert reads == [settled, other]


DAMAGES: dict[str, Callable[[str], str]] = {
    "torn": lambda text: text[:-20],
    "empty": lambda _: "",
    "no object": lambda _: "[1]",
    "no digest": lambda text: json.dumps({name: [*entry[:-1], None] for name, entry in json.loads(text).items()}),
    "too short": lambda text: json.dumps({name: [] for name in json.loads(text)}),
    "no list": lambda text: json.dumps(dict.fromkeys(json.loads(text), "x")),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_memory_costs_a_read_and_no_more(settled: Path, reads: list[Path], damage: str) -> None:
    before = remembered(settled)
    path = settled.parent / DIGESTS
    path.write_text(DAMAGES[damage](path.read_text()))
    assert remembered(settled) == before and len(reads) == 2
    assert remembered(settled) == before and len(reads) == 2, "and it is whole again"


def test_a_memory_that_cannot_be_written_is_no_error(settled: Path, reads: list[Path]) -> None:
    (settled.parent / DIGESTS).mkdir()
    assert remembered(settled) == remembered(settled)
    assert len(reads) == 2


def test_a_file_is_known_by_whatever_path_leads_to_it(
    settled: Path, reads: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    remembered(settled)
    (settled.parent / "link.csv").symlink_to(settled)
    monkeypatch.chdir(settled.parent)
    with remembering(settled.parent):
        assert digest_files([Path("link.csv")]) == digest_files([Path("data.csv")])
    assert reads == [settled]
