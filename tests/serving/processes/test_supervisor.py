"""A service from start to end: what is wrong is told before anything starts, who dies is replaced, nobody is left."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mlops_hydra.cli import main
from mlops_hydra.config.serving import ServeConfig
from mlops_hydra.serving.folder import ServiceFolder
from mlops_hydra.serving.processes import request
from mlops_hydra.serving.processes.children import (
    FIRST_PAUSE_SECONDS,
    LONGEST_PAUSE_SECONDS,
    PROVEN_SECONDS,
    Child,
    end,
)
from mlops_hydra.serving.processes.listening import Probe, listen, unbound, url_of
from mlops_hydra.serving.processes.offer import offer
from mlops_hydra.serving.targets import Target, Targets, write_targets

MakeBundle = Callable[..., Path]
KINDS = ("worker", "follower", "recorder", "drift_watcher")
ROW = {"age": 41.0, "income": 52_000.0, "employed": True, "city": "Wien", "since": "2024-03-01"}


def test_a_service_says_what_it_serves_and_where(running: Any) -> None:
    status, answer = running.ask("/predict", {"rows": [ROW], "user_id": "u1"})
    assert status == 200 and answer["variant"] in ("control", "treatment")
    assert f"Serving credit at {running.url}, docs at {running.url}/docs; Ctrl-C stops" in running.said
    about = json.loads((running.folder / "service.json").read_text())
    assert about["pid"] == running.process.pid and about["url"] == running.url
    assert abs(about["started_at"] - time.time()) < 600
    with pytest.raises(ValueError):
        running.child("follower")  # folders are not followed


def test_a_model_is_served_once_from_one_folder(running: Any, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "name=credit", f"output_dir={running.folder.parents[1]}", "port=0"]) == 7
    said = capfd.readouterr().err
    assert f"credit is served from {running.folder.parents[1]} already at {running.url}" in said.replace("\n", "")


# Before anything starts


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def wrong(capfd: pytest.CaptureFixture[str], *overrides: str) -> str:
    """What is said of a request that is refused."""
    assert main(["serve", "port=0", *overrides]) == 2
    return " ".join(capfd.readouterr().err.split())


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["+testers.u1=treatmend"], "testers.u1: no arm of this name, got 'treatmend'. Did you mean treatment?"),
        (["variants.control.weight=0", "variants.treatment.weight=0"], "variants: at least one weight must be above 0"),
        (["earlier=[{control: 1, treatment: -1}]"], "earlier[0].treatment: a weight must be a finite number"),
        (["variants.control.bundle=nowhere"], "variants.control.bundle: "),
        (["name=a/b"], "name: must hold neither / nor :"),
        (["host=no.such.host.invalid", "allow_public=true"], "host: cannot be resolved"),
        (["host=0.0.0.0"], "host: is not for this machine alone: it needs a key"),
        (["host=192.0.2.1", "allow_public=true"], "host: is no address of this machine, got '192.0.2.1'"),
        (["tracking.uri=ftp://x"], "tracking.uri: must be a server"),
        (["now"], "it is `mlops-hydra serve name=MODEL [key=value ...]`, got 'now'"),
    ],
)
def test_a_request_that_is_wrong_starts_nothing(
    place: Path, capfd: pytest.CaptureFixture[str], overrides: list[str], said: str
) -> None:
    assert said in wrong(capfd, *overrides)
    assert not list(place.rglob("targets.json"))


def test_a_folder_has_to_hold_a_bundle_of_the_same_columns(
    place: Path, make_bundle: MakeBundle, capfd: pytest.CaptureFixture[str]
) -> None:
    good, other, bad = make_bundle(), make_bundle(rename={"age": "years"}), make_bundle()
    (bad / "metrics.json").write_text("[]")
    said = wrong(capfd, f"variants.control.bundle={good}", f"variants.treatment.bundle={bad}")
    assert "variants.treatment.bundle: " in said and "metrics.json: was changed after it was packaged" in said
    said = wrong(capfd, f"variants.control.bundle={good}", f"variants.treatment.bundle={other}")
    assert "variants.treatment.bundle: does not take the columns of control: without age; with years" in said


def test_a_port_that_is_taken_is_told(place: Path, make_bundle: MakeBundle, capfd: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = wrong(capfd, f"port={port}", f"variants.control.bundle={make_bundle()}")
    assert (
        f"port: another process listens there; choose another one, or port=0 for any that is free, got {port}" in said
    )


def test_a_service_listens_at_the_first_address_of_its_host() -> None:
    with unbound() as prepared, listen("localhost", 0, prepared) as listener:
        assert listener is prepared and url_of(listener, "localhost").startswith("http://localhost:")
        probe = Probe(listener)
        assert probe.status(0) is None
        asked, _ = listener.accept()
        assert asked.recv(1000).startswith(b"GET /ready HTTP/1.1\r\n")
        asked.sendall(b"HTTP/1.1 503 Service Unavailable\r\n")
        assert probe.status(1) == 503
        probe.close()
        asked.close()
    if socket.has_ipv6:
        with unbound() as prepared, listen("::1", 0, prepared) as listener:
            assert listener is not prepared and url_of(listener, "::1").startswith("http://[::1]:")


def test_no_file_holds_the_credentials_of_the_registry(place: Path, serve_config: Callable[..., ServeConfig]) -> None:
    config = serve_config("tracking.uri='http://me:pass@word-9f3@127.0.0.1:9'")
    folder = ServiceFolder.for_config(config)
    folder.path.mkdir(parents=True)
    offer(config, folder)
    assert "word-9f3" not in "".join(path.read_text() for path in folder.path.iterdir())


def test_what_is_not_installed_is_told(
    place: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(request, "_EXTRA", ("uvicorn", "not_installed"))
    assert "needs not_installed, which the extra `serve` brings: pip install 'mlops-hydra[serve]'" in wrong(capfd)


def test_it_needs_none_of_the_heavy_libraries(place: Path) -> None:
    code = """
import sys
from mlops_hydra import live
from mlops_hydra.config.compose import compose_command
from mlops_hydra.config.roots import Roots
from mlops_hydra.config.serving import ServeConfig
from mlops_hydra.serving.processes import request, spare, supervisor
request.checked(compose_command(ServeConfig, [], Roots(config_name="serve")))
heavy = {"torch", "mlflow", "pandas", "scipy", "numpy", "onnxruntime", "pyarrow", "fastapi", "uvicorn", "optuna"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


# With children that stand in


STAND_IN = """
import json, os, signal, socket, sys, threading, time
kind, log, how = sys.argv[1:4]
def note(what):
    with open(log, "a") as file:
        file.write(f"{kind} {what}\\n")
told = json.loads(sys.stdin.readline())
if how == "dies":
    note("begins")
    sys.exit(3)
def stop(*_):
    if how != "stubborn":
        time.sleep(0.1)
        note("ends")
        os._exit(0)
signal.signal(signal.SIGTERM, stop)
note("begins")
if how.startswith("{"):
    from dataclasses import replace
    from mlops_hydra.serving.folder import ServiceFolder
    from mlops_hydra.serving.targets import Refused, Targets, write_targets
    answer = Targets({}, **json.loads(how))
    answer = replace(answer, refused={arm: Refused(*each) for arm, each in answer.refused.items()})
    write_targets(ServiceFolder.of(told["config"]["output_dir"], told["config"]["name"]).targets, answer)
def watch():
    sys.stdin.read()
    note("is alone")
    os.kill(os.getpid(), signal.SIGTERM)
threading.Thread(target=watch, daemon=True).start()
if kind != "worker":
    time.sleep(60)
listener = socket.socket(fileno=told["fd"])
while True:
    client, _ = listener.accept()
    client.recv(1000)
    client.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\n{}")
    client.close()
"""
DRIVER = """
import json, logging, sys
from mlops_hydra.config.serving import ServeConfig
from mlops_hydra.serving.processes.supervisor import Supervisor
logging.basicConfig(format="%(message)s")
config, commands = json.loads(sys.argv[1])
said = lambda url, targets: print("Serving", flush=True)
sys.exit(Supervisor(ServeConfig.model_validate_json(json.dumps(config)), said, commands=commands).run())
"""


class Staged:
    """A supervisor of stand-ins, and what these noted."""

    def __init__(self, tmp_path: Path, service: Callable[..., Any], serve_config: Callable[..., Any]) -> None:
        self._notes, self._program, self._service = tmp_path / "notes", tmp_path / "stand_in.py", service
        self._program.write_text(STAND_IN)
        self._config = serve_config
        self.folder = ServiceFolder.of(tmp_path / "outputs", "credit")

    def play(self, *overrides: str, **how: str) -> Any:
        config = self._config("log.sample=1", *overrides).model_dump(mode="json")
        return self._service(command=[sys.executable, "-c", DRIVER, json.dumps([config, self.commands(**how)])])

    def commands(self, **how: str) -> dict[str, list[str]]:
        start = [sys.executable, str(self._program)]
        return {kind: [*start, kind, str(self._notes), how.get(kind, "")] for kind in KINDS}

    def noted(self) -> list[str]:
        return self._notes.read_text().splitlines() if self._notes.exists() else []

    def forget(self) -> None:
        self._notes.unlink()

    def remember(self, bundle: Path) -> None:
        """As a service that was here before."""
        write_targets(self.folder.targets, Targets({"control": Target("1", str(bundle))}))
        aliases = {"control": "champion", "treatment": "challenger"}
        uri = self._config().tracking.uri
        (self.folder.path / "followed.json").write_text(json.dumps({"uri": uri, "aliases": aliases}))


@pytest.fixture
def staged(tmp_path: Path, service: Callable[..., Any], serve_config: Callable[..., Any]) -> Staged:
    return Staged(tmp_path, service, serve_config)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_ends_workers_first_and_the_recorder_last(
    staged: Staged, make_bundle: MakeBundle, number: signal.Signals
) -> None:
    staged.remember(make_bundle())
    staged.folder.kill_switch.touch()
    with staged.play("workers=2") as service:
        assert "the kill switch is on: all users are sent to control" in service.said
        service.until(lambda: len(staged.noted()) == 5)
        assert staged.noted()[0] == "worker begins", "the others would slow it down"
        assert service.end(number) == 0
        ends = staged.noted()[5:]
        assert ends[:2] == ["worker ends"] * 2 and ends[4:] == ["recorder ends"]
        assert sorted(ends[2:4]) == ["drift_watcher ends", "follower ends"]
        assert not (staged.folder.path / "service.json").exists()


def test_without_a_log_or_when_told_so_nobody_watches_for_drift(staged: Staged, make_bundle: MakeBundle) -> None:
    """And what was found before is not told of now."""
    staged.remember(make_bundle())
    staged.folder.drift.write_text("{}")
    for override in ("drift.every_seconds=null", "log.sample=0"):
        with staged.play(override) as service:
            service.until(lambda: "follower begins" in staged.noted())
            assert not staged.folder.drift.exists()
        assert "drift_watcher" not in " ".join(staged.noted())
        staged.forget()


def test_a_second_signal_stops_at_once(staged: Staged, make_bundle: MakeBundle) -> None:
    with staged.play(f"variants.control.bundle={make_bundle()}", worker="stubborn") as service:
        service.process.send_signal(signal.SIGINT)
        with pytest.raises(subprocess.TimeoutExpired):
            service.process.wait(0.3)
        assert service.end(signal.SIGINT) == 130
        assert "worker 0 did not finish in time" in service.said


def test_who_comes_when_the_workers_are_gone_is_turned_away_at_once(staged: Staged, make_bundle: MakeBundle) -> None:
    with staged.play(f"variants.control.bundle={make_bundle()}", recorder="stubborn") as service:
        service.until(lambda: "recorder begins" in staged.noted())
        service.process.send_signal(signal.SIGTERM)
        service.until(lambda: "worker ends" in staged.noted())
        service.until(lambda: not service.kinds().count("worker"))
        with pytest.raises(OSError, match=r"refused|reset|closed"):
            service.ask("/ready")
        assert service.end() == 130


def test_who_does_not_finish_in_time_is_killed(staged: Staged) -> None:
    child = Child("worker 0", staged.commands(follower="stubborn")["follower"], {})
    while not staged.noted():
        time.sleep(0.01)
    end([child], 0.1)
    assert child.process is not None and child.process.returncode == -signal.SIGKILL


def test_nobody_outlives_a_supervisor_that_is_killed(staged: Staged, make_bundle: MakeBundle) -> None:
    staged.remember(make_bundle())
    with staged.play() as service:
        service.until(lambda: len(staged.noted()) == len(KINDS))
        assert service.end(signal.SIGKILL) == -signal.SIGKILL
        assert sorted(staged.noted()[len(KINDS) :]) == sorted(
            f"{kind} {what}" for kind in KINDS for what in ("is alone", "ends")
        )


def test_whoever_dies_is_replaced_and_that_is_said_once(staged: Staged, make_bundle: MakeBundle) -> None:
    staged.remember(make_bundle())
    with staged.play(recorder="dies") as service:
        service.until(lambda: staged.noted().count("recorder begins") >= 3)
        os.kill(victim := service.child("worker"), signal.SIGKILL)
        service.until(lambda: victim not in service.children())
        assert service.ask("/ready")[0] == 200, "who comes meanwhile waits"
        assert staged.noted().count("worker begins") == 2
        assert service.said.count("recorder ended with exit code 3; another takes its place") == 1
        assert service.said.count("worker 0 ended with signal SIGKILL; another takes its place") == 1


def test_a_service_whose_worker_never_lives_gives_up(staged: Staged, make_bundle: MakeBundle) -> None:
    service = staged.play(f"variants.control.bundle={make_bundle()}", worker="dies")
    with pytest.raises(AssertionError, match="worker 0 ended 5 times before anything was served"):
        service.begin()
    assert service.process.wait(10) == 1 and staged.noted() == ["worker begins"] * 5


def test_a_child_that_dies_again_and_again_is_started_later_and_later(tmp_path: Path) -> None:
    seconds = 0.0
    child = Child("child", [sys.executable, "-c", ""], {}, clock=lambda: seconds)
    pauses = []
    for _ in range(9):
        assert child.process is not None
        child.process.wait()
        child.look()
        began = seconds
        while child.process is None:
            seconds += 1 / 64
            child.look()
        pauses.append(seconds - began)
    wanted = [FIRST_PAUSE_SECONDS * 2**n for n in range(7)] + 2 * [LONGEST_PAUSE_SECONDS]
    assert pauses == pytest.approx(wanted, abs=1 / 64)
    child.process.wait()
    seconds += PROVEN_SECONDS
    child.look()
    assert child.num_deaths == 1


# With the real ones


def test_the_key_is_in_no_environment_and_no_command_line(service: Callable[..., Any], make_bundle: MakeBundle) -> None:
    key = "sesame-open-thyself"
    arm = f"variants.control.bundle={make_bundle()}"
    with service(arm, "host=0.0.0.0", "workers=2", MLOPS_HYDRA_API_KEY=key) as started:
        started.url = started.url.replace("0.0.0.0", "127.0.0.1")
        assert started.ask("/predict", {"rows": [ROW]})[0] == 200
        started.until(lambda: sorted(started.kinds()) == ["drift_watcher", "follower", "recorder", "worker", "worker"])
        for pid in started.children():
            for name in ("environ", "cmdline"):
                assert key not in Path(f"/proc/{pid}/{name}").read_text()
        assert key not in started.said and "the key is not encrypted on its way" in started.said
        assert key not in "".join(path.read_text() for path in started.folder.rglob("*.json"))
        assert started.end(signal.SIGKILL) == -signal.SIGKILL, "and nobody is left"


def test_the_registry_is_followed_under_load_and_not_needed_to_start_again(
    here: Any, service: Callable[..., Any]
) -> None:
    one, two = here.register(seed=0), here.register(seed=1)
    here.give(one)
    following = service("follow.poll_seconds=0.1", name=here.name)
    with following as started:
        assert "version 1 (champion)" in started.said
        answers: list[tuple[str, float]] = []
        with asking(started, answers):
            here.give(two)
            started.until(lambda: answers and answers[-1][0] == "2")
            here.give(one)
            started.until(lambda: answers[-1][0] == "1")
        assert len(set(answers)) == 2, "never one version with the other's probabilities"
        assert "control: version 2 (1234567e8901) is served from now on" in started.said
        assert started.end() == 0
        (here.output_dir / "mlflow.db").write_bytes(b"no database")
        started.begin()
        status, answer = started.ask("/predict", {"rows": [ROW]})
        assert (status, answer["model_version"]) == (200, "1")


@contextmanager
def asking(service: Any, answers: list[tuple[str, float]]) -> Iterator[None]:
    """Requests one after the other, from two threads; every answer is a good one."""
    is_over, troubles = threading.Event(), []

    def ask() -> None:
        while not is_over.is_set():
            status, answer = service.ask("/predict", {"rows": [ROW]})
            if status != 200:
                troubles.append(answer)
            else:
                answers.append((answer["model_version"], answer["predictions"][0]["confidence"]))

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        is_over.set()
        for thread in threads:
            thread.join()
    assert not troubles


def test_a_model_that_the_registry_does_not_have_is_told(here: Any, capfd: pytest.CaptureFixture[str]) -> None:
    here.give(here.register())
    near = here.name[:-1]
    said = wrong(capfd, f"name='{near}'", f"output_dir={here.output_dir}")
    assert f"variants.control.alias: there is no model {near} in the registry" in said
    assert f"did you mean name={here.name}?" in said
    assert not here.folder.path.with_name(near).exists()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"refused": {"control": ["3", "it is damaged"]}}, "version 3 of credit cannot be served: it is damaged"),
        ({"registry_error": "it is down"}, "it is down; nothing was served here before that could go on"),
    ],
)
def test_without_anything_to_serve_there_is_no_service(staged: Staged, answer: dict[str, Any], said: str) -> None:
    service = staged.play(follower=json.dumps(answer))
    with pytest.raises(AssertionError, match=said):
        service.begin()
    assert service.process.wait(10) == 1 and staged.noted() == ["follower begins", "follower ends"]


def test_a_start_of_which_nothing_comes_leaves_what_was_there(staged: Staged, make_bundle: MakeBundle) -> None:
    """A wrong registry, say: the next start goes on with what was served last, and the kill switch stays."""
    staged.remember(make_bundle())
    staged.folder.kill_switch.touch()
    before = {path.name: path.read_bytes() for path in staged.folder.path.iterdir()}
    down = json.dumps({"registry_error": "it is down"})
    service = staged.play("tracking.uri=http://127.0.0.1:9", follower=down)
    with pytest.raises(AssertionError, match="it is down"):
        service.begin()
    service.process.wait(10)
    after = {path.name: path.read_bytes() for path in staged.folder.path.iterdir()}
    assert {name: after.get(name) for name in before} == before


def test_what_was_served_under_another_alias_or_from_another_registry_does_not_count(
    staged: Staged, make_bundle: MakeBundle, serve_config: Callable[..., ServeConfig]
) -> None:
    staged.remember(make_bundle())
    assert set(offer(serve_config(), staged.folder).arms) == {"control"}
    assert not offer(serve_config("variants.control.alias=2"), staged.folder).arms
    for other in ("variants.control.alias=2", "tracking.uri=http://127.0.0.1:9"):
        staged.remember(bundle := make_bundle())
        assert not offer(serve_config(other), staged.folder).arms
    staged.remember(bundle)
    (bundle / "model.onnx").unlink()
    assert not offer(serve_config(), staged.folder).arms, "nor what is damaged"
