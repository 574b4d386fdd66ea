"""Progress for people: a bar on a terminal, a plain line an epoch in a log."""

import time
from collections.abc import Callable
from typing import Final, Literal

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from mlops_hydra.training.observers import Observer, Training

_REFRESH_SECONDS: Final = 0.1


def make_progress(mode: Literal["auto", "bar", "plain", "off"], console: Console) -> Observer:
    """The observer for `progress=mode`."""
    if mode == "off":
        return Observer()
    if mode == "bar" or (mode == "auto" and console.is_terminal):
        return ProgressBar(console)
    return PlainProgress(console)


class PlainProgress(Observer):
    """One line an epoch: `epoch 3/100  train/loss 0.1234  val/log_loss 0.1180  best 2  12,300 rows/s`."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.perf_counter) -> None:
        self._console, self._clock = console, clock
        self._began, self._rows = 0.0, 0

    def on_fit_start(self, training: Training) -> None:
        """Start the clock."""
        self._began, self._rows = self._clock(), training.rows

    def on_epoch_end(self, training: Training) -> None:
        """Print the epoch."""
        total = f"/{training.num_epochs}" if training.num_epochs else ""
        speed = (training.rows - self._rows) / max(self._clock() - self._began, 1e-9)
        line = f"epoch {training.epoch}{total}  {_numbers(training)}  best {training.best_epoch}  {speed:,.0f} rows/s"
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)


class ProgressBar(Observer):
    """A bar over epochs (or steps) with loss, objective, rows a second and the time left."""

    def __init__(self, console: Console) -> None:
        columns: list[ProgressColumn] = [TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[at]}")]
        columns += [TextColumn("{task.fields[numbers]}", markup=False), _Speed(), TimeRemainingColumn(compact=True)]
        self._progress = Progress(*columns, console=console, transient=True)
        self._task = self._progress.add_task("training", total=None, at="", numbers="", rows=0)
        self._drawn, self._rows = 0.0, 0

    def on_fit_start(self, training: Training) -> None:
        """Show the bar."""
        self._rows = training.rows
        self._progress.update(self._task, total=training.num_steps or training.num_epochs)
        self._progress.start()

    def on_step_end(self, training: Training) -> None:
        """Draw a few times a second, however long an epoch takes."""
        now = time.perf_counter()
        if now - self._drawn >= _REFRESH_SECONDS:
            self._drawn = now
            self._update(training)

    def on_epoch_end(self, training: Training) -> None:
        """Draw the epoch's numbers."""
        self._update(training)

    def on_fit_end(self, training: Training) -> None:
        """Remove the bar; the summary comes after it."""
        self._progress.stop()

    def _update(self, training: Training) -> None:
        done = training.step if training.num_steps else training.epoch
        at = (
            f"step {training.step}/{training.num_steps}"
            if training.num_steps
            else f"epoch {done}/{training.num_epochs}"
        )
        self._progress.update(
            self._task,
            completed=done,
            at=at,
            numbers=_numbers(training),
            rows=training.rows - self._rows,
            refresh=False,
        )


class _Speed(ProgressColumn):
    """Training rows a second since the start."""

    def render(self, task: Task) -> Text:
        elapsed = task.elapsed or 0.0
        return Text(f"{task.fields['rows'] / elapsed:,.0f} rows/s" if elapsed else "")


def _numbers(training: Training) -> str:
    names = ("train/loss", f"val/{training.objective.metric}")
    return "  ".join(f"{name} {training.metrics[name]:.4f}" for name in names if name in training.metrics)
