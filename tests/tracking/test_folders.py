import json
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from mlops_hydra.atomic import write_json_atomic
from mlops_hydra.errors import TrackingError
from mlops_hydra.tracking.folders import create_run_folder, publish_result


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


def test_the_published_result_is_that_of_the_newest_run(tmp_path: Path):
    for number in (1, 2):
        folder = create_run_folder(tmp_path, "f", "abc")
        write_json_atomic(folder / "result.json", {"number": number})
        published = publish_result(folder)
    assert published == tmp_path / "runs" / "f" / "result.json"
    assert json.loads(published.read_text()) == {"number": 2}
