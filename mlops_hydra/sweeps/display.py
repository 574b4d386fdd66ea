"""What a person sees while a study runs: a live table on a terminal, a line a trial in a log.

Not here: what is printed at the end (`closing.py`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Final, Literal, Self

from optuna.trial import FrozenTrial
from rich.console import Console
from rich.text import Text

from mlops_hydra.config.objective import Objective
from mlops_hydra.sweeps.live_table import LiveTable
from mlops_hydra.sweeps.so_far import StudySoFar

Mode = Literal["auto", "bar", "plain", "off"]

_REFRESH_SECONDS: Final = 0.1


class Display:
    """Shows a study: enter it, `update` it with all trials before the first is run and then about once a second.

    What is finished at the first update is counted as earlier work and told in one line. Not for several threads.
    `clock` is in seconds, from anywhere.
    """

    def __init__(
        self,
        console: Console,
        *,
        total: int,
        objectives: Sequence[tuple[str, str]],
        mode: Mode = "auto",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        own = tuple(Objective(name, "maximize" if way == "maximize" else "minimize") for name, way in objectives)
        self._console, self._clock = console, clock
        self._so_far = StudySoFar(own, total)
        is_live = mode == "bar" or (mode == "auto" and console.is_terminal)
        self._table = LiveTable(console) if is_live else None
        self._is_off, self._drawn = mode == "off", -_REFRESH_SECONDS
        self._is_first = True

    def __enter__(self) -> Self:
        if self._table:
            self._table.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._table:
            self._table.stop()

    def update(self, trials: Sequence[FrozenTrial]) -> None:
        """Show what is new among all the study's trials; on a terminal at most ten times a second."""
        if self._is_off:
            return
        now = self._clock()
        finished = self._so_far.take(trials, now)
        if self._is_first:
            self._is_first = False
            if finished:
                self.note(self._so_far.earlier())
        elif self._table is None:
            for trial in finished:
                self.note(self._so_far.line(trial))
        if self._table and now - self._drawn >= _REFRESH_SECONDS:
            self._drawn = now
            self._table.draw(self._so_far, now)

    def note(self, text: str) -> None:
        """A line that stays; nothing where the display is off."""
        if not self._is_off:
            self._console.print(Text(text), highlight=False, soft_wrap=True)
