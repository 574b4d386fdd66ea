"""Whole processes against what a user would write, side by side: `--help`, `--cfg job`, and the default run.

    python benchmarks/startup.py

`--help` and `--cfg job` against a Hydra application that does nothing else; the default run (to its first training
step, and to its end) against `naive.py`, which does the same work for as many epochs. Both have a warm MLflow store of
their own. Wall time; CPU time beside it.
"""

import argparse
import itertools
import math
import os
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rounds import Ratio, interleaved, print_target

BARE = """
import hydra

@hydra.main(config_path="conf", config_name="config", execution_whitelist=[])
def main(cfg):
    print(cfg.epochs)

main()
"""
CONF = {
    "config.yaml": "defaults: [{model: mlp}, {optimizer: adamw}, _self_]\nseed: 0\nepochs: 10\nbatch_size: 64\n",
    "model/mlp.yaml": "hidden: [64, 32]\ndropout: 0.1\n",
    "optimizer/adamw.yaml": "lr: 0.003\nweight_decay: 0.01\n",
}
OBSERVER = """
import time

class FirstStep:
    def on_step_end(self, training):
        if training.step == 1:
            print("FIRST_STEP", time.monotonic(), flush=True)

    def on_fit_end(self, training):
        print("EPOCHS", training.epoch, flush=True)
"""
OURS = [sys.executable, "-m", "mlops_hydra"]
OBSERVED = ["+callbacks.first_step._target_=first_step.FirstStep", "progress=plain"]


@dataclass(frozen=True, slots=True)
class Timed:
    """One process: seconds from its start."""

    wall: float
    cpu: float
    first_step: float
    output: str


def timed(command: Sequence[str], folder: Path) -> Timed:
    """Run `command` in `folder`; what it prints is read afterwards, through a file."""
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with tempfile.TemporaryFile("w+") as output:
        started = time.monotonic()
        done = subprocess.run(
            command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT, check=False
        )
        wall = time.monotonic() - started
        output.seek(0)
        text = output.read()
    if done.returncode:
        sys.exit(f"{text}\n{' '.join(command)} ended with exit code {done.returncode}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    first = re.search(r"FIRST_STEP ([\d.]+)", text)
    return Timed(wall, cpu, float(first[1]) - started if first else math.nan, text)


def lay_out(folder: Path) -> None:
    """The applications and their configuration, each of the two in a folder of its own."""
    peer, ours = folder / "peer", folder / "ours"
    ours.mkdir()
    (ours / "first_step.py").write_text(OBSERVER)
    for name, text in CONF.items():
        path = peer / "conf" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (peer / "bare.py").write_text(BARE)
    shutil.copy(Path(__file__).with_name("naive.py"), peer)


def compare(runs: dict[str, Callable[[], Timed]], rounds: int) -> dict[str, list[Timed]]:
    """Measure and print the times; ratios follow."""
    measured = interleaved(runs, rounds)
    for name, values in measured.items():
        wall, cpu, first = (statistics.median(getattr(v, key) for v in values) for key in ("wall", "cpu", "first_step"))
        step = "" if math.isnan(first) else f"  first step {first:6.2f} s"
        print(f"  {name:<28} wall {wall:6.2f} s  cpu {cpu:6.2f} s{step}")
    return measured


def compare_flags(folder: Path, rounds: int) -> None:
    """What Hydra answers by itself."""
    for flags in (["--help"], ["--cfg", "job"]):
        runs = {
            "mlops_hydra": partial(timed, [*OURS, *flags], folder / "ours"),
            "a bare Hydra application": partial(timed, [sys.executable, "bare.py", *flags], folder / "peer"),
        }
        print(f"\n{' '.join(flags)}, {rounds} rounds")
        ours, bare = compare(runs, rounds).values()
        print_target("wall time", Ratio.of([v.wall for v in ours], [v.wall for v in bare]), "<=", 1.3)


def compare_runs(folder: Path, rounds: int) -> None:
    """The default experiment from process start to the end; the first pair of runs makes the stores."""
    numbers = itertools.count()

    def new_run() -> Timed:
        """The version names a table's content and changes nothing in it: each run is a new one, looked up in vain."""
        return timed([*OURS, *OBSERVED, f"data.version={next(numbers)}"], folder / "ours")

    found = re.search(r"EPOCHS (\d+)", new_run().output)
    assert found is not None, "the observer tells how many epochs there were"
    naive = [sys.executable, "naive.py", f"epochs={found[1]}"]
    runs = {
        "mlops_hydra": new_run,
        "naive Hydra + torch + MLflow": partial(timed, naive, folder / "peer"),
    }
    print(f"\nthe default run, {found[1]} epochs, {rounds} rounds")
    ours, other = compare(runs, rounds).values()
    for name, key in (("to the first training step", "first_step"), ("the whole run, wall time", "wall")):
        print_target(name, Ratio.of(*([getattr(v, key) for v in values] for values in (ours, other))), "<=", 0.7)
    cpu = Ratio.of([v.cpu for v in ours], [v.cpu for v in other])
    print(f"  {'the whole run, CPU time':<52} {cpu}")


def main() -> None:
    """Read the arguments and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", choices=["flags", "runs"])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lay_out(folder)
        if arguments.only != "runs":
            compare_flags(folder, arguments.rounds)
        if arguments.only != "flags":
            compare_runs(folder, arguments.rounds)


if __name__ == "__main__":
    main()
