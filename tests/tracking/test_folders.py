import json
import math
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_hydra.errors import TrackingError
from mlops_hydra.tracking.folders import create_run_folder, json_text, publish_result, write_json_atomic


def test_a_second_run_of_a_lineage_gets_a_folder_of_its_own(tmp_path: Path):
    names = [create_run_folder(tmp_path, "f" * 12, "abc").relative_to(tmp_path).as_posix() for _ in range(3)]
    assert names == [f"runs/{'f' * 12}/{name}" for name in ("abc", "abc-2", "abc-3")]


def test_processes_that_start_together_never_share_a_folder(tmp_path: Path):
    with ProcessPoolExecutor(4, mp_context=get_context("forkserver")) as pool:
        futures = [pool.submit(create_run_folder, tmp_path, "f", "abc") for _ in range(40)]
        folders = {future.result() for future in futures}
    assert len(folders) == 40


@pytest.mark.parametrize("blocked", ["file/below", "/proc/none"], ids=["below a file", "read-only"])
def test_an_output_dir_that_cannot_be_written_is_named_with_what_to_do(tmp_path: Path, blocked: str):
    (tmp_path / "file").write_text("")
    with pytest.raises(TrackingError, match=rf"{blocked}.*output_dir=") as caught:
        create_run_folder(tmp_path / blocked, "f", "abc")
    assert caught.value.exit_code == 1


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


def test_the_published_result_is_that_of_the_newest_run(tmp_path: Path):
    for number in (1, 2):
        folder = create_run_folder(tmp_path, "f", "abc")
        write_json_atomic(folder / "result.json", {"number": number})
        published = publish_result(folder)
    assert published == tmp_path / "runs" / "f" / "result.json"
    assert json.loads(published.read_text()) == {"number": 2}
