"""Many processes, one study: exactly its total, whoever is killed, and nobody is left behind.

First with trials that take milliseconds, then with real experiments through the command line.
"""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState

from mlops_hydra.cli import main
from mlops_hydra.config.frozen import FrozenMap, Target
from mlops_hydra.errors import ConfigError, Fault, NonFiniteError, TrackingError, TrainingError
from mlops_hydra.sweeps import pool
from mlops_hydra.sweeps.plan import Plan
from mlops_hydra.sweeps.pool import STOP_SECONDS
from mlops_hydra.sweeps.space import parse_space
from mlops_hydra.sweeps.storage import close_storage, open_storage
from mlops_hydra.sweeps.study import DEATHS, OWNER
from mlops_hydra.training.manifest import newest_manifest

ROOT = Path(__file__).parents[2]
LONGEST_SECONDS = 120.0


def until(is_so: Callable[[], Any], what: str, seconds: float = LONGEST_SECONDS) -> Any:
    """Wait for something that is true."""
    end = time.monotonic() + seconds
    while not (found := is_so()):
        assert time.monotonic() < end, f"too late: {what}"
        time.sleep(0.01)
    return found


@contextmanager
def trials_of(url: str) -> Iterator[Callable[[], list[FrozenTrial]]]:
    """What another program sees of the only study in a store."""
    storage = open_storage(url)
    try:
        (study,) = until(storage.get_all_studies, "a study")
        yield lambda: list(storage.get_all_trials(study._study_id, deepcopy=False))
    finally:
        close_storage(storage)


# Cheap trials

WORKERS = """
import os, pickle, signal, sys, time
import alembic.migration, filelock, mlops_hydra.training.seeding, optuna.storages.journal, sqlalchemy.orm
from optuna.trial import TrialState
from mlops_hydra.sweeps.study import Study
from mlops_hydra.sweeps.worker import Ended, work
try:
    import psycopg
except ImportError:
    pass
plan, num_workers, log, seconds = pickle.load(sys.stdin.buffer)
def execute(trial):
    with open(log, "a") as file:
        file.write(f"{trial.number} {os.getpid()}\\n")
    time.sleep(seconds)
    return Ended(TrialState.COMPLETE, (trial.params["x"],), {"pid": os.getpid()})
children = []
for _ in range(num_workers):
    children.append(os.fork())
    if children[-1] == 0:
        study = Study(plan)
        work(study, execute)
        study.close()
        os._exit(0)
print([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children])
"""


@dataclass
class Workers:
    """So many processes on one study; `log` has a line for each trial that one begins: its number, and who."""

    process: "subprocess.Popen[bytes]"
    log: Path

    def begun(self) -> list[tuple[int, int]]:
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [(int(line.split()[0]), int(line.split()[1])) for line in lines]

    def codes(self) -> list[int]:
        out, _ = self.process.communicate(timeout=LONGEST_SECONDS)
        return list(json.loads(out))


@contextmanager
def working(plan: Plan, num_workers: int, log: Path, *, seconds: float) -> Iterator[Workers]:
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", WORKERS], **pipes) as process:  # type: ignore[call-overload]
        pickle.dump((plan, num_workers, log, seconds), process.stdin)
        process.stdin.flush()
        yield Workers(process, log)


def plan_of(url: str, total: int) -> Plan:
    sampler = Target("optuna.samplers.RandomSampler", FrozenMap({}))
    space = parse_space({}, ["x=interval(-1.0, 1.0)", "kind=a,b,c"])
    return Plan("s", url, total, space, (("loss", "minimize"),), sampler, None, 7, {"seed": 7})


def assert_exactly(trials: Sequence[FrozenTrial], total: int) -> None:
    assert [trial.number for trial in trials] == list(range(total))
    assert {trial.state for trial in trials} == {TrialState.COMPLETE}
    assert len({trial.params["x"] for trial in trials}) == total, "no point twice"
    assert all(trial.value == trial.params["x"] for trial in trials), "each has its own result"


FEW = {"sqlite": (2, 24), "journal": (3, 36), "postgresql": (4, 60)}
MANY = {"sqlite": (2, 40), "journal": (4, 60), "postgresql": (8, 200)}


@pytest.mark.parametrize(
    ("numbers", "is_killed"),
    [
        pytest.param(FEW, True, id="few, one is killed"),
        pytest.param(MANY, True, id="many, one is killed", marks=pytest.mark.slow),
        pytest.param(MANY, False, id="many, undisturbed", marks=pytest.mark.slow),
    ],
)
def test_many_processes_make_exactly_the_total_none_lost_and_none_twice(
    numbers: Mapping[str, tuple[int, int]], is_killed: bool, storage_url: str, tmp_path: Path
) -> None:
    """Eight on PostgreSQL take ten seconds on two cores that others use, too; four, and fewer trials, show the same."""
    num_workers, total = numbers[storage_url.partition(":")[0]]
    killed = None
    with working(plan_of(storage_url, total), num_workers, tmp_path / "log", seconds=0.02) as workers:
        if is_killed:
            begun = until(lambda: (found := workers.begun())[total // 3 :] and found, "a third of the trials")
            killed = begun[-1][1]
            os.kill(killed, signal.SIGKILL)
        codes = workers.codes()
        begun = workers.begun()
    with trials_of(storage_url) as trials:
        assert_exactly(trials(), total)
        deaths = sum(trial.system_attrs.get(DEATHS, 0) for trial in trials())
        finished = {trial.number: trial.user_attrs["pid"] for trial in trials()}
    assert sorted(codes) == [-signal.SIGKILL] * is_killed + [0] * (num_workers - is_killed)
    assert deaths <= is_killed
    twice = [number for number, times in Counter(number for number, _ in begun).items() if times > 1]
    assert len(twice) <= is_killed, "only the trial of the process that was killed is begun again"
    assert all((number, killed) in begun and finished[number] != killed for number in twice)
    assert {pid for _, pid in begun} >= set(finished.values())
    assert len({pid for _, pid in begun}) == num_workers, "all of them worked"


@pytest.mark.slow
def test_optuna_reads_what_many_processes_wrote(storage_url: str, tmp_path: Path) -> None:
    with working(plan_of(storage_url, 12), 3, tmp_path / "log", seconds=0.0) as workers:
        assert workers.codes() == [0, 0, 0]
    storage = open_storage(storage_url)
    try:
        study = optuna.load_study(study_name="s", storage=storage)
        assert study.best_value == min(trial.params["x"] for trial in study.trials)
        assert len(study.trials) == 12
    finally:
        close_storage(storage)


# Workers that are none


def stand_in(folder: Path, monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    """Have the pool start a script in the place of Python."""
    path = folder / "python"
    path.write_text("\n".join(("#!/bin/sh", *lines)))
    path.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(path))
    monkeypatch.setattr(pool, "STOP_SECONDS", 0.2)


@pytest.mark.parametrize(
    "lines",
    [["echo cannot start >&2", "exit 5"], ["echo noise", "exec sleep 100"], ["exec >&-", "exec sleep 100"]],
    ids=["ends at once", "says what cannot be read", "says nothing any more"],
)
def test_workers_that_do_not_answer_are_given_up_with_where_to_look(
    lines: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Four seconds: five tries, each found out within half a second."""
    stand_in(tmp_path, monkeypatch, "cat > /dev/null &", *lines)
    how = "exit code 5" if "exit 5" in lines else "signal 9"
    told = rf"workers die one after another \({how}\); the last words .*worker-0\.log"
    with pytest.raises(TrainingError, match=told), pool.Pool(1, tmp_path / "workers") as workers:
        workers.run("a job", lambda: None)  # type: ignore[arg-type]
    assert f"Worker 0 ended with {how}; another takes its place" in caplog.text
    if "exit 5" in lines:
        assert (tmp_path / "workers" / "worker-0.log").read_text() == "cannot start\n" * 5


def test_a_worker_that_does_not_listen_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path, monkeypatch, "trap '' TERM INT", "echo $$ > pid", "while true; do sleep 0.05; done")
    monkeypatch.chdir(tmp_path)

    def interrupted() -> None:
        until((tmp_path / "pid").exists, "it runs")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), pool.Pool(1, tmp_path / "workers") as workers:
        workers.run("a job", interrupted)  # type: ignore[arg-type]
    until(lambda: not Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists(), "it has ended", 5)


class OddError(Exception):
    """Cannot be made from what it prints."""

    def __init__(self, one: str, other: str) -> None:
        super().__init__(f"{one} and {other}")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ConfigError(Fault("sweeps", "is wrong", 1)), ConfigError),
        (NonFiniteError("the loss is nan", epoch=1, step=2), TrainingError),
        (OddError("one", "other"), TrainingError),
        (TrackingError("no disk"), TrackingError),
    ],
    ids=lambda value: getattr(type(value), "__name__", ""),
)
def test_every_error_of_a_worker_reaches_the_command_with_its_words_and_its_traceback_if_a_person_needs_it(
    error: Exception, kind: type[Exception]
) -> None:
    try:
        raise error
    except Exception as raised:
        received = pickle.loads(pickle.dumps(pool._as_sent(raised)))
    assert isinstance(received, kind)
    assert str(error) in str(received)
    assert isinstance(received, ConfigError) or "raise error" in "".join(received.__notes__)


# Real experiments

STUDY = [
    "-m",
    "sweeps=random",
    "sweeps.workers=2",
    "optimizer.lr=tag(log, interval(1e-4, 1e-1))",
    "trainer.early_stopping.patience=null",
    "trainer.checkpoint.every_steps=200",
    "trainer.checkpoint.every_seconds=null",
    "trainer.num_threads=1",
    "gates=none",
    "progress=plain",
]
SHORT = [*STUDY, "sweeps.n_trials=8", "trainer.epochs=2"]
LONG = [*STUDY, "sweeps.n_trials=4", "trainer.epochs=150"]


@dataclass
class Command:
    """`mlops-hydra` in a process and a process group of its own, as a terminal starts it."""

    process: "subprocess.Popen[bytes]"
    log: Path

    @property
    def output(self) -> str:
        return self.log.read_text(encoding="utf-8")

    def workers(self) -> list[int]:
        """The living worker processes."""
        return workers_of(self.process.pid)

    def end(self, seconds: float = LONGEST_SECONDS) -> int:
        return self.process.wait(seconds)


@contextmanager
def started(folder: Path, *overrides: str) -> Iterator[Command]:
    """A command; whatever it leaves behind is killed."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MLFLOW_DISABLE_TELEMETRY": "true", "COLUMNS": "200"}
    log = folder / f"log-{time.monotonic_ns()}"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlops_hydra", *overrides],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    workers = workers_of(process.pid)
    try:
        yield Command(process, log)
    finally:
        for pid in {*workers, *workers_of(process.pid)}:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.kill()
        process.wait()


def workers_of(parent: int) -> list[int]:
    """Living processes that were started as workers of `parent`, which need not live any more."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            words = (folder / "cmdline").read_bytes().split(b"\0")
            if (
                b"mlops_hydra.sweeps.pool" in words
                and words[words.index(b"mlops_hydra.sweeps.pool") + 1] == b"%d" % parent
            ):
                found.append(int(folder.name))
    return found


def place(parent: Path, name: str, empty_store: Path) -> Path:
    """A folder to run in, whose store is made already."""
    folder = parent / name
    (folder / "outputs").mkdir(parents=True)
    shutil.copy(empty_store, folder / "outputs" / "mlflow.db")
    graphs = empty_store.parents[1] / "graphs"  # as `known_graphs`
    graphs.mkdir(exist_ok=True)
    (folder / "outputs" / "graphs").symlink_to(graphs)
    return folder


def store_of(folder: Path) -> str:
    path = folder / "outputs" / "studies" / "studies.db"
    until(path.exists, "the store")
    return f"sqlite:///{path}"


def results_in(folder: Path) -> list[tuple[str, dict[str, Any], list[float] | None]]:
    with trials_of(store_of(folder)) as trials:
        return [(trial.state.name, trial.params, trial.values) for trial in trials()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> list[tuple[str, dict[str, Any], Any]]:
    """The trials of the long study that nobody disturbs, in this process alone: it has everything imported."""
    folder = place(tmp_path_factory.mktemp("whole"), "place", empty_store)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        assert main([*LONG, "sweeps.workers=1", "progress=off"]) == 0
    results = results_in(folder)
    assert [state for state, *_ in results] == ["COMPLETE"] * 4
    return results


def running_with_checkpoint(folder: Path, trials: Callable[[], list[FrozenTrial]]) -> FrozenTrial | None:
    """A trial at work, other than the first ones, that has something to go on from."""
    for trial in trials():
        if trial.state == TrialState.RUNNING and trial.number >= 1:
            for lease in (folder / "outputs" / "runs").glob("*/*/lease.json"):
                with suppress(OSError, ValueError):
                    if json.loads(lease.read_text())["pid"] == trial.system_attrs[OWNER]["pid"]:
                        return trial if newest_manifest(lease.parent) else None
    return None


@pytest.mark.slow
def test_workers_share_the_trials_of_a_study_and_are_gone_when_it_is_over(tmp_path: Path, empty_store: Path) -> None:
    folder = place(tmp_path, "place", empty_store)
    with started(folder, *SHORT) as command:
        pids = set(until(lambda: len(found := command.workers()) == 2 and found, "two workers"))
        assert command.end() == 0, command.output
        assert not command.workers()
    with trials_of(store_of(folder)) as trials:
        owners = {trial.system_attrs[OWNER]["pid"] for trial in trials()}
        assert [trial.state.name for trial in trials()] == ["COMPLETE"] * 8
        assert len({trial.user_attrs["run"] for trial in trials()}) == 8
    assert owners <= pids


@pytest.mark.slow
def test_the_trial_of_a_killed_worker_is_finished_by_another_and_the_study_is_as_if_nothing_had_been(
    tmp_path: Path, empty_store: Path, whole: list[Any]
) -> None:
    """Ten seconds where nobody else works: processes that import torch, and four trials of a second."""
    folder = place(tmp_path, "place", empty_store)
    with started(folder, *LONG) as command, trials_of(store_of(folder)) as trials:
        victim = until(lambda: running_with_checkpoint(folder, trials), "a trial with a checkpoint")
        pid = victim.system_attrs[OWNER]["pid"]
        assert pid in command.workers()
        os.kill(pid, signal.SIGKILL)
        assert command.end() == 0, command.output
        assert not command.workers()
        again = trials()[victim.number]
        assert again.system_attrs[OWNER]["pid"] != pid
        assert again.system_attrs[DEATHS] == 1
        assert again.user_attrs["status"] == "resumed"
        assert "ended with signal 9; another takes its place" in command.output
    assert results_in(folder) == whole


@pytest.mark.slow
def test_ctrl_c_ends_a_study_within_seconds_leaves_nobody_behind_and_the_same_command_finishes_it(
    tmp_path: Path, empty_store: Path, whole: list[Any]
) -> None:
    """Twice the command: ten seconds each where nobody else works."""
    folder = place(tmp_path, "place", empty_store)
    with started(folder, *LONG) as command, trials_of(store_of(folder)) as trials:
        until(lambda: running_with_checkpoint(folder, trials), "a trial with a checkpoint")
        os.killpg(command.process.pid, signal.SIGINT)
        assert command.end(STOP_SECONDS) == 130, command.output
        assert not command.workers()
        assert "Traceback" not in command.output
        states = Counter(trial.state for trial in trials())
        assert not states[TrialState.RUNNING]
        assert states[TrialState.WAITING]
        assert not any(DEATHS in trial.system_attrs for trial in trials())
    with started(folder, *LONG) as again:
        assert again.end() == 0, again.output
        assert "goes on" in again.output
    assert results_in(folder) == whole


@pytest.mark.slow
def test_workers_end_soon_after_their_command_was_killed_and_the_same_command_finishes_the_study(
    tmp_path: Path, empty_store: Path, whole: list[Any]
) -> None:
    folder = place(tmp_path, "place", empty_store)
    with started(folder, *LONG) as command, trials_of(store_of(folder)) as trials:
        until(lambda: running_with_checkpoint(folder, trials), "a trial with a checkpoint")
        command.process.kill()
        command.process.wait()
        until(lambda: not command.workers(), "the workers end", STOP_SECONDS)
        assert not any(trial.state == TrialState.RUNNING for trial in trials()), "they gave their trials back"
    with started(folder, *LONG) as again:
        assert again.end() == 0, again.output
    assert results_in(folder) == whole


@pytest.mark.slow
def test_two_commands_at_once_share_one_study_and_end_with_one_total(
    tmp_path: Path, empty_store: Path, whole: list[Any]
) -> None:
    folder = place(tmp_path, "place", empty_store)
    alone = [*LONG, "sweeps.workers=1"]
    with started(folder, *alone) as one, started(folder, *alone) as other:
        codes = [one.end(), other.end()]
        assert codes == [0, 0], one.output + other.output
    with trials_of(store_of(folder)) as trials:
        assert len({trial.system_attrs[OWNER]["pid"] for trial in trials()}) == 2
    assert results_in(folder) == whole


@pytest.mark.slow
def test_killed_again_and_again_a_study_comes_to_the_same_end(
    tmp_path: Path, empty_store: Path, whole: list[Any]
) -> None:
    """Each command is killed once it has a trial with a checkpoint, by turns with a signal that it hears of or not."""
    folder = place(tmp_path, "place", empty_store)
    for number in range(4):
        kind = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT)[number % 3]
        with started(folder, *LONG) as command, trials_of(store_of(folder)) as trials:
            found = until(
                lambda: running_with_checkpoint(folder, trials) or command.process.poll() is not None,
                "a trial with a checkpoint",
            )
            if found is True:
                break
            os.kill(command.process.pid, kind)
            command.process.wait()
            until(lambda: not command.workers(), "the workers end", STOP_SECONDS)
    with started(folder, *LONG) as again:
        assert again.end() == 0, again.output
    assert results_in(folder) == whole


OWN = """
import os, sys, torch
class Model(torch.nn.Linear):
    def __init__(self, in_features, out_features, kind="fine"):
        super().__init__(in_features, out_features)
        if "mlops_hydra.sweeps.pool" not in sys.orig_argv:
            return
        if kind.startswith("loud"):
            print("printed by the model", flush=True)
            os.write(1, b"written to standard output")
            assert sys.stdin.read() == ""
        if kind.startswith("wrong"):
            raise ValueError("the model does not like this point")
        if kind.startswith("deadly"):
            os._exit(11)
"""


@pytest.mark.slow
def test_a_model_that_prints_asks_fails_or_ends_its_process_does_no_harm_to_the_other_trials(
    tmp_path: Path, empty_store: Path
) -> None:
    """Half a minute: eight workers die, and each that takes the place of one imports torch."""
    folder = place(tmp_path, "place", empty_store)
    (folder / "own.py").write_text(OWN)
    kinds = ["loud", "deadly1", "fine", "deadly2", "loud2", "deadly3", "wrong", "deadly4"]
    own = ["~model.hidden", "~model.dropout", "model._target_=own.Model", "+model.kind=" + ",".join(kinds)]
    search = ["sweeps=grid", "sweeps.n_trials=8", "sweeps.max_failure_rate=0.7", "trainer.epochs=2"]
    others = [word for word in STUDY if not word.startswith(("sweeps=", "optimizer"))]
    with started(folder, *others, *search, *own) as command:
        assert command.end() == 0, command.output
        assert command.output.count("ended with exit code 11") == 8
    with trials_of(store_of(folder)) as trials:
        ended = {trial.params["+model.kind"]: trial for trial in trials()}
    assert len(ended) == 8
    for kind, trial in ended.items():
        is_fine = kind.startswith(("loud", "fine"))
        assert trial.state == (TrialState.COMPLETE if is_fine else TrialState.FAIL), kind
        told = "does not like" if kind == "wrong" else "its process died"
        assert is_fine or told in trial.user_attrs["error"]
    logs = "".join(path.read_text() for path in folder.glob("outputs/studies/*/workers/*.log"))
    assert "printed by the model" in logs
    assert "written to standard output" in logs
    assert "printed by the model" not in command.output, "it would spoil the table"
