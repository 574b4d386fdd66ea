"""A process that is killed loses nothing: the same command again ends with the bits, and the record, of a run that
nobody disturbed.

The gate kills real processes at chosen moments; `make slow` kills 200 at random ones, and fills a disk.
"""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from mlflow.tracking import MlflowClient
from safetensors.numpy import load_file

from mlops_hydra.tracking.spool import read_spool
from mlops_hydra.training.manifest import newest_manifest

ROOT = Path(__file__).parents[1]
SHORT = [
    "trainer.epochs=3",
    "scheduler=one_cycle",
    "gates=none",
    "progress=off",
    "trainer.checkpoint.every_seconds=null",
]
EVERY_4_STEPS = [*SHORT, "trainer.checkpoint.every_steps=4"]
Point = dict[str, Any]


class Mortal:
    """The process of `mortal.py`, which forks the commands that are killed."""

    def __init__(self) -> None:
        command = [sys.executable, str(Path(__file__).with_name("mortal.py"))]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "MLFLOW_DISABLE_TELEMETRY": "true"}
        environment.pop("MLFLOW_TRACKING_URI", None)
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self._process = subprocess.Popen(command, env=environment, text=True, **pipes)  # type: ignore[call-overload]
        assert json.loads(self._process.stdout.readline()) == {"ready": True}

    def run(self, folder: Path, *overrides: str, log: Path | None = None, **end: Any) -> "Ended":
        log = log or folder / "log"
        request = {"argv": overrides, "cwd": str(folder), "log": str(log), "end": end}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        return Ended(answer["code"], answer["seconds"], log.read_text(encoding="utf-8") if log.exists() else "")

    def close(self) -> None:
        self._process.stdin.close()
        self._process.wait(timeout=30)
        self._process.stdout.close()


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    seconds: float
    output: str


@dataclass(frozen=True)
class Story:
    """Everything that is left of the one run below a folder, but for how fast it was."""

    weights: dict[str, Any]
    history: str
    predictions: dict[str, list[Any]]
    metrics: dict[str, float]
    spooled: Counter[tuple[str, int]]
    statuses: tuple[str, ...]
    params: dict[str, str]
    artifacts: frozenset[str]
    points: dict[str, list[tuple[int, float]]]
    """Of each metric: its steps and values in MLflow."""

    @classmethod
    def of(cls, folder: Path) -> "Story":
        (result,) = folder.glob("outputs/runs/*/*/result.json")
        metrics = json.loads(result.read_text())["metrics"]
        records = read_spool(result.parent / "spool.jsonl")[0]
        numbers = [(name, r["step"]) for r in records if r["kind"] == "metrics" for name in r["values"]]
        client = MlflowClient(f"sqlite:///{folder / 'outputs' / 'mlflow.db'}")
        runs = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
        run = runs[0]
        names = sorted({name for name, _ in numbers} | set(run.data.metrics))
        histories = {name: client.get_metric_history(run.info.run_id, name) for name in names if not _is_timing(name)}
        return cls(
            weights=load_file(result.parent / "weights.safetensors"),
            history=(result.parent / "history.json").read_text(),
            predictions=pq.read_table(result.parent / "predictions.parquet").to_pydict(),
            metrics={name: value for name, value in metrics.items() if not _is_timing(name)},
            spooled=Counter(numbers),
            statuses=tuple(run.info.status for run in runs),
            params=run.data.params,
            artifacts=frozenset(_artifacts(client, run.info.run_id)),
            points={name: sorted((p.step, p.value) for p in history) for name, history in histories.items()},
        )


def _is_timing(name: str) -> bool:
    return name.startswith("latency_")


def _artifacts(client: MlflowClient, run_id: str, path: str | None = None) -> Iterator[str]:
    for item in client.list_artifacts(run_id, path):
        yield item.path
        if item.is_dir:
            yield from _artifacts(client, run_id, item.path)


def assert_same(story: Story, whole: Story) -> None:
    assert story.statuses == ("FINISHED",), "one run in MLflow, and it has ended"
    assert set(story.spooled.values()) == {1}, "no step is recorded twice"
    assert story.spooled == whole.spooled, "no step is missing"
    assert story.points == whole.points
    assert story.params == whole.params
    assert story.artifacts == whole.artifacts
    assert story.metrics == whole.metrics
    assert story.history == whole.history
    assert story.predictions == whole.predictions
    assert differing_bits(story, whole) == 0


def differing_bits(story: Story, whole: Story) -> int:
    """Of all weights."""
    assert story.weights.keys() == whole.weights.keys()
    pairs = [(story.weights[name].tobytes(), whole.weights[name].tobytes()) for name in whole.weights]
    return sum(int(np.bitwise_count(np.bitwise_xor(*map(_as_bytes, pair))).sum()) for pair in pairs)


def _as_bytes(content: bytes) -> Any:
    return np.frombuffer(content, dtype=np.uint8)


@pytest.fixture(scope="module")
def mortal() -> Iterator[Mortal]:
    process = Mortal()
    yield process
    process.close()


def place(parent: Path, name: str, empty_store: Path) -> Path:
    """A folder to run in, whose store is made already."""
    folder = parent / name
    (folder / "outputs").mkdir(parents=True)
    shutil.copy(empty_store, folder / "outputs" / "mlflow.db")
    graphs = empty_store.parents[1] / "graphs"  # as `known_graphs`
    graphs.mkdir(exist_ok=True)
    (folder / "outputs" / "graphs").symlink_to(graphs)
    return folder


@pytest.fixture(scope="module")
def whole(mortal: Mortal, empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Story:
    """What the run leaves that nobody disturbs."""
    folder = place(tmp_path_factory.mktemp("whole"), "place", empty_store)
    ended = mortal.run(folder, *EVERY_4_STEPS)
    assert ended.code == 0, ended.output
    return Story.of(folder)


def moved(name: str, when: str) -> Point:
    """Before or after a file takes its name."""
    return {"owner": "pathlib:Path", "name": "replace", "match": f"/{name}$", "when": when}


def removed(name: str, when: str) -> Point:
    return {"owner": "pathlib:Path", "name": "unlink", "match": f"/{name}$", "when": when}


def recorded(kind: str, when: str, number: int = 1) -> Point:
    """Around a line of the spool, or in the middle of it."""
    match = f'"kind": "{kind}"'
    return {
        "owner": "mlops_hydra.tracking.spool:Spool",
        "name": "_write",
        "match": match,
        "when": when,
        "number": number,
    }


def sent(call: str, when: str, number: int = 1) -> Point:
    """Around a call to MLflow."""
    return {"owner": "mlflow.tracking.client:MlflowClient", "name": call, "when": when, "number": number}


HALF_A_STATE = {"owner": "mlops_hydra.training.checkpoints:_Hashed", "name": "write", "when": "before"}
MOMENTS: dict[str, list[Point]] = {
    "while the first state is written": [HALF_A_STATE | {"number": 9}],
    "while a later state is written": [HALF_A_STATE | {"number": 60}],
    "around the rename of a state": [moved(r"000001\.pt", "before"), moved(r"000002\.pt", "after")],
    "around the rename of the best weights": [moved(r"best-000001\.pt", "before"), moved(r"best-000002\.pt", "after")],
    "around the rename of a manifest": [moved(r"000002\.json", "before"), moved(r"000003\.json", "after")],
    "before old checkpoints are removed": [removed(r"000001\.json", "before"), removed(r"000002\.json", "before")],
    "while old checkpoints are removed": [removed(r"000001\.pt", "before"), removed(r"000002\.json", "after")],
    "at each checkpoint": [moved(rf"00000{number}\.json", "after") for number in range(1, 5)],
    "while the origin is recorded": [recorded("start", "half"), recorded("params", "before")],
    "while epochs are recorded": [recorded("metrics", "half", 2), recorded("metrics", "after", 2)],
    "while MLflow is told": [sent("create_run", "after"), sent("log_batch", "before"), sent("log_batch", "after", 3)],
    "while the result is written": [
        moved(r"history\.json", "after"),
        recorded("tags", "before"),
        moved(r"result\.json", "before"),
    ],
    "once the result is there": [moved(r"result\.json", "after")],
    "before the result is published": [moved(r"result\.json", "before") | {"number": 2}],
    "before the end is recorded": [recorded("end", "before")],
    "in the middle of the end": [recorded("end", "half")],
    "before MLflow knows of the end": [sent("set_terminated", "before")],
    "after MLflow knows of the end": [sent("set_terminated", "after")],
}


SELDOM = (
    "while a later state is written",
    "before old checkpoints are removed",
    "once the result is there",
    "before the result is published",
    "in the middle of the end",
    "before MLflow knows of the end",
)
"""Moments beside others that are as these are: a state half written, removing, the way from result.json to the end."""


@pytest.mark.parametrize(
    "moment", [pytest.param(name, marks=[pytest.mark.slow] if name in SELDOM else []) for name in MOMENTS]
)
def test_a_process_killed_at_any_moment_is_as_if_it_had_not_been(
    mortal: Mortal, whole: Story, tmp_path: Path, empty_store: Path, moment: str
) -> None:
    folder = place(tmp_path, "place", empty_store)
    for point in MOMENTS[moment]:
        assert mortal.run(folder, *EVERY_4_STEPS, **point).code == -signal.SIGKILL, "the moment came"
    ended = mortal.run(folder, *EVERY_4_STEPS)
    assert ended.code == 0, ended.output
    assert_same(Story.of(folder), whole)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_while_a_checkpoint_is_written_ends_the_run_and_loses_nothing(
    mortal: Mortal, whole: Story, tmp_path: Path, empty_store: Path, number: signal.Signals, code: int
) -> None:
    folder = place(tmp_path, "place", empty_store)
    ended = mortal.run(folder, *EVERY_4_STEPS, **moved(r"000002\.pt", "before"), signal=number)
    assert ended.code == code, ended.output
    (run,) = folder.glob("outputs/runs/*/*")
    manifest = newest_manifest(run)
    assert manifest is not None
    assert manifest.step == 9, "the step that was under way ended, with a checkpoint"
    ended = mortal.run(folder, *EVERY_4_STEPS)
    assert ended.code == 0, ended.output
    assert "from epoch 2, step 9" in ended.output
    assert_same(Story.of(folder), whole)


def test_the_command_itself_goes_on_after_kill_9(whole: Story, tmp_path: Path, empty_store: Path) -> None:
    """Two cold starts of a real process, 8 s: what a person types, imports and all."""
    folder = place(tmp_path, "place", empty_store)
    command = [sys.executable, "-m", "mlops_hydra", *EVERY_4_STEPS]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while not list(folder.glob("outputs/runs/*/*/checkpoints/*.json")):
            time.sleep(0.001)
            assert process.poll() is None
        process.kill()
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "Resumed run" in done.stdout
    assert_same(Story.of(folder), whole)


MODELS = {"linear": 20, "mlp": 20, "cnn": 6}
"""And the epochs that take about a second."""
OPTIMIZERS = ("sgd", "adam", "adamw")
SCHEDULERS: dict[str, tuple[str, ...]] = {
    "none": (),
    "cosine": (),
    "one_cycle": (),
    "plateau": ("scheduler.patience=1",),
}
OWN = ["data.source._target_=own_project.Images", "~data.source.name", "data.classes=null", "trainer.batch_size=16"]
NUM_KILLS = 200
NUM_WORKERS = 2
ENDED_BY_SIGNAL = {-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT, 128 + signal.SIGTERM, 128 + signal.SIGINT}


def configurations() -> Iterator[list[str]]:
    """Every model, optimizer and scheduler; then a Dataset of a person's own, with and without loader workers."""
    for (model, epochs), optimizer, scheduler in product(MODELS.items(), OPTIMIZERS, SCHEDULERS):
        chosen = [f"model={model}", f"optimizer={optimizer}", f"scheduler={scheduler}", *SCHEDULERS[scheduler]]
        yield [*chosen, "data=digits", f"trainer.epochs={epochs}"]
    for scheduler, workers in product(("one_cycle", "plateau"), (0, 2)):
        yield ["model=cnn", f"scheduler={scheduler}", *OWN, f"data.num_workers={workers}", "trainer.epochs=12"]


@dataclass
class Figures:
    """What 200 kills cost."""

    kills: Counter[str] = field(default_factory=Counter)
    resumes: int = 0
    finished: int = 0
    lost_steps: int = 0
    steps_twice: int = 0
    bits: int = 0
    misread: int = 0
    """Signals whose exception a library took for an error of its own; the process ended, with another exit code."""
    others: list[str] = field(default_factory=list)
    """What else was not as it should be."""

    def add(self, story: Story, whole: Story, told: str) -> None:
        """Compare one finished run with the one that nobody disturbed."""
        self.finished += 1
        spooled, points = story.spooled, Counter(_steps(story))
        self.lost_steps += (whole.spooled - spooled).total() + (Counter(_steps(whole)) - points).total()
        self.steps_twice += (spooled - whole.spooled).total() + (points - Counter(_steps(whole))).total()
        self.bits += differing_bits(story, whole)
        try:
            assert_same(story, whole)
        except AssertionError as error:
            self.others.append(f"{told}: {error}")

    def __str__(self) -> str:
        kinds = ", ".join(f"{number} {name}" for name, number in sorted(self.kills.items()))
        return (
            f"kills {self.kills.total()} ({kinds}), resumes {self.resumes}, finished runs {self.finished}, "
            f"lost steps {self.lost_steps}, steps twice {self.steps_twice}, differing bits {self.bits}; "
            f"signals taken for an error {self.misread}"
        )


def _steps(story: Story) -> list[tuple[str, int]]:
    return [(name, step) for name, points in story.points.items() for step, _ in points]


class Chaos:
    """Kills one configuration after the other, in a process of its own."""

    def __init__(self, parent: Path, empty_store: Path, figures: Figures) -> None:
        self._parent, self._empty_store, self._figures = parent, empty_store, figures
        self._lock = threading.Lock()
        self._local = threading.local()
        self._started: list[Mortal] = []

    def close(self) -> None:
        for mortal in self._started:
            mortal.close()

    def __call__(self, number: int, overrides: Sequence[str], num_kills: int) -> None:
        """`num_kills` kills at random moments; whenever a run has come to its end, the next begins from nothing."""
        if not hasattr(self._local, "mortal"):
            self._local.mortal = Mortal()
            self._started.append(self._local.mortal)
        mortal, chosen = self._local.mortal, random.Random(number)
        command = [*SHORT, "trainer.checkpoint.every_steps=7", *overrides]
        undisturbed = mortal.run(folder := self._place(f"{number}-whole"), *command)
        assert undisturbed.code == 0, undisturbed.output
        whole, life = Story.of(folder), undisturbed.seconds
        for attempt in range(100):
            folder, killed = self._place(f"{number}-{attempt}"), 0
            while num_kills and self._kill(mortal, folder, command, chosen, life):
                num_kills, killed = num_kills - 1, killed + 1
            self._finish(mortal, folder, command, whole)
            if not num_kills:
                return
        raise AssertionError("the kills come too late")

    def _place(self, name: str) -> Path:
        folder = place(self._parent, name, self._empty_store)
        shutil.copy(ROOT / "tests" / "training" / "own_project.py", folder)
        return folder

    def _kill(self, mortal: Mortal, folder: Path, command: Sequence[str], chosen: random.Random, life: float) -> bool:
        """Whether it was alive when its time came."""
        kind = chosen.choices([signal.SIGKILL, signal.SIGTERM, signal.SIGINT], [0.7, 0.15, 0.15])[0]
        ended = mortal.run(folder, *command, after=chosen.random() * life, signal=kind)
        with self._lock:
            self._figures.resumes += "Resumed run" in ended.output
            if ended.code == 0:
                return False
            self._figures.kills[kind.name] += 1
            if ended.code in (1, 2) and kind != signal.SIGKILL:
                self._figures.misread += 1
            elif ended.code not in ENDED_BY_SIGNAL:
                self._figures.others.append(f"{command} ended with {ended.code}: {ended.output}")
        return True

    def _finish(self, mortal: Mortal, folder: Path, command: Sequence[str], whole: Story) -> None:
        ended = mortal.run(folder, *command)
        with self._lock:
            self._figures.resumes += "Resumed run" in ended.output
            if ended.code:
                self._figures.others.append(f"{command} ended with {ended.code}: {ended.output}")
            else:
                self._figures.add(Story.of(folder), whole, f"{folder.name} {command}")


@pytest.mark.slow
def test_200_kills_at_random_moments_lose_no_step_and_change_no_bit(
    tmp_path: Path, empty_store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Five minutes on two cores: 330 processes that are ended within seconds, or end by themselves."""
    figures, chosen = Figures(), list(configurations())
    shares = [NUM_KILLS // len(chosen) + (number < NUM_KILLS % len(chosen)) for number in range(len(chosen))]
    chaos = Chaos(tmp_path, empty_store, figures)
    try:
        with ThreadPoolExecutor(NUM_WORKERS) as pool:
            list(pool.map(chaos, range(len(chosen)), chosen, shares))
    finally:
        chaos.close()
        with capsys.disabled():
            print(f"\n{figures}", *figures.others, sep="\n")
    assert figures.kills.total() == NUM_KILLS
    assert (figures.lost_steps, figures.steps_twice, figures.bits) == (0, 0, 0)
    assert not figures.others


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator["SmallDisk"]:
    disk = SmallDisk(tmp_path / "disk")
    disk.path.mkdir()
    try:
        disk.mount("size=100m")
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs the right to mount a tmpfs")
    yield disk
    subprocess.run(["umount", disk.path], check=True)


@dataclass(frozen=True)
class SmallDisk:
    """A file system of its own, in memory."""

    path: Path

    @property
    def used_kib(self) -> int:
        status = os.statvfs(self.path)
        return (status.f_blocks - status.f_bfree) * status.f_frsize // 1024

    def mount(self, options: str) -> None:
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", self.path], check=True, capture_output=True)

    def change(self, options: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{options}", self.path], check=True, capture_output=True)


LARGE = [*EVERY_4_STEPS, "model.hidden=[128,64]"]
NO_CHECKPOINTS = [*SHORT, "model.hidden=[512,256]"]


@pytest.mark.slow
@pytest.mark.parametrize("command", [LARGE, NO_CHECKPOINTS], ids=["checkpoints", "no checkpoints"])
def test_a_full_disk_ends_a_run_with_a_clear_error_and_once_there_is_space_it_ends_with_the_same_bits(
    mortal: Mortal, small_disk: SmallDisk, tmp_path: Path, empty_store: Path, command: list[str]
) -> None:
    """A minute: twenty sizes of the disk, so that another file is the one that does not fit each time."""
    undisturbed = place(tmp_path, "whole", empty_store)
    assert mortal.run(undisturbed, *command).code == 0
    whole, codes = Story.of(undisturbed), []
    for number in range(20):
        folder = place(small_disk.path, str(number), empty_store)
        small_disk.change(f"size={small_disk.used_kib + 30 + number * 75}k")
        ended = mortal.run(folder, *command, log=tmp_path / "log")
        codes.append(ended.code)
        assert ended.code in (0, 1), "0: only MLflow does not have all of it"
        assert "Traceback" not in ended.output
        assert ended.code == 0 or re.search(r"TrackingError: .* cannot be written: .*No space left", ended.output)
        small_disk.change("size=100m")
        again = mortal.run(folder, *command, log=tmp_path / "log")
        assert again.code == 0, again.output
        assert "set aside" not in again.output, "the last checkpoint is valid"
        copied = shutil.copytree(folder, tmp_path / str(number))  # MLflow keeps a database open that it has read
        assert_same(Story.of(copied), whole)
        shutil.rmtree(folder)
    assert set(codes[:5]) == {1}


@pytest.mark.slow
def test_a_read_only_output_dir_stops_a_run_before_anything_is_trained(
    mortal: Mortal, small_disk: SmallDisk, tmp_path: Path
) -> None:
    small_disk.change("ro")
    ended = mortal.run(tmp_path, "model=linear", "progress=plain", f"output_dir={small_disk.path}/outputs")
    assert ended.code == 1
    assert "TrackingError: output_dir: no folder for the run can be made" in ended.output
    assert "Read-only file system" in ended.output
    assert "epoch" not in ended.output
    assert "Traceback" not in ended.output
