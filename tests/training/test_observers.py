"""What hears of the training."""

from pathlib import Path
from typing import Any

import pytest

from mlops_hydra import Observer, Training
from mlops_hydra.errors import ConfigError
from mlops_hydra.training.observers import HOOKS, Observers, check_observer

Fitter = Any  # of conftest.py, which cannot be imported


class OneHook:
    def __init__(self) -> None:
        self.epochs: list[int] = []

    def on_epoch_end(self, training: Training) -> None:
        self.epochs.append(training.epoch)


def test_any_object_with_one_hook_will_do(fitter: Fitter) -> None:
    observer = OneHook()
    check_observer("mine", observer)
    fitter("epochs=3", observers=[observer])
    assert observer.epochs == [1, 2, 3]


def test_a_hook_may_be_set_on_the_object(fitter: Fitter) -> None:
    observer, heard = Observer(), []
    observer.on_epoch_end = lambda training: heard.append(training.epoch)  # type: ignore[method-assign]
    check_observer("mine", observer)
    fitter("epochs=2", observers=[observer])
    assert heard == [1, 2]


def test_observers_are_told_in_order(fitter: Fitter) -> None:
    heard: list[str] = []

    def named(name: str) -> Observer:
        hooks = {hook: lambda *_, hook=hook: heard.append(f"{name} {hook}") for hook in HOOKS}
        return type("Named", (Observer,), hooks)()

    fitter("epochs=1", observers=[named("first"), named("second")])
    assert heard[:2] == ["first on_fit_start", "second on_fit_start"]
    assert heard[-4:] == [f"{name} {hook}" for hook in ("on_epoch_end", "on_fit_end") for name in ("first", "second")]


def test_steps_are_told_only_if_somebody_listens() -> None:
    assert not Observers([OneHook(), Observer()]).hears("on_step_end")
    assert Observers([type("Steps", (), {"on_step_end": lambda *_: None})()]).hears("on_step_end")


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [("on_epoch_ends", "on_epoch_end"), ("on_step", "on_step_end"), ("on_fitstart", "on_fit_start")],
)
@pytest.mark.parametrize("base", [object, Observer])
def test_a_misspelt_hook_is_refused_with_the_nearest_name(base: type, wrong: str, meant: str) -> None:
    observer = type("Mine", (base,), {wrong: lambda *_: None})()
    with pytest.raises(ConfigError, match=rf"callbacks\.mine: .*'{wrong}'\. Did you mean {meant}"):
        check_observer("mine", observer)


def test_an_attribute_that_is_no_method_is_not_a_hook() -> None:
    observer = OneHook()
    observer.on_gpu = True  # type: ignore[attr-defined]
    check_observer("mine", observer)


@pytest.mark.parametrize("thing", [None, 3, object(), "on_epoch_end"])
def test_something_without_a_hook_is_refused(thing: object) -> None:
    with pytest.raises(ConfigError, match=r"callbacks\.mine: an observer has methods among on_fit_start"):
        check_observer("mine", thing)


@pytest.mark.parametrize("hook", ["on_fit_start", "on_step_end", "on_epoch_end"])
def test_a_number_that_is_logged_belongs_to_the_epoch_in_which_it_was(fitter: Fitter, hook: str) -> None:
    def log(self: Any, training: Training) -> None:
        training.log_metric("mine", training.epoch)

    seen = []

    class Last(Observer):
        def on_epoch_end(self, training: Training) -> None:
            seen.append(training.metrics.get("mine"))

    result = fitter("epochs=3", observers=[type("Mine", (), {hook: log})(), Last()])
    expected = [0.0, None, None] if hook == "on_fit_start" else [1.0, 2.0, 3.0]
    assert seen == [epoch.get("mine") for epoch in result.history] == expected


def test_files_that_are_logged_wait_for_the_record() -> None:
    training = Training(None, None, None, 1, None)  # type: ignore[arg-type]
    training.log_artifact("plot.png")
    assert training.artifacts == [Path("plot.png")]


def test_a_number_that_is_none_is_refused_where_it_is_logged() -> None:
    training = Training(None, None, None, 1, None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="could not convert"):
        training.log_metric("mine", "high")  # type: ignore[arg-type]
