"""What a person sees while a study runs, in a log and on a terminal."""

import io
import sys
import time
from datetime import datetime, timedelta
from typing import Any

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console

from mlops_hydra.sweeps.display import Display, Mode

LOSS = [("val/log_loss", "minimize")]
TWO = [*LOSS, ("val/accuracy", "maximize")]
SPACE = {"optimizer.lr": FloatDistribution(1e-5, 1.0), "model": CategoricalDistribution(["mlp", "[red]linear"])}
START = datetime(2025, 1, 1)


def log(width: int = 100) -> Console:
    return Console(file=io.StringIO(), width=width)


def terminal(height: int = 25) -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=100, height=height, color_system=None)


def written(console: Console) -> str:
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


def trial(number: int, state: TrialState, *values: float, seconds: float = 1.0, **options: Any) -> FrozenTrial:
    """A trial as Optuna hands it over; `options` are user attributes, and `reports`."""
    ended = START + timedelta(seconds=seconds)
    return FrozenTrial(
        number=number,
        trial_id=number,
        state=state,
        value=None,
        values=values or None,
        datetime_start=None if state == TrialState.WAITING else START,
        datetime_complete=ended if state.is_finished() else None,
        params={"optimizer.lr": 0.003, "model": "mlp"},
        distributions=SPACE,
        intermediate_values=options.pop("reports", {}),
        user_attrs=options,
        system_attrs={},
    )


def complete(number: int, *values: float, **options: Any) -> FrozenTrial:
    return trial(number, TrialState.COMPLETE, *values, **options)


def running(number: int, **options: Any) -> FrozenTrial:
    return trial(number, TrialState.RUNNING, **options)


class Clock:
    """Stands still until it is told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def shown(*updates: list[FrozenTrial], objectives: Any = LOSS, total: int = 10, step: float = 1.0) -> str:
    """The last picture on a terminal."""
    clock, console = Clock(), terminal()
    with Display(console, total=total, objectives=objectives, clock=clock) as display:
        for trials in updates:
            display.update(trials)
            before_last, clock.now = clock.now, clock.now + step
        assert before_last
        return written(console).split("\x1b[2K")[-1]


def lines(*updates: list[FrozenTrial], objectives: Any = LOSS, width: int = 100, mode: Mode = "auto") -> list[str]:
    console = log(width)
    with Display(console, total=10, objectives=objectives, mode=mode, clock=Clock()) as display:
        for trials in updates:
            display.update(trials)
    return written(console).splitlines()


@pytest.mark.parametrize("width", [20, 100])
def test_a_log_has_one_line_a_finished_trial_however_narrow_it_is(width: int) -> None:
    first, second = complete(0, 0.0498), complete(1, 0.0512, seconds=1.23)
    assert lines([], [running(0)], [first, running(1)], [first, second], [first, second], width=width) == [
        "trial 0 complete val/log_loss 0.0498 (best 0.0498, trial 0) optimizer.lr=0.003 model=mlp 1.0 s",
        "trial 1 complete val/log_loss 0.0512 (best 0.0498, trial 0) optimizer.lr=0.003 model=mlp 1.2 s",
    ]


def test_pruned_trials_tell_their_epoch_and_failed_ones_the_first_line_of_their_error() -> None:
    pruned = trial(0, TrialState.PRUNED, reports={1: 0.9, 4: 0.7})
    failed = trial(1, TrialState.FAIL, error="NonFiniteError: [bold]NaN[/bold] at epoch 3\nand more", seconds=0.4)
    early, unknown = trial(2, TrialState.PRUNED), trial(3, TrialState.FAIL)
    assert lines([], [pruned, failed, early, unknown]) == [
        "trial 0 pruned at epoch 4 val/log_loss 0.7000 optimizer.lr=0.003 model=mlp 1.0 s",
        "trial 1 failed NonFiniteError: [bold]NaN[/bold] at epoch 3 optimizer.lr=0.003 model=mlp 0.4 s",
        "trial 2 pruned optimizer.lr=0.003 model=mlp 1.0 s",
        "trial 3 failed optimizer.lr=0.003 model=mlp 1.0 s",
    ]


def test_what_was_finished_before_is_counted_in_one_line() -> None:
    before = [complete(0, 0.5), complete(1, 0.4), trial(2, TrialState.FAIL)]
    after = complete(3, 0.6, status="reused", seconds=0.0)
    assert lines(before, [*before, after]) == [
        "from earlier: 2 complete, 1 failed; best 0.4000, trial 1",
        "trial 3 complete val/log_loss 0.6000 (best 0.4000, trial 1) optimizer.lr=0.003 model=mlp 0.0 s reused",
    ]


def test_the_best_follows_the_direction_and_the_first_of_equals_stays() -> None:
    trials = [complete(0, 0.5), complete(1, 0.9), complete(2, 0.9)]
    assert "(best 0.9000, trial 1)" in lines([], trials, objectives=[("val/accuracy", "maximize")])[-1]


def test_several_objectives_tell_the_size_of_the_pareto_front() -> None:
    trials = [complete(0, 0.5, 0.5), complete(1, 0.4, 0.4), complete(2, 0.6, 0.4)]
    assert [
        text.partition("(")[2].partition(")")[0]
        for text in lines([], *(trials[:at] for at in (1, 2, 3)), objectives=TWO)
    ] == [
        "1 on the Pareto front",
        "2 on the Pareto front",
        "2 on the Pareto front",
    ]
    assert "complete val/log_loss 0.6000 val/accuracy 0.4000 " in lines([], trials, objectives=TWO)[-1]


def test_off_is_silent_and_plain_is_plain_on_a_terminal_too() -> None:
    assert lines([], [complete(0, 0.5)], mode="off") == []
    console = terminal()
    with Display(console, total=1, objectives=LOSS, mode="plain", clock=Clock()) as display:
        display.update([])
        display.update([complete(0, 0.5)])
        display.note("a [note]")
    assert written(console).splitlines()[0].startswith("trial 0 complete")
    assert written(console).endswith("a [note]\n")


def test_a_terminal_shows_counts_best_and_the_trials_that_run() -> None:
    trials = [
        complete(0, 0.25, status="reused"),
        trial(1, TrialState.PRUNED, reports={2: 0.75}),
        trial(2, TrialState.FAIL, error="it [broke]"),
        running(3, reports={1: 0.5, 7: 0.375}),
        trial(4, TrialState.WAITING),
    ]
    first, best, _, *rows = (text.strip() for text in shown([], trials).splitlines())
    assert first.startswith("3 of 10 trials  1 complete  1 pruned  1 failed  1 running  1 waiting")
    assert best == "best val/log_loss 0.2500  trial 0  optimizer.lr=0.003 model=mlp"
    assert [text.split() for text in rows] == [
        ["0", "complete", "0.2500", "1.0", "reused", "lr=0.003", "model=mlp"],
        ["1", "pruned,", "epoch", "2", "0.7500", "1.0", "lr=0.003", "model=mlp"],
        ["2", "failed", "1.0", "it", "[broke]", "lr=0.003", "model=mlp"],
        ["3", "running,", "epoch", "7", "0.3750", "0.0", "lr=0.003", "model=mlp"],
    ]


def test_several_objectives_have_a_column_and_a_best_each() -> None:
    text = shown([complete(0, 0.5, 0.75), complete(1, 0.25, 0.5)], objectives=TWO)
    assert "best val/log_loss 0.2500  trial 1" in text
    assert "best val/accuracy 0.7500  trial 0" in text
    assert "2 trials on the Pareto front" in text


def test_the_table_keeps_to_the_last_trials_and_to_the_terminal() -> None:
    trials = [complete(number, 0.5) for number in range(100)]
    assert len(shown(trials, total=100).splitlines()) == 2 + 1 + 8
    console = terminal(height=7)
    with Display(console, total=100, objectives=LOSS, clock=Clock()) as display:
        display.update(trials)
        assert len(written(console).splitlines()) <= 7 + 1  # and the line about what was there before


def test_the_time_left_follows_from_this_session_s_trials_and_how_many_run_at_once() -> None:
    before = [complete(0, 0.5, seconds=500.0)]
    assert "left" not in shown(before, [*before, running(1)])
    two = [running(2), running(3)]
    text = shown(before, [*before, running(1), running(2)], [*before, complete(1, 0.5, seconds=60.0), *two], step=30.0)
    # nine trials were to be done by two at a time, one of them is: (8 * 60 - 30) / 2 seconds are left
    assert "3:45 left" in text


def test_a_reused_trial_costs_what_it_took_here() -> None:
    reused = complete(0, 0.5, seconds=2.0)
    reused.user_attrs["seconds"] = 3600.0
    assert "18 s left" in shown([], [reused])


def test_the_terminal_is_left_as_it_was() -> None:
    console = terminal()
    with pytest.raises(KeyboardInterrupt), Display(console, total=1, objectives=LOSS, clock=Clock()) as display:
        display.update([running(0)])
        raise KeyboardInterrupt
    text = written(console)
    assert text.rfind("\x1b[?25h") > text.rfind("\x1b[?25l")  # the cursor is there again


@pytest.mark.parametrize("num_written", [0, 1, 2, 3])
def test_a_terminal_that_is_gone_ends_no_study(num_written: int) -> None:
    class Gone(io.StringIO):
        left = num_written

        def write(self, text: str) -> int:
            self.left -= 1
            if self.left < 0:
                raise OSError(5, "Input/output error")
            return len(text)

    console, clock, before = Console(file=Gone(), force_terminal=True, width=100), Clock(), (sys.stdout, sys.stderr)
    with Display(console, total=1, objectives=LOSS, clock=clock) as display:
        for _ in range(3):
            display.update([running(0)])
            clock.now += 1
    assert (sys.stdout, sys.stderr) == before


def test_ten_times_a_second_is_often_enough() -> None:
    clock, console = Clock(), terminal()
    with Display(console, total=9, objectives=LOSS, clock=clock) as display:
        display.update([running(0)])
        before = len(written(console))
        clock.now += 0.05
        display.update([running(0)])
        assert len(written(console)) == before
        clock.now += 0.06
        display.update([running(0)])
        assert len(written(console)) > before


def test_a_thousand_known_trials_cost_next_to_nothing() -> None:
    trials = [complete(number, 0.5) for number in range(999)] + [running(999)]
    display = Display(log(), total=1000, objectives=LOSS)
    display.update(trials)
    took = []
    for _ in range(20):
        began = time.perf_counter()
        display.update(trials)
        took.append(time.perf_counter() - began)
    assert min(took) < 0.002  # 0.1 ms when nothing else runs
