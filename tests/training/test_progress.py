"""What a person sees while it trains."""

import io
import re
from typing import Any

import pytest
from rich.console import Console

from mlops_hydra import Observer, Training
from mlops_hydra.config.objective import Objective
from mlops_hydra.training.progress import PlainProgress, ProgressBar, make_progress

Fitter = Any  # of conftest.py, which cannot be imported


def terminal() -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=120)


def log(width: int = 80) -> Console:
    return Console(file=io.StringIO(), width=width)


def written(console: Console) -> str:
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


def test_auto_is_a_bar_on_a_terminal_and_lines_in_a_log() -> None:
    assert isinstance(make_progress("auto", terminal()), ProgressBar)
    assert isinstance(make_progress("auto", log()), PlainProgress)
    assert isinstance(make_progress("bar", log()), ProgressBar)
    assert isinstance(make_progress("plain", terminal()), PlainProgress)
    assert type(make_progress("off", terminal())) is Observer


@pytest.mark.parametrize("width", [20, 80])
def test_a_log_has_one_line_an_epoch_however_narrow_it_is(fitter: Fitter, width: int) -> None:
    console = log(width)
    result = fitter("epochs=3", observers=[PlainProgress(console)])
    lines = written(console).splitlines()
    assert len(lines) == 3
    for epoch, line in zip(result.history, lines, strict=True):
        number = r"\d+\.\d{4}"
        pattern = rf"epoch (\d)/3  train/loss ({number})  val/log_loss ({number})  best \d  [\d,]+ rows/s"
        match = re.fullmatch(pattern, line)
        assert match
        assert int(match[1]) == epoch["epoch"]
        assert float(match[2]) == pytest.approx(epoch["train/loss"], abs=1e-4)
        assert float(match[3]) == pytest.approx(epoch["val/log_loss"], abs=1e-4)


def test_speed_is_rows_over_time_since_the_start(fitter: Fitter) -> None:
    console, ticks = log(), iter([10.0, 12.0, 15.0])
    fitter("epochs=2", observers=[PlainProgress(console, clock=lambda: next(ticks))])
    assert [line.split("  ")[-1] for line in written(console).splitlines()] == ["25 rows/s", "20 rows/s"]


def test_names_with_brackets_are_printed_as_they_are() -> None:
    training = Training(None, None, Objective("[/b]mine", "minimize"), 1, None)  # type: ignore[arg-type]
    training.metrics = {"train/loss": 1.0, "val/[/b]mine": 2.0}
    for console in (log(), terminal()):
        for observer in (PlainProgress(console), ProgressBar(console)):
            for hook in ("on_fit_start", "on_epoch_end", "on_fit_end"):
                getattr(observer, hook)(training)
        assert "val/[/b]mine 2.0000" in written(console)


@pytest.mark.parametrize("options", [("epochs=3",), ("epochs=null", "steps=9")])
def test_the_bar_shows_numbers_and_time_left_and_leaves_nothing_behind(
    fitter: Fitter, options: tuple[str, ...]
) -> None:
    console = terminal()
    shown = []

    class Looking(Observer):
        def on_epoch_end(self, training: Training) -> None:
            with console.capture() as capture:
                console.print(bar._progress.get_renderable())
            shown.append(re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", capture.get()))

    bar = ProgressBar(console)
    fitter(*options, observers=[bar, Looking()])
    assert len(shown) == 3
    unit = "epoch 2/3" if options == ("epochs=3",) else "step 8/9"
    assert unit in shown[1]
    assert re.search(r"train/loss \d\.\d{4}  val/log_loss \d\.\d{4}", shown[1])
    assert re.search(r"[\d,]+ rows/s", shown[1])
    assert re.search(r"\d\d:\d\d|-:--", shown[1])
    assert "\x1b[?25h" in written(console).rpartition("\x1b[?25l")[2]  # the cursor is back
    assert bar._progress.live.is_started is False


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_the_bar_is_gone_when_training_ends_with_an_error(fitter: Fitter, error: type[BaseException]) -> None:
    class Interrupting(Observer):
        def on_epoch_end(self, training: Training) -> None:
            raise error

    bar = ProgressBar(terminal())
    with pytest.raises(error):
        fitter("epochs=3", observers=[Interrupting(), bar])
    assert bar._progress.live.is_started is False
