"""A service that follows a registry, under load, and all that can happen to it.

Each event says beforehand what the load may see, and waits until each worker shows it, or the service tells of it.
"""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from mlops_hydra.serving.router import Router
from mlops_hydra.tracking.alias import read_state
from mlops_hydra.tracking.registry import CHALLENGER, CHAMPION, ModelVersion
from mlops_hydra.tracking.versions import version_before
from tests.serving.conftest import Service, Shop, kind_of
from tests.serving.expected import Known, State, rows_for
from tests.serving.load import Load
from tests.serving.sizes import Sizes

RATE = 250.0  # requests a second, and more while something changes
NUM_SEEDS = 4
WEIGHTS = {"control": 80, "treatment": 20}
OPTIONS = [
    *(f"variants.{arm}.weight={weight}" for arm, weight in WEIGHTS.items()),
    f"workers={Load.num_workers}",
    "follow.poll_seconds=0.5",
    "log.sample=1",
    "log.roll_seconds=5",
]


class Stage:
    """A model with some versions, of which the service to come serves 1 and 2."""

    def __init__(self, shop: Shop, service: Callable[..., Service], trained_bundle: Callable[[int], Path]) -> None:
        self.shop, self.registry = shop, shop.registry
        self.known = Known(rows_for([trained_bundle(seed) for seed in range(NUM_SEEDS)]))
        self.versions: dict[str, ModelVersion] = {}
        self.served, self.killed = {"1", "2"}, set[str]()
        self.rng = random.Random(1)
        for _ in range(NUM_SEEDS):
            self._new_version()
        self._move(CHAMPION, "1", None)
        self._move(CHALLENGER, "2", None)
        self.service = service(*OPTIONS, name=shop.name)

    def start(self, stack: ExitStack, **how: Any) -> None:
        """The service, its load, and somebody who watches its processes."""
        stack.enter_context(self.service)
        self.num_swaps = 2 * Load.num_workers
        router = Router(self.shop.name, WEIGHTS)
        load = Load(self.service.url, self.known, router, State("1", "2"), rate=RATE, **how)
        self.load = stack.enter_context(load)
        self.sizes = stack.enter_context(Sizes(self.processes))
        self.service.until(lambda: len(load.workers()) == load.num_workers and self.swaps() == self.num_swaps)

    def processes(self) -> dict[str, int]:
        """Their ids by name."""
        found, num_workers = {"supervisor": self.service.process.pid}, 0
        for pid in sorted(self.service.children()):
            kind = kind_of(pid)
            if kind == "worker":
                kind, num_workers = f"worker {num_workers}", num_workers + 1
            found |= {kind: pid} if kind else {}
        return found

    # What happens

    def promote_a_new_version(self) -> None:
        self._follow(CHAMPION, self._new_version())

    def promote_an_old_version(self) -> None:
        self._follow(CHAMPION, self._other_than(self.state.control))

    def move_the_challenger(self) -> None:
        self._follow(CHALLENGER, self._other_than(self.state.treatment))

    def take_the_challenger_away(self) -> None:
        with self._changing(replace(self.state, treatment=None)):
            self.shop.take(CHALLENGER)

    def roll_back(self) -> None:
        back = self._version_before()
        with self._changing(replace(self.state, control=back)):
            assert str(self.registry.rollback(self.shop.name).after) == back

    def roll_back_by_the_command(self) -> None:
        with self._changing(replace(self.state, control=self._version_before())):
            self._command("rollback", self.shop.name)

    def promote_a_version_that_is_damaged(self) -> None:
        """The one before goes on, also when it is given the alias back."""
        before = self.state.control
        number = self._damaged_version()
        self._move(CHAMPION, number, before)
        self._until(lambda text: f'refused_info{{variant="control",version="{number}"}} 1' in text)
        time.sleep(1)
        assert self._version_before() == before
        self._command("rollback", self.shop.name)
        self._until(lambda text: "refused_info{" not in text)

    def turn_the_kill_switch_on(self) -> None:
        with self._changing(replace(self.state, is_killed=True)):
            self._command("ab", f"name='{self.shop.name}'", "kill_switch=on")

    def turn_the_kill_switch_off(self) -> None:
        with self._changing(replace(self.state, is_killed=False)):
            self._command("ab", f"name='{self.shop.name}'", "kill_switch=off")

    def move_the_registry_away_and_back(self) -> None:
        store = self.shop.output_dir / "mlflow.db"
        away = store.rename(store.with_suffix(".away"))
        self._until(lambda text: "registry_up 0" in text)
        time.sleep(2)
        away.rename(store)
        self._until(lambda text: "registry_up 1" in text)

    def kill_a_worker(self) -> None:
        """Wait until the clients of the dead are those of another."""
        load = self.load
        self.service.until(lambda: len(load.workers()) == load.num_workers)
        before = load.workers()
        os.kill(self.processes()["worker 0"], signal.SIGKILL)
        self.service.until(lambda: len(load.workers() - before) == 1 and len(load.workers()) == load.num_workers)
        self.killed |= before - load.workers()

    def kill_the_recorder(self) -> None:
        self._kill("recorder")

    def kill_the_drift_watcher(self) -> None:
        self._kill("drift_watcher")

    def kill_the_follower(self) -> None:
        self._kill("follower")

    def _kill(self, kind: str) -> None:
        os.kill(victim := self.processes()[kind], signal.SIGKILL)
        self.service.until(lambda: self.processes().get(kind, victim) != victim)

    @property
    def events(self) -> list[Callable[[], None]]:
        """In an order in which each of them makes sense, over and over."""
        return [
            self.promote_a_new_version,
            self.move_the_challenger,
            self.turn_the_kill_switch_on,
            self.turn_the_kill_switch_off,
            self.promote_an_old_version,
            self.roll_back,
            self.promote_a_version_that_is_damaged,
            self.take_the_challenger_away,
            self.promote_a_new_version,
            self.move_the_challenger,
            self.move_the_registry_away_and_back,
            self.roll_back_by_the_command,
        ]

    @property
    def kills(self) -> list[Callable[[], None]]:
        """The same, of a shorter play."""
        return [
            self.kill_a_worker,
            self.promote_a_new_version,
            self.kill_the_recorder,
            self.kill_the_drift_watcher,
            self.kill_the_follower,
            self.move_the_challenger,
            self.kill_a_worker,
            self.roll_back,
        ]

    # How

    @property
    def state(self) -> State:
        return self.load.change.after

    def _changing(self, after: State) -> "_Changing":
        return _Changing(self, after)

    def _follow(self, alias: str, to: str) -> None:
        """Have it move, and wait for the service."""
        state = self.state
        is_champion = alias == CHAMPION
        after = replace(state, control=to) if is_champion else replace(state, treatment=to)
        with self._changing(after):
            self._move(alias, to, state.control if is_champion else state.treatment)

    def _move(self, alias: str, to: str, expected: str | None) -> None:
        before, version = None if expected is None else int(expected), self.versions[to]
        name, reason = self.shop.name, "a soak test"
        assert self.registry.move(name, alias, version, expected=before, verdict="passed", reason=reason)

    def _new_version(self) -> str:
        """Of the next seed; no two versions have one fingerprint."""
        number = len(self.versions) + 1
        bundle = self.shop.make_bundle(number % NUM_SEEDS, fingerprint=f"{number:012x}")
        version = self.shop.register(bundle)
        assert version.version == number
        self.versions[str(number)] = version
        self.known.add(str(number), bundle)
        shutil.rmtree(bundle)
        return str(number)

    def _damaged_version(self) -> str:
        """Never served."""
        number = self._new_version()
        source = self.registry.fetch(self.versions[number]) / "bundle" / "model.onnx"
        content = bytearray(source.read_bytes())
        content[self.rng.randrange(len(content))] ^= 1 << self.rng.randrange(8)
        source.write_bytes(content)
        del self.known.outputs[number]
        return number

    def _other_than(self, version: str | None) -> str:
        return self.rng.choice([each for each in self.known.outputs if each != version])

    def _version_before(self) -> str:
        client, name = self.shop.client, self.shop.name
        found = version_before(client, name, CHAMPION, read_state(client, name))
        assert found is not None
        return str(found.version)

    def _command(self, *words: str) -> None:
        """The real one."""
        command = [sys.executable, "-m", "mlops_hydra", *words, f"output_dir={self.shop.output_dir}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    def metrics(self) -> str:
        status, text = self.service.ask("/metrics")
        assert status == 200, f"{text}\n{self.service.said}"
        return str(text)

    def _until(self, condition: Callable[[str], bool]) -> None:
        """Wait until both workers say so: who is asked differs."""
        in_a_row = 0
        deadline = time.monotonic() + 30
        while in_a_row < 10:
            in_a_row = in_a_row + 1 if condition(self.metrics()) else 0
            assert time.monotonic() < deadline, f"{self.metrics()}\n{self.service.said}"
            time.sleep(0.1)

    def swaps(self) -> int:
        """That all workers have counted."""
        found = re.findall(r"^mlops_hydra_serving_swaps_total\{.*\} (.*)$", self.metrics(), re.MULTILINE)
        return sum(int(float(number)) for number in found)


class _Changing:
    """While the body changes something, the load may see the state before and the one after; then only the latter."""

    def __init__(self, stage: Stage, after: State) -> None:
        self.stage, self.before, self.after = stage, stage.state, after

    def __enter__(self) -> None:
        self.change = self.stage.load.begin(self.after)

    def __exit__(self, kind: Any, *_: object) -> None:
        if kind is not None:
            return
        stage, before, after = self.stage, self.before, self.after
        stage.served |= {after.control} | ({after.treatment} if after.treatment else set())
        stage.num_swaps += Load.num_workers * (before.control != after.control)
        stage.num_swaps += Load.num_workers * (after.treatment not in (None, before.treatment))
        deadline = time.monotonic() + 30
        while len(self.change.arrived) < Load.num_workers:
            assert time.monotonic() < deadline, f"{after} is not served\n{stage.load.troubles}\n{stage.service.said}"
            time.sleep(0.02)
