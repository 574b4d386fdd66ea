"""optuna-dashboard opens the store of a study of ours."""

import json
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from mlops_hydra.cli import main

pytest.importorskip("optuna_dashboard", reason="optuna-dashboard is not installed: pip install 'mlops-hydra[dev]'")

LR = "optimizer.lr=tag(log,interval(0.001,0.1))"
STUDY = ("-m", "sweeps=random", "sweeps.n_trials=3", "model=linear", "trainer=debug", "progress=off", "gates=none", LR)
SERVER = "from optuna_dashboard._cli import main; main()"


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def asked(port: int, path: str, server: "subprocess.Popen[bytes]") -> Any:
    """What the server answers, once it is there."""
    end = time.monotonic() + 30
    while time.monotonic() < end and server.poll() is None:
        with (
            suppress(OSError),
            urllib.request.urlopen(f"http://127.0.0.1:{port}/api/{path}", timeout=30) as got,
        ):
            return json.load(got)
        time.sleep(0.1)
    pytest.fail("the dashboard does not answer")


@pytest.mark.slow
def test_the_dashboard_lists_a_study_and_its_trials(workplace: Path) -> None:
    assert main(STUDY) == 0
    (name,) = (path.name for path in (workplace / "outputs" / "studies").iterdir() if path.is_dir())
    port = free_port()
    where = ["--host", "127.0.0.1", "--port", str(port), "--server", "wsgiref"]
    command = [sys.executable, "-c", SERVER, "sqlite:///outputs/studies/studies.db", *where]
    with (workplace / "said").open("wb") as said:
        server = subprocess.Popen(command, stdout=said, stderr=said)
    try:
        (study,) = asked(port, "studies", server)["study_summaries"]
        assert study["study_name"] == name
        found = asked(port, f"studies/{study['study_id']}", server)
    finally:
        server.terminate()
        server.wait(10)
    assert [trial["state"] for trial in found["trials"]] == ["Complete"] * 3
    assert {param["name"] for trial in found["trials"] for param in trial["params"]} == {"optimizer.lr"}
    assert {space["name"] for space in found["union_search_space"]} == {"optimizer.lr"}
