"""Processes that promote, register and roll back at once, or are killed at it, on SQLite and on a real server."""

import json
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from mlops_hydra.tracking.registry import CHAMPION, ModelVersion, Move, Registry
from mlops_hydra.tracking.store import open_client

NUM_RACERS = 8
NUM_FEWER = 4

RACE = """
import json, os, random, signal, sys, time

import mlflow.artifacts, mlflow.store.artifact.http_artifact_repo
import mlflow.store.model_registry.rest_store, mlflow.store.model_registry.sqlalchemy_store
import mlflow.store.tracking.rest_store, mlflow.store.tracking.sqlalchemy_store

from mlops_hydra.errors import BusyError
from mlops_hydra.tracking.registry import CHAMPION, Registry
from mlops_hydra.tracking.store import import_mlflow

import_mlflow()


def promote(registry, name, version, expected=...):
    tries = 0
    while True:
        tries += 1
        with registry.lock(name):
            now = registry.version_of(name, CHAMPION)
            found = (now.version if now else None) if expected is ... else expected
            to = registry.version_of(name, version)
            try:
                move = registry.move(name, CHAMPION, to, expected=found, verdict="passed", reason=f"racer {version}")
            except BusyError as error:
                if expected is not ...:
                    return {"busy": str(error)}
                continue
        return {"moved": move is not None, "tries": tries}


def register(registry, name, run_id, lineage):
    made = registry.register(name, run_id=run_id, tags={"lineage": lineage, "verdict": "passed"})
    return {"version": made.version, "run_id": made.run_id}


def rollback(registry, name):
    return {"after": registry.rollback(name).after}


def die(method, when):
    original = getattr(mlflow.MlflowClient, method)

    def mortal(*args, **kwargs):
        if when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        original(*args, **kwargs)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(mlflow.MlflowClient, method, mortal)


def dawdle(seed):
    '''Between any two requests others get a chance.'''
    dice = random.Random(seed)
    for method in ("get_registered_model", "set_registered_model_tag", "set_registered_model_alias"):
        original = getattr(mlflow.MlflowClient, method)

        def slow(*args, original=original):
            time.sleep(dice.uniform(0, 0.05))
            answer = original(*args)
            time.sleep(dice.uniform(0, 0.05))
            return answer

        setattr(mlflow.MlflowClient, method, slow)


def become(request, waiting):
    os.read(waiting, 1)
    began = time.monotonic()
    if "die" in request:
        die(*request["die"])
    if "seed" in request:
        dawdle(f"{request['seed']} {request['with']}")
    try:
        registry = Registry(request["uri"], request["output_dir"], timeout_seconds=60)
        said = globals()[request["do"]](registry, request["name"], *request["with"])
    except BaseException as error:
        said = {"error": repr(error)}
    said["seconds"] = round(time.monotonic() - began, 2)
    os.write(1, (json.dumps(said) + "\\n").encode())
    os._exit(0)


for line in sys.stdin:
    waiting, starting = os.pipe()
    racers = []
    for request in json.loads(line):
        racers.append(os.fork())
        if racers[-1] == 0:
            os.close(starting)
            become(request, waiting)
    os.close(starting)
    os.close(waiting)
    for racer in racers:
        os.waitpid(racer, 0)
    os.write(1, b"null\\n")
"""


@dataclass
class Track:
    """A model in a store, and processes that do something with it at the same moment."""

    starter: subprocess.Popen[str]
    uri: str
    tmp_path: Path
    experiment_id: str
    name: str = field(default_factory=lambda: f"race {secrets.token_hex(3)}")

    @property
    def registry(self) -> Registry:
        return Registry(self.uri, self.tmp_path / "outputs", timeout_seconds=60)

    def run(self) -> str:
        client = open_client(self.uri)
        run_id: str = client.create_run(self.experiment_id).info.run_id
        folder = self.tmp_path / run_id / "model"
        folder.mkdir(parents=True)
        (folder / "weights").write_text("weights")
        client.log_artifacts(run_id, str(folder), "model")
        return run_id

    def versions(self, count: int) -> list[ModelVersion]:
        """Made of one run: only their lineages differ."""
        client, run_id = open_client(self.uri), self.run()
        tags = [{"lineage": secrets.token_hex(6), "verdict": "passed"} for _ in range(count)]
        made = [self.registry.register(self.name, run_id=run_id, tags=tags[0])]
        for each in tags[1:]:
            client.create_model_version(self.name, made[0].source, run_id, tags=each, await_creation_for=0)
        return [self.registry.version_of(self.name, number + 1) for number in range(count)]

    def promote(self, version: ModelVersion, expected: int | None) -> Move | None:
        return self.registry.move(
            self.name, CHAMPION, version, expected=expected, verdict="passed", reason="before the race"
        )

    def start(self, do: str, arguments: list[list[Any]], *, shares: bool = True, **how: Any) -> list[Any]:
        """What each said; one that was killed says nothing."""
        folders = ["outputs" if shares else f"outputs-{number}" for number in range(len(arguments))]
        requests = [
            {"uri": self.uri, "output_dir": str(self.tmp_path / folder), "do": do, "name": self.name, "with": these}
            | how
            for folder, these in zip(folders, arguments, strict=True)
        ]
        stdin, stdout = self.starter.stdin, self.starter.stdout
        assert stdin is not None and stdout is not None
        stdin.write(f"{json.dumps(requests)}\n")
        stdin.flush()
        said = list(iter(lambda: json.loads(stdout.readline()), None))
        assert not [each for each in said if "error" in each], said
        return said

    @property
    def history(self) -> list[Move]:
        return self.registry.history(self.name)

    def champion(self) -> int | None:
        found = self.registry.version_of(self.name, CHAMPION)
        return found.version if found else None


@pytest.fixture(scope="module")
def starter() -> Iterator[subprocess.Popen[str]]:
    """Has everything imported, which takes seconds, and forks the processes of a race."""
    command = [sys.executable, "-W", "ignore", "-c", RACE]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.communicate(timeout=60)


def track_in(starter: subprocess.Popen[str], uri: str, tmp_path: Path, **options: str) -> Track:
    return Track(starter, uri, tmp_path, open_client(uri).create_experiment(secrets.token_hex(6), **options))


@pytest.fixture
def here(starter, local_store: str, tmp_path: Path) -> Track:
    return track_in(starter, local_store, tmp_path, artifact_location=(tmp_path / "artifacts").as_uri())


@pytest.fixture
def there(starter, mlflow_server: str, tmp_path: Path) -> Track:
    return track_in(starter, mlflow_server, tmp_path)


@pytest.fixture(params=["here", "there"])
def track(request: pytest.FixtureRequest) -> Track:
    found: Track = request.getfixturevalue(request.param)
    return found


def assert_a_chain(history: list[Move], champion: int | None) -> None:
    """No update is lost: each move began where the one before it ended."""
    for earlier, later in pairwise(history):
        assert later.before == earlier.after and later.time > earlier.time
    assert history[-1].after == champion


SLOW = pytest.mark.slow


def sharing(*, together: Any = (), apart: Any = ()) -> Any:
    """The racers share an `output_dir`, and with it the lock, or not; with marks for each."""
    cases = [
        pytest.param(True, id="one output_dir", marks=together),
        pytest.param(False, id="an output_dir each", marks=apart),
    ]
    return pytest.mark.parametrize("shares", cases)


@sharing()
def test_eight_that_promote_at_once_leave_one_champion_and_eight_entries(track: Track, shares: bool):
    versions = track.versions(NUM_RACERS)
    said = track.start("promote", [[version.version] for version in versions], shares=shares)
    assert [each["moved"] for each in said] == [True] * NUM_RACERS
    assert sorted(move.after for move in track.history) == [version.version for version in versions]
    assert sorted(move.reason for move in track.history) == sorted(f"racer {each.version}" for each in versions)
    assert_a_chain(track.history, track.champion())


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_no_update_is_lost_without_a_lock_whichever_way_the_requests_of_the_racers_mix(track: Track, seed: int):
    """Takes 5-15 s each."""
    versions = track.versions(NUM_FEWER)
    arguments = [[version.version] for version in versions]
    track.start("promote", arguments, shares=False, seed=seed)
    assert sorted(move.after for move in track.history) == [version.version for version in versions]
    assert_a_chain(track.history, track.champion())


@sharing(apart=SLOW)
def test_eight_that_promote_the_same_leave_one_entry(here: Track, shares: bool):
    here.versions(1)
    said = here.start("promote", [[1]] * NUM_RACERS, shares=shares)
    assert sorted(each["moved"] for each in said) == [False] * (NUM_RACERS - 1) + [True]
    assert here.champion() == 1 and len(here.history) == 1


@sharing(together=SLOW)
def test_of_eight_that_judged_against_the_same_champion_one_wins_and_the_others_hear_of_it(here: Track, shares: bool):
    first, *others = here.versions(NUM_RACERS + 1)
    here.promote(first, None)
    said = here.start("promote", [[version.version, 1] for version in others], shares=shares)
    busy = [each["busy"] for each in said if "busy" in each]
    assert len(busy) == NUM_RACERS - 1 and len(here.history) == 2
    assert all(f"it is version {here.champion()}, not version 1" in text for text in busy)
    assert_a_chain(here.history, here.champion())


@sharing(together=SLOW)
def test_eight_that_register_the_same_run_at_once_make_one_version(track: Track, shares: bool):
    run_id, lineage = track.run(), secrets.token_hex(6)
    said = track.start("register", [[run_id, lineage]] * NUM_RACERS, shares=shares)
    assert {(each["version"], each["run_id"]) for each in said} == {(1, run_id)}
    assert len(open_client(track.uri).search_model_versions(f"name = '{track.name}'")) == 1


def test_four_that_register_different_runs_at_once_make_four_versions(here: Track):
    said = here.start("register", [[here.run(), secrets.token_hex(6)] for _ in range(NUM_FEWER)])
    assert sorted(each["version"] for each in said) == list(range(1, NUM_FEWER + 1))


def test_each_of_four_rollbacks_at_once_goes_one_further_back(here: Track):
    before = None
    for version in here.versions(NUM_FEWER + 1):
        here.promote(version, before)
        before = version.version
    said = here.start("rollback", [[]] * NUM_FEWER)
    assert sorted(each["after"] for each in said) == list(range(1, NUM_FEWER + 1))
    assert here.champion() == 1
    assert_a_chain(here.history, 1)


DEATHS = {
    "before the entry": (["set_registered_model_tag", "before"], False),
    "after the entry": (["set_registered_model_tag", "after"], False),
    "before the move": (["set_registered_model_alias", "before"], False),
    "after the move": (["set_registered_model_alias", "after"], True),
}


@pytest.mark.parametrize("death", DEATHS)
@sharing(apart=SLOW)
def test_whoever_dies_at_a_move_leaves_none_without_an_entry_and_nobody_waits_for_the_dead(
    here: Track, death: str, shares: bool
):
    one, two, three = here.versions(3)
    here.promote(one, None)
    when, has_moved = DEATHS[death]
    assert here.start("promote", [[2]], die=when, shares=shares) == []
    assert here.champion() == (2 if has_moved else 1)
    assert [move.after for move in here.history] == ([1, 2] if has_moved else [1])
    began = time.monotonic()
    assert (here.promote(two, here.champion()) is None) == has_moved
    here.promote(three, 2)
    assert time.monotonic() - began < 5
    assert [move.after for move in here.history] == [1, 2, 3]
    assert_a_chain(here.history, 3)
    assert here.registry.rollback(here.name).after == 2


def test_whoever_dies_while_registering_leaves_no_half_version(here: Track):
    run_id, lineage = here.run(), secrets.token_hex(6)
    for method in ("create_registered_model", "create_model_version"):
        assert here.start("register", [[run_id, lineage]], die=[method, "after"]) == []
    made = here.registry.register(here.name, run_id=run_id, tags={"lineage": lineage, "verdict": "passed"})
    assert made.version == 1 and made.verdict == "passed"
    assert here.registry.version_of(here.name, 2) is None
