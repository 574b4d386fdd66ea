import json
import logging
import shutil
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mlops_hydra.tracking.delivery import DELIVERY, Delivery, is_waiting
from mlops_hydra.tracking.spool import SPOOL, Spool
from mlops_hydra.tracking.store import open_client
from tests.sampled import some


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    spool = Spool(tmp_path / SPOOL)
    spool.append("start", id="s1", experiment="e", run_name="r", time=1, tags={}, description="")
    yield spool
    spool.close()


class Heard(logging.Handler):
    """Sets an event at the first message that holds `text`."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text
        self.event = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        if self.text in record.getMessage():
            self.event.set()


@pytest.fixture
def first_failure() -> Iterator[threading.Event]:
    logger = logging.getLogger("mlops_hydra.tracking.delivery")
    handler, level = Heard("will be tried again"), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler.event
    logger.setLevel(level)
    logger.removeHandler(handler)


def warnings_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_store_that_comes_back_gets_what_it_missed(spool, first_failure, empty_store: Path, tmp_path: Path, caplog):
    blocked = tmp_path / "stores"
    blocked.write_text("a file where the folder of the store should be")
    uri = f"sqlite:///{blocked}/mlflow.db"
    delivery = Delivery(tmp_path, uri=uri, output_dir=tmp_path, timeout_seconds=30)
    delivery.start()
    spool.append("metrics", step=1, time=2, values={"loss": 0.5})
    delivery.wake()
    assert first_failure.wait(30)
    blocked.unlink()
    blocked.mkdir()
    shutil.copy(empty_store, blocked / "mlflow.db")
    spool.append("end", status="FINISHED", time=3)
    delivery.finish()
    run = open_client(uri).get_run(delivery.run_id)
    assert run.info.status == "FINISHED" and run.data.metrics == {"loss": 0.5}
    assert warnings_in(caplog) == []


def test_nothing_is_sent_before_there_is_something_to_see(spool, tmp_path: Path):
    import mlflow  # noqa: F401  # so that importing it is no reason to be late

    with socket.create_server(("127.0.0.1", 0)) as server:
        uri = f"http://127.0.0.1:{server.getsockname()[1]}"
        delivery = Delivery(tmp_path, uri=uri, output_dir=tmp_path, timeout_seconds=0.2)
        delivery.start()
        server.settimeout(0.3)  # a delivery that does not wait connects within milliseconds
        with pytest.raises(TimeoutError):
            server.accept()
        delivery.wake()
        server.settimeout(30)
        server.accept()[0].close()
        delivery.finish()


def test_refusals_are_named_in_one_warning_with_their_number(spool, local_store: str, tmp_path: Path, caplog):
    for value in "123":
        spool.append("params", values={"seed": value})
    spool.append("end", status="FINISHED", time=3)
    delivery = Delivery(tmp_path, uri=local_store, output_dir=tmp_path, timeout_seconds=30)
    delivery.start()
    delivery.finish()
    (warning,) = warnings_in(caplog)
    assert "2 times, first: Changing param values is not allowed" in warning
    assert open_client(local_store).get_run(delivery.run_id).info.status == "FINISHED"


def metric(spool: Spool, *steps: int) -> None:
    for step in steps:
        spool.append("metrics", step=step, time=step, values={"loss": 1 / step})


def deliver(folder: Path, uri: str) -> Delivery:
    delivery = Delivery(folder, uri=uri, output_dir=folder, timeout_seconds=30)
    delivery.start()
    delivery.finish()
    assert delivery.is_complete
    return delivery


def steps_in(uri: str, run_id: str) -> list[int]:
    return sorted(point.step for point in open_client(uri).get_metric_history(run_id, "loss"))


def runs_in(uri: str) -> list[str]:
    client = open_client(uri)
    experiment = client.get_experiment_by_name("e")
    return [run.info.run_id for run in client.search_runs([experiment.experiment_id])]


@pytest.mark.usefixtures("soon")
def test_after_a_restart_only_what_is_new_is_sent(spool, moody, tmp_path: Path):
    metric(spool, 1, 2)
    first = deliver(tmp_path, moody.uri)
    moody.asked.clear()
    metric(spool, 3)
    second = deliver(tmp_path, moody.uri)
    assert second.run_id == first.run_id
    assert moody.asked == ["get", "log-batch"], "it looks whether the run is still there, and sends one batch"
    assert steps_in(moody.uri, first.run_id) == [1, 2, 3]


DAMAGED = {
    "gone": None,
    "torn": lambda text: text[:-10],
    "no object": lambda _: "[]",
    "without a number": lambda text: json.dumps(json.loads(text) | {"offset": None}),
    "a negative number": lambda text: json.dumps(json.loads(text) | {"offset": -1}),
    "a number beyond the record": lambda text: json.dumps(json.loads(text) | {"offset": 10**9}),
    "an id that is no text": lambda text: json.dumps(json.loads(text) | {"run_id": 5}),
    "of another store": lambda text: json.dumps(json.loads(text) | {"uri": "http://elsewhere"}),
    "of another version": lambda text: json.dumps(json.loads(text) | {"strange": 1}),
}


@pytest.mark.parametrize("damage", DAMAGED)
@pytest.mark.usefixtures("soon")
def test_where_delivery_json_is_damaged_all_is_sent_again_and_nothing_is_there_twice(
    spool, local_store: str, tmp_path: Path, damage: str
):
    (tmp_path / "plot.png").write_bytes(b"png")
    spool.append("artifact", path="plot.png", to="")
    metric(spool, 1, 2, 3)
    spool.append("metrics", step=4, time=4, values={"loss": "nan"})
    first = deliver(tmp_path, local_store)
    path = tmp_path / DELIVERY
    path.unlink() if DAMAGED[damage] is None else path.write_text(DAMAGED[damage](path.read_text()))
    spool.append("end", status="FINISHED", time=9)
    second = deliver(tmp_path, local_store)
    assert second.run_id == first.run_id
    assert runs_in(local_store) == [first.run_id]
    assert steps_in(local_store, first.run_id) == [1, 2, 3, 4]
    assert open_client(local_store).get_run(first.run_id).info.status == "FINISHED"


@pytest.mark.usefixtures("soon")
def test_a_record_that_a_power_failure_made_shorter_is_delivered_whole(spool, local_store: str, tmp_path: Path):
    metric(spool, 1, 2, 3)
    first = deliver(tmp_path, local_store)
    lines = (tmp_path / SPOOL).read_bytes().splitlines(keepends=True)
    (tmp_path / SPOOL).write_bytes(b"".join(lines[:-2]))
    again = Spool(tmp_path / SPOOL)
    metric(again, 2, 3, 4, 5, 6)
    again.close()
    delivery = Delivery(tmp_path, uri=local_store, output_dir=tmp_path, timeout_seconds=30)
    assert delivery.run_id == first.run_id
    delivery.start()
    delivery.finish()
    assert steps_in(local_store, first.run_id) == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("how", ["deleted", "purged", "with its store"])
@pytest.mark.usefixtures("soon")
def test_a_run_that_was_deleted_meanwhile_is_made_anew_with_everything(
    spool, local_store: str, empty_store: Path, tmp_path: Path, how: str
):
    metric(spool, 1, 2)
    first = deliver(tmp_path, local_store)
    store = Path(local_store.removeprefix("sqlite:///"))
    if how == "with its store":
        shutil.copy(empty_store, store)
    else:
        open_client(local_store).delete_run(first.run_id)
    if how == "purged":
        with sqlite3.connect(store) as database:
            for table in ("metrics", "latest_metrics", "tags", "params", "runs"):
                database.execute(f"DELETE FROM {table} WHERE run_uuid = ?", (first.run_id,))
        database.close()
    spool.append("end", status="FINISHED", time=9)
    second = deliver(tmp_path, local_store)
    assert runs_in(local_store) == [second.run_id] != [first.run_id]
    assert steps_in(local_store, second.run_id) == [1, 2]
    assert json.loads((tmp_path / DELIVERY).read_text())["run_id"] == second.run_id


@pytest.mark.parametrize("mood", some(["500", "401", "forgetful", "404", "down", "slow"], every=2))
@pytest.mark.parametrize("when", ["at first", "later"])
@pytest.mark.usefixtures("soon")
def test_whatever_a_server_does_everything_arrives_in_one_run_when_it_works_again(
    spool, moody, first_failure, tmp_path: Path, caplog, mood: str, when: str
):
    (tmp_path / "plot.png").write_bytes(b"png")
    delivery = Delivery(tmp_path, uri=moody.uri, output_dir=tmp_path, timeout_seconds=30)
    if when == "later":
        delivery.start()
        delivery.wake()
        until(lambda: "log-batch" in moody.asked or delivery.run_id is not None)
    moody.stop() if mood == "down" else setattr(moody, "mood", mood)
    spool.append("params", values={"seed": "1"})
    spool.append("artifact", path="plot.png", to="")
    metric(spool, *range(1, 1500))
    if when == "at first":
        delivery.start()
        delivery.wake()
    if mood != "slow":
        assert first_failure.wait(30)
    moody.mood = "well" if mood != "slow" else "slow"
    if mood == "down":
        moody.start()
    spool.append("end", status="FINISHED", time=9)
    delivery.finish()
    assert delivery.is_complete and warnings_in(caplog) == []
    assert runs_in(moody.uri) == [delivery.run_id]
    run = open_client(moody.uri).get_run(delivery.run_id)
    assert run.info.status == "FINISHED" and run.data.params == {"seed": "1"}
    with sqlite3.connect(tmp_path / "moody.db") as database:
        steps = [step for (step,) in database.execute("SELECT step FROM metrics ORDER BY step")]
    database.close()
    assert steps == list(range(1, 1500))


def until(is_true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not is_true() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert is_true()


@pytest.mark.usefixtures("soon")
def test_what_waits_and_what_arrived_later_is_told_with_numbers(spool, moody, said, first_failure, tmp_path: Path):
    moody.mood = "500"
    delivery = Delivery(tmp_path, uri=moody.uri, output_dir=tmp_path, timeout_seconds=30)
    metric(spool, 1, 2)
    delivery.start()
    assert first_failure.wait(30)
    moody.mood = "well"
    delivery.finish()
    down, up = said()
    assert "will be tried again; 3 records wait in" in down and str(tmp_path / SPOOL) in down and "500" in down
    assert up.endswith("answers again: 3 records delivered")


@pytest.mark.usefixtures("soon")
def test_a_server_that_stays_down_leaves_the_record_for_later_with_its_destination(spool, moody, tmp_path, caplog):
    moody.mood = "500"
    metric(spool, 1, 2)
    delivery = Delivery(tmp_path, uri=moody.uri, output_dir=tmp_path, timeout_seconds=30)
    delivery.start()
    delivery.finish()
    assert not delivery.is_complete and is_waiting(tmp_path)
    assert json.loads((tmp_path / DELIVERY).read_text()) == {"uri": moody.uri, "run_id": None, "offset": 0}
    (warning,) = warnings_in(caplog)
    assert "3 records wait in" in warning and "mlops-hydra sync" in warning
