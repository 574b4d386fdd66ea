"""`fit`: the training loop.

It receives built objects and knows nothing of configuration files, tracking or studies; what happens besides the
training is done by observers. Nothing synchronises with the device inside a step: losses are read once an epoch.
With `checkpoints` it goes on where an interrupted training of the same run stood, and gives the same bits.

Shapes: outputs `[batch, out_features]`, targets int64 `[batch]` for classes or float32 `[batch, 1]`.
"""

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from mlops_hydra.config.objective import Objective
from mlops_hydra.config.schema import TrainerConfig
from mlops_hydra.errors import DataError, Fault, NonFiniteError
from mlops_hydra.training.batches import Batches
from mlops_hydra.training.checkpoints import Checkpoints
from mlops_hydra.training.interruption import Interruption
from mlops_hydra.training.losses import EpochLosses, NotFiniteLossError, check_loss
from mlops_hydra.training.observers import Observers, Training
from mlops_hydra.training.state import Position, capture, restore_learner, restore_progress
from mlops_hydra.training.stopping import EarlyStopping

Measure = Callable[[Tensor, Tensor], dict[str, float]]
Step = Callable[[nn.Module, Any], Tensor]


@dataclass(frozen=True, slots=True)
class Learner:
    """What is trained, built: the model and everything that moves its weights."""

    model: nn.Module
    optimizer: Optimizer
    loss: Callable[[Tensor, Tensor], Tensor]
    scheduler: Any = None
    schedule_each_step: bool = False
    step: Step | None = None


@dataclass(frozen=True, slots=True)
class FitResult:
    """How it went; the model holds the best weights."""

    history: tuple[dict[str, float], ...]
    best_epoch: int
    best_score: float
    stopped_early: bool
    num_steps: int


def fit(  # noqa: PLR0913  what is trained, on what, how, and who hears of it
    learner: Learner,
    train: Batches,
    val: Batches,
    *,
    settings: TrainerConfig,
    objective: Objective,
    measure: Measure,
    observers: Sequence[object] = (),
    checkpoints: Checkpoints | None = None,
) -> FitResult:
    """Train `learner` on `train`; after each epoch measure it on `val`; keep the weights of the best epoch.

    Args:
        measure: `(outputs, targets)` of the whole validation split -> metrics by name without split.
        observers: see `observers.Observer`.
        checkpoints: where the state is kept and, if there is one, taken from; Ctrl-C and SIGTERM then write one first.

    Raises:
        NonFiniteError: a loss, or the objective, is NaN or infinite.
        TrackingError: the disk does not take a checkpoint.
    """
    return Fit(learner, train, val, settings, objective, measure, Observers(observers), checkpoints).run()


@dataclass(slots=True)
class Fit:
    """One training under way; `state.py` takes it apart and puts it together again."""

    learner: Learner
    train: Batches
    val: Batches
    settings: TrainerConfig
    objective: Objective
    measure: Measure
    observers: Observers
    checkpoints: Checkpoints | None = None
    training: Training = field(init=False)
    stopping: EarlyStopping = field(init=False)
    position: Position = field(init=False, default_factory=Position)
    losses: EpochLosses = field(init=False, default_factory=EpochLosses)
    interruption: Interruption = field(init=False, default_factory=Interruption)
    best: dict[str, Tensor] = field(init=False, default_factory=dict)
    autocast: Callable[[], AbstractContextManager[Any]] = field(init=False)
    forward: nn.Module = field(init=False)

    def __post_init__(self) -> None:
        model, settings = self.learner.model, self.settings
        device = next(model.parameters(), torch.empty(0)).device
        early = settings.early_stopping
        self.training = Training(model, self.learner.optimizer, self.objective, settings.epochs, settings.steps)
        self.stopping = EarlyStopping(early.patience, early.min_delta, self.objective.direction)
        self.autocast = nullcontext
        if settings.precision == "bf16":
            self.autocast = lambda: torch.autocast(device.type, torch.bfloat16)
        self.forward = torch.compile(model) if settings.compile else model  # type: ignore[assignment]

    def run(self) -> FitResult:
        """Train to the end, from the newest checkpoint if there is one."""
        training, kept = self.training, self.checkpoints.load() if self.checkpoints else None
        try:
            if kept is not None:
                restore_progress(self, kept)
            self.observers.tell("on_fit_start", training)
            if kept is not None:  # what an observer did to the model when it started is in what was kept
                restore_learner(self, kept)
                kept = None
            with self.interruption if self.checkpoints else nullcontext():
                self._epochs()
        finally:
            self.observers.tell_the_end(training)
        training.model.load_state_dict(self.best)
        best = math.nan if self.stopping.best is None else self.stopping.best
        early = self._should_stop and not self._is_over()
        return FitResult(tuple(training.history), training.best_epoch, best, early, training.step)

    def _epochs(self) -> None:
        try:
            while self.position.ongoing or not (self._is_over() or self._should_stop):
                self._epoch()
        except RuntimeError:
            self.interruption.carry_out()  # a signal to the whole process group ends loader workers first
            raise

    @property
    def _should_stop(self) -> bool:
        return self.stopping.should_stop or self.training.should_stop

    def _is_over(self) -> bool:
        epochs, steps = self.settings.epochs, self.settings.steps
        return (epochs is not None and self.training.epoch >= epochs) or (
            steps is not None and self.training.step >= steps
        )

    def _epoch(self) -> None:
        """One epoch, or the rest of one."""
        training = self.training
        if not self.position.ongoing:
            training.epoch += 1
            self.losses = EpochLosses()
            self.position = Position(0, True, float(self.learner.optimizer.param_groups[0]["lr"]))
        try:
            training.metrics = {"train/loss": self._train(), "train/lr": self.position.rate}
        except NotFiniteLossError as found:
            self._fail("train/loss", found.loss, step=found.step)
        training.metrics |= {f"val/{name}": value for name, value in self._validate().items()}
        score = training.metrics.get(f"val/{self.objective.metric}", math.nan)
        self.stopping = self.stopping.step(score)
        if self.stopping.improved:
            training.best_epoch = training.epoch
            self.best = {name: _copied(value) for name, value in training.model.state_dict().items()}
        training.metrics |= training.logged
        self.observers.tell("on_epoch_end", training)
        training.logged.clear()
        training.history.append({"epoch": training.epoch, **training.metrics})
        if not math.isfinite(score):
            self._fail(f"val/{self.objective.metric}", score, step=training.step)
        self._schedule_epoch(score)
        self.position = Position()
        if self.checkpoints is not None:
            self._pause(self.checkpoints, epoch_ended=True)

    def _is_finite(self) -> bool:
        weights = (p for p in self.training.model.parameters() if p.is_floating_point())
        return self.losses.is_finite() and all(bool(torch.isfinite(weight).all()) for weight in weights)

    def _pause_after_step(self, num_batches: int) -> None:
        if self.checkpoints is not None:
            self.position = Position(num_batches, True, self.position.rate)
            self._pause(self.checkpoints)

    def _pause(self, checkpoints: Checkpoints, *, epoch_ended: bool = False) -> None:
        """Between two steps, or two epochs: a checkpoint if one is due, and an end if a signal asked for it."""
        training, asked = self.training, self.interruption.requested is not None
        is_stopped = epoch_ended and training.should_stop  # who asks for an end may want to go on from it later
        due = asked or is_stopped or checkpoints.is_due(training.epoch, training.step, epoch_ended=epoch_ended)
        if due and self._is_finite():  # nothing good comes after NaN: a cause that passes is worth another try
            checkpoints.save(capture(self), best_epoch=training.best_epoch, best=self.best)
        if asked:
            self.interruption.carry_out()

    def _train(self) -> float:
        """One pass over the training split; the mean loss a row."""
        training, optimizer, pause = self.training, self.learner.optimizer, self._pause_after_step
        loss_of = self._loss_function()
        hears_steps = self.observers.hears("on_step_end")
        clip, scheduler = self.settings.clip_norm, self.learner.scheduler if self.learner.schedule_each_step else None
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        taken, losses = self.position.num_batches, self.losses
        self.forward.train()
        for group in _grouped(self.train.epoch(training.epoch, taken), self.settings.accumulate):
            for parameter in parameters:
                parameter.grad = None  # what zero_grad does, without its 8 us of profiling hooks
            rows_in_group = sum(map(rows_of, group)) if len(group) > 1 else 0
            for batch in group:
                loss, rows = loss_of(batch)
                if training.step == 0:
                    check_loss(loss, "trainer.step" if self.learner.step else "trainer.loss")
                torch.autograd.backward(loss * (rows / rows_in_group) if rows_in_group else loss)
                losses.add(loss.detach(), rows, training.step + 1)
                training.rows += rows
            if clip is not None:
                nn.utils.clip_grad_norm_(parameters, clip)
            optimizer.step()
            training.step += 1
            if scheduler is not None:
                scheduler.step()
            if hears_steps:
                self.observers.tell("on_step_end", training)
            if training.step == self.settings.steps:
                break
            taken += len(group)
            pause(taken)
        if losses.num_rows == 0:
            rule = f"the training split gave no rows in epoch {training.epoch}; can it be iterated more than once?"
            raise DataError(Fault("data.source", rule))
        return losses.mean()

    def _loss_function(self) -> Callable[[Any], tuple[Tensor, int]]:
        """`batch -> (loss, rows)`."""
        forward, loss, split, step = self.forward, self.learner.loss, self.train.forward, self.learner.step
        if step is not None:

            def stepped(batch: Any) -> tuple[Tensor, int]:
                with self.autocast():
                    return step(forward, batch), rows_of(batch)

            return stepped
        if self.autocast is nullcontext:

            def plain(batch: Any) -> tuple[Tensor, int]:
                outputs, targets = split(forward, batch)
                return loss(outputs, targets), len(targets)

            return plain

        def mixed(batch: Any) -> tuple[Tensor, int]:
            with self.autocast():
                outputs, targets = split(forward, batch)
            return loss(outputs.float(), targets), len(targets)

        return mixed

    def _validate(self) -> dict[str, float]:
        """Metrics on the validation split, and `loss`, from one pass."""
        outputs, targets = predict(self.forward, self.val, self.autocast)
        loss = self.learner.loss(outputs, targets).item()
        return {"loss": loss, **self.measure(outputs, targets)}

    def _schedule_epoch(self, score: float) -> None:
        scheduler = self.learner.scheduler
        if scheduler is None or self.learner.schedule_each_step:
            return
        if isinstance(scheduler, ReduceLROnPlateau):
            scheduler.step(score)
        else:
            scheduler.step()

    def _fail(self, what: str, value: float, *, step: int) -> NoReturn:
        training = self.training
        best = f"; the best epoch so far was {training.best_epoch}" if training.best_epoch else ""
        hint = "try a smaller optimizer.lr or trainer.clip_norm=1"
        message = f"{what} is {value} in epoch {training.epoch}, step {step}{best}; {hint}"
        raise NonFiniteError(message, epoch=training.epoch, step=step)


def _grouped(batches: Iterator[Any], size: int) -> Iterator[Sequence[Any]]:
    """Batches in tuples of `size`; the last may be smaller."""
    if size == 1:
        for batch in batches:
            yield (batch,)
        return
    group: list[Any] = []
    for batch in batches:
        group.append(batch)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def _copied(value: Any) -> Any:
    """An entry of a state dict; extra state may be anything."""
    return value.detach().clone() if isinstance(value, Tensor) else copy.deepcopy(value)


def rows_of(batch: Any) -> int:
    """Rows in a collated batch of any form: a list of lists of numbers is collated column by column."""
    if isinstance(batch, Mapping):
        return rows_of(next(iter(batch.values())))
    if isinstance(batch, list | tuple) and not isinstance(batch[-1], str | bytes):
        return rows_of(batch[-1])
    return len(batch)


@torch.no_grad()
def predict(
    model: nn.Module, batches: Batches, autocast: Callable[[], AbstractContextManager[Any]] = nullcontext
) -> tuple[Tensor, Tensor]:
    """`(outputs [n, out_features] float32, targets [n] or [n, 1])` of a whole split, in order, in evaluation mode."""
    model.eval()
    outputs, targets = [], []
    for batch in batches.epoch(0):
        with autocast():
            output, target = batches.forward(model, batch)
        outputs.append(output.float())
        targets.append(target)
    if not outputs:
        raise DataError(
            Fault("data.source", "a split that is predicted gave no rows; can it be iterated more than once?")
        )
    if len(outputs) == 1:
        return outputs[0], targets[0]
    return torch.cat(outputs), torch.cat(targets)
