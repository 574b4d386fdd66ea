"""What it costs that nothing is lost: recording and checkpoints, on against off; and naming data, against sha256sum.

    python benchmarks/recording.py
    python benchmarks/recording.py --only check

Recording: epochs of 20 ms of training with eight numbers each, in one process that has everything imported; what is
measured is the epochs, and beside them what a run pays once, before and after. Checkpoints: `fit` of the default
experiment, prolonged. Naming: whole processes on a file of 1 GB that is in memory. On against off varies by more than
what is measured, on a machine that does other things; so the last line of each counts within the run itself.
"""

import argparse
import logging
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rounds import Ratio, interleaved, print_target

from mlops_hydra import ExperimentConfig, compose, tracked_experiment
from mlops_hydra.config.objective import resolve_objective
from mlops_hydra.config.schema import CheckpointConfig
from mlops_hydra.data.sources import open_source
from mlops_hydra.data.splits import Splits
from mlops_hydra.evaluation.metrics import EpochMetrics
from mlops_hydra.tracking.lineage import Lineage, identify
from mlops_hydra.training.build import build_workbench
from mlops_hydra.training.checkpoints import Checkpoints
from mlops_hydra.training.loop import fit
from mlops_hydra.training.seeding import reproducible, set_all_seeds

EPOCH_SECONDS = 0.02
NAMES = ("train/loss", "train/lr", "val/loss", "val/log_loss", "val/accuracy", "val/f1", "val/balanced_accuracy", "own")
OFF, LOCAL, DOWN = "nothing recorded", "a local store", "a server that is down"
SERVER_THAT_IS_DOWN = "http://127.0.0.1:9"
FILE_BYTES = 10**9
BLOCK_ROWS = 10_000


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds of the epochs, of which CPU (and that of the training's own thread); wall seconds before and after."""

    wall: float
    cpu: float
    own_cpu: float
    before: float = math.nan
    after: float = math.nan


class Work:
    """Steps of a small network: Python and native code in the proportion of a real training."""

    def __init__(self) -> None:
        self._model = torch.nn.Sequential(torch.nn.Linear(30, 64), torch.nn.ReLU(), torch.nn.Linear(64, 2))
        self._optimizer = torch.optim.AdamW(self._model.parameters(), lr=1e-3, fused=True)
        self._inputs, self._targets = torch.randn(64, 30), torch.randint(2, (64,))
        self._num_steps = 100
        self.epoch()
        a_step = statistics.median(_timed(self.epoch) for _ in range(9)) / self._num_steps
        self._num_steps = round(EPOCH_SECONDS / a_step)

    def epoch(self) -> None:
        for _ in range(self._num_steps):
            self._optimizer.zero_grad(set_to_none=True)
            torch.nn.functional.cross_entropy(self._model(self._inputs), self._targets).backward()
            self._optimizer.step()


def _timed(function: Callable[[], object]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def unrecorded(work: Work, num_epochs: int) -> Cost:
    """The epochs alone."""
    return _epochs(work, num_epochs, lambda _: None)


def recorded(config: ExperimentConfig, lineage: Lineage, work: Work, num_epochs: int) -> Cost:
    """The same, each recorded as `experiment.py` does it."""
    started = time.perf_counter()
    with tracked_experiment(config, lineage) as run:
        begun = time.perf_counter()
        cost = _epochs(work, num_epochs, lambda epoch: run.log_metrics(_numbers(epoch), step=epoch))
        ended = time.perf_counter()
    return replace(cost, before=begun - started, after=time.perf_counter() - ended)


def _epochs(work: Work, num_epochs: int, record: Callable[[int], None]) -> Cost:
    before = _clocks()
    for epoch in range(1, num_epochs + 1):
        work.epoch()
        record(epoch)
    return _since(before)


def _clocks() -> tuple[float, float, float]:
    return time.perf_counter(), time.process_time(), time.thread_time()


def _since(before: tuple[float, float, float]) -> Cost:
    return Cost(*(now - then for now, then in zip(_clocks(), before, strict=True)))


def _numbers(epoch: int) -> Mapping[str, float]:
    return {name: (epoch + place) / 7 for place, name in enumerate(NAMES)}


def compare_recording(folder: Path, rounds: int, num_epochs: int) -> None:
    """A first round, which is left out, imports MLflow and makes the store."""
    work = Work()
    configs = {
        LOCAL: compose([f"output_dir={folder / 'local'}"]),
        DOWN: compose([f"output_dir={folder / 'down'}", f"tracking.uri={SERVER_THAT_IS_DOWN}"]),
    }
    lineage = identify(configs[LOCAL])
    runs: dict[str, Callable[[], Cost]] = {OFF: partial(unrecorded, work, num_epochs)}
    runs |= {name: partial(recorded, config, lineage, work, num_epochs) for name, config in configs.items()}
    costs = interleaved(runs, rounds)
    print(f"\nrecording {len(NAMES)} numbers an epoch, {rounds} rounds of {num_epochs} epochs")
    for name, values in costs.items():
        wall, cpu, before, after = (_median(values, key) for key in ("wall", "cpu", "before", "after"))
        once = "" if name == OFF else f", once {before * 1e3:.0f} ms before and {after:.1f} s after"
        print(f"  {name:<24} {wall / num_epochs * 1e3:6.2f} ms an epoch, CPU {cpu / num_epochs * 1e3:6.2f} ms{once}")
    for name in configs:
        _print_ratios(name, costs[name], costs[OFF], 1.03)
        within = Ratio.of([cost.cpu for cost in costs[name]], [cost.own_cpu for cost in costs[name]])
        print_target(f"{name}, all CPU / the training's", within, "<=", 1.03)


def _median(costs: list[Cost], key: str) -> float:
    return statistics.median(getattr(cost, key) for cost in costs)


def _print_ratios(name: str, above: list[Cost], below: list[Cost], limit: float) -> None:
    for key, what in (("wall", "wall time"), ("cpu", "CPU time")):
        ratio = Ratio.of([getattr(c, key) for c in above], [getattr(c, key) for c in below])
        print_target(f"{name} / off, {what}", ratio, "<=", limit)


@cache
def default_experiment(num_epochs: int) -> tuple[ExperimentConfig, Splits]:
    config = compose([f"trainer.epochs={num_epochs}", "trainer.early_stopping.patience=null"])
    return config, open_source(config.data).load()


def trained(num_epochs: int, checkpoints: Checkpoints | None) -> Cost:
    """`fit` of the default experiment as `experiment.py` calls it."""
    config, splits = default_experiment(num_epochs)
    objective = resolve_objective(config.objective, splits.task)
    with reproducible(deterministic=True, num_threads=1):
        set_all_seeds(0)
        bench = build_workbench(config, splits, objective, torch.device("cpu"))
        measure = EpochMetrics(splits.task, len(splits.classes), objective.metric, bench.scale.deviation)
        before = _clocks()
        fit(
            bench.learner,
            bench.train,
            bench.val,
            settings=config.trainer,
            objective=objective,
            measure=measure,
            checkpoints=checkpoints,
        )
        return _since(before)


class Timed(Checkpoints):
    """Knows what each one took."""

    def __init__(self, folder: Path, cadence: CheckpointConfig) -> None:
        super().__init__(folder, "benchmark", cadence)
        self.seconds: list[float] = []
        self._asked = 0.0

    def is_due(self, epoch: int, step: int, *, epoch_ended: bool) -> bool:
        self._asked = time.perf_counter()
        return super().is_due(epoch, step, epoch_ended=epoch_ended)

    def save(self, state: Mapping[str, Any], *, best_epoch: int, best: Mapping[str, Any]) -> None:
        super().save(state, best_epoch=best_epoch, best=best)
        self.seconds.append(time.perf_counter() - self._asked)  # the state has been gathered since


def kept(folder: Path, num_epochs: int, **cadence: float) -> tuple[Cost, list[float]]:
    """The same with checkpoints, in a folder of its own; how long each one took."""
    every = {"every_epochs": None, "every_steps": None, "every_seconds": None} | cadence
    with tempfile.TemporaryDirectory(dir=folder) as place:
        checkpoints = Timed(Path(place), CheckpointConfig.model_validate(every))
        return trained(num_epochs, checkpoints), checkpoints.seconds


def compare_checkpoints(folder: Path, rounds: int, seconds: float) -> None:
    """At the cadence of conf/trainer/default.yaml."""
    cadence = default_experiment(1)[0].trainer.checkpoint.every_seconds
    assert cadence is not None, "the default is by the clock"
    num_epochs = math.ceil(seconds / (trained(400, None).wall / 400))
    runs: dict[str, Callable[[], tuple[Cost, list[float]]]] = {
        "without": lambda: (trained(num_epochs, None), []),
        "with": lambda: kept(folder, num_epochs, every_seconds=cadence),
    }
    measured = interleaved(runs, rounds)
    costs = {name: [cost for cost, _ in values] for name, values in measured.items()}
    walls, writing = [cost.wall for cost in costs["with"]], [sum(seconds) for _, seconds in measured["with"]]
    print(f"\ncheckpoints every {cadence:g} s, {rounds} rounds of {num_epochs} epochs ({seconds:g} s)")
    _, each = kept(folder, 20, every_steps=1)
    print(
        f"  one checkpoint of the default MLP {statistics.median(each) * 1e3:.1f} ms, the slowest {max(each) * 1e3:.0f}"
    )
    _print_ratios("with checkpoints", costs["with"], costs["without"], 1.02)
    rest = [wall - seconds for wall, seconds in zip(walls, writing, strict=True)]
    print_target("with checkpoints, wall time / without writing them", Ratio.of(walls, rest), "<=", 1.02)


def compare_check(folder: Path, rounds: int) -> None:
    """`check` composes, checks and looks the run up besides reading the file."""
    path = folder / "large.csv"
    _write_csv(path)
    ours = [sys.executable, "-m", "mlops_hydra", "check", "data=csv", f"data.path={path}", "data.target=label"]
    runs = {
        "mlops-hydra check": partial(_process, ours, folder),
        "sha256sum": partial(_process, ["sha256sum", str(path)], folder),
    }
    seconds = interleaved(runs, rounds)
    print(f"\nnaming {path.stat().st_size / 1e9:.2f} GB of CSV, {rounds} rounds")
    for name, values in seconds.items():
        print(f"  {name:<24} {statistics.median(values):6.2f} s")
    print_target("check / sha256sum", Ratio.of(*seconds.values()), "<=", 1.5)


def _write_csv(path: Path) -> None:
    numbers = np.random.default_rng(0).normal(size=(BLOCK_ROWS, 10))
    rows = [",".join(f"{value:.6f}" for value in row) + f",{row[0] > 0:d}\n" for row in numbers]
    block = "".join(rows).encode()
    with path.open("wb") as file:
        file.write((",".join(f"x{place}" for place in range(10)) + ",label\n").encode())
        for _ in range(math.ceil(FILE_BYTES / len(block))):
            file.write(block)


def _process(command: list[str], folder: Path) -> float:
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    run = partial(subprocess.run, command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, check=True)
    return _timed(run)


def main() -> None:
    """Read the arguments and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--epochs", type=int, default=500, help="in a round of recording")
    parser.add_argument("--seconds", type=float, default=32, help="of a fit with checkpoints")
    parser.add_argument("--only", choices=["recording", "checkpoints", "check"])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    logging.getLogger("mlops_hydra").setLevel(logging.ERROR)  # that a server is down is known here
    os.environ.pop("MLFLOW_TRACKING_URI", None)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if arguments.only in (None, "recording"):
            compare_recording(folder, arguments.rounds, arguments.epochs)
        if arguments.only in (None, "checkpoints"):
            compare_checkpoints(folder, arguments.rounds, arguments.seconds)
        if arguments.only in (None, "check"):
            compare_check(folder, arguments.rounds)


if __name__ == "__main__":
    main()
