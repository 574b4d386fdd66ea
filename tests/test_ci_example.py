"""`docs/ci/promote.yml` does what its README says: its commands run here as the workflow would run them."""

import re
import shlex
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml

from mlops_hydra.cli import main
from mlops_hydra.tracking.recorded import local_runs
from mlops_hydra.tracking.registry import CHAMPION, Registry
from mlops_hydra.tracking.store import anchored, open_client
from tests.sampled import some

DOCS = Path(__file__).resolve().parent.parent / "docs" / "ci"
WORKFLOW: dict[Any, Any] = yaml.safe_load((DOCS / "promote.yml").read_text())
STEPS: list[dict[str, Any]] = WORKFLOW["jobs"]["model"]["steps"]
QUICK = ("model=linear", "trainer=debug")  # appended to what trains
WORSE = ("optimizer.lr=0.000001",)
HAPPENS: dict[str | None, tuple[str, ...]] = {
    None: ("pull_request", "push"),
    "always()": ("pull_request", "push"),
    "github.event_name == 'pull_request'": ("pull_request",),
    "github.event_name == 'push'": ("push",),
}
Event = Literal["pull_request", "push"]


def commands(event: Event) -> list[list[str]]:
    """What follows `mlops-hydra` in the steps that this event has."""
    lines = [line for step in STEPS if event in HAPPENS[step.get("if")] for line in step.get("run", "").splitlines()]
    words = [shlex.split(line.partition(">>")[0]) for line in lines]
    return [rest for program, *rest in words if program == "mlops-hydra"]


def carried_out(event: Event, *overrides: str) -> list[int]:
    """The exit codes of the steps; what is quick is added, and `overrides`, where an experiment is asked for."""
    codes = []
    for words in commands(event):
        is_experiment = "runs" not in words
        codes.append(main([*words, *(QUICK + overrides if is_experiment else ())]))
    return codes


def champion(uri: str) -> str | None:
    found = Registry(uri, "outputs", timeout_seconds=30).version_of("demo", CHAMPION)
    return found.fingerprint if found else None


def num_versions(uri: str) -> int:
    return len(open_client(anchored(uri)).search_model_versions("name = 'demo'"))


@pytest.fixture(params=some(["server", "local"], every=2))
def store(request: pytest.FixtureRequest, workplace: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where the workflow records: in `outputs` if the secret is not there, as in a fork, else on the server."""
    assert WORKFLOW["env"]["MLFLOW_TRACKING_URI"] == "${{ secrets.MLFLOW_TRACKING_URI }}"
    uri: str = request.getfixturevalue("mlflow_server") if request.param == "server" else ""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    return uri or "sqlite:///outputs/mlflow.db"


def test_pull_requests_are_judged_and_main_promotes_what_they_trained(
    store: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Takes 10 s on a server."""
    assert carried_out("pull_request") == [0, 0, 0]
    assert (champion(store), num_versions(store)) == (None, 0)
    capsys.readouterr()
    assert carried_out("push") == [0, 0, 0]
    said = capsys.readouterr().out
    assert "demo@champion is version 1 now" in said
    (run,) = local_runs("outputs")
    assert champion(store) == run.fingerprint, "main trained nothing again"
    assert carried_out("push") == [0, 0, 0]
    assert num_versions(store) == 1
    for event in ("pull_request", "push"):
        assert carried_out(event, *WORSE) == [0, 3, 0], "it is worse than the champion"
    assert (champion(store), num_versions(store)) == (run.fingerprint, 1)
    assert carried_out("push", "optimizer.lr=-1") == [2, 2, 0]


def test_the_step_that_promotes_is_the_one_of_pull_requests_but_for_register() -> None:
    pull_request, push = (commands(event)[1] for event in ("pull_request", "push"))
    assert pull_request[-1] == "register=never" and push[-1] == "register=promote"
    assert pull_request[:-1] == push[:-1]


def test_what_the_workflow_holds_is_safe() -> None:
    assert WORKFLOW["permissions"] == {"contents": "read"}
    assert set(WORKFLOW[True]) == {"pull_request", "push"}, "YAML reads `on` as true; pull_request_target has secrets"
    text = (DOCS / "promote.yml").read_text()
    assert not re.search(r"run:.*\$\{\{", text), "an expression in a script is where code is injected"


@pytest.fixture
def exit_codes() -> list[str]:
    return re.findall(r"^\| ([\d, ]+) \|", (DOCS / "README.md").read_text(), re.MULTILINE)


def test_the_readme_explains_every_exit_code_of_training(exit_codes: list[str]) -> None:
    from mlops_hydra import errors

    known = {0, *errors.EXIT_CODES.values(), errors.MlopsHydraError.exit_code, errors.RequestError.exit_code}
    known |= {errors.BusyError.exit_code, errors.INTERRUPTED, errors.TERMINATED}
    assert {int(code) for codes in exit_codes for code in codes.split(", ")} == known


def test_a_rollback_takes_it_back(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command in the README."""
    (line,) = re.findall(r"`mlops-hydra (rollback demo [^`]*)`", (DOCS / "README.md").read_text())
    for seed in (0, 1):
        assert carried_out("push", f"seed={seed}", "gates=none")[1] == 0
    assert main(shlex.split(line)) == 0
    assert "demo@champion is version 1 again (was 2)" in capsys.readouterr().out
