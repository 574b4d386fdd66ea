"""What hears of the training: progress, the record of the run, a user's own callbacks.

An observer is any object with some of the hooks of `Observer`. It may look at everything, and log; what it changes in
the model or the optimizer is its own responsibility.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn
from torch.optim import Optimizer

from mlops_hydra.config.objective import Objective
from mlops_hydra.errors import ConfigError, Fault, nearest


@dataclass(slots=True)
class Training:
    """The state of a training, as observers see it.

    `epoch` and `step` (optimizer updates) count from 1 once the first has begun; `metrics` is what the last epoch
    measured, by recorded name (`train/loss`, `val/accuracy`), and `history` that of all that ended, with its number
    as `epoch`. A training that goes on from a checkpoint starts with what it had.
    """

    model: nn.Module
    optimizer: Optimizer
    objective: Objective
    num_epochs: int | None
    num_steps: int | None
    epoch: int = 0
    step: int = 0
    rows: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    logged: dict[str, float] = field(default_factory=dict)
    best_epoch: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    artifacts: list[Path] = field(default_factory=list)
    should_stop: bool = False

    def stop(self) -> None:
        """End the training with this epoch; the best weights so far are its result."""
        self.should_stop = True

    def log_metric(self, name: str, value: float) -> None:
        """Record a number of your own with this epoch's metrics, also from within a step."""
        self.metrics[name] = self.logged[name] = float(value)

    def log_artifact(self, path: str | Path) -> None:
        """Record a file of your own with the run."""
        self.artifacts.append(Path(path))


class Observer:
    """Hooks that do nothing; inherit and override what you need, or just have methods of these names.

    One that remembers something that the rest of the training depends on has `state_dict()` (tensors and plain values)
    and `load_state_dict(state)`, as torch's objects have: its state is then part of each checkpoint.
    """

    def on_fit_start(self, training: Training) -> None:
        """Before the first step, or before the next one of a training that goes on (then `training.step` is not 0)."""

    def on_step_end(self, training: Training) -> None:
        """After each optimizer update: keep it cheap, and read no tensor's value."""

    def on_epoch_end(self, training: Training) -> None:
        """After each epoch, when `training.metrics` is complete."""

    def on_fit_end(self, training: Training) -> None:
        """After the last epoch, also when training ends with an error."""


HOOKS = ("on_fit_start", "on_step_end", "on_epoch_end", "on_fit_end")


def check_observer(name: str, observer: object) -> None:
    """Raises ConfigError if `observer` has no hook at all, or a method that looks like a misspelt one."""
    methods = [name for name in dir(observer) if name.startswith("on_") and callable(getattr(observer, name))]
    rule = f"an observer has methods among {', '.join(HOOKS)}"
    if unknown := [method for method in methods if method not in HOOKS]:
        raise ConfigError([Fault(f"callbacks.{name}", rule, method, nearest(method, HOOKS)) for method in unknown])
    if not methods:
        raise ConfigError(Fault(f"callbacks.{name}", rule, type(observer).__name__))


class Observers:
    """Calls each hook of each observer that has it, in order."""

    def __init__(self, observers: Sequence[object]) -> None:
        self._hooks = {hook: [getattr(o, hook) for o in observers if _overrides(o, hook)] for hook in HOOKS}
        self._stateful: list[Any] = [observer for observer in observers if hasattr(observer, "state_dict")]

    def tell(self, hook: str, training: Training) -> None:
        """Call `hook` of all observers."""
        for method in self._hooks[hook]:
            try:
                method(training)
            except Exception as error:
                observer = type(getattr(method, "__self__", method)).__name__
                error.add_note(f"in {hook} of the observer {observer}, epoch {training.epoch}, step {training.step}")
                raise

    def tell_the_end(self, training: Training) -> None:
        """Call `on_fit_end` of all observers, even if one of them fails: others may have something to tidy up."""
        with ExitStack() as stack:
            for method in reversed(self._hooks["on_fit_end"]):
                stack.callback(method, training)

    def state(self) -> list[Any]:
        """What those observers remember that have a `state_dict`."""
        return [observer.state_dict() for observer in self._stateful]

    def restore(self, states: Sequence[Mapping[str, Any]]) -> None:
        """The inverse of `state`."""
        for observer, state in zip(self._stateful, states, strict=True):
            observer.load_state_dict(state)

    def hears(self, hook: str) -> bool:
        """Whether anyone listens to `hook`."""
        return bool(self._hooks[hook])


def _overrides(observer: object, hook: str) -> bool:
    method = getattr(observer, hook, None)
    return method is not None and getattr(method, "__func__", method) is not getattr(Observer, hook)
