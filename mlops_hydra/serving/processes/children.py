"""The processes of a service: started, told what to do, watched, started again, and ended.

Each has a session of its own, so that Ctrl-C reaches the supervisor alone, and a pipe as standard input: the first line
says what to do, and its end that the supervisor is gone, however that happened.
"""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

logger = logging.getLogger(__name__)

Process = subprocess.Popen[bytes]

FIRST_PAUSE_SECONDS: Final = 0.1  # before a child that died is started again; doubled each time
LONGEST_PAUSE_SECONDS: Final = 10.0
PROVEN_SECONDS: Final = 60.0  # a child that lived so long begins anew
_LOOK_SECONDS: Final = 0.02
_SECRETS: Final = ("MLOPS_HYDRA_API_KEY",)  # is told through the pipe: other users may read an environment


def spawn(command: Sequence[str], pass_fds: Sequence[int] = ()) -> Process:
    """A process that waits for its line. What it prints goes to our standard error."""
    importable = os.pathsep.join(path for path in sys.path if path)
    env = {name: value for name, value in os.environ.items() if name not in _SECRETS}
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=2,
        env={**env, "PYTHONPATH": importable},
        pass_fds=pass_fds,
        start_new_session=True,
    )


def command_of(module: str) -> list[str]:
    """The program that a module is; the current directory, which anything may lie in, is not looked at."""
    return [sys.executable, "-P", "-m", module]


class Child:
    """One of them, always the same to the others: a process that dies is replaced, later each time.

    Args:
        name: in messages.
        told: its line, as JSON.
        spare: a process of this command that was started already, and not told anything.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        told: Mapping[str, Any],
        *,
        pass_fds: Sequence[int] = (),
        spare: Process | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.num_deaths = 0  # in a row
        self._command, self._pass_fds, self._clock = command, pass_fds, clock
        self._line = json.dumps(told).encode() + b"\n"
        self._said = ""
        self._next = self._began = 0.0
        self.process: Process | None = None
        self._start(spare)

    def _start(self, spare: Process | None = None) -> None:
        self.process = process = spare or spawn(self._command, self._pass_fds)
        self._began = self._clock()
        assert process.stdin is not None
        with suppress(OSError):  # it died: that is seen at the next look
            process.stdin.write(self._line)
            process.stdin.flush()

    def look(self) -> None:
        """See whether it died, and start it again when it is time."""
        if self.process is None:
            if self._clock() >= self._next:
                self._start()
        elif (code := self.process.poll()) is not None:
            self._bury(code)

    def _bury(self, code: int) -> None:
        has_proven = self._clock() - self._began >= PROVEN_SECONDS
        self.num_deaths = 1 if has_proven else self.num_deaths + 1
        pause = min(FIRST_PAUSE_SECONDS * 2 ** min(self.num_deaths - 1, 20), LONGEST_PAUSE_SECONDS)
        self._next = self._clock() + pause
        assert self.process is not None
        release(self.process)
        self.process = None
        if self.num_deaths == 1 or told_of(code) != self._said:  # else it is the same again
            self._said = told_of(code)
            logger.warning("%s ended with %s; another takes its place", self.name, self._said)


def told_of(code: int) -> str:
    """An exit code as `Popen` has it, in words."""
    return f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"


def release(process: Process) -> None:
    """Let go of the pipe of a process that has ended."""
    with suppress(OSError):
        if process.stdin is not None:
            process.stdin.close()


def end(children: Sequence[Child], seconds: float, *, is_enough: Callable[[], bool] = lambda: False) -> None:
    """Tell them to finish; those that have not left in time, or when it `is_enough`, are killed."""
    processes = [child.process for child in children if child.process is not None]
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + seconds
    while any(process.poll() is None for process in processes):
        if is_enough() or time.monotonic() >= deadline:
            break
        time.sleep(_LOOK_SECONDS)
    late = [child.name for child in children if child.process is not None and child.process.poll() is None]
    if late:
        logger.warning("%s did not finish in time", ", ".join(late))
    for process in processes:
        kill(process)


def kill(process: Process) -> None:
    """At once, with whatever it may have started."""
    if process.poll() is None:
        with suppress(OSError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    release(process)
