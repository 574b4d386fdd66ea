import errno
import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_hydra.atomic import json_text, read_json, replacing, write_json_atomic, written_to
from mlops_hydra.errors import TrackingError


def test_a_block_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with pytest.raises(KeyError), replacing(path) as file:
        file.write(b"new")
        raise KeyError
    assert path.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]


@pytest.mark.parametrize("content", [b"", b"[1]", b"{", b"\xff"], ids=["empty", "a list", "torn", "no text"])
def test_what_is_no_json_object_is_read_as_none(tmp_path: Path, content: bytes):
    (tmp_path / "a.json").write_bytes(content)
    assert read_json(tmp_path / "a.json") is None
    assert read_json(tmp_path / "nowhere.json") is None


def test_a_disk_that_is_full_is_a_tracking_error_and_leaves_nothing_behind(tmp_path: Path):
    (tmp_path / "result.json").mkdir()  # cannot be replaced by a file, for root either
    with pytest.raises(TrackingError, match=r"result\.json: cannot be written"):
        write_json_atomic(tmp_path / "result.json", {})
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(data=st.dictionaries(st.text(max_size=5), json_values, max_size=3))
def test_json_reads_back_with_null_for_what_json_lacks(data):
    def expected(value):
        if isinstance(value, float):
            return value if math.isfinite(value) else None
        if isinstance(value, dict):
            return {key: expected(inner) for key, inner in value.items()}
        return [expected(inner) for inner in value] if isinstance(value, list) else value

    assert json.loads(json_text(data), parse_constant=pytest.fail) == expected(data)


def test_a_written_file_holds_the_data_and_nothing_else_is_left(tmp_path: Path):
    write_json_atomic(tmp_path / "a.json", {"größe": [1, float("nan")]})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"größe": [1, None]}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_value_that_is_no_json_leaves_the_old_file(tmp_path: Path):
    path = tmp_path / "result.json"
    write_json_atomic(path, {"old": 1})
    with pytest.raises(TypeError):
        write_json_atomic(path, {"new": object()})
    assert json.loads(path.read_text()) == {"old": 1}


def test_what_others_cannot_write_on_a_full_disk_is_a_tracking_error_and_any_other_error_itself(tmp_path: Path):
    with pytest.raises(TrackingError, match=r"plot\.png: cannot be written: No space left"), written_to(tmp_path):
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "plot.png"))
    with pytest.raises(FileNotFoundError), written_to(tmp_path):
        (tmp_path / "missing").read_text()
