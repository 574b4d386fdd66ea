"""How many models a test set has judged, also when several ask at once."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mlops_hydra.errors import TrackingError
from mlops_hydra.tracking.test_sets import TEST_SETS, TestSet, count_candidate, test_set_digest

DIGEST = "0123456789ab"


def file_of(folder: Path) -> Path:
    return folder / TEST_SETS / f"{DIGEST}.txt"


def test_each_candidate_counts_once_however_often_it_is_judged(tmp_path: Path) -> None:
    asked = ["first", "first", "second", "first", "third", "second"]
    assert [count_candidate(tmp_path, DIGEST, name).num_candidates for name in asked] == [1, 1, 2, 2, 3, 3]
    assert count_candidate(tmp_path, DIGEST, "third") == TestSet(DIGEST, 3)
    assert sorted(file_of(tmp_path).read_text().split()) == ["first", "second", "third"]


def test_a_candidate_that_is_known_writes_nothing(tmp_path: Path) -> None:
    count_candidate(tmp_path, DIGEST, "first")
    before = file_of(tmp_path).read_bytes()
    count_candidate(tmp_path, DIGEST, "first")
    assert file_of(tmp_path).read_bytes() == before


def test_each_test_set_counts_for_itself(tmp_path: Path) -> None:
    count_candidate(tmp_path, DIGEST, "first")
    assert count_candidate(tmp_path, "ba9876543210", "second").num_candidates == 1


@pytest.mark.parametrize("left", ["first\nsec", "first\n\xff\xfe", "\n\nfirst\n\n", "first"])
def test_what_a_crash_left_of_a_line_swallows_no_other(left: str, tmp_path: Path) -> None:
    file_of(tmp_path).parent.mkdir()
    file_of(tmp_path).write_bytes(left.encode("latin-1"))
    num_lines = len(left.split())
    assert count_candidate(tmp_path, DIGEST, "third").num_candidates == num_lines + 1
    assert count_candidate(tmp_path, DIGEST, "first").num_candidates == num_lines + 1
    assert count_candidate(tmp_path, DIGEST, "third").num_candidates == num_lines + 1


MANY = """
import sys
from pathlib import Path
from mlops_hydra.tracking.test_sets import count_candidate
folder, name = Path(sys.argv[1]), sys.argv[2]
(folder / name).touch()
while not all((folder / other).exists() for other in ("a", "b")):
    pass
for number in range(300):
    count_candidate(folder, "0123456789ab", f"{name}{number}")
    count_candidate(folder, "0123456789ab", f"both{number}")
"""


def test_processes_that_count_at_once_lose_nothing_and_count_nothing_twice(tmp_path: Path) -> None:
    """Two real processes, about 2 s: they start from nothing."""
    command = [sys.executable, "-c", MANY, str(tmp_path)]
    processes = [subprocess.Popen([*command, name], stderr=subprocess.PIPE, text=True) for name in "ab"]
    for process in processes:
        _, error = process.communicate(timeout=50)
        assert process.returncode == 0, error
    wanted = {f"{name}{number}" for name in ("a", "b", "both") for number in range(300)}
    assert set(file_of(tmp_path).read_text().split()) == wanted
    assert count_candidate(tmp_path, DIGEST, "a0").num_candidates == 900


def test_a_folder_that_cannot_be_written_to_is_told_with_its_path(tmp_path: Path) -> None:
    (tmp_path / TEST_SETS).write_text("a file where the folder would be")
    with pytest.raises(TrackingError, match=rf"{DIGEST}\.txt: cannot be written: \w+") as caught:
        count_candidate(tmp_path, DIGEST, "first")
    assert caught.value.exit_code == 1


def test_a_digest_names_data_and_rows_in_their_order() -> None:
    rows = np.array([3, 1, 2])
    digest = test_set_digest("data", rows)
    assert digest == test_set_digest("data", rows.astype(np.int32)) and len(digest) == 12
    others = [("other", rows), ("data", rows[::-1]), ("data", rows[:2]), ("data", rows + 1)]
    assert digest not in {test_set_digest(*other) for other in others}
    strided = np.array([[3, 0], [1, 0], [2, 0]])[:, 0]
    assert digest == test_set_digest("data", strided)
