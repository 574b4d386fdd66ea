"""A worker that imports what it needs, half a second, while the request is still being read."""

from collections.abc import Sequence
from types import TracebackType
from typing import Final, Self

from mlops_hydra.serving.processes.children import command_of, kill, spawn
from mlops_hydra.serving.processes.listening import unbound

WORKER: Final = command_of("mlops_hydra.serving.worker")


class Spare:
    """It has not been told anything; the socket that it inherited is bound when it is known where.

    At the end of the block both are gone, used or not.
    """

    def __init__(self, command: Sequence[str] = WORKER) -> None:
        self.socket = unbound()
        self.process = spawn(command, [self.socket.fileno()])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """It is not needed."""
        kill(self.process)
        self.socket.close()
