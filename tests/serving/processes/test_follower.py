"""The aliases of a registered model become what is served, and nothing that goes wrong on the way changes that."""

import json
import logging
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from mlops_hydra.packaging.bundle import load_bundle
from mlops_hydra.serving.processes.bundle_cache import KEEP_SECONDS
from mlops_hydra.serving.processes.companion import LEAVE_SECONDS
from mlops_hydra.serving.processes.follower import AGAIN_SECONDS
from mlops_hydra.serving.targets import Target, Targets, read_targets, write_targets
from mlops_hydra.tracking.registry import Registry

Shop = Any  # of conftest.py


@pytest.fixture(params=["here", "there"])
def shop(request: pytest.FixtureRequest) -> Shop:
    found: Shop = request.getfixturevalue(request.param)
    return found


def served(targets: Targets) -> dict[str, str]:
    return {arm: target.version for arm, target in targets.arms.items()}


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_promotions_and_rollbacks_are_followed(shop: Shop) -> None:
    one, two = shop.register(), shop.register()
    shop.give(one)
    follower = shop.follower()
    assert served(follower.step()) == {"control": "1"}
    shop.give(two)
    shop.give(one, "challenger")
    targets = follower.step()
    assert served(targets) == {"control": "2", "treatment": "1"}
    assert {arm: load_bundle(target.folder).lineage for arm, target in targets.arms.items()} == {
        "control": two.lineage,
        "treatment": one.lineage,
    }
    shop.give(one)
    assert served(follower.step()) == {"control": "1", "treatment": "1"}
    assert (targets.refused, targets.registry_error, targets.checked_at) == ({}, None, 100.0)
    assert read_targets(shop.folder.targets) == follower.step()


def test_what_is_served_is_fetched_once(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.give(shop.register())
    follower = shop.follower()
    first = follower.step()
    monkeypatch.setattr(Registry, "fetch", lambda *_: pytest.fail("fetched again"))
    assert follower.step() == follower.step() == first
    assert shop.follower().step() == first, "nor after a restart"


def test_an_alias_may_be_the_number_of_a_version(here: Shop) -> None:
    for _ in range(2):
        here.register()
    follower = here.follower("variants.control.alias=2", "variants.treatment.alias=7")
    assert served(follower.step()) == {"control": "2"}


def test_a_damaged_bundle_is_refused_with_the_reason_and_the_old_one_goes_on(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    bundle = shop.make_bundle()
    weights = bundle / "weights.safetensors"
    shop.give(shop.register())
    follower = shop.follower()
    before = follower.step()
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    two = shop.registry.register(shop.name, run_id=_run_of(shop, bundle), tags={"verdict": "passed"})
    shop.give(two)
    for _ in range(3):
        after = follower.step()
    assert after.arms == before.arms
    assert after.refused["control"].version == "2"
    assert "weights.safetensors: was changed after it was packaged" in after.refused["control"].reason
    (said,) = warnings(caplog)
    assert said.startswith("control: version 2 is not served: ") and said.endswith("; version 1 goes on")


def _run_of(shop: Shop, bundle: Path) -> str:
    run_id: str = shop.client.create_run(shop.experiment_id).info.run_id
    shop.client.log_artifacts(run_id, str(bundle), "model/bundle")
    return run_id


def test_a_refused_version_is_tried_again_when_it_changes_or_after_minutes(there: Shop) -> None:
    good = there.make_bundle()
    bad = shutil.copytree(good, there.output_dir.parent / "bad")
    (bad / "metrics.json").write_text("{}")
    version = there.registry.register(there.name, run_id=(run_id := _run_of(there, bad)), tags={"verdict": "passed"})
    there.give(version)
    follower = there.follower()
    assert follower.step().refused["control"].version == "1"
    there.client.log_artifacts(run_id, str(good), "model/bundle")
    assert follower.step().refused, "it has not changed, as far as the registry says"
    there.seconds += AGAIN_SECONDS
    assert served(follower.step()) == {"control": "1"}, "the damaged download is not kept"
    for path in (bad, good):
        there.client.log_artifacts(run_id, str(path), "model/bundle")
    other = there.registry.register(there.name, run_id=_run_of(there, bad), tags={"verdict": "passed"})
    there.give(other)
    assert follower.step().refused["control"].version == "2"
    there.client.log_artifacts(other.run_id, str(good), "model/bundle")
    there.client.set_model_version_tag(there.name, "2", "verdict", "failed")
    targets = follower.step()
    assert served(targets) == {"control": "2"} and not targets.refused


@pytest.mark.parametrize("verdict", ["", "pending"])
def test_a_version_without_a_verdict_is_not_served(here: Shop, verdict: str) -> None:
    bundle = here.make_bundle(verdict=verdict)
    here.give(here.register(bundle))
    targets = here.follower().step()
    assert not targets.arms and "it has no verdict" in targets.refused["control"].reason


def test_one_that_was_forced_is_served(here: Shop) -> None:
    here.give(here.register(here.make_bundle(verdict="failed")))
    assert served(here.follower().step()) == {"control": "1"}


def test_a_version_that_takes_other_columns_is_served_only_when_it_is_allowed(here: Shop) -> None:
    here.give(here.register())
    follower = here.follower()
    follower.step()
    here.give(here.register(rename={"age": "years"}))
    here.give(here.register(rename={"income": "salary"}), "challenger")
    targets = follower.step()
    assert served(targets) == {"control": "1"}
    reason = targets.refused["control"].reason
    assert "it does not take the columns of version 1: without age; with years" in reason
    assert "does not take the columns of control: without income; with salary" in targets.refused["treatment"].reason
    targets = here.follower("follow.allow_schema_change=true").step()
    assert served(targets) == {"control": "2", "treatment": "3"}
    here.take("champion")
    assert served(here.follower().step()) == {"control": "2"}, "what does not fit control is dropped at the start"


def test_an_arm_without_a_version_is_absent_but_control_stays(here: Shop, caplog: pytest.LogCaptureFixture) -> None:
    one = here.register()
    here.give(one)
    here.give(one, "challenger")
    follower = here.follower()
    assert served(follower.step()) == {"control": "1", "treatment": "1"}
    here.take("champion")
    here.take("challenger")
    targets = follower.step()
    assert served(targets) == {"control": "1"}
    assert targets.refused["control"].reason == "no version has the alias champion any more; version 1 goes on"
    here.give(one)
    assert not follower.step().refused


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (
            (),
            r"no version of credit \w+ has the alias champion \(aliases that are there: canary\); `mlops-hydra promote",
        ),
        (("variants.control.alias=3",), r"there is no version 3 of credit \w+ in the registry of models at sqlite:"),
        (("name=credid",), r"there is no model credid in .*; did you mean name=credit "),
        (("name=xyz", "tracking.uri=sqlite:///nothing.db"), r"there is no model xyz in .*promote RUN"),
    ],
)
def test_an_empty_registry_says_what_there_is_instead(here: Shop, overrides: tuple[str, ...], reason: str) -> None:
    here.give(here.register(), "canary")
    targets = here.follower(*overrides).step()
    assert not targets.arms and targets.refused["control"].version == ""
    assert re.match(reason, targets.refused["control"].reason), targets.refused
    assert not Path("nothing.db").exists()


def test_folders_that_are_named_are_targets_too(here: Shop) -> None:
    named = here.make_bundle()
    here.give(here.register(), "challenger")
    here.give(here.register(rename={"age": "years"}), "canary")
    follower = here.follower(f"variants.control.bundle={named}", "+variants.third={alias: canary, weight: 1}")
    targets = follower.step()
    assert targets.arms["control"] == Target("", str(named)) and targets.arms["treatment"].version == "1"
    assert "does not take the columns of control" in targets.refused["third"].reason


def test_arms_that_there_are_no_more_are_left_out(here: Shop) -> None:
    here.give(here.register())
    here.follower().step()
    targets = read_targets(here.folder.targets)
    assert targets is not None
    write_targets(here.folder.targets, Targets({**targets.arms, "old": Target("9", "/nowhere")}))
    assert served(here.follower().step()) == {"control": "1"}


def test_copies_that_no_arm_uses_go_after_a_while_but_the_one_before_stays(here: Shop) -> None:
    versions = [here.register() for _ in range(3)]
    follower = here.follower()
    names = [f"{version.version}-{version.lineage}" for version in versions]
    here.folder.bundles.mkdir(parents=True)
    (here.folder.bundles / ".half").mkdir()
    for version in versions:
        here.give(version)
        follower.step()
    assert here.copies() == names
    here.seconds += KEEP_SECONDS
    follower.step()
    assert here.copies() == names[1:]


def test_a_copy_that_was_damaged_is_fetched_again_to_another_place(here: Shop) -> None:
    here.give(here.register())
    (target,) = here.follower().step().arms.values()
    (Path(target.folder) / "model.onnx").write_bytes(b"")
    (again,) = here.follower().step().arms.values()
    assert again.folder == f"{target.folder}-2" and load_bundle(again.folder)


def test_a_disk_that_is_full_loses_nothing(here: Shop) -> None:
    here.give(here.register())
    follower = here.follower()
    before = follower.step()
    here.give(here.register())
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    largest = max(path.stat().st_size for path in Path(before.arms["control"].folder).iterdir())
    with _ignoring(signal.SIGXFSZ):
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest // 2, limits[1]))
        try:
            full = follower.step()
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
            assert follower.step().arms == before.arms
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert full.arms == before.arms and "File too large" in full.refused["control"].reason
    assert read_targets(here.folder.targets) == full, "whole, though the last one could not be written"
    assert len(here.copies()) == 1
    assert served(follower.step()) == {"control": "2"}, "there is room again: no need to wait"


class _ignoring:  # noqa: N801  a context manager
    def __init__(self, number: signal.Signals) -> None:
        self.number = number

    def __enter__(self) -> None:
        self.before = signal.signal(self.number, signal.SIG_IGN)

    def __exit__(self, *_: object) -> None:
        signal.signal(self.number, self.before)


def test_a_registry_that_is_down_changes_nothing(here: Shop, caplog: pytest.LogCaptureFixture) -> None:
    here.give(here.register())
    before = here.follower().step()
    follower = here.follower("tracking.uri=http://127.0.0.1:9", "tracking.timeout_seconds=1")
    pauses = []
    for _ in range(6):
        targets = follower.step()
        pauses.append(follower.pause_seconds)
    assert targets.arms == before.arms and targets.checked_at == 100.0
    assert targets.registry_error is not None and "Connection refused" in targets.registry_error
    assert pauses == [10, 20, 40, 60, 60, 60]
    (said,) = warnings(caplog)
    assert said.startswith("registry does not answer: ") and said.endswith("; what is served stays")


def test_a_store_that_was_moved_away_is_a_registry_that_is_down(here: Shop) -> None:
    here.give(one := here.register())
    here.give(one, "challenger")
    follower = here.follower()
    before = follower.step()
    store = here.output_dir / "mlflow.db"
    away = store.rename(store.with_suffix(".away"))
    for again in (follower, here.follower()):
        targets = again.step()
        assert targets.arms == before.arms and not targets.refused
        assert targets.registry_error == f"{store} is not there"
    assert not store.exists()
    away.rename(store)
    assert follower.step() == before


# The process


class Proxy:
    """Stands between a client and a server, and can be closed, or go silent."""

    def __init__(self, uri: str) -> None:
        self._server = uri.rpartition(":")[2]
        self._open: list[socket.socket] = []
        self.is_silent = False
        self.is_asked = threading.Event()
        self.port = 0
        self.listen()

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def listen(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def close(self) -> None:
        for each in (self._listener, *self._open):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self, listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                self._open.append(client)
                if self.is_silent:
                    self.is_asked.set()
                else:
                    server = socket.create_connection(("127.0.0.1", int(self._server)))
                    self._open.append(server)
                    for pair in ((client, server), (server, client)):
                        threading.Thread(target=self._forward, args=pair, daemon=True).start()

    def _forward(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if self.is_silent:
                    self.is_asked.set()
                    return
                sink.sendall(data)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_WR)


@pytest.fixture
def proxy(mlflow_server: str) -> Iterator[Proxy]:
    made = Proxy(mlflow_server)
    yield made
    made.close()


@dataclass
class Process:
    """`python -m mlops_hydra.serving.processes.follower`, and what it says."""

    shop: Shop
    uri: str

    def __enter__(self) -> "Process":
        config = self.shop.make_config(
            f"name='{self.shop.name}'", f"tracking.uri={self.uri}", "follow.poll_seconds=0.1"
        )
        self.log = self.shop.output_dir.parent / "follower.log"
        with self.log.open("wb") as log:
            command = [sys.executable, "-m", "mlops_hydra.serving.processes.follower"]
            self.popen = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=log, start_new_session=True)
        assert self.popen.stdin is not None
        self.popen.stdin.write(json.dumps({"config": config.model_dump(mode="json")}).encode() + b"\n")
        self.popen.stdin.flush()
        return self

    def __exit__(self, *_: object) -> None:
        self.popen.kill()
        self.popen.communicate()

    def until(self, condition: Callable[[Targets], bool]) -> Targets:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            targets = read_targets(self.shop.folder.targets)
            if targets is not None and condition(targets):
                return targets
            assert self.popen.poll() is None, self.log.read_text()
            time.sleep(0.02)
        pytest.fail(f"{targets}\n{self.log.read_text()}")


def test_the_process_outlives_its_server_and_leaves_at_once_when_told_to(there: Shop, proxy: Proxy) -> None:
    one, two = there.register(), there.register()
    there.give(one)
    with Process(there, proxy.uri) as process:
        process.until(lambda targets: served(targets) == {"control": "1"})
        proxy.close()
        there.give(two)
        down = process.until(lambda targets: targets.registry_error is not None)
        assert served(down) == {"control": "1"}
        proxy.listen()
        up = process.until(lambda targets: served(targets) == {"control": "2"})
        assert up.registry_error is None
        proxy.is_silent = True
        assert proxy.is_asked.wait(20)
        start = time.monotonic()
        process.popen.send_signal(signal.SIGTERM)
        assert process.popen.wait(10) == 0
        assert time.monotonic() - start < LEAVE_SECONDS + 1
        said = [line.partition(":")[0] for line in process.log.read_text().splitlines()]
        assert said == ["control", "treatment", "registry does not answer", "registry answers again", "control"]


def test_the_process_leaves_when_nobody_holds_its_standard_input_any_more(here: Shop) -> None:
    here.give(here.register())
    with Process(here, here.uri) as process:
        process.until(lambda targets: served(targets) == {"control": "1"})
        assert process.popen.stdin is not None
        process.popen.stdin.close()
        assert process.popen.wait(10) == 0
        assert process.log.read_text().startswith("control: version 1 (1234567e8901) is served from now on\n")
