"""Worker processes on this machine: started once, given one job after another, and gone when this process is.

Each is a process of its own group, so that Ctrl-C reaches this one only, which then tells them to stop: at the end of
their step, with a checkpoint, within seconds.
"""

import logging
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self

from mlops_hydra.errors import TERMINATED, TrainingError
from mlops_hydra.sweeps.study import Study
from mlops_hydra.sweeps.worker import Job

logger = logging.getLogger(__name__)

LOOK_SECONDS: Final = 0.5
STOP_SECONDS: Final = 10.0  # a checkpoint of a large model; then they are killed
MOST_DEATHS: Final = 3  # of workers in a row without a trial that ends


@dataclass(slots=True)
class _Worker:
    process: "subprocess.Popen[bytes]"
    answers: list[Any] = field(default_factory=list)
    thread: threading.Thread | None = None
    num_ended: int = 0  # trials of the study, as far as it has told

    @property
    def is_busy(self) -> bool:
        return self.thread is not None and self.thread.is_alive()


class Pool:
    """`num_workers` processes; they import what they need while this one still checks the request."""

    def __init__(self, num_workers: int, folder: Path) -> None:
        self._folder = folder
        self._logs: dict[int, IO[bytes]] = {}
        self._workers = [self._started(index) for index in range(num_workers)]

    def _started(self, index: int) -> _Worker:
        if index not in self._logs:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._logs[index] = (self._folder / f"worker-{index}.log").open("ab")
        process = subprocess.Popen(
            [sys.executable, "-m", "mlops_hydra.sweeps.pool", str(os.getpid()), str(index)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._logs[index],
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path or "." for path in sys.path)},
        )
        return _Worker(process)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop(kind is not None)

    def run(self, job: Job, tick: Callable[[], None]) -> None:
        """Have all workers work on `job` until it is over.

        Raises:
            MlopsHydraError: what stopped a worker; the others are stopped too.
            TrainingError: workers died one after another.
        """
        for index in range(len(self._workers)):
            self._send(index, job)
        left, deaths, num_ended = 0, 0, 0
        waiting = set(range(len(self._workers)))
        while waiting:
            tick()
            time.sleep(LOOK_SECONDS)
            for index in [index for index in waiting if not self._workers[index].is_busy]:
                answer = self._answer(index)
                if answer is None:
                    before, num_ended = num_ended, max(worker.num_ended for worker in self._workers)
                    deaths = 1 if num_ended > before else deaths + 1
                    self._replace(index, job, deaths)
                else:
                    left += answer
                    waiting.remove(index)
        tick()
        if left:
            logger.warning("MLflow does not have %d of the trials whole; `mlops-hydra sync` delivers the rest", left)

    def _send(self, index: int, job: Job) -> None:
        worker = self._workers[index]
        worker.num_ended = 0
        assert worker.process.stdin is not None
        with suppress(OSError):  # it died: that is found when it does not answer
            pickle.dump(job, worker.process.stdin)
            worker.process.stdin.flush()
        worker.thread = threading.Thread(target=_listen, args=(worker,), name=f"worker-{index}", daemon=True)
        worker.thread.start()

    def _answer(self, index: int) -> int | None:
        """How many records are left; None if it died."""
        worker = self._workers[index]
        if not worker.answers:
            return None
        answer = worker.answers.pop()
        if isinstance(answer, BaseException):
            raise answer
        return int(answer)

    def _replace(self, index: int, job: Job, deaths: int) -> None:
        code = _reaped(self._workers[index].process, STOP_SECONDS)
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        where = self._folder / f"worker-{index}.log"
        if deaths > MOST_DEATHS + len(self._workers):
            raise TrainingError(f"workers die one after another ({how}); the last words of one are in {where}")
        logger.warning("Worker %d ended with %s; another takes its place (%s)", index, how, where)
        self._workers[index] = self._started(index)
        self._send(index, job)

    def stop(self, at_once: bool) -> None:
        """End all workers; those that train end their step first, and write a checkpoint."""
        for worker in self._workers:
            with suppress(OSError):
                if at_once:
                    worker.process.send_signal(signal.SIGTERM)
                if worker.process.stdin is not None:
                    worker.process.stdin.close()
        deadline = time.monotonic() + STOP_SECONDS
        for worker in self._workers:
            _reaped(worker.process, max(0.0, deadline - time.monotonic()))
        for log in self._logs.values():
            log.close()


def _reaped(process: "subprocess.Popen[bytes]", seconds: float) -> int:
    """The exit code of a process that ends within `seconds`, or else is killed; its pipes are closed."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for pipe in (process.stdin, process.stdout):
        with suppress(OSError):
            if pipe is not None:
                pipe.close()
    return process.returncode


def _listen(worker: _Worker) -> None:
    """Counts of ended trials, then the answer; a worker that says what cannot be read counts as dead."""
    assert worker.process.stdout is not None
    with suppress(Exception):
        while not worker.answers:
            kind, value = pickle.load(worker.process.stdout)
            if kind == "ended":
                worker.num_ended = value
            else:
                worker.answers.append(value)


def main(parent: int, index: int) -> None:
    """A worker: imports, then jobs from standard input until it ends, an answer to each on standard output."""
    jobs, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # a user's code may ask a question
    os.dup2(2, 1)  # and what it prints goes to the log
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))  # an exception: the trial is given back
    threading.Thread(target=_watch, args=(parent,), name="parent", daemon=True).start()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    from mlops_hydra.sweeps.workplace import open_shared

    def say(kind: str, value: Any) -> None:
        pickle.dump((kind, value), answers)
        answers.flush()

    while True:
        try:
            job: Job = pickle.load(jobs)
        except EOFError:
            return
        say("answer", _work_on(job, index, open_shared, say))


def _work_on(
    job: Job, index: int, open_shared: Callable[..., Any], say: Callable[[str, Any], None]
) -> int | BaseException:
    from mlops_hydra.sweeps.experiments import work_on

    shared = open_shared(job.config, job.parent)
    try:
        work_on(job, shared, index=index, tick=_progress(say))
    except Exception as error:
        logger.exception("The worker stops")
        return _as_sent(error)
    finally:
        left = shared.post.finish()
    return int(left)


def _progress(say: Callable[[str, Any], None]) -> Callable[[Study], None]:
    """Tells how many trials ended: while there are more and more, a worker may die now and again."""
    told = 0

    def look(study: Study) -> None:
        nonlocal told
        ended = sum(trial.state.is_finished() for trial in study.trials())
        if ended > told:
            told = ended
            say("ended", ended)

    return look


def _as_sent(error: Exception) -> Exception:
    """What the other process can read, with the traceback of this one."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # a class with arguments of its own, or with a lock in it
        error = TrainingError(f"{type(error).__name__}: {error}")
    error.add_note(f"In a worker:\n{traceback.format_exc()}")
    return error


def _watch(parent: int) -> None:
    """Nobody outlives the command that started it, however that ended."""
    while os.getppid() == parent:
        time.sleep(LOOK_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(STOP_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
