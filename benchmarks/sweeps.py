"""Studies: what a trial costs beyond its training, what pruning and workers save, and whether the 1,000th is dearer.

    python benchmarks/sweeps.py
    python benchmarks/sweeps.py --only overhead

Overhead: the same training in four kinds of process, interleaved, on one core: by itself, in an objective of raw Optuna
in memory, as the task of a Hydra application under hydra-optuna-sweeper (basic launcher, in memory, untracked), and as
a study of ours with a SQLite store and MLflow. A trial is the difference between a long study and a short one, so
start-up and what comes at the end do not count. Pruning and workers: whole studies on the digits. Growth: one study.
"""

import argparse
import itertools
import math
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rounds import Ratio, interleaved, print_target

SHORT, LONG = 10, 60
EPOCHS = 5
ROOT = Path(__file__).resolve().parent.parent
SPACE = ("optimizer.lr=tag(log, interval(1e-4, 1e-1))", "model.dropout=interval(0.0, 0.5)")
TRAINING = f"""
import sys, torch
from mlops_hydra import compose
from mlops_hydra.config.frozen import FrozenMap, Target
from mlops_hydra.config.objective import resolve_objective
from mlops_hydra.data.sources import open_source
from mlops_hydra.fitting import train
from mlops_hydra.training.build import Prepared, build_workbench
from mlops_hydra.training.seeding import reproducible, set_all_seeds

torch.set_num_threads(1)
base = compose(["trainer.epochs={EPOCHS}"])
splits = open_source(base.data).load()
objective = resolve_objective(base.objective, splits.task)
device, prepared = torch.device("cpu"), Prepared()


def trained(lr, dropout):
    \"\"\"The training alone: a model, an optimizer, {EPOCHS} epochs.\"\"\"
    optimizer = Target(base.optimizer.path, FrozenMap({{**base.optimizer.args, "lr": lr}}))
    model = Target(base.model.path, FrozenMap({{**base.model.args, "dropout": dropout}}))
    config = base.model_copy(update={{"optimizer": optimizer, "model": model}})
    with reproducible(deterministic=True, num_threads=1):
        set_all_seeds(0)
        bench = build_workbench(config, splits, objective, device, prepared)
        return train(config, splits, bench, objective, []).best_score
"""
BARE = """
import random
from training import trained
draw = random.Random(0)
for _ in range(int(sys.argv[1])):
    trained(10 ** draw.uniform(-4, -1), draw.uniform(0, 0.5))
"""
OPTUNA = """
import optuna
from training import trained
optuna.logging.set_verbosity(optuna.logging.WARNING)
study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
study.optimize(
    lambda t: trained(t.suggest_float("lr", 1e-4, 1e-1, log=True), t.suggest_float("dropout", 0, 0.5)), int(sys.argv[1])
)
"""
HYDRA = f"""
import hydra
CONF = {str(ROOT / "conf")!r}

@hydra.main(config_path=CONF, config_name="config", execution_whitelist=["hydra.*", "hydra_plugins.*"])
def main(cfg):
    from training import trained
    return trained(cfg.optimizer.lr, cfg.model.dropout)

main()
"""


@dataclass(frozen=True, slots=True)
class Spent:
    """Seconds of one process."""

    wall: float
    cpu: float


def spent(command: Sequence[str], folder: Path, *, cores: set[int] | None = None) -> Spent:
    """Run `command` in `folder`, on `cores` only if they are given."""
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "OMP_NUM_THREADS": "1"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), os.times().elapsed
    pin = (lambda: os.sched_setaffinity(0, cores)) if cores else None
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, preexec_fn=pin
    )
    wall, after = os.times().elapsed - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode not in (0, 3):
        sys.exit(f"{done.stdout}\n{done.stderr}\n{' '.join(command)} ended with exit code {done.returncode}")
    return Spent(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def ours(*overrides: str) -> list[str]:
    """A study by the command line."""
    return [sys.executable, "-m", "mlops_hydra", "-m", "progress=plain", *overrides]


def a_trial(command: Callable[[int, Path], list[str]], folder: Path) -> Spent:
    """What one more trial takes: a long study, less a short one."""
    short, long = (spent(command(number, fresh(folder)), folder, cores={0}) for number in (SHORT, LONG))
    return Spent(*((b - a) / (LONG - SHORT) for a, b in ((short.wall, long.wall), (short.cpu, long.cpu))))


def fresh(folder: Path) -> Path:
    """A folder of its own for what is written."""
    return Path(tempfile.mkdtemp(dir=folder))


def compare_overhead(folder: Path, rounds: int) -> None:
    """A trial, beyond its bare training."""
    for name, text in (("training", TRAINING), ("bare", BARE), ("raw", OPTUNA), ("app", HYDRA)):
        (folder / f"{name}.py").write_text(("import sys\n" if name in ("bare", "raw") else "") + text)
    store = warm_store(folder)
    node = "hydra.sweeper"
    commands: Mapping[str, Callable[[int, Path], list[str]]] = {
        "the training by itself": lambda n, _: [sys.executable, "bare.py", str(n)],
        "raw Optuna, in memory": lambda n, _: [sys.executable, "raw.py", str(n)],
        "hydra-optuna-sweeper": lambda n, out: [
            *(sys.executable, "app.py", "-m", "hydra/sweeper=optuna", "hydra/sweeper/sampler=random"),
            *(f"{node}.n_trials={n}", f"{node}.n_jobs=1", f"hydra.sweep.dir={out}", *SPACE),
        ],
        "mlops_hydra, MLflow + SQLite": lambda n, out: ours(
            "sweeps=random",
            f"sweeps.n_trials={n}",
            f"trainer.epochs={EPOCHS}",
            f"output_dir={out}",
            "gates=none",
            f"tracking.uri=sqlite:///{store}",
            *SPACE,
        ),
    }
    print(f"\na trial of {EPOCHS} epochs, {rounds} rounds, one core; ms")
    runs = {name: partial(a_trial, command, folder) for name, command in commands.items()}
    measured = interleaved(runs, rounds)
    bare = statistics.median(one.cpu for one in measured["the training by itself"])
    for name, values in measured.items():
        wall, cpu = (1000 * statistics.median(getattr(v, key) for v in values) for key in ("wall", "cpu"))
        print(f"  {name:<30} wall {wall:6.1f}  cpu {cpu:6.1f}  beyond the training {cpu - 1000 * bare:6.1f}")
    beyond = {name: [v.cpu - b.cpu for v, b in zip(values, measured["the training by itself"], strict=True)]
              for name, values in measured.items()}  # fmt: skip
    own, plugin = beyond["mlops_hydra, MLflow + SQLite"], beyond["hydra-optuna-sweeper"]
    print_target("beyond the training: ours / hydra-optuna-sweeper", Ratio.of(own, plugin), "<=", 0.9)


def warm_store(folder: Path) -> Path:
    """An MLflow store that is there already: making one takes seconds, once."""
    path = folder / "store" / "mlflow.db"
    path.parent.mkdir()
    spent(
        [sys.executable, "-c", f"from mlops_hydra.tracking.store import create_store as c; c('sqlite:///{path}')"],
        folder,
    )
    return path


DIGITS = ("data=digits", "gates=none", "trainer.early_stopping.patience=null", "trainer.epochs=27", "model=mlp")


LARGE = ("trainer.epochs=81", "model.hidden=[256,128]", "objective.metric=accuracy")


@dataclass(frozen=True, slots=True)
class Search:
    """A whole study: `ends` has, of each complete trial, seconds from the beginning to its end, and its value."""

    command: float  # seconds of wall time
    trials: float  # from the beginning of the first to the end of the last
    ends: list[tuple[float, float]]


def searched(folder: Path, *overrides: str) -> Search:
    """Have the command line carry out a study of the digits."""
    import optuna

    out = fresh(folder)
    space = ("optimizer.lr=tag(log, interval(1e-5, 1e-1))", SPACE[1])
    took = spent(ours(*DIGITS, *overrides, f"output_dir={out}", *space), folder)
    url = f"sqlite:///{out / 'studies' / 'studies.db'}"
    trials = optuna.load_study(study_name=optuna.get_all_study_names(url)[0], storage=url).trials
    began = trials[0].datetime_start
    ends = [((trial.datetime_complete - began).total_seconds(), trial.value) for trial in trials]
    is_complete = [trial.state == optuna.trial.TrialState.COMPLETE for trial in trials]
    return Search(took.wall, max(ends)[0], [end for end, keep in zip(ends, is_complete, strict=True) if keep])


def compare_pruning(folder: Path, rounds: int) -> None:
    """When the pruned study has what the other has at its end; accuracy on validation, several seeds."""
    print(f"\n40 trials of 81 epochs on the digits, {rounds} seeds")
    whole, reached, unpruned = [], [], []
    for seed in range(rounds):
        options = ("sweeps.n_trials=40", f"seed={seed}", *LARGE)
        tpe, hyperband = (searched(folder, f"sweeps={name}", *options) for name in ("tpe", "hyperband"))
        enough = 0.99 * max(value for _, value in tpe.ends)
        first = [min((t for t, value in one.ends if value >= enough), default=math.inf) for one in (hyperband, tpe)]
        whole.append(hyperband.trials / tpe.trials)
        reached.append(first[0] / tpe.trials)
        unpruned.append(first[1] / tpe.trials)
        texts = [f"{one.trials:.1f} s, {max(value for _, value in one.ends):.4f}" for one in (hyperband, tpe)]
        print(f"  seed {seed}: hyperband {texts[0]}; tpe {texts[1]}")
    ones = [1.0] * rounds
    print_target("hyperband is within 1 %, of the time of tpe", Ratio.of(reached, ones), "<=", 0.45)
    print(f"  {'tpe itself is within 1 %':<52} {Ratio.of(unpruned, ones)}")
    print(f"  {'the whole search: hyperband / tpe':<52} {Ratio.of(whole, ones)}")


def compare_workers(folder: Path, rounds: int) -> None:
    """Two processes against one, on two cores; trials of half a second, and of six."""
    sizes = {60: ("trainer.epochs=60",), 24: ("trainer.epochs=200", "model.hidden=[512,256]")}
    for number, size in sizes.items():
        options = ("sweeps=random", f"sweeps.n_trials={number}", *size)
        runs = {f"workers={n}": partial(searched, folder, *options, f"sweeps.workers={n}") for n in (1, 2)}
        print(f"\n{number} trials on the digits, {' '.join(size)}, {rounds} rounds")
        one, two = interleaved(runs, rounds).values()
        for name, values in (("one worker", one), ("two", two)):
            command, trials = (statistics.median(getattr(v, key) for v in values) for key in ("command", "trials"))
            print(f"  {name:<12} the trials {trials:.1f} s, the whole command {command:.1f} s")
        print_target("the trials: one worker / two", ratio(one, two, "trials"), ">=", 1.85)
        print(f"  {'the whole command: one worker / two':<52} {ratio(one, two, 'command')}")


def ratio(some: Sequence[Search], others: Sequence[Search], key: str) -> Ratio:
    """Of the times called `key`."""
    return Ratio.of(*([getattr(one, key) for one in ones] for ones in (some, others)))


WATCHER = """
import resource, time

class Watcher:
    def on_fit_end(self, training):
        with open("/proc/self/statm") as file:
            pages = int(file.read().split()[1])
        with open("times.txt", "a") as file:
            file.write(f"{time.process_time()} {pages * resource.getpagesize() / 1e6}\\n")
"""


def measure_growth(folder: Path) -> None:
    """Two samplers."""
    for sampler in ("random", "tpe"):
        measure_growth_of(folder, sampler)


def measure_growth_of(folder: Path, sampler: str) -> None:
    """CPU time from one trial to the next, and memory, along 1,000 trials of one epoch."""
    (folder / "watcher.py").write_text(WATCHER)
    (folder / "times.txt").unlink(missing_ok=True)
    watch = "+callbacks.watch._target_=watcher.Watcher"
    options = (f"sweeps={sampler}", "sweeps.n_trials=1000", "trainer.epochs=1", "model=linear", "gates=none", watch)
    spent(ours(*options, f"output_dir={fresh(folder)}", SPACE[0]), folder, cores={0})
    lines = [line.split() for line in (folder / "times.txt").read_text().splitlines()]
    times, memory = [float(time) for time, _ in lines], [float(megabytes) for _, megabytes in lines]
    steps = [b - a for a, b in itertools.pairwise(times)]
    early, late = (1000 * statistics.median(part) for part in (steps[9:59], steps[-50:]))
    print(f"\n1,000 trials of one epoch, {sampler}: the 10th to 59th {early:.1f} ms, the last 50 {late:.1f} ms")
    print(f"  memory after 50 trials {memory[49]:.0f} MB, after 1,000 {memory[-1]:.0f} MB")
    print_target("the 1,000th / the 10th", Ratio(late / early, math.nan, math.nan), "<=", 1.5)


def main() -> None:
    """Read the arguments and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=["overhead", "pruning", "workers", "growth"])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parts: dict[str, Callable[[], None]] = {
            "overhead": lambda: compare_overhead(folder, arguments.rounds),
            "pruning": lambda: compare_pruning(folder, arguments.rounds),
            "workers": lambda: compare_workers(folder, arguments.rounds),
            "growth": lambda: measure_growth(folder),
        }
        for part, compare in parts.items():
            if arguments.only in (None, part):
                compare()


if __name__ == "__main__":
    main()
