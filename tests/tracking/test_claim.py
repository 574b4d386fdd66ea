"""Of two that want the same run, one gets it: shown by real processes."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest

from mlops_hydra.config.schema import ExperimentConfig
from mlops_hydra.errors import BusyError, TrackingError
from mlops_hydra.tracking.claim import LOCK, Claim, claimed, locked
from mlops_hydra.tracking.lease import Lease
from mlops_hydra.tracking.lineage import Lineage
from mlops_hydra.tracking.spool import SPOOL, Spool, ending, read_spool
from mlops_hydra.tracking.store import open_client

LINEAGE = Lineage("a" * 64, "b" * 64, "c" * 64)


def claim_once(config: str, start: Any, done: Any, answers: Any) -> None:
    """Claim at the same moment as the others, and hold until all have tried; runs in a process of its own."""
    start.wait()
    try:
        with claimed(ExperimentConfig.model_validate_json(config), LINEAGE) as claim:
            answers.put((claim.decision.action, str(claim.folder)))
            done.wait()
    except BusyError as error:
        answers.put(("busy", str(error)))
        done.wait()


def test_of_processes_that_start_together_exactly_one_gets_the_folder(make_config):
    """Eight rounds of three processes that hold the folder before they have written a line of their record."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["mlops_hydra.tracking.claim"])
    for round_ in range(8):
        config = make_config(seed=round_)
        start, done, answers = context.Barrier(3), context.Barrier(4), context.Queue()
        arguments = (config.model_dump_json(), start, done, answers)
        processes = [context.Process(target=claim_once, args=arguments) for _ in range(3)]
        for process in processes:
            process.start()
        got = [answers.get(timeout=30) for _ in processes]
        done.wait(30)
        for process in processes:
            process.join()
        assert sorted(action for action, _ in got) == ["busy", "busy", "new"]
        folders = list((Path(config.output_dir) / "runs" / config.fingerprint).iterdir())
        assert [folder.name for folder in folders] == [LINEAGE.digest]


def test_who_finds_another_at_work_is_told_what_to_do(make_config):
    config = make_config()
    with claimed(config, LINEAGE), pytest.raises(BusyError) as caught, claimed(config, LINEAGE):
        pytest.fail("two hold it")
    assert caught.value.exit_code == 7
    text = str(caught.value)
    assert f"process {os.getpid()} on" in text and "on_busy=wait" in text and "reuse=never" in text


def test_another_run_may_be_asked_for_while_one_is_trained(make_config):
    with claimed(make_config(), LINEAGE) as first, claimed(make_config(reuse="never"), LINEAGE) as second:
        assert [first.folder.name, second.folder.name] == [LINEAGE.digest, f"{LINEAGE.digest}-2"]
        with claimed(make_config(seed=1), LINEAGE) as third:
            assert third.folder.parent != first.folder.parent


def wait_for(config: ExperimentConfig, claims: list[Claim]) -> None:
    with claimed(config, LINEAGE) as claim:
        claims.append(claim)


def until_told(text: str, said: Callable[[], list[str]]) -> None:
    deadline = time.monotonic() + 30
    while not any(text in line for line in said()) and time.monotonic() < deadline:
        time.sleep(0.01)


def test_who_waits_gets_what_the_other_leaves(make_config, make_folder, said):
    config, claims = make_config(), []
    waiting = threading.Thread(target=wait_for, args=(make_config(on_busy="wait"), claims))
    with claimed(config, LINEAGE):
        waiting.start()
        until_told("waiting for it (on_busy=wait)", said)
        assert claims == []
        make_folder(config, "finished")
    waiting.join(30)
    assert [claim.decision.action for claim in claims] == ["reuse"]
    assert sum("waiting for it" in line for line in said()) == 1


KILLED = """
import os, signal, sys
from mlops_hydra.config.schema import ExperimentConfig
from mlops_hydra.tracking.claim import claimed
from mlops_hydra.tracking.lineage import Lineage
from mlops_hydra.tracking.run import tracked_experiment

lineage = Lineage(*(letter * 64 for letter in sys.argv[2]))
config = ExperimentConfig.model_validate_json(sys.argv[1])
with claimed(config, lineage) as claim, tracked_experiment(config, lineage, claim=claim) as run:
    run.log_metrics({"val/log_loss": 0.5}, step=1)
    if sys.argv[3] == "delivered":
        while run._delivery._delivered.offset < (run.folder / "spool.jsonl").stat().st_size:
            run._delivery._ending.wait(0.05)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def killed_run(config: ExperimentConfig, letters: str, when: str) -> None:
    """A run whose process kills itself in the middle."""
    command = [sys.executable, "-c", KILLED, config.model_dump_json(), letters, when]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr


def test_a_killed_run_is_reaped_by_the_next_of_its_fingerprint_also_in_mlflow(make_config, local_store: str):
    """A real process is killed after its record had arrived, about 5 s."""
    from mlops_hydra.tracking.run import tracked_experiment

    config = make_config()
    killed_run(config, "xyz", "delivered")
    with claimed(config, LINEAGE) as claim:
        (dead,) = claim.reaped
        assert claim.decision.action == "new"
        assert ending(dead.folder / SPOOL)["status"] == "KILLED"
        assert open_client(local_store).get_run(dead.run_id).info.status == "RUNNING"
        with tracked_experiment(config, LINEAGE, claim=claim):
            pass
    recorded = open_client(local_store).get_run(dead.run_id)
    assert recorded.info.status == "KILLED" and recorded.data.metrics == {"val/log_loss": 0.5}
    with claimed(make_config(reuse="never"), LINEAGE) as claim:
        assert claim.reaped == ()


def test_a_killed_run_of_the_same_lineage_goes_on_in_its_folder_and_is_not_reaped(make_config, dead_server):
    config = make_config(tracking=dead_server)
    killed_run(config, "abc", "at once")
    with claimed(config, LINEAGE) as claim:
        assert (claim.decision.action, claim.resumed, claim.reaped) == ("resume", True, ())
        assert claim.folder.name == LINEAGE.digest
        assert ending(claim.folder / SPOOL) is None


def test_one_that_died_with_its_result_on_the_disk_is_finished(make_config, make_folder, lineage):
    config = make_config()
    folder = make_folder(config, "finished")
    lines = (folder / SPOOL).read_text().splitlines(keepends=True)
    (folder / SPOOL).write_text("".join(lines[:-1]))
    with claimed(config, lineage) as claim:
        assert claim.decision.action == "reuse" and claim.folder is None
        assert [run.folder for run in claim.reaped] == [folder]
    assert ending(folder / SPOOL)["status"] == "FINISHED"
    assert read_spool(folder / SPOOL)[0][-2] == {"kind": "artifact", "path": "result.json", "to": ""}


def test_a_torn_last_line_does_not_keep_a_dead_run_from_being_reaped(make_config, make_folder, lineage):
    config = make_config()
    folder = make_folder(config, "dead")
    with (folder / SPOOL).open("ab") as file:
        file.write(b'{"kind": "metr')
    with claimed(make_config(reuse="never"), lineage) as claim:
        assert len(claim.reaped) == 1
    assert ending(folder / SPOOL)["status"] == "KILLED"


def test_a_run_that_lives_is_not_reaped(make_config, lineage, dead_server):
    from mlops_hydra.tracking.run import tracked_experiment

    config = make_config(tracking=dead_server)
    with claimed(config, lineage) as claim, tracked_experiment(config, lineage, claim=claim):
        with claimed(make_config(tracking=dead_server, reuse="never"), lineage) as other:
            assert other.reaped == ()
        assert ending(claim.folder / SPOOL) is None


def test_what_was_reaped_before_a_wait_is_delivered_after_it(make_config, make_folder, lineage, said):
    config, claims = make_config(), []
    lease = Lease.take(make_folder(config, "running"))
    dead = make_folder(config, "dead", of=Lineage("x", "y", "z"))
    waiting = threading.Thread(target=wait_for, args=(make_config(on_busy="wait"), claims))
    waiting.start()
    until_told("waiting for it", said)
    lease.release()
    waiting.join(30)
    (claim,) = claims
    assert claim.resumed and [run.folder for run in claim.reaped] == [dead]


@pytest.mark.parametrize("place", ["file", "file/below", "/proc/none"])
def test_an_output_dir_that_cannot_be_written_is_told_before_anything_begins(tmp_path: Path, place: str):
    (tmp_path / "file").write_text("")
    refused = pytest.raises(TrackingError, match=r"output_dir: no folder .* Choose another with output_dir=")
    with refused, locked(tmp_path / place):
        pytest.fail("not reached")


def test_an_error_inside_leaves_the_folder_to_others(make_config, dead_server):
    config = make_config(tracking=dead_server)
    with pytest.raises(ValueError, match="mine"), claimed(config, LINEAGE) as claim:
        spool = Spool(claim.folder / SPOOL)
        spool.close()
        raise ValueError("mine")
    with claimed(config, LINEAGE) as again:
        assert again.folder is not None
    assert {path.name for path in Path(config.output_dir, "runs").iterdir()} == {LOCK, config.fingerprint}
