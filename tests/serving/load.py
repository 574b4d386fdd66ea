"""Clients that ask a service without a break, and know what each answer has to say.

What is served changes while they ask: each worker may still answer as before until it first answers as after, and then
never again. An answer that neither state gives, down to its probabilities, is a trouble.
"""

import http.client
import json
import random
import threading
import time
from array import array
from collections import Counter
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from mlops_hydra.serving.router import Router
from tests.serving.expected import Answered, Asked, Known, State, requests_of

NUM_REQUESTS_OF_A_CONNECTION = 500
HOT = 4  # times as often while something changes
NO_ROW = b'{"rows": [{"age": "old"}]}'


@dataclass(frozen=True)
class Change:
    """From one state to another; `arrived` are the workers that have answered as after."""

    before: State
    after: State
    arrived: set[str] = field(default_factory=set)


class Load:
    """Some clients, `rate` requests a second together.

    `is_forgiving`: a connection that breaks is counted in `num_broken`, and opened again; else it is a trouble.
    """

    def __init__(
        self, url: str, known: Known, router: Router, state: State, *, rate: float, is_forgiving: bool = False
    ) -> None:
        self.known, self.router, self.is_forgiving = known, router, is_forgiving
        self.change = Change(state, state)
        self.is_stopping = self.is_over = False
        self.members: Counter[str | None] = Counter()
        self.lock = threading.Lock()
        self.clients = [Client(self, url, seed, self.num_clients / rate) for seed in range(self.num_clients)]

    num_clients = 8
    num_workers = 2

    def __enter__(self) -> "Load":
        for client in self.clients:
            client.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.is_over = True
        for client in self.clients:
            client.join()

    def begin(self, after: State) -> Change:
        """From now on this may be seen."""
        self.change = Change(self.change.after, after)
        return self.change

    @property
    def is_changing(self) -> bool:
        change = self.change
        return change.before != change.after and len(change.arrived) < self.num_workers

    @property
    def troubles(self) -> list[str]:
        return [trouble for client in self.clients for trouble in client.troubles]

    @property
    def answers(self) -> dict[str, Answered]:
        """By request id."""
        found = [item for client in self.clients for item in client.answers]
        answers = dict(found)
        assert len(answers) == len(found), "request ids are unique"
        return answers

    def workers(self) -> set[str]:
        """Those that have clients; empty while a client has none."""
        with self.lock:
            found = +self.members
        return {str(worker) for worker in found} if found.total() == self.num_clients else set()

    @property
    def num_requests(self) -> int:
        return sum(len(client.seconds) for client in self.clients)

    @property
    def num_broken(self) -> int:
        return sum(client.num_broken for client in self.clients)

    def milliseconds(self, *percentiles: float) -> list[float]:
        """Of all answers."""
        seconds = np.concatenate([np.asarray(client.seconds) for client in self.clients])
        return [float(each) for each in np.percentile(seconds, percentiles) * 1e3]


class Client(threading.Thread):
    """One keep-alive connection, opened anew from time to time; half of the clients ask either worker."""

    def __init__(self, load: Load, url: str, seed: int, pause_seconds: float) -> None:
        super().__init__(name=f"client {seed}")
        self.load, self.pause_seconds = load, pause_seconds
        self.host, self.port = urlsplit(url).hostname or "", urlsplit(url).port
        self.requests = requests_of(load.known, seed)
        self.rng = random.Random(seed)
        self.connection: http.client.HTTPConnection | None = None
        self.worker: str | None = None
        self.is_member = False
        self.answers: list[tuple[str, Answered]] = []
        self.seconds = array("d")
        self.troubles: list[str] = []
        self.num_broken = self.num_refused = 0

    def run(self) -> None:
        load = self.load
        while not load.is_over and len(self.troubles) < 20:
            try:
                self._converse()
            except (OSError, http.client.HTTPException) as error:
                if load.is_stopping:
                    break
                self.num_broken += 1
                if not load.is_forgiving:
                    self.troubles.append(f"connection broke: {error!r}")
            except Exception as error:
                self.troubles.append(f"no answer that could be read: {error!r}")
            finally:
                self._close()

    def _converse(self) -> None:
        """As many requests as one connection lives for."""
        self._open()
        due = time.monotonic()
        for _ in range(NUM_REQUESTS_OF_A_CONNECTION):
            if self.load.is_over:
                return
            self._ask(next(self.requests))
            if self.rng.random() < 0.01:
                self._ask_nonsense()
            pause = self.pause_seconds / (HOT if self.load.is_changing else 1)
            due = max(due, time.monotonic() - pause) + pause
            time.sleep(max(0.0, due - time.monotonic()))

    def _open(self) -> None:
        """To a worker that has not more clients than the other, if there is one: the killed have to start."""
        load, deadline = self.load, time.monotonic() + 5
        while True:
            self.connection = http.client.HTTPConnection(self.host, self.port, timeout=30)
            self.connection.connect()
            self.connection.auto_open = 0
            self._ask(next(self.requests))
            with load.lock:
                room = load.num_clients // load.num_workers - load.members[self.worker]
                if room > 0 or time.monotonic() > deadline:
                    load.members[self.worker] += 1
                    self.is_member = True
                    return
            self.connection.close()
            self.worker = None
            time.sleep(0.02)

    def _close(self) -> None:
        with self.load.lock:
            if self.is_member:
                self.load.members[self.worker] -= 1
        self.worker, self.is_member = None, False
        if self.connection is not None:
            self.connection.close()

    def _ask(self, asked: Asked) -> None:
        change = self.load.change
        has_arrived = self.worker in change.arrived
        start = time.perf_counter()
        status, answer = self._post(asked.body)
        self.seconds.append(time.perf_counter() - start)
        if status != 200:
            self.troubles.append(f"{status}: {answer}")
            return
        worker = answer["request_id"].partition("-")[0]
        if self.worker is not None and worker != self.worker:
            self.troubles.append(f"{worker} answers on a connection to {self.worker}")
        self.worker = worker
        self._judge(asked, answer, change, has_arrived=has_arrived)

    def _ask_nonsense(self) -> None:
        status, answer = self._post(NO_ROW)
        self.num_refused += 1
        if status != 422:
            self.troubles.append(f"{status} for what is no row: {answer}")

    def _post(self, body: bytes) -> tuple[int, Any]:
        assert self.connection is not None
        self.connection.request("POST", "/predict", body, {"Content-Type": "application/json"})
        response = self.connection.getresponse()
        return response.status, json.loads(response.read())

    def _judge(self, asked: Asked, answer: dict[str, Any], change: Change, *, has_arrived: bool) -> None:
        now = self.load.change
        states = [change.after] if has_arrived else [change.before, change.after]
        states += [] if now is change else [now.before, now.after]
        fitting = [state for state in states if self._is_of(state, asked, answer)]
        if not fitting:
            self.troubles.append(f"{answer} of {asked} is of none of {states}")
        elif self._is_of(now.after, asked, answer) and not self._is_of(now.before, asked, answer):
            now.arrived.add(answer["request_id"].partition("-")[0])
        self.answers.append((answer["request_id"], _noted(asked, answer)))

    def _is_of(self, state: State, asked: Asked, answer: dict[str, Any]) -> bool:
        known, request_id = self.load.known, answer["request_id"]
        variant, by, version = state.choice(self.load.router, asked.user, request_id)
        wanted = (variant, by, version, known.fingerprints[version])
        given = tuple(answer[name] for name in ("variant", "assigned_by", "model_version", "fingerprint"))
        return given == wanted and known.is_right(asked, version, [answer] if asked.is_one else answer["predictions"])


def _noted(asked: Asked, answer: dict[str, Any]) -> Answered:
    version, variant, by = (answer[name] for name in ("model_version", "variant", "assigned_by"))
    return Answered(version, variant, by, asked.user, asked.rows, time.time())
