"""From a configuration and splits to objects that fit together, and words where they do not."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from mlops_hydra import compose
from mlops_hydra.config.objective import Objective, resolve_objective
from mlops_hydra.config.schema import ExperimentConfig
from mlops_hydra.config.section import Task
from mlops_hydra.data.sources import open_source
from mlops_hydra.data.splits import Splits
from mlops_hydra.errors import ConfigError
from mlops_hydra.evaluation.metrics import EpochMetrics
from mlops_hydra.training.batches import LoaderBatches, TensorBatches
from mlops_hydra.training.build import Workbench, build_workbench
from mlops_hydra.training.loop import fit
from mlops_hydra.training.optimization import build_optimizer
from mlops_hydra.training.seeding import RandomState

CPU = torch.device("cpu")


def bench_of(config: ExperimentConfig, splits: Splits, objective: Objective | None = None) -> Workbench:
    torch.manual_seed(0)
    return build_workbench(config, splits, objective or resolve_objective(config.objective, splits.task), CPU)


def own_model(path: str, **args: int) -> list[str]:
    return ["model=linear", f"model._target_={path}", *(f"+model.{name}={value}" for name, value in args.items())]


def splits_of(make: Callable[[int], Any], task: Task = "binary", num_rows: int = 40) -> Splits:
    targets = np.arange(num_rows) % 2 if task != "regression" else np.linspace(0, 1, num_rows)
    classes = () if task == "regression" else (0, 1)
    scanned = dict.fromkeys(("train", "val", "test"), targets)
    return Splits(make(num_rows), make(num_rows), make(num_rows), task, classes, scanned=scanned)


def tensors(num_rows: int, *, regression: bool = False, dtype: torch.dtype = torch.float32) -> TensorDataset:
    inputs = torch.randn(num_rows, 3, generator=torch.Generator().manual_seed(0)).to(dtype)
    return TensorDataset(inputs, torch.linspace(0, 1, num_rows).to(dtype) if regression else torch.arange(num_rows) % 2)


class Pairs(Dataset[Any]):
    """Rows that come through a loader; each read draws a random number."""

    def __init__(self, num_rows: int) -> None:
        self.num_rows = num_rows

    def __len__(self) -> int:
        return self.num_rows

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        return torch.rand(3), row % 2


class Words(Pairs):
    def __getitem__(self, row: int) -> Any:
        return {"words": torch.tensor([row, 1]), "target": row % 2}


class Flow(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        yield from ((torch.rand(3), row % 2) for row in range(9))


def mean_of_squares(outputs: Tensor, targets: Tensor, *, factor: float = 1.0) -> Tensor:
    return factor * (outputs.softmax(1)[:, 1] - targets).square().mean()


def each_row(outputs: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.cross_entropy(outputs, targets, reduction="none")


def three_arguments(outputs: Tensor, targets: Tensor) -> Tensor:
    raise RuntimeError("needs a third")


def not_a_module() -> int:
    return 3


class Squares:
    """A loss that is a class but no module."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return mean_of_squares(outputs, targets, factor=self.factor)


class WordModel(nn.Module):
    def __init__(self, out_features: int) -> None:
        super().__init__()
        self.words = nn.EmbeddingBag(50, out_features)

    def forward(self, words: Tensor) -> Tensor:
        output: Tensor = self.words(words)
        return output


# Optimizers


class Tied(nn.Module):
    """One weight used twice, once transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 3, generator=torch.Generator().manual_seed(1)))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x @ self.weight.t()) @ self.weight


class Transposed(nn.Module):
    """A weight whose memory is not in the order of its rows."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(4, 3, generator=torch.Generator().manual_seed(1)).t())

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight


class Sliced(nn.Module):
    """A weight with holes in its memory."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 8, generator=torch.Generator().manual_seed(1))[:, ::2])

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight


def plain() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2))


def channels_last() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 3), nn.Flatten())
    return model.to(memory_format=torch.channels_last)


MODELS = {"plain": plain, "tied": Tied, "transposed": Transposed, "sliced": Sliced, "channels_last": channels_last}


def inputs_for(name: str) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    if name == "channels_last":
        return torch.randn(6, 3, 5, 5, generator=generator).to(memory_format=torch.channels_last)
    return torch.randn(6, 3, generator=generator)


def trained(name: str, optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    for _ in range(10):
        optimizer.zero_grad()
        model(inputs_for(name)).square().mean().backward()
        optimizer.step()
    return {key: value.clone() for key, value in model.state_dict().items()}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("option", ["sgd", "adam", "adamw"])
def test_what_is_built_moves_weights_like_the_plain_optimizer_whatever_their_layout(name: str, option: str) -> None:
    """torch's fused kernels ignore the strides of gradients on the CPU (docs of the trap: TRAPS, torch)."""
    config = compose([f"optimizer={option}"])
    model = MODELS[name]()
    built = trained(name, build_optimizer(config.optimizer, model, CPU), model)
    model = MODELS[name]()
    slow = compose([f"optimizer={option}", "+optimizer.foreach=false"]).optimizer
    expected = trained(name, build_optimizer(slow, model, CPU), model)
    for key, value in expected.items():
        torch.testing.assert_close(built[key], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("name", "fused"), [("plain", True), ("tied", True), ("channels_last", True),
                                             ("transposed", False), ("sliced", False)])  # fmt: skip
def test_fused_is_used_where_weights_lie_in_a_standard_layout(name: str, fused: bool) -> None:
    optimizer = build_optimizer(compose().optimizer, MODELS[name](), CPU)
    assert bool(optimizer.defaults["fused"]) == fused


@pytest.mark.parametrize("name", ["plain", "tied", "transposed", "channels_last"])
def test_backward_lays_gradients_out_like_their_weights(name: str) -> None:
    model = MODELS[name]()
    model(inputs_for(name)).square().sum().backward()
    for parameter in model.parameters():
        assert parameter.grad is not None
        assert parameter.grad.stride() == parameter.stride()


def test_sparse_gradients_get_an_optimizer_that_takes_them() -> None:
    model = nn.EmbeddingBag(10, 2, sparse=True)
    before = model.weight.detach().clone()
    config = compose(["optimizer=sgd", "optimizer.weight_decay=0", "optimizer.nesterov=false", "optimizer.momentum=0"])
    optimizer = build_optimizer(config.optimizer, model, CPU)
    model(torch.tensor([[1, 2]])).sum().backward()
    optimizer.step()
    assert ((model.weight != before).any(dim=1)).tolist() == [row in (1, 2) for row in range(10)]


def test_what_a_person_chose_is_left_alone() -> None:
    optimizer = build_optimizer(compose(["+optimizer.foreach=true"]).optimizer, plain(), CPU)
    assert not optimizer.defaults["fused"]
    assert optimizer.defaults["foreach"]


def test_something_that_is_no_optimizer_or_has_nothing_to_optimize_is_refused() -> None:
    config = compose(
        ["optimizer._target_=torch.nn.Identity", "~optimizer.lr", "~optimizer.betas", "~optimizer.weight_decay"]
    )
    with pytest.raises(ConfigError, match=r"optimizer: torch\.nn\.Identity gives no torch\.optim\.Optimizer"):
        build_optimizer(config.optimizer, plain(), CPU)
    with pytest.raises(ConfigError, match="empty parameter list"):
        build_optimizer(compose().optimizer, nn.Identity(), CPU)


# Schedulers


def fitted_rates(*overrides: str) -> tuple[list[float], Workbench]:
    config = compose(["model=linear", "trainer.early_stopping.patience=null", "optimizer=sgd", *overrides])
    splits = splits_of(tensors)
    bench = bench_of(config, splits)
    rates: list[float] = []

    class Rates:
        def on_step_end(self, training: Any) -> None:
            rates.append(training.optimizer.param_groups[0]["lr"])

    objective = Objective("log_loss", "minimize")
    fit(
        bench.learner,
        bench.train,
        bench.val,
        settings=config.trainer,
        objective=objective,
        measure=EpochMetrics("binary", 2, "log_loss"),
        observers=[Rates()],
    )
    return rates, bench


@pytest.mark.parametrize("length", [("trainer.epochs=4",), ("trainer.epochs=null", "trainer.steps=10")])
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("interval", ["auto", "step", "epoch"])
def test_one_cycle_ends_where_training_ends(length: tuple[str, ...], accumulate: int, interval: str) -> None:
    """40 rows in batches of 16: three batches an epoch."""
    rates, bench = fitted_rates(
        "scheduler=one_cycle", "trainer.batch_size=16", f"trainer.accumulate={accumulate}",
        f"trainer.scheduler_interval={interval}", *length,
    )  # fmt: skip
    assert bench.learner.schedule_each_step == (interval != "epoch")
    steps_an_epoch = 3 if accumulate == 1 else 2
    assert len(rates) == (10 if len(length) == 2 else 4 * steps_an_epoch)
    moves = len(rates) if interval != "epoch" else -(-len(rates) // steps_an_epoch)
    assert bench.learner.scheduler.total_steps == moves
    assert bench.learner.scheduler.last_epoch == moves  # it moved as often as it was told it would


def test_cosine_goes_down_to_its_minimum_over_the_epochs() -> None:
    rates, bench = fitted_rates("scheduler=cosine", "trainer.epochs=4")
    assert not bench.learner.schedule_each_step
    assert rates == pytest.approx([0.05 * (1 + np.cos(np.pi * epoch / 4)) / 2 for epoch in range(4)])


def test_cosine_without_epochs_says_which_value_is_missing() -> None:
    with pytest.raises(ConfigError, match=r"scheduler\.T_max"):
        compose(["scheduler=cosine", "trainer.epochs=null", "trainer.steps=10"])
    assert compose(["scheduler=cosine", "trainer.epochs=null", "trainer.steps=10", "scheduler.T_max=3"])


@pytest.mark.parametrize(("metric", "mode"), [("log_loss", "min"), ("accuracy", "max"), ("loss", "min")])
def test_plateau_follows_the_direction_of_the_objective(metric: str, mode: str) -> None:
    bench = bench_of(
        compose(["model=linear", "scheduler=plateau", "gates=none", f"objective.metric={metric}"]), splits_of(tensors)
    )
    assert bench.learner.scheduler.mode == mode
    assert not bench.learner.schedule_each_step


def test_plateau_each_step_is_refused() -> None:
    config = compose(["model=linear", "scheduler=plateau", "trainer.scheduler_interval=step"])
    with pytest.raises(ConfigError, match=r"trainer\.scheduler_interval: .*measured once an epoch"):
        bench_of(config, splits_of(tensors))


def test_the_length_of_a_schedule_over_a_stream_must_be_given_in_steps() -> None:
    streams = Splits(Flow(), Flow(), Flow(), "binary", (0, 1))
    with pytest.raises(ConfigError, match=r"give trainer\.steps and trainer\.epochs=null"):
        bench_of(compose(["model=linear", "scheduler=one_cycle"]), streams)
    steps = ["trainer.epochs=null", "trainer.steps=10"]
    assert (
        bench_of(compose(["model=linear", "scheduler=one_cycle", *steps]), streams).learner.scheduler.total_steps == 10
    )


# Losses


@pytest.mark.parametrize(
    "target", [f"{{_target_: {__name__}.mean_of_squares, factor: 3}}", f"{{_target_: {__name__}.Squares, factor: 3}}"]
)
def test_a_users_loss_is_a_function_or_a_class(target: str) -> None:
    bench = bench_of(compose(["model=linear", f"trainer.loss={target}"]), splits_of(tensors))
    outputs, targets = torch.randn(5, 2), torch.tensor([0, 1, 1, 0, 1])
    assert torch.equal(bench.learner.loss(outputs, targets), mean_of_squares(outputs, targets, factor=3))


def test_class_weights_come_from_the_training_split() -> None:
    config = compose(
        ["model=linear", "trainer.loss={_target_: mlops_hydra.models.CrossEntropy, class_weights: balanced}"]
    )
    splits = splits_of(tensors)
    splits.scanned["train"][:] = [0] * 30 + [1] * 10  # type: ignore[index]
    weight = bench_of(config, splits).learner.loss.weight  # type: ignore[attr-defined]
    assert weight.tolist() == pytest.approx([40 / 60, 2.0])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("each_row", r"must give a scalar tensor.*got \[2\]"),
        ("three_arguments", r"fails on outputs \[2, 2\] and targets \[2\]: RuntimeError: needs a third"),
    ],
)
@pytest.mark.parametrize("make", [tensors, Pairs])
def test_a_loss_that_does_not_fit_is_told_in_words(name: str, message: str, make: Any) -> None:
    with pytest.raises(ConfigError, match=rf"trainer\.loss: {message}"):
        bench_of(compose(["model=linear", f"trainer.loss={{_target_: {__name__}.{name}}}"]), splits_of(make))


def test_a_loss_for_classes_is_refused_for_a_regression() -> None:
    config = compose(["model=linear", "trainer.loss={_target_: mlops_hydra.models.CrossEntropy}"])
    with pytest.raises(ConfigError, match=r"trainer\.loss: .* is for classes"):
        bench_of(config, splits_of(lambda n: tensors(n, regression=True), "regression"))


# Models and data


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("task", ["binary", "regression"])
def test_tensors_of_any_precision_become_what_models_take(dtype: torch.dtype, task: Task) -> None:
    splits = splits_of(lambda n: tensors(n, regression=task == "regression", dtype=dtype), task)
    bench = bench_of(compose(["model=linear"]), splits)
    assert isinstance(bench.train, TensorBatches)
    outputs, targets = bench.train.forward(bench.learner.model, next(iter(bench.train.epoch(1))))
    assert outputs.dtype == torch.float32
    assert targets.shape == ((40, 1) if task == "regression" else (40,))
    assert bench.learner.loss(outputs, targets).ndim == 0


def test_a_dataset_of_dicts_gets_a_loader_and_its_entries_by_name() -> None:
    bench = bench_of(compose(own_model(f"{__name__}.WordModel")), splits_of(Words))
    assert isinstance(bench.train, LoaderBatches)
    outputs, targets = bench.train.forward(bench.learner.model, next(iter(bench.train.epoch(1))))
    assert outputs.shape == (40, 2)
    assert sorted(targets.tolist()) == [0] * 20 + [1] * 20


CONVOLUTION = own_model("torch.nn.Conv2d", in_channels=1, out_channels=2, kernel_size=3)


@pytest.mark.parametrize(
    ("model", "make", "message"),
    [
        (own_model("torch.nn.Identity"), tensors, r"must give \[2, 2\] for rows of shape \[2, 3\], got \[2, 3\]"),
        (own_model("torch.nn.Identity"), Pairs, r"must give \[2, 2\] for rows of shape \[2, 3\], got \[2, 3\]"),
        (own_model("torch.nn.Identity"), Words, r"fails on rows of shape words \[2, 2\].*unexpected keyword"),
        (CONVOLUTION, tensors, r"model: torch.nn.Conv2d fails on rows of shape \[2, 3\]: RuntimeError"),
        (["model=cnn"], tensors, r"images have the shape \[channels, height, width\], got \[3\]"),
        (["model=linear"], Words, "needs in_features, which only tables and tensors have"),
        (own_model(f"{__name__}.WordModel"), Pairs, "model: .*fails on rows of shape"),
        (own_model(f"{__name__}.not_a_module"), tensors, r"gives a int, needed is a torch\.nn\.Module"),
    ],
)
def test_a_model_that_does_not_fit_is_told_in_words_and_before_training(
    model: list[str], make: Any, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        bench_of(compose(model), splits_of(make))


def test_the_weights_do_not_depend_on_what_the_data_draws() -> None:
    """`Pairs` draws a number for each row that is read; tensors draw none."""
    weights = [bench_of(compose(["model=linear"]), splits_of(make)).network.state_dict() for make in (tensors, Pairs)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_building_leaves_modes_alone_and_reads_no_more_of_a_stream_than_it_must() -> None:
    before = RandomState()
    expected = torch.rand(())
    before.restore()
    streams = Splits(Flow(), Flow(), Flow(), "binary", (0, 1))
    torch.manual_seed(0)
    bench = bench_of(compose(["model=mlp"]), streams)
    assert bench.learner.model.training
    before.restore()
    assert torch.rand(()) == expected


@pytest.mark.parametrize("data", ["digits", "diabetes", "wine"])
def test_tables_give_a_model_that_learns(data: str) -> None:
    config = compose([f"data={data}", "model=mlp", "trainer.epochs=15", "trainer.batch_size=32"])
    splits = open_source(config.data).load()
    objective = resolve_objective(config.objective, splits.task)
    bench = bench_of(config, splits, objective)
    measure = EpochMetrics(splits.task, len(splits.classes), objective.metric, bench.scale.deviation)
    result = fit(
        bench.learner, bench.train, bench.val, settings=config.trainer, objective=objective, measure=measure
    )  # fmt: skip
    assert result.best_score < 0.9 * result.history[0][f"val/{objective.metric}"]
