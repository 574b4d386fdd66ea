"""When records go to MLflow: one daemon thread reads the spool and sends, so that training waits for nothing.

It stays idle, and MLflow unimported, until the first metrics, START_SECONDS or the end of the run. A store that is
down is tried again and again and never stops a run: what it missed stays in the spool and is named in one warning.
"""

import logging
import threading
import time
from pathlib import Path
from typing import Final

from mlops_hydra.tracking.sender import Sender
from mlops_hydra.tracking.spool import SPOOL, Record, read_spool
from mlops_hydra.tracking.store import artifact_location, bounded_requests, create_store, open_client, redacted

logger = logging.getLogger(__name__)

START_SECONDS: Final = 2.0
SEND_SECONDS: Final = 2.0  # between two looks at the spool: fresh enough to watch, rare enough not to be felt
RETRY_SECONDS: Final = 0.5  # at the end of a run
LAST_ATTEMPTS: Final = 5  # failures in a row, at the end of a run


class Delivery:
    """Sends one run. `start`, any number of `wake`, `finish`."""

    def __init__(self, folder: Path, *, uri: str, output_dir: str | Path, timeout_seconds: float) -> None:
        self._folder = folder
        self._uri = uri
        self._store = f"MLflow at {redacted(uri)}"  # as messages call it
        self._output_dir = output_dir
        self._timeout_seconds = timeout_seconds
        self._sender: Sender | None = None
        self._pending: list[Record] = []
        self._offset = 0
        self._problem: Exception | None = None
        self._creating_store = False
        self._abandoned = False
        self._awake = threading.Event()
        self._ending = threading.Event()
        self._quiet = threading.Event()
        self._quiet.set()
        self._thread = threading.Thread(target=self._work, name="mlflow-delivery", daemon=True)

    @property
    def run_id(self) -> str | None:
        """MLflow's id of the run; None until MLflow has made it."""
        return self._sender.run_id if self._sender else None

    def start(self) -> None:
        """Begin to watch the spool, which must exist."""
        self._thread.start()

    def wake(self) -> None:
        """There is something that a person may want to see."""
        if not self._awake.is_set():
            self._quiet.clear()
            self._awake.set()

    def settle(self, seconds: float) -> None:
        """Wait until nothing is being imported or sent, so that a measurement has the interpreter for itself."""
        self._quiet.wait(seconds)

    def finish(self) -> None:
        """Wait until the spool is sent, `timeout_seconds` at most, and warn about what is left.

        The time that the once-only creation of a store takes does not count.
        """
        self._ending.set()
        self._awake.set()
        left = self._timeout_seconds
        while self._thread.is_alive() and left > 0:
            started = time.monotonic()
            self._thread.join(timeout=0.1)
            left -= 0 if self._creating_store else time.monotonic() - started
        self._abandoned = True
        self._warn()

    def _work(self) -> None:
        self._awake.wait(START_SECONDS)
        failures = 0
        while not self._abandoned:
            ending = self._ending.is_set()  # asked before the spool is read: its last line is then in what is read
            self._quiet.clear()
            failures = 0 if self._deliver() else failures + 1
            self._quiet.set()
            if ending and (failures == 0 or failures >= LAST_ATTEMPTS):
                return
            if ending:
                time.sleep(RETRY_SECONDS)
            else:
                self._ending.wait(SEND_SECONDS)

    def _deliver(self) -> bool:
        """Send what is new; False if not all of it was taken."""
        try:
            with bounded_requests(self._timeout_seconds):
                self._sender = self._sender or self._connect()
                records, self._offset = read_spool(self._folder / SPOOL, self._offset)
                self._pending += records
                self._sender.send(self._pending)
        except Exception as error:  # a record that cannot be sent is no reason to lose the training
            if self._problem is None:
                logger.info("%s cannot be reached and will be tried again: %s", self._store, _first_line(error))
            self._problem = error
            return False
        self._problem = None
        return True

    def _connect(self) -> Sender:
        self._creating_store = True
        try:
            create_store(self._uri)
        finally:
            self._creating_store = False
        location = artifact_location(self._uri, self._output_dir)
        return Sender(open_client(self._uri), self._folder, artifact_location=location)

    def _warn(self) -> None:
        spool = self._folder / SPOOL
        if refused := self._sender.refused if self._sender else []:
            text = "%s refused a part of the record (%d times, first: %s); it is whole in %s"
            logger.warning(text, self._store, len(refused), refused[0], spool)
        if self._thread.is_alive() or self._problem is not None:
            reason = _first_line(self._problem or f"no answer within {self._timeout_seconds:g} s")
            text = "%s does not have the whole run: %s. Nothing is lost: the record is in %s"
            logger.warning(text, self._store, reason, spool)


def _first_line(reason: object) -> str:
    return redacted(str(reason)).partition("\n")[0]
