"""The training loop against loops written by hand, and what happens when something goes wrong in it."""

import copy
import gc
import math
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau, StepLR
from torch.utils.data import Dataset, IterableDataset

from mlops_hydra import Observer, Training
from mlops_hydra.config.objective import Objective
from mlops_hydra.errors import ConfigError, DataError, NonFiniteError
from mlops_hydra.training.batches import LoaderBatches, TensorBatches
from mlops_hydra.training.loop import predict, rows_of
from mlops_hydra.training.losses import EpochLosses

PATIENT = "early_stopping.patience=null"
Fitter = Any  # of conftest.py, which cannot be imported


class Recorder(Observer):
    """Keeps what it hears, and the weights after each epoch."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.weights: list[dict[str, Tensor]] = []
        self.rates: list[float] = []
        self.metrics: list[dict[str, float]] = []

    def on_fit_start(self, training: Training) -> None:
        self.heard.append("start")

    def on_step_end(self, training: Training) -> None:
        self.heard.append("step")
        self.rates.append(training.optimizer.param_groups[0]["lr"])

    def on_epoch_end(self, training: Training) -> None:
        self.heard.append("epoch")
        self.weights.append(copy.deepcopy(training.model.state_dict()))
        self.metrics.append(dict(training.metrics))

    def on_fit_end(self, training: Training) -> None:
        self.heard.append("end")


class Failing(nn.Module):
    """Cross entropy, but for what the given calls give (counted from 1, while training)."""

    def __init__(self, value: float, *calls: int) -> None:
        super().__init__()
        self.value, self.calls, self.count = value, calls, 0

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        loss = nn.functional.cross_entropy(outputs, targets)
        self.count += outputs.requires_grad
        return loss * self.value if self.count in self.calls and outputs.requires_grad else loss


def measure_of(values: tuple[float, ...], name: str = "own") -> Callable[[Tensor, Tensor], dict[str, float]]:
    left = iter(values)
    return lambda *_: {name: float(next(left))}


def by_hand(fitter: Fitter, *, epochs: int, clip: float | None = None, lr: float = 0.1) -> nn.Module:
    model = fitter.fresh()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    for epoch in range(1, epochs + 1):
        for inputs, targets in fitter.train.epoch(epoch):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), targets).backward()
            if clip:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
    return model


def assert_same(first: nn.Module | dict[str, Tensor], second: nn.Module | dict[str, Tensor], **close: float) -> None:
    a, b = (m.state_dict() if isinstance(m, nn.Module) else m for m in (first, second))
    for name in a:
        torch.testing.assert_close(a[name], b[name], **(close or {"rtol": 0, "atol": 0}))


@pytest.mark.parametrize("clip", [None, 0.05])
def test_it_gives_the_bits_that_a_loop_written_by_hand_gives(fitter: Fitter, clip: float | None) -> None:
    last_is_best = measure_of((4, 3, 2, 1), "log_loss")
    fitter("epochs=4", f"clip_norm={clip or 'null'}", PATIENT, measure=last_is_best)
    assert_same(fitter.model, by_hand(fitter, epochs=4, clip=clip))


def test_clipping_bounds_the_way_of_each_step(fitter: Fitter) -> None:
    ways = []
    last = [parameter.detach().clone() for parameter in fitter.fresh().parameters()]

    class Ways(Observer):
        def on_step_end(self, training: Training) -> None:
            now = [parameter.detach().clone() for parameter in training.model.parameters()]
            ways.append(math.sqrt(sum(float((a - b).square().sum()) for a, b in zip(now, last, strict=True))))
            last[:] = now

    fitter("epochs=2", "clip_norm=0.05", observers=[Ways()], lr=1.0)
    assert len(ways) == 8
    assert max(ways) <= 0.05 * (1 + 1e-3)
    assert min(ways) > 0.04  # gradients here are larger than that: it was the clipping


def test_epochs_are_passes_over_all_rows(fitter: Fitter) -> None:
    recorder = Recorder()
    result = fitter("epochs=3", PATIENT, observers=[recorder])
    assert recorder.heard == ["start", *(["step"] * 4 + ["epoch"]) * 3, "end"]
    assert result.num_steps == 12
    assert [epoch["epoch"] for epoch in result.history] == [1, 2, 3]
    assert not result.stopped_early


@pytest.mark.parametrize(("accumulate", "steps_an_epoch"), [(1, 4), (3, 2)])
@pytest.mark.parametrize("steps", [1, 4, 6])
def test_steps_are_optimizer_updates_and_end_within_an_epoch(
    fitter: Fitter, steps: int, accumulate: int, steps_an_epoch: int
) -> None:
    recorder = Recorder()
    result = fitter(
        "epochs=null", f"steps={steps}", f"accumulate={accumulate}", PATIENT, observers=[recorder]
    )  # fmt: skip
    assert result.num_steps == recorder.heard.count("step") == steps
    assert len(result.history) == math.ceil(steps / steps_an_epoch)


@pytest.mark.parametrize("num_rows", [48, 50, 37, 33])
def test_accumulation_is_a_larger_batch(fitter: Fitter, points: tuple[Tensor, Tensor], num_rows: int) -> None:
    """Also where the last batch is smaller: each row counts the same."""
    inputs, targets = points[0][:num_rows], points[1][:num_rows]
    models = []
    for accumulate in (1, 4):
        train = TensorBatches((inputs,), targets, 32 // accumulate, shuffle_seed=3)
        result = fitter("epochs=3", f"accumulate={accumulate}", PATIENT, train=train)
        models.append((fitter.model, result))
    assert_same(models[0][0], models[1][0], rtol=1e-4, atol=1e-5)
    assert models[0][1].num_steps == models[1][1].num_steps
    assert models[0][1].history[-1]["train/loss"] == pytest.approx(models[1][1].history[-1]["train/loss"], rel=1e-4)


def test_the_training_loss_is_the_mean_over_rows_not_over_batches(fitter: Fitter) -> None:
    """Nothing is learnt at lr=0, so each epoch's mean is the loss of all rows."""
    result = fitter("epochs=2", lr=0.0)
    (inputs,), targets = fitter.train.inputs, fitter.train.targets
    expected = nn.functional.cross_entropy(fitter.model(inputs), targets).item()
    assert [epoch["train/loss"] for epoch in result.history] == pytest.approx([expected] * 2, rel=1e-6)


def test_validation_loss_and_metrics_are_those_of_the_whole_split_in_evaluation_mode(fitter: Fitter) -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.BatchNorm1d(8), nn.Linear(8, 2))
    result = fitter("epochs=1", model=model)
    (inputs,), targets = fitter.val.inputs, fitter.val.targets
    expected = nn.functional.cross_entropy(model.eval()(inputs), targets).item()
    assert result.history[0]["val/loss"] == pytest.approx(expected, rel=1e-6)
    assert result.history[0]["val/log_loss"] == pytest.approx(expected, rel=1e-5)


def test_dropout_is_on_while_training_in_every_epoch(fitter: Fitter) -> None:
    modes = []

    class Spying(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:  # noqa: A002
            modes.append(self.training)
            return super().forward(input)

    fitter("epochs=2", model=Spying(4, 2))
    assert modes == ([True] * 4 + [False]) * 2
    assert not fitter.model.training


@pytest.mark.parametrize(
    ("direction", "values", "best"),
    [("minimize", (3, 1, 2, 0.5, 4), 4), ("maximize", (3, 1, 5, 5, 4), 3), ("minimize", (1, 2, 3, 4, 5), 1)],
)
def test_the_weights_of_the_best_epoch_are_kept(
    fitter: Fitter, direction: Any, values: tuple[float, ...], best: int
) -> None:
    recorder = Recorder()
    result = fitter(
        "epochs=5", PATIENT, observers=[recorder], objective=Objective("own", direction), measure=measure_of(values)
    )
    assert result.best_epoch == best
    assert result.best_score == values[best - 1]
    assert_same(fitter.model, recorder.weights[best - 1])
    assert len(recorder.weights) == 5


def test_it_stops_when_patience_is_used_up_and_says_so(fitter: Fitter) -> None:
    result = fitter("epochs=9", "early_stopping.patience=2", measure=measure_of((3, 1, 2, 2, 0), "log_loss"))
    assert len(result.history) == 4
    assert result.stopped_early
    assert result.best_epoch == 2


def test_a_change_below_min_delta_neither_counts_nor_moves_the_best(fitter: Fitter) -> None:
    options = ("epochs=9", "early_stopping.patience=2", "early_stopping.min_delta=0.5")
    result = fitter(*options, measure=measure_of((3, 2.9, 2.8, 0), "log_loss"))
    assert (result.best_epoch, len(result.history)) == (1, 3)


def test_an_observer_may_end_it_after_an_epoch_and_the_best_weights_are_kept(fitter: Fitter) -> None:
    class Impatient(Observer):
        def on_epoch_end(self, training: Training) -> None:
            if training.epoch == 2:
                training.stop()

    recorder = Recorder()
    result = fitter("epochs=5", PATIENT, measure=measure_of((1, 2), "log_loss"), observers=[recorder, Impatient()])
    assert len(result.history) == 2 and result.stopped_early and result.best_epoch == 1
    assert_same(fitter.model, recorder.weights[0])
    assert recorder.heard.count("epoch") == 2 and recorder.heard[-1] == "end"


def test_patience_that_runs_out_in_the_last_epoch_is_not_early(fitter: Fitter) -> None:
    result = fitter("epochs=3", "early_stopping.patience=2", measure=measure_of((1, 2, 3), "log_loss"))
    assert not result.stopped_early


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_names_epoch_and_step(fitter: Fitter, value: float, accumulate: int) -> None:
    """4 batches an epoch: call 7 is the third of the second epoch."""
    recorder = Recorder()
    with pytest.raises(NonFiniteError, match=r"train/loss is -?(nan|inf) in epoch 2, step") as caught:
        fitter("epochs=5", f"accumulate={accumulate}", loss=Failing(value, 7), observers=[recorder])
    assert caught.value.epoch == 2
    assert caught.value.step == (7 if accumulate == 1 else 3)
    assert f"step {caught.value.step}" in str(caught.value)
    assert "trainer.clip_norm" in str(caught.value)
    assert recorder.heard[-1] == "end"
    assert len(recorder.metrics) == 1  # the first epoch was told before


def test_a_loss_that_is_not_finite_is_noticed_and_named_in_a_very_long_epoch(fitter: Fitter) -> None:
    inputs = torch.randn(3000, 4)
    train = TensorBatches((inputs,), torch.zeros(3000, dtype=torch.int64), 1)
    recorder = Recorder()
    with pytest.raises(NonFiniteError) as caught:
        fitter("epochs=1", train=train, loss=Failing(math.nan, 1100), observers=[recorder])
    assert (caught.value.epoch, caught.value.step) == (1, 1100)
    assert recorder.heard.count("step") < 2100  # not only after the whole epoch


def test_an_objective_that_is_not_finite_ends_the_training_after_it_was_told(fitter: Fitter) -> None:
    recorder = Recorder()
    with pytest.raises(NonFiniteError, match="val/log_loss is nan in epoch 2, step 8; the best epoch so far was 1"):
        fitter("epochs=5", PATIENT, observers=[recorder], measure=measure_of((1.0, math.nan), "log_loss"))
    assert recorder.heard[-2:] == ["epoch", "end"]
    assert math.isnan(recorder.metrics[1]["val/log_loss"])


def test_an_objective_that_nothing_measures_is_not_finite(fitter: Fitter) -> None:
    with pytest.raises(NonFiniteError, match="val/other is nan"):
        fitter("epochs=2", objective=Objective("other", "minimize"))


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ZeroDivisionError])
@pytest.mark.parametrize("hook", ["on_fit_start", "on_step_end", "on_epoch_end"])
def test_an_interruption_passes_through_and_all_observers_hear_the_end(
    fitter: Fitter, hook: str, error: type[BaseException]
) -> None:
    def interrupt(training: Training) -> None:
        raise error

    recorder = Recorder()
    interrupting = type("Interrupting", (), {hook: staticmethod(interrupt)})()
    with pytest.raises(error):
        fitter("epochs=3", observers=[interrupting, recorder])
    assert recorder.heard[-1] == "end"
    assert recorder.heard.count("end") == 1


def test_an_observer_that_fails_at_the_end_hides_nothing_from_the_others(fitter: Fitter) -> None:
    class Clumsy:
        def on_fit_end(self, training: Training) -> None:
            raise ZeroDivisionError

    recorder = Recorder()
    with pytest.raises(ZeroDivisionError):
        fitter("epochs=1", observers=[Clumsy(), recorder])
    assert recorder.heard[-1] == "end"


def test_a_scheduler_moves_each_step_or_each_epoch(fitter: Fitter) -> None:
    for each_step, expected in ((True, [0.05, 0.025, 0.0125, 0.00625]), (False, [0.1, 0.1, 0.1, 0.1])):
        recorder = Recorder()
        result = fitter(
            "epochs=2",
            observers=[recorder],
            scheduler=lambda optimizer: StepLR(optimizer, 1, 0.5),
            schedule_each_step=each_step,
        )
        assert recorder.rates[:4] == pytest.approx(expected)
        assert recorder.rates[4] == pytest.approx(0.1 / 2**5 if each_step else 0.05)
        assert result.history[0]["train/lr"] == 0.1
        assert result.history[1]["train/lr"] == pytest.approx(0.1 / 2**4 if each_step else 0.05)


@pytest.mark.parametrize(("mode", "rates"), [("min", [1.0, 1.0, 0.1, 0.01]), ("max", [1.0, 1.0, 1.0, 0.1])])
def test_plateau_hears_the_objective(fitter: Fitter, mode: Any, rates: list[float]) -> None:
    result = fitter(
        "epochs=4",
        PATIENT,
        lr=1.0,
        measure=measure_of((1, 2, 1, 9), "own"),
        objective=Objective("own", "minimize" if mode == "min" else "maximize"),
        scheduler=lambda optimizer: ReduceLROnPlateau(optimizer, mode=mode, patience=0),
    )
    assert [epoch["train/lr"] for epoch in result.history] == pytest.approx(rates)


class Sentences(Dataset[Any]):
    """Dicts of text and numbers."""

    def __len__(self) -> int:
        return 20

    def __getitem__(self, row: int) -> dict[str, Any]:
        return {"text": f"row {row}", "x": torch.tensor([row / 20, 1.0]), "label": row % 2}


def test_a_users_step_gets_whole_batches_and_its_rows_are_counted(fitter: Fitter) -> None:
    seen = []

    def step(model: nn.Module, batch: dict[str, Any]) -> Tensor:
        seen.append(len(batch["text"]))
        return nn.functional.cross_entropy(model(batch["x"]), batch["label"])

    class Rows(Observer):
        def on_fit_end(self, training: Training) -> None:
            assert training.rows == 40

    train = LoaderBatches(Sentences(), batch_size=8, seed=0, shuffle=True)
    val = TensorBatches((torch.zeros(4, 2),), torch.tensor([0, 1, 0, 1]), 8)
    fitter("epochs=2", model=nn.Linear(2, 2), train=train, val=val, step=step, observers=[Rows()])
    assert seen == [8, 8, 4] * 2


def test_a_users_step_gets_pairs_from_tensors_in_memory(fitter: Fitter) -> None:
    def step(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        inputs, targets = batch
        return nn.functional.cross_entropy(model(inputs), targets)

    fitter("epochs=2", PATIENT, step=step, measure=measure_of((2, 1), "log_loss"))
    assert_same(fitter.model, by_hand(fitter, epochs=2))


@pytest.mark.parametrize(
    ("loss", "what"),
    [
        (lambda outputs, targets: nn.functional.cross_entropy(outputs, targets, reduction="none"), "scalar tensor"),
        (lambda outputs, targets: nn.functional.cross_entropy(outputs, targets).item(), "scalar tensor.*got 'float'"),
        (lambda *_: None, "scalar tensor.*got 'NoneType'"),
        (lambda outputs, targets: nn.functional.cross_entropy(outputs.detach(), targets), "without a gradient"),
    ],
    ids=["many", "float", "none", "detached"],
)
def test_a_loss_that_cannot_be_followed_is_refused_in_words(fitter: Fitter, loss: Any, what: str) -> None:
    with pytest.raises(ConfigError, match=rf"trainer\.loss: .*{what}"):
        fitter("epochs=1", loss=loss)
    with pytest.raises(ConfigError, match=rf"trainer\.step: .*{what}"):
        fitter("epochs=1", step=lambda model, batch: loss(model(batch[0]), batch[1]))


def test_a_loss_of_one_element_is_a_scalar(fitter: Fitter) -> None:
    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return nn.functional.cross_entropy(outputs, targets).reshape(1)

    fitter("epochs=2", PATIENT, loss=loss, measure=measure_of((2, 1), "log_loss"))
    assert_same(fitter.model, by_hand(fitter, epochs=2))


def test_bf16_computes_in_bf16_learns_and_keeps_float32_weights(fitter: Fitter) -> None:
    dtypes = set()

    class Spying(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:  # noqa: A002
            output = super().forward(input)
            dtypes.add(output.dtype)
            return output

    result = fitter("epochs=20", "precision=bf16", PATIENT, model=Spying(4, 2))
    assert dtypes == {torch.bfloat16}
    assert result.best_score < 0.6 * math.log(2)
    assert all(parameter.dtype == torch.float32 for parameter in fitter.model.parameters())


def test_bf16_holds_for_a_users_step_too(fitter: Fitter) -> None:
    dtypes = set()

    def step(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        outputs = model(batch[0])
        dtypes.add(outputs.dtype)
        return nn.functional.cross_entropy(outputs, batch[1])

    fitter("epochs=1", "precision=bf16", step=step)
    assert dtypes == {torch.bfloat16}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")  # torch's compiler uses what torch deprecates
def test_a_compiled_model_learns_the_same_and_its_weights_have_their_names(fitter: Fitter) -> None:
    """Compiling takes a C++ compiler and tens of seconds."""
    plain = fitter("epochs=2", PATIENT)
    weights = fitter.model.state_dict()
    compiled = fitter("epochs=2", PATIENT, "compile=true")
    assert_same(fitter.model, weights, rtol=1e-4, atol=1e-5)
    assert compiled.best_score == pytest.approx(plain.best_score, rel=1e-4)


class Flow(IterableDataset[Any]):
    """A stream of `num_rows`, which comes once only unless `again`."""

    def __init__(self, num_rows: int, *, again: bool = True) -> None:
        self.num_rows, self.again, self.left = num_rows, again, iter(range(num_rows))

    def __iter__(self) -> Iterator[Any]:
        for row in range(self.num_rows) if self.again else self.left:
            yield torch.tensor([float(row), 1, 2, 3]) / 9, row % 2


def flowing(num_rows: int, **options: Any) -> LoaderBatches:
    return LoaderBatches(Flow(num_rows, **options), batch_size=4, seed=0, shuffle=False)


def test_a_stream_trains_by_steps(fitter: Fitter) -> None:
    result = fitter("epochs=null", "steps=7", PATIENT, train=flowing(9), val=flowing(5))
    assert result.num_steps == 7
    assert len(result.history) == 4  # 9 rows are 2 batches of 4 and 5


def test_a_stream_that_has_run_dry_is_an_error_not_an_endless_loop(fitter: Fitter) -> None:
    with pytest.raises(DataError, match="gave no rows in epoch 2; can it be iterated more than once"):
        fitter("epochs=null", "steps=100", PATIENT, train=flowing(9, again=False))
    with pytest.raises(DataError, match="gave no rows in epoch 1"):
        fitter("epochs=3", train=flowing(0))
    with pytest.raises(DataError, match="gave no rows"):
        fitter("epochs=3", val=flowing(0))


@pytest.mark.parametrize("num_rows", [5, 9, 33])
def test_batch_normalisation_survives_a_last_row_on_its_own(fitter: Fitter, num_rows: int) -> None:
    def model() -> nn.Module:
        return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))

    inputs = torch.randn(num_rows, 4)
    fitter("epochs=2", model=model(), train=TensorBatches((inputs,), torch.arange(num_rows) % 2, 4, shuffle_seed=0))
    fitter("epochs=2", model=model(), train=flowing(num_rows))


def test_state_that_is_no_tensor_is_kept_and_given_back(fitter: Fitter) -> None:
    class Counting(nn.Linear):
        seen = 0

        def forward(self, input: Tensor) -> Tensor:  # noqa: A002
            self.seen += self.training
            return super().forward(input)

        def get_extra_state(self) -> Any:
            return {"seen": self.seen}

        def set_extra_state(self, state: Any) -> None:
            self.seen = state["seen"]

    fitter("epochs=3", PATIENT, model=Counting(4, 2), measure=measure_of((2, 1, 3), "log_loss"))
    assert fitter.model.seen == 8  # after two of three epochs


def test_weights_that_are_frozen_stay_as_they_are(fitter: Fitter) -> None:
    model = fitter.fresh()
    model[0].requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    fitter("epochs=2", "clip_norm=1", model=model)
    assert torch.equal(model[0].weight, before["0.weight"])
    assert not torch.equal(model[2].weight, before["2.weight"])


def test_losses_that_were_counted_are_let_go() -> None:
    alive: list[weakref.ref[Tensor]] = []
    losses = EpochLosses()
    most = 0
    for index in range(5000):
        loss = torch.tensor(float(index))
        alive.append(weakref.ref(loss))
        losses.add(loss, 2, index)
        if index % 500 == 499:
            del loss
            most = max(most, sum(reference() is not None for reference in alive))
    assert most <= 1024
    assert losses.mean() == pytest.approx(4999 / 2)
    assert losses.num_rows == 10_000


def test_training_holds_no_more_tensors_the_longer_it_takes(fitter: Fitter) -> None:
    counts = []

    class Counting(Observer):
        def on_epoch_end(self, training: Training) -> None:
            if training.epoch in (2, 9):
                gc.collect()
                counts.append(sum(issubclass(type(thing), Tensor) for thing in gc.get_objects()))

    fitter("epochs=9", PATIENT, observers=[Counting()])
    assert counts[1] <= counts[0]


def test_predictions_are_in_order_and_without_gradient(fitter: Fitter) -> None:
    inputs = torch.arange(10.0)[:, None]
    outputs, targets = predict(nn.Identity(), TensorBatches((inputs,), torch.arange(10), 3))
    assert torch.equal(outputs, inputs)
    assert targets.tolist() == list(range(10))
    assert not predict(nn.Linear(1, 1), TensorBatches((inputs,), torch.arange(10), 3))[0].requires_grad


@pytest.mark.parametrize(
    "batch",
    [
        torch.zeros(3, 5),
        (torch.zeros(3, 5), torch.zeros(3)),
        {"text": ("some", "longer", "words"), "x": torch.zeros(3, 2)},
        {"tokens": [torch.zeros(3)] * 7},
        {"nested": {"x": torch.zeros(3)}},
        (("a", "b", "c"), torch.zeros(3)),
        ["a", "b", "c"],
    ],
)
def test_rows_of_a_batch_are_counted_whatever_its_form(batch: Any) -> None:
    assert rows_of(batch) == 3
