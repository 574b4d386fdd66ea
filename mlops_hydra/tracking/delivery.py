"""When records go to MLflow: one daemon thread reads the spool and sends, so that training waits for nothing.

It stays idle, and MLflow unimported, until the first metrics, START_SECONDS or the end of the run. A store that is
down is tried again and again and never stops a run: what it missed stays in the spool, a line says how much, and
`mlops-hydra sync` sends it later. How far a spool has been delivered, and where to, stands in `delivery.json`.
"""

import json
import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from mlops_hydra.atomic import read_json
from mlops_hydra.tracking.sender import Sender
from mlops_hydra.tracking.spool import SPOOL, Record, read_spool, read_spool_with_ends
from mlops_hydra.tracking.store import artifact_location, bounded_requests, create_store, is_gone, open_client, redacted

logger = logging.getLogger(__name__)

DELIVERY: Final = "delivery.json"
START_SECONDS: Final = 2.0
SEND_SECONDS: Final = 2.0  # between two looks at the spool: fresh enough to watch, rare enough not to be felt
LARGEST_SHARE: Final = 0.02
"""Of the time, for sending: a number costs a SQLite store 75 us of the training's interpreter. Where epochs come faster
than that allows, it sends less often, and the rest at the end."""
RETRY_SECONDS: Final = 0.5  # at the end of a run
NOTED_RECORDS: Final = 200  # at a time: metrics go to MLflow in one call for as many
LAST_ATTEMPTS: Final = 5  # failures in a row, at the end of a run


@dataclass(frozen=True, slots=True)
class Delivered:
    """How far a spool has been delivered: to which store (without credentials), as which run, up to which byte."""

    uri: str = ""
    run_id: str | None = None
    offset: int = 0


def delivered_to(folder: Path) -> Delivered:
    """What `folder` says; nothing where it says nothing, or is damaged: then all is sent again, which is the same."""
    match read_json(folder / DELIVERY):
        case {"uri": str(uri), "run_id": str() | None as run_id, "offset": int(offset)} if offset >= 0:
            shorter = offset > _size(folder / SPOOL)  # a power failure took from the record what had been delivered
            return Delivered(uri, run_id, 0 if shorter else offset)
    return Delivered()


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def is_waiting(folder: Path) -> bool:
    """Whether a part of the record has not been delivered, or the store that had it is gone."""
    delivered = delivered_to(folder)
    return delivered.offset < _size(folder / SPOOL) or is_gone(delivered.uri)


class Delivery:
    """Sends one run. `start`, any number of `wake`, `finish`.

    Args:
        others: folders of runs that have ended, whose last words are sent on the way.
    """

    def __init__(
        self, folder: Path, *, uri: str, output_dir: str | Path, timeout_seconds: float, others: Sequence[Path] = ()
    ) -> None:
        self._folder = folder
        self._others = list(others)
        self._uri = uri
        self.store = redacted(uri)
        self._store = f"MLflow at {self.store}"  # as messages call it
        self._output_dir = output_dir
        self._timeout_seconds = timeout_seconds
        self._sender: Sender | None = None
        self._pending: list[tuple[Record, int]] = []
        """Each with the byte of the spool where it ends."""
        self._delivered = self._begin()
        self._offset = self._delivered.offset
        self._cost = 0.0
        """CPU seconds of the last sending; opening the store is paid once, and does not count."""
        self._problem: Exception | None = None
        self._creating_store = False
        self._abandoned = False
        self._awake = threading.Event()
        self._ending = threading.Event()
        self._quiet = threading.Event()
        self._quiet.set()
        self._thread = threading.Thread(target=self._work, name="mlflow-delivery", daemon=True)

    def _begin(self) -> Delivered:
        """Where an earlier delivery to the same store ended."""
        earlier = delivered_to(self._folder)
        return earlier if earlier.uri == redacted(self._uri) else Delivered(redacted(self._uri))

    @property
    def run_id(self) -> str | None:
        """MLflow's id of the run; None until MLflow has made it."""
        return self._sender.run_id if self._sender else self._delivered.run_id

    @property
    def is_complete(self) -> bool:
        """Whether all of the spool has arrived, and nothing of it was refused."""
        return self._problem is None and not self._pending and not is_waiting(self._folder) and not self.refused

    @property
    def refused(self) -> list[str]:
        """What MLflow will never take, in its own words."""
        return self._sender.refused if self._sender else []

    def start(self) -> None:
        """Begin to watch the spool, which must exist."""
        self._note(self._delivered)
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
                self._ending.wait(max(SEND_SECONDS, self._cost / LARGEST_SHARE))

    def _deliver(self) -> bool:
        """Send what is new; False if not all of it was taken."""
        try:
            with bounded_requests(self._timeout_seconds):
                self._read()
                self._sender, is_first = self._sender or self._connect(), self._sender is None
                waiting, began = len(self._pending), time.thread_time()
                self._send(self._sender)
                self._cost = 0.0 if is_first else time.thread_time() - began
        except Exception as error:  # a record that cannot be sent is no reason to lose the training
            if self._problem is None:
                text = "%s cannot be reached and will be tried again; %d records wait in %s: %s"
                where = self._folder / SPOOL
                logger.info(text, self._store, len(self._pending), where, _first_line(error))
            self._problem = error
            return False
        if self._problem is not None:
            logger.info("%s answers again: %d records delivered", self._store, waiting)
        self._problem = None
        self._send_others()
        return True

    def _send(self, sender: Sender) -> None:
        """Send what is pending, and remember how far it went: a slow store is not begun with anew each time."""
        while self._pending and not self._abandoned:
            part = self._pending[:NOTED_RECORDS]
            records = [record for record, _ in part]
            try:
                sender.send(records)
            finally:
                num_sent = len(part) - len(records)
                del self._pending[:num_sent]
                if num_sent:
                    self._note(Delivered(redacted(self._uri), sender.run_id, part[num_sent - 1][1]))

    def _note(self, delivered: Delivered) -> None:
        """Remember how far it went; not forced to the disk: what is sent twice is the same as sent once."""
        self._delivered = delivered
        partial = self._folder / f".{DELIVERY}.partial"
        try:
            partial.write_text(json.dumps(asdict(delivered)), encoding="utf-8")
            partial.replace(self._folder / DELIVERY)
        except OSError as error:
            logger.debug("%s cannot be written: %s", self._folder / DELIVERY, error)

    def _send_others(self) -> None:
        while self._others:
            other = Delivery(
                self._others.pop(), uri=self._uri, output_dir=self._output_dir, timeout_seconds=self._timeout_seconds
            )
            if other._delivered.run_id is not None:  # else it was meant for another store, or never arrived: for `sync`
                other._deliver()

    def _read(self) -> None:
        records, self._offset = read_spool_with_ends(self._folder / SPOOL, self._offset)
        self._pending += records

    def _connect(self) -> Sender:
        self._creating_store = True
        try:
            create_store(self._uri)
        finally:
            self._creating_store = False
        location = artifact_location(self._uri, self._output_dir)
        return self._adopted(Sender(open_client(self._uri), self._folder, artifact_location=location))

    def _adopted(self, sender: Sender) -> Sender:
        """A sender that goes on with the run of an earlier delivery, if MLflow still has it."""
        if not sender.adopt(self._delivered.run_id) and self._delivered.offset:  # the run, or the store, was deleted
            self._pending, self._offset = [], 0
            self._read()
        return sender

    def _warn(self) -> None:
        spool = self._folder / SPOOL
        if self.refused:
            text = "%s refused a part of the record (%d times, first: %s); it is whole in %s"
            logger.warning(text, self._store, len(self.refused), self.refused[0], spool)
        if self._thread.is_alive() or self._problem is not None:
            reason = _first_line(self._problem or f"no answer within {self._timeout_seconds:g} s")
            text = "%s does not have the whole run: %s. Nothing is lost: %d records wait in %s for `mlops-hydra sync`"
            waiting = len(read_spool(spool, self._delivered.offset)[0])
            logger.warning(text, self._store, reason, waiting, spool)


def _first_line(reason: object) -> str:
    return redacted(str(reason)).partition("\n")[0]
