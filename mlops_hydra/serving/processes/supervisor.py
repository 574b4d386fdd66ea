"""One prediction service from start to end: its lock, its socket, and the processes that do the work.

Nothing is predicted here, and nothing is asked of the registry: watching needs neither onnxruntime nor MLflow. Workers
start at once with what was served the last time; only where there is nothing is the registry's first answer waited for.
"""

import logging
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, Final

from filelock import FileLock, Timeout

from mlops_hydra.atomic import read_json, write_json_atomic, written_to
from mlops_hydra.config.serving import ServeConfig
from mlops_hydra.errors import (
    INTERRUPTED,
    BundleError,
    BusyError,
    Fault,
    ServingError,
    TrackingError,
    UsageError,
)
from mlops_hydra.serving.ab.assignment import note_assignment
from mlops_hydra.serving.folder import ServiceFolder
from mlops_hydra.serving.processes.children import Child, command_of, end
from mlops_hydra.serving.processes.listening import Probe, listen, url_of
from mlops_hydra.serving.processes.offer import offer, put_back
from mlops_hydra.serving.processes.spare import WORKER, Spare
from mlops_hydra.serving.processes.stop_signals import StopSignals
from mlops_hydra.serving.router import Router
from mlops_hydra.serving.targets import Targets, read_targets

logger = logging.getLogger(__name__)

SERVICE: Final = "service.json"
LOOK_SECONDS: Final = 0.1
MOST_DEATHS: Final = 5  # of a process in a row, while nothing was ever served
ANSWER_SECONDS: Final = 30.0  # for a follower to start, besides what the registry takes
QUIET_SECONDS: Final = 3.0  # others start when the first worker is ready, or not within this time
PATIENCE_SECONDS: Final = 10.0  # until it is said that a service is not ready
MARGIN_SECONDS: Final = 5.0  # for a worker to leave, besides what it finishes
COMPANIONS_SECONDS: Final = 10.0  # for those who leave at once
RECORDER_SECONDS: Final = 60.0  # to make Parquet of what is in the journal

Announce = Callable[[str, Targets], None]
"""Told once, when the service is ready: its URL, and what is served."""

COMMANDS: Final[Mapping[str, Sequence[str]]] = {
    "worker": WORKER,
    "follower": command_of("mlops_hydra.serving.processes.follower"),
    "recorder": command_of("mlops_hydra.serving.request_log.recorder"),
    "drift_watcher": command_of("mlops_hydra.serving.processes.drift_watcher"),
}


class Supervisor:
    """Runs once.

    Args:
        config: checked, with the URI of the registry in `tracking.uri`.
        spare: becomes the first worker, where its socket fits.
        commands: of the kinds of children.
    """

    def __init__(
        self,
        config: ServeConfig,
        announce: Announce,
        *,
        spare: Spare | None = None,
        commands: Mapping[str, Sequence[str]] = COMMANDS,
    ) -> None:
        self._config, self._announce, self._spare, self._commands = config, announce, spare, commands
        self._folder = ServiceFolder.for_config(config)
        self._control = Router(config.experiment, config.weights).control
        self._told: dict[str, Any] = {"config": config.model_dump(mode="json")}
        self._workers: list[Child] = []
        self._companions: dict[str, Child] = {}
        self._signals = StopSignals()
        self._is_ready = False

    def run(self) -> int:
        """Serve until SIGTERM or Ctrl-C: 0, or 130 where a second one cut it short.

        Raises:
            UsageError: nothing can listen there, or there is nothing to serve.
            BusyError: this model is served from this `output_dir` already.
            TrackingError: the registry does not answer, and nothing was served before; or the disk takes nothing.
            BundleError: the one version that there is cannot be served.
            ServingError: processes die before anything is served.
        """
        with ExitStack() as stack:
            stack.enter_context(written_to(self._folder.path))
            stack.enter_context(self._alone())
            self._listener = stack.enter_context(self._listening())
            self._url = url_of(self._listener, self._config.host)
            stack.enter_context(self._signals)
            stack.callback(self._tidy)
            stack.callback(self._stop)
            self._begin()
            if self._control in offer(self._config, self._folder).arms or self._is_answered():
                self._serve()
        return INTERRUPTED if self._signals.is_urgent else 0

    @contextmanager
    def _alone(self) -> Iterator[None]:
        try:
            self._folder.path.mkdir(parents=True, exist_ok=True)
            held = FileLock(self._folder.lock).acquire(timeout=0)
        except Timeout:
            other = read_json(self._folder.path / SERVICE) or {}
            where = f" at {other.get('url')} (process {other.get('pid')})" if other else ""
            message = f"{self._config.name} is served from {self._config.output_dir} already{where}"
            raise BusyError(f"{message}; stop that, or choose another output_dir") from None
        except OSError as error:
            raise TrackingError(f"{self._folder.lock}: cannot be locked: {error.strerror or error}") from error
        with held:
            yield

    def _begin(self) -> None:
        """Counters start at 0, nothing is known of drift, and `ab` hears how users are shared out from now on."""
        shutil.rmtree(self._folder.counts, ignore_errors=True)
        self._folder.drift.unlink(missing_ok=True)
        note_assignment(self._folder, self._config.experiment, self._config.weights, now=datetime.now(UTC))

    def _listening(self) -> socket.socket:
        prepared = None if self._spare is None else self._spare.socket
        listener = listen(self._config.host, self._config.port, prepared)
        if self._spare is not None and listener is not prepared:
            self._spare.close()
            self._spare = None
        return listener

    # The registry's first answer

    def _is_answered(self) -> bool:
        """Wait for it, where control has nothing to go on with. False if a signal came first."""
        self._start_companion("follower")
        deadline = time.monotonic() + self._config.tracking.timeout_seconds + ANSWER_SECONDS
        while not self._signals.is_asked:
            self._look()
            targets = read_targets(self._folder.targets) or Targets({})
            if self._control in targets.arms:
                return True
            self._check_answer(targets)
            if time.monotonic() > deadline:
                raise TrackingError("the registry of models did not answer in time, and nothing was served here before")
            time.sleep(LOOK_SECONDS)
        return False

    def _check_answer(self, targets: Targets) -> None:
        """Raises what an answer without a model means."""
        refused = targets.refused.get(self._control)
        if refused is not None and refused.version:
            raise BundleError(f"version {refused.version} of {self._config.name} cannot be served: {refused.reason}")
        if refused is not None:
            raise UsageError(Fault(f"variants.{self._control}.alias", refused.reason))
        if targets.registry_error is not None:
            raise TrackingError(f"{targets.registry_error}; nothing was served here before that could go on")

    # While it serves

    def _serve(self) -> None:
        self._workers = [self._worker(index) for index in range(self._config.workers)]
        self._wait_until_ready()
        self._start_companions()
        while not self._signals.is_asked:
            self._look()
            time.sleep(LOOK_SECONDS)

    def _wait_until_ready(self) -> None:
        """Or until a signal comes. A copy may be damaged: then the follower has to bring another."""
        begin, is_told = time.monotonic(), False
        with closing(Probe(self._listener)) as probe:
            while not self._signals.is_asked and (status := probe.status(LOOK_SECONDS)) != HTTPStatus.OK:
                self._look()
                if status is not None:
                    time.sleep(LOOK_SECONDS)
                seconds = time.monotonic() - begin
                if seconds >= QUIET_SECONDS:
                    self._start_companions()
                if seconds >= PATIENCE_SECONDS and not is_told:
                    is_told = True
                    logger.warning("not ready yet; GET %s/ready says why", self._url)
        if not self._signals.is_asked:
            self._say_ready()

    def _say_ready(self) -> None:
        self._is_ready = True
        self._announce(self._url, read_targets(self._folder.targets) or Targets({}))
        if self._config.kill_switch or self._folder.kill_switch.exists():
            logger.warning("the kill switch is on: all users are sent to %s", self._control)
        about = {"name": self._config.name, "url": self._url, "pid": os.getpid(), "started_at": time.time()}
        try:
            write_json_atomic(self._folder.path / SERVICE, about)
        except TrackingError as error:  # who serves needs no disk
            logger.warning("%s", error)

    def _worker(self, index: int) -> Child:
        told = self._told | {"fd": self._listener.fileno(), "index": index}
        spare = self._spare.process if self._spare is not None and index == 0 else None
        fds = [self._listener.fileno()]
        return Child(f"worker {index}", self._commands["worker"], told, pass_fds=fds, spare=spare)

    def _start_companions(self) -> None:
        """Those that nobody waits for: their imports would slow down the first worker's."""
        if any(variant.bundle is None for variant in self._config.variants.values()):
            self._start_companion("follower")
        if self._config.log.sample > 0:
            self._start_companion("recorder")
        if self._config.watches_drift:
            self._start_companion("drift_watcher")

    def _start_companion(self, kind: str) -> None:
        if kind not in self._companions:
            self._companions[kind] = Child(kind, self._commands[kind], self._told)

    def _look(self) -> None:
        """Replace who died. Raises ServingError where that leads nowhere."""
        companions = list(self._companions.values())
        for child in (*self._workers, *companions):
            child.look()
        needed = [] if self._is_ready else self._workers or companions
        for child in needed:
            if child.num_deaths >= MOST_DEATHS:
                message = f"{child.name} ended {child.num_deaths} times before anything was served"
                raise ServingError(f"{message}; what it said is above")

    def _tidy(self) -> None:
        if not (read_targets(self._folder.targets) or Targets({})).arms:
            put_back(self._folder)

    def _stop(self) -> None:
        """First those who take requests, last the one who keeps what was predicted."""
        (self._folder.path / SERVICE).unlink(missing_ok=True)
        self._listener.close()  # when the workers have closed theirs, who comes is turned away, and does not wait
        companions = {kind: [child] for kind, child in self._companions.items()}
        for children, seconds in (
            (self._workers, self._config.shutdown_seconds + MARGIN_SECONDS),
            (companions.get("drift_watcher", []) + companions.get("follower", []), COMPANIONS_SECONDS),
            (companions.get("recorder", []), RECORDER_SECONDS),
        ):
            end(children, seconds, is_enough=lambda: self._signals.is_urgent)
