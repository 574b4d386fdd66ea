"""The README runs: its commands, its code, its outputs, its tree."""

import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mlops_hydra.cli import main
from mlops_hydra.data.tables import SklearnTable

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


PAST = ("runs", "diff", "sync", "clean", "promote", "predict", "rollback")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def commands() -> list[str]:
    return [line.removeprefix("$ ") for block in blocks("console") for line in block.splitlines()]


def outputs() -> list[tuple[str, str]]:
    """Each command whose output is shown, and that output."""
    return re.findall(r"<!-- output: mlops-hydra([^\n]*?) ?-->\n```text\n(.*?)```", README, flags=re.DOTALL)


@pytest.fixture
def own_project(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files that the README shows, and a table."""
    for block in blocks("python") + blocks("yaml"):
        if (name := block.splitlines()[0]).startswith("# ") and "/" in name:
            path = workplace / name.removeprefix("# ")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block, encoding="utf-8")
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"amount": rng.normal(size=300), "country": rng.choice(["NO", "DE", None], 300)})
    frame["label"] = np.where(frame["amount"] > 0, "good", "bad")
    frame.to_csv(workplace / "table.csv", index=False)
    monkeypatch.syspath_prepend(workplace)
    return workplace


@pytest.fixture(scope="module")
def the_runs(empty_store: Path, known_graphs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that holds `outputs` with the two runs that the README speaks of."""
    place = tmp_path_factory.mktemp("readme")
    (place / "outputs").mkdir()
    shutil.copy(empty_store, place / "outputs" / "mlflow.db")
    (place / "outputs" / "graphs").symlink_to(known_graphs)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        assert main(["progress=off"]) == main(["model=linear", "progress=off"]) == 0
    return place


def test_there_are_commands_to_run() -> None:
    assert len(commands()) >= 15
    assert len(outputs()) == 7


SHOWN = {f"mlops-hydra{command}" for command, _ in outputs()}


@pytest.mark.parametrize("command", [c for c in commands() if c.startswith("mlops-hydra") and c not in SHOWN])
def test_every_command_runs(command: str, own_project: Path, the_runs: Path, move_in: Callable[[Path], None]) -> None:
    argv = shlex.split(command)[1:]
    speaks_of_models = argv[:1] and argv[0] in ("predict", "rollback")
    if re.search(r"\b[0-9a-f]{12}\b", command) or speaks_of_models:
        shutil.rmtree("outputs")
        move_in(the_runs)
    if speaks_of_models:
        assert main(["promote", "f2d37604c86e"]) == main(["promote", "bd34a4fb21e1"]) == 0
        SklearnTable("breast_cancer").read().to_csv("rows.csv", index=False)
    quiet = [] if argv[:1] and argv[0] in PAST else ["progress=off"]
    assert main([*argv, *quiet]) == 0


def test_the_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (next_line,) = re.findall(r"next line to type: `(.*?)`", README)
    assert next_line in makefile
    named = set(re.findall(r"make ([a-z]+)`", README)) | {c.split()[1] for c in commands() if c.startswith("make")}
    assert {"run", "test", "check", "ui", "slow", "bench", "help"} <= named
    assert all(re.search(rf"^{target}:", makefile, flags=re.MULTILINE) for target in named)


@pytest.mark.parametrize(("command", "shown"), outputs(), ids=[command or "default" for command, _ in outputs()])
def test_every_output_is_what_is_printed(
    command: str, shown: str, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for part in command.removeprefix("| mlops-hydra").split("| mlops-hydra"):
        capsys.readouterr()
        main(shlex.split(part))
    captured = capsys.readouterr()
    printed = masked(captured.out + captured.err)
    for line in masked(shown.replace("...\n", "")):
        assert line in printed


def masked(text: str) -> list[str]:
    """Lines without what differs between machines: numbers, ids, widths."""
    text = re.sub(r"\b[0-9a-f]{12,32}\b", "ID", text)
    text = re.sub(r"\d[\d.,]*(e[-+]\d+)?", "N", text)
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]


@pytest.mark.parametrize("block", [block for block in blocks("python") if not block.startswith("# my_")])
def test_every_piece_of_code_runs(block: str, own_project: Path) -> None:
    exec(compile(block, "README.md", "exec"), {})


def test_the_tree_names_every_folder_that_there_is() -> None:
    (tree,) = (block for block in blocks("text") if block.startswith("conf/"))
    named = {line.split()[0].rstrip("/") for line in tree.splitlines()}
    assert all((ROOT / name).is_dir() for name in named)
    packages = {f"mlops_hydra/{path.parent.name}" for path in (ROOT / "mlops_hydra").glob("*/__init__.py")}
    assert packages <= named


def test_exit_codes_are_those_of_the_code() -> None:
    from mlops_hydra.errors import (
        DRIFTED,
        EXIT_CODES,
        INTERRUPTED,
        NOT_REPRODUCED,
        TERMINATED,
        BusyError,
        MlopsHydraError,
        RequestError,
    )

    table = README.split("## Exit codes")[1].split("##")[0]
    known = {*EXIT_CODES.values(), INTERRUPTED, TERMINATED, NOT_REPRODUCED, DRIFTED}
    known |= {error.exit_code for error in (MlopsHydraError, RequestError, BusyError)}
    assert {int(code) for row in re.findall(r"^\| ([\d, ]+) \|", table, flags=re.M) for code in row.split(",")} == known
