import logging
import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlops_hydra.tracking.delivery import Delivery
from mlops_hydra.tracking.spool import SPOOL, Spool
from mlops_hydra.tracking.store import open_client


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
