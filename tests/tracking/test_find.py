"""A run by whatever name a person has for it."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from mlops_hydra.errors import TrackingError, UsageError
from mlops_hydra.tracking.find import Place, find_run, identified, shorter_run, start_of
from mlops_hydra.tracking.lease import Lease
from mlops_hydra.tracking.lineage import Lineage


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """With a store that nobody made."""
    return Place(str(tmp_path / "outputs"), f"sqlite:///{tmp_path}/outputs/mlflow.db", 30)


def rename(folder: Path, fingerprint: str) -> Path:
    """The same run under another fingerprint, in its folder's name and its record."""
    spool = folder / "spool.jsonl"
    spool.write_text(spool.read_text().replace(folder.parent.name, fingerprint))
    return folder.parent.rename(folder.parent.with_name(fingerprint)) / folder.name


@pytest.mark.parametrize("fingerprint", ["1234567e8901", "123456789012", "000000000000", "abcdefabcdef"])
def test_a_run_is_found_by_its_fingerprint_whatever_it_looks_like(make_config, make_folder, place, fingerprint):
    folder = rename(make_folder(make_config(), "finished"), fingerprint)
    run = find_run(fingerprint, place)
    assert run.folder == folder and run.fingerprint == fingerprint


def test_a_run_is_found_by_the_name_of_its_folder_and_by_its_path(make_config, make_folder, place, monkeypatch):
    config = make_config()
    folders = [make_folder(config, "finished") for _ in range(2)]
    for folder in folders:
        assert find_run(str(folder), place).folder == folder
        assert find_run(folder.name, place).folder == folder
    monkeypatch.chdir(place.output_dir)
    relative = Path("runs") / config.fingerprint / folders[1].name
    assert find_run(str(relative), place).folder == relative


def test_a_run_is_found_by_mlflows_id(make_config, finish_run, local_store: str, place):
    folder = finish_run(make_config())
    run_id = json.loads((folder / "delivery.json").read_text())["run_id"]
    assert find_run(run_id, place).folder == folder
    shutil.rmtree(folder)
    assert find_run(run_id, place, fetch=False).folder is None
    again = find_run(run_id, place)
    assert again.folder == folder and again.run_id == run_id


@pytest.mark.parametrize("by", ["fingerprint", "lineage"])
def test_a_run_that_only_mlflow_has_is_fetched(make_config, finish_run, local_store: str, place, lineage, by):
    config = make_config()
    folder = finish_run(config)
    shutil.rmtree(folder.parent)
    text = config.fingerprint if by == "fingerprint" else lineage.digest
    assert find_run(text, place, fetch=False).folder is None
    assert find_run(text, place).folder == folder
    assert find_run(text, Place(place.output_dir, "http://127.0.0.1:9", 5)).folder == folder, (
        "MLflow is not asked again"
    )


def test_of_several_finished_runs_the_newest_is_taken_and_a_line_says_so(make_config, make_folder, place, said):
    config = make_config()
    folders = [make_folder(config, "finished", seconds=seconds) for seconds in (500, 100, 300)]
    make_folder(config, "killed")
    assert find_run(config.fingerprint, place).folder == folders[1]
    (line,) = said()
    assert config.fingerprint in line and "3 finished runs" in line and folders[1].name in line and "1 min ago" in line


def test_the_name_of_a_folder_that_is_not_finished_finds_another_of_its_lineage(
    make_config, make_folder, place, lineage
):
    config = make_config()
    make_folder(config, "killed")
    finished = make_folder(config, "finished")
    assert find_run(lineage.digest, place).folder == finished


@pytest.mark.parametrize("state", ["killed", "failed", "running"])
def test_a_run_that_is_not_finished_is_refused_with_its_state(make_config, make_folder, place, state):
    config = make_config()
    folder = make_folder(config, state, seconds=7300)
    lease = Lease.take(folder) if state == "running" else None
    for name in (config.fingerprint, folder.name, str(folder)):
        with pytest.raises(
            UsageError, match=rf"RUN: names a run that is not finished \({state} .* ago\), got"
        ) as caught:
            find_run(name, place)
        assert caught.value.exit_code == 2
    if lease:
        lease.release()


def test_an_unknown_name_is_answered_with_the_nearest(make_config, make_folder, place, lineage):
    config = make_config()
    make_folder(config, "finished")
    typed = "x".join((config.fingerprint[:5], config.fingerprint[6:]))
    with pytest.raises(UsageError, match=f"no such run, here or in MLflow.*Did you mean {config.fingerprint}"):
        find_run(typed, place)
    with pytest.raises(UsageError, match=f"Did you mean {config.fingerprint}"):
        find_run(config.fingerprint[:4], place)


@pytest.mark.parametrize("text", ["", "*", "..", "../..", "/", "a/b", "f" * 32, "ü", "[", "0" * 12, "name with spaces"])
def test_strange_names_are_no_run(make_config, make_folder, place, text):
    make_folder(make_config(), "finished")
    with pytest.raises(UsageError, match="no such run"):
        find_run(text, place)
    assert not Path(place.uri.removeprefix("sqlite:///")).exists()


def test_only_a_run_that_is_not_here_needs_mlflow(make_config, make_folder, place):
    config = make_config()
    make_folder(config, "finished")
    down = dataclasses.replace(place, uri="http://127.0.0.1:9", timeout_seconds=5)
    assert find_run(config.fingerprint, down).state == "finished"
    with pytest.raises(TrackingError, match="cannot be asked"):
        find_run("0" * 12, down)


def test_a_config_is_identified_by_the_lineage_of_the_run_it_starts_from(make_config, make_folder, lineage):
    first = make_config()
    folder = make_folder(first, "finished")
    assert start_of(first) is None and identified(first) is first
    names = (first.fingerprint, lineage.digest, str(folder))
    configs = [identified(make_config(overrides=("a=b",), seed=1, init_from=name)) for name in names]
    assert {config.init_from for config in configs} == {lineage.digest}
    assert len({config.fingerprint for config in configs}) == 1
    assert configs[0].origin.overrides == ("a=b",)
    assert start_of(configs[0]).folder == folder, "what identifies it finds it again"
    with pytest.raises(UsageError, match="init_from: no such run"):
        identified(make_config(init_from="0" * 12))


def test_a_start_is_found_again_where_only_a_second_run_of_its_lineage_was_finished(make_config, make_folder):
    first = make_config()
    make_folder(first, "killed")
    finished = make_folder(first, "finished")
    assert start_of(identified(make_config(seed=1, init_from=first.fingerprint))).folder == finished


def test_a_shorter_run_of_the_same_is_found_to_start_from(make_config, make_folder, lineage):
    config = make_config()
    trainer = config.trainer.model_dump() | {"epochs": 50}
    longer = make_config(trainer=trainer)
    assert longer.fingerprint != config.fingerprint
    assert shorter_run(longer, lineage) is None
    make_folder(config, "killed")
    make_folder(make_config(seed=1), "finished")
    make_folder(config, "finished", of=Lineage("x", "y", lineage.code))
    assert shorter_run(longer, lineage) is None
    folder = make_folder(config, "finished")
    assert shorter_run(longer, lineage).folder == folder
