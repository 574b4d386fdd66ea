"""The table on a terminal while a study runs: counts, the best, the time left, and the last trials.

Not here: what is known of the study (`so_far.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from optuna.trial import FrozenTrial, TrialState
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from mlops_hydra.sweeps.so_far import StudySoFar
from mlops_hydra.sweeps.trial_text import STATES, assignments, error_line, short_names, shown_number

_ROWS: Final = 8
_STYLES: Final = {"complete": "green", "pruned": "yellow", "failed": "red", "running": "cyan", "waiting": "dim"}


class LiveTable:
    """Redrawn in place, without a thread of its own; gone when it stops, as the summary comes after it."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._has_started = False

    def start(self) -> None:
        """Take the lower end of the terminal."""
        with self._survived():
            self._live.start()
            self._has_started = True

    def draw(self, so_far: StudySoFar, now: float) -> None:
        """Show this instead of what is there."""
        with self._survived():
            self._live.update(self._table(so_far, now), refresh=True)

    def stop(self) -> None:
        """Give the terminal back."""
        if not self._has_started:
            return
        with self._survived():
            self._live.stop()

    @contextmanager
    def _survived(self) -> Iterator[None]:
        """A terminal that is closed ends no study."""
        try:
            yield
        except OSError:
            self._console.quiet = True

    def _table(self, so_far: StudySoFar, now: float) -> Group:
        lines = [_counts(so_far, now), *_best(so_far)]
        room = self._console.height - len(lines) - 2
        trials = _latest(so_far, max(1, min(_ROWS, room)))
        return Group(*lines, *([_rows(so_far, trials, now)] if trials else []))


def _counts(so_far: StudySoFar, now: float) -> Text:
    text = Text(no_wrap=True, overflow="ellipsis")
    num_finished = sum(number for state, number in so_far.counts.items() if state.is_finished())
    text.append(f"{num_finished} of {so_far.total} trials", style="bold")
    for state, word in STATES.items():
        if so_far.counts[state]:
            text.append("  ").append(f"{so_far.counts[state]} {word}", style=_STYLES[word])
    left = so_far.seconds_left(now)
    if left is not None and num_finished < so_far.total:
        text.append(f"  {_duration(left)} left", style="dim")
    return text


def _best(so_far: StudySoFar) -> list[Text]:
    """One line for one objective; a line an objective where there are several."""
    lines = []
    for index, objective in enumerate(so_far.objectives if so_far.front else ()):
        best = min(so_far.front, key=lambda trial: objective.sign * trial.values[index])
        text = Text(f"best {objective.metric} ", no_wrap=True, overflow="ellipsis")
        text.append(shown_number(best.values[index]), style="bold").append(f"  trial {best.number}  ")
        lines.append(text.append(assignments(best.params), style="dim"))
    if len(so_far.front) > 1:
        lines.append(Text(f"{len(so_far.front)} trials on the Pareto front"))
    return lines


def _latest(so_far: StudySoFar, most: int) -> list[FrozenTrial]:
    """Those that run, and before them the last that finished."""
    running = [trial for trial in so_far.unfinished if trial.state == TrialState.RUNNING][-most:]
    room = most - len(running)
    return [*(so_far.recent[-room:] if room else []), *running]


def _rows(so_far: StudySoFar, trials: list[FrozenTrial], now: float) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", expand=True)
    table.add_column("trial", justify="right", no_wrap=True)
    table.add_column("state", no_wrap=True)
    for objective in so_far.objectives:
        table.add_column(Text(objective.metric), justify="right", no_wrap=True, max_width=16)
    table.add_column("s", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("parameters", no_wrap=True, overflow="ellipsis", ratio=1)
    names = short_names(list(dict.fromkeys(name for trial in trials for name in trial.params)))
    for trial in trials:
        seconds, status = so_far.seconds(trial, now), str(trial.user_attrs.get("status") or "")
        table.add_row(
            str(trial.number),
            _state(trial),
            *(Text(number) for number in _numbers(so_far, trial)),
            "" if seconds is None else f"{seconds:.1f}",
            Text("" if status == "new" else status),
            Text(error_line(trial), style="red").append(" " * bool(error_line(trial))).append(_params(trial, names)),
        )
    return table


def _state(trial: FrozenTrial) -> Text:
    word = STATES[trial.state]
    shown = trial.state in (TrialState.RUNNING, TrialState.PRUNED) and trial.last_step is not None
    return Text(f"{word}, epoch {trial.last_step}" if shown else word, style=_STYLES[word])


def _numbers(so_far: StudySoFar, trial: FrozenTrial) -> list[str]:
    """The values, or what was last reported of the one objective that is."""
    if trial.state == TrialState.COMPLETE:
        return [shown_number(value) for value in trial.values]
    nothing = trial.last_step is None or trial.state == TrialState.FAIL
    last = "" if nothing else shown_number(trial.intermediate_values[trial.last_step or 0])
    return [last, *("" for _ in so_far.objectives[1:])]


def _params(trial: FrozenTrial, names: dict[str, str]) -> Text:
    return Text(assignments(trial.params, names))


def _duration(seconds: float) -> str:
    """`40 s`, `3:20` or `2:03:20`."""
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest} s"
    return f"{minutes}:{rest:02}" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
