"""Ctrl-C and SIGTERM during the training: they take effect at the end of the step, after a checkpoint.

The same elsewhere, for work that an exception out of nowhere would damage: native code may swallow it.

A second one takes effect at once. Handlers that a person has set for themselves still run, at that time.
"""

import logging
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Final, Self

logger = logging.getLogger(__name__)

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM)
_NAMES: Final = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}


class Interruption:
    """Within the block, signals are noted in `requested`; `carry_out` does what would have been done at once.

    Signals that are ignored, or end the process without a word to Python, are left as they are, and so is everything
    in a thread that is not the main one.

    Args:
        when: it takes effect, as the person who pressed Ctrl-C is told.
    """

    def __init__(self, when: str = "at the end of this step, with a checkpoint to go on from") -> None:
        self._when = when
        self.requested: signal.Signals | None = None
        self._frame: FrameType | None = None
        self._before: dict[signal.Signals, Callable[[int, FrameType | None], Any]] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                handler = signal.getsignal(number)
                if callable(handler):
                    self._before[number] = handler
                    signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self.requested is not None and kind is None:
            self.carry_out()

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.requested is not None:
            self._before[signal.Signals(number)](number, frame)
            return
        self.requested, self._frame = signal.Signals(number), frame
        logger.info("%s: stopping %s; another one stops at once", _NAMES[self.requested], self._when)

    def carry_out(self) -> None:
        """Do what the signal would have done, which is to raise; a handler that returns lets the training go on."""
        number, self.requested = self.requested, None
        if number is not None:
            self._before[number](number, self._frame)
