"""Delivery for the trials of a study: one thread and one client for all, so that no trial waits for MLflow.

A trial that has ended is sent while the next one trains. What a server that is down misses stays in the spools.
"""

import logging
import math
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mlops_hydra.tracking.delivery import DELIVERY, LAST_ATTEMPTS, RETRY_SECONDS, SEND_SECONDS, Delivery
from mlops_hydra.tracking.git import GitState
from mlops_hydra.tracking.sender import Sender
from mlops_hydra.tracking.store import artifact_location, create_store, open_client, redacted

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)

MOST_WAITING: Final = 16  # ended trials; then the next one waits, so that the backlog cannot grow for ever


class Post:
    """Delivers many runs to one store. `open` each, `finish` once."""

    def __init__(self, uri: str, output_dir: str | Path, timeout_seconds: float) -> None:
        self.uri, self.output_dir, self.timeout_seconds = uri, output_dir, timeout_seconds
        self.ids: dict[str, str] = {}
        self._client: MlflowClient | None = None
        self._open: list[PostedDelivery] = []
        self._changed = threading.Condition()
        self._closing = False
        self._failures = 0
        self._num_left = 0
        self._thread = threading.Thread(target=self._work, name="mlflow-post", daemon=True)

    def open(self, folder: Path, others: Sequence[Path] = (), *, at_once: bool = False) -> "PostedDelivery":
        """The delivery of one run; waits while too many that have ended are still to be sent.

        Args:
            at_once: do not wait until it has run for a while: others look for it in MLflow.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._num_ended() < MOST_WAITING or self._failures > 0)
        return PostedDelivery(self, folder, others, at_once=at_once)

    def _num_ended(self) -> int:
        return sum(delivery.is_ended for delivery in self._open)

    def add(self, delivery: "PostedDelivery") -> None:
        """Begin to send it."""
        with self._changed:
            self._open.append(delivery)
            if not self._thread.is_alive() and not self._closing:
                self._thread.start()

    def wake(self) -> None:
        """One has ended."""
        with self._changed:
            self._changed.notify_all()

    def connect(self) -> "MlflowClient":
        """The one client, made when it is first needed."""
        if self._client is None:
            create_store(self.uri)
            self._client = open_client(self.uri)
        return self._client

    def finish(self) -> int:
        """Send the rest, `timeout_seconds` at most; the number of runs that MLflow does not have whole."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(self.timeout_seconds)
        left = len(self._open) + self._num_left
        if left:
            text = "MLflow at %s does not have %d of the trials whole; their records wait for `mlops-hydra sync`"
            logger.warning(text, redacted(self.uri), left)
        return left

    def _work(self) -> None:
        while not (self._closing and (not self._open or self._failures >= LAST_ATTEMPTS)):
            self._send_all()
            if self._closing and self._failures:
                time.sleep(RETRY_SECONDS)
            with self._changed:
                if not self._closing and not (self._num_ended() and self._failures == 0):
                    self._changed.wait(SEND_SECONDS)

    def _send_all(self) -> None:
        """Those that have ended as they come, those that train now once a round."""
        for delivery in sorted(self._open, key=lambda one: (not one.is_first, not one.is_ended)):
            is_ended = delivery.is_ended  # asked before its spool is read: its last line is then in what is read
            if not delivery.is_due and not is_ended:
                continue
            if not delivery.send(is_known_problem=self._failures > 0):
                self._failures += 1
                return
            self._failures = 0
            if is_ended:
                with self._changed:
                    self._open.remove(delivery)
                    self._num_left += bool(delivery.refused)
                    self._changed.notify_all()


class PostedDelivery(Delivery):
    """Of one run; the thread that sends is the post's."""

    def __init__(self, post: Post, folder: Path, others: Sequence[Path], *, at_once: bool) -> None:
        super().__init__(
            folder, uri=post.uri, output_dir=post.output_dir, timeout_seconds=post.timeout_seconds, others=others
        )
        self._post = post
        self._began = -math.inf if at_once else time.monotonic()
        self._is_new = not (folder / DELIVERY).exists()  # an earlier process would have made one

    @property
    def is_ended(self) -> bool:
        """Whether its last record is written."""
        return self._ending.is_set()

    @property
    def is_first(self) -> bool:
        """Whether others look for it."""
        return self._began == -math.inf

    @property
    def is_due(self) -> bool:
        """Whether it has run long enough for a person to want to watch it."""
        return time.monotonic() - self._began >= SEND_SECONDS

    def start(self) -> None:
        """Hand it to the post."""
        self._post.add(self)

    def wake(self) -> None:
        """Nothing: the post looks by itself."""

    def finish(self) -> None:
        """The rest is sent later."""
        self._ending.set()
        self._post.wake()

    def send(self, *, is_known_problem: bool) -> bool:
        """Send what is new; False if not all of it was taken, and then it is read again the next time."""
        if is_known_problem and self._problem is None:
            self._problem = RuntimeError("told of another run already")
        if self._deliver():
            return True
        self._pending, self._offset = [], self._delivered.offset
        return False

    def _connect(self) -> Sender:
        location = artifact_location(self._uri, self._output_dir)
        client = self._post.connect()
        return self._adopted(
            Sender(client, self._folder, artifact_location=location, ids=self._post.ids, is_new=self._is_new)
        )


@dataclass(frozen=True, slots=True)
class Shared:
    """What the trials of a study have in common: their post, the record of the study, and the code's commit."""

    post: Post
    parent: str
    git: GitState
