"""From a judged run to the model in use, as a person types it: register=, promote, rollback; here and on a server."""

import json
import os
import secrets
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mlops_hydra.cli import main
from mlops_hydra.data import bundled
from mlops_hydra.tracking.recorded import RecordedRun, local_runs
from mlops_hydra.tracking.registry import CHALLENGER, CHAMPION, ModelVersion, Move, Registry
from mlops_hydra.tracking.store import anchored, open_client

LOCAL = "sqlite:///outputs/mlflow.db"
NAME = "demo"
QUICK = (f"name={NAME}", "model=linear", "trainer=debug", "progress=off")
HARD = "gates.beats_baseline.by=99%"  # nothing passes that
BEATS_CHAMPION = "gates={beats_champion: {metric: accuracy, better_than: champion}}"
DEAD_SERVER = ("tracking=server", "tracking.uri=http://127.0.0.1:9", "tracking.timeout_seconds=2")


def train(*overrides: str, code: int = 0) -> RecordedRun:
    """The run that came of it."""
    before = {run.label for run in local_runs("outputs")}
    assert main([*QUICK, *overrides]) == code
    (made,) = (run for run in local_runs("outputs") if run.label not in before)
    return made


@pytest.fixture(scope="module")
def four_runs(
    empty_store: Path, known_graphs: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, list[str]]]:
    """A place with four runs of other seeds: three that passed, and one that failed its gates."""
    place, before = tmp_path_factory.mktemp("four"), Path.cwd()
    (place / "outputs").mkdir()
    shutil.copy(empty_store, place / "outputs" / "mlflow.db")
    (place / "outputs" / "graphs").symlink_to(known_graphs)
    os.chdir(place)
    try:
        runs = [train(f"seed={seed}") for seed in range(3)] + [train("seed=3", HARD, code=3)]
    finally:
        os.chdir(before)
    yield place, [run.fingerprint for run in runs]


@pytest.fixture
def runs(four_runs: tuple[Path, list[str]], move_in: Callable[[Path], None]) -> list[str]:
    """Their fingerprints; they lie below the current directory. The last one failed."""
    move_in(four_runs[0])
    return four_runs[1]


@pytest.fixture
def heard(capsys: pytest.CaptureFixture[str]) -> Callable[[], str]:
    """Everything that was printed since, on one line: tables wrap where they like."""

    def read() -> str:
        captured = capsys.readouterr()
        return " ".join((captured.out + captured.err).split())

    return read


def registry(uri: str = LOCAL) -> Registry:
    return Registry(uri, "outputs", timeout_seconds=30)


def holder(alias: str = CHAMPION, uri: str = LOCAL, name: str = NAME) -> ModelVersion | None:
    return registry(uri).version_of(name, alias)


def fingerprint(alias: str = CHAMPION) -> str:
    version = holder(alias)
    return version.fingerprint if version else "nobody"


def history(uri: str = LOCAL, name: str = NAME) -> list[Move]:
    return registry(uri).history(name)


def num_versions(uri: str = LOCAL, name: str = NAME) -> int:
    return len(open_client(anchored(uri)).search_model_versions(f"name = '{name}'"))


def recorded(mark: str) -> RecordedRun:
    (run,) = local_runs("outputs", mark)
    return run


# --- promote


def test_a_run_that_passed_becomes_the_champion_and_a_second_time_changes_nothing(runs, heard):
    assert main(["promote", runs[0]]) == 0
    assert f"{NAME}@champion is version 1 now" in heard()
    (move,) = history()
    assert main(["promote", runs[0]]) == 0
    assert f"version 1 of {NAME} is champion already" in heard()
    assert history() == [move] and num_versions() == 1


def test_the_audit_says_who_when_from_where_to_where_by_which_verdict_and_why(runs):
    main(["promote", runs[0], "reason=the first"])
    main(["promote", runs[1]])
    main(["promote", runs[3], "force=the boss asked"])
    main(["rollback", NAME, "reason=the boss was wrong"])
    moves = history()
    assert [(move.before, move.after) for move in moves] == [(None, 1), (1, 2), (2, 3), (3, 2)]
    assert [move.verdict for move in moves] == ["passed", "passed", "failed", "passed"]
    assert [move.reason for move in moves] == ["the first", "promote", "the boss asked", "the boss was wrong"]
    assert [move.forced for move in moves] == [False, False, True, False]
    assert [move.action for move in moves] == ["promote", "promote", "promote", "rollback"]
    assert all("@" in move.who for move in moves)
    assert all(earlier.time < later.time for earlier, later in pairwise(moves))


def test_a_challenger_stands_beside_the_champion(runs, heard):
    main(["promote", runs[0]])
    assert main(["promote", runs[1], "to=challenger"]) == 0
    assert f"{NAME}@challenger is version 2 now" in heard()
    assert (fingerprint(), fingerprint(CHALLENGER)) == (runs[0], runs[1])
    assert main(["promote", runs[1]]) == 0, "which is the same version"
    assert (fingerprint(), num_versions()) == (runs[1], 2)


def test_a_run_that_failed_its_gates_is_not_promoted_unless_somebody_says_why(runs, heard):
    assert main(["promote", runs[3]]) == 3
    assert "not promoted: beats_baseline failed; force='reason' does it nevertheless" in heard()
    assert holder() is None and num_versions() == 0
    assert main(["promote", runs[3], "force="]) == 2
    assert main(["promote", runs[3], "force=there is no other"]) == 0
    version = holder()
    assert version is not None and version.verdict == "failed"
    assert version.tags["gate.beats_baseline"].startswith("failed: test/log_loss is ")


def test_a_run_is_judged_against_the_champion_of_today(runs, heard):
    assert main(["promote", runs[0], BEATS_CHAMPION]) == 0, "there is none"
    assert main(["promote", runs[1], BEATS_CHAMPION]) in (3, 4), "it is no better"
    assert "beats_champion" in heard()
    assert fingerprint() == runs[0] and num_versions() == 1
    tolerant = "gates={no_worse: {metric: accuracy, no_worse_than: champion, tolerance: '50%', if_undecided: fail}}"
    assert main(["promote", runs[1], tolerant]) == 0
    version = holder()
    assert version is not None and version.fingerprint == runs[1]
    assert version.tags["gate.no_worse"].startswith("passed"), "the gates that it was promoted by"
    assert "gate.beats_baseline" in version.tags, "are added to those of the run"


def test_gates_that_are_given_cannot_be_wrong_in_silence(runs, heard):
    assert main(["promote", runs[0], "gates={g: {metric: accurracy, threshold: 0.5}}"]) == 2
    assert "Did you mean accuracy" in heard()
    assert main(["promote", runs[0], "gates={g: {metric: accuracy}}"]) == 2
    assert "one of threshold, better_than and no_worse_than" in heard()
    assert holder() is None


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["promote"], "it is `mlops-hydra promote RUN [to=challenger] [key=value ...]`"),
        (["promote", "1234567e8901"], "no such run, here or in MLflow"),
        (["promote", "RUN", "to=champ"], "Did you mean champion?"),
        (["promote", "RUN", "reson=x"], "Did you mean reason?"),
        (["rollback"], "it is `mlops-hydra rollback NAME"),
        (["rollback", "nobody"], "no champion of such a model was ever promoted"),
        (["rollback", NAME, "alias=chalenger"], "Did you mean challenger?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_request_is_told(argv, said, runs, heard):
    assert main([runs[0] if word == "RUN" else word for word in argv]) == 2
    assert said in heard()
    assert holder() is None


@pytest.mark.parametrize("command", ["predict", "promote", "rollback"])
@pytest.mark.parametrize("flags", [["--help"], ["--cfg", "job"]], ids=" ".join)
def test_every_command_explains_itself(command: str, flags: list[str], capsys: pytest.CaptureFixture[str]):
    assert main([command, *flags]) == 0
    out = capsys.readouterr().out
    assert "output_dir: outputs" in out
    assert (f"mlops-hydra {command}" in out) == (flags == ["--help"])


def test_a_run_is_named_by_its_fingerprint_its_folder_or_the_id_that_mlflow_gave_it(runs):
    run = recorded(runs[0])
    for text in (run.fingerprint, run.label, run.run_id, str(run.folder)):
        assert text is not None
        assert main(["promote", text]) == 0
    assert len(history()) == 1


def test_a_run_that_only_mlflow_has_is_fetched(runs):
    run_id = recorded(runs[0]).run_id
    assert run_id is not None
    shutil.rmtree("outputs/runs")
    assert main(["promote", run_id]) == 0
    version = holder()
    assert version is not None and (version.run_id, version.fingerprint) == (run_id, runs[0])
    assert main(["promote", runs[1]]) == 0, "also by its fingerprint"


def test_a_run_without_a_bundle_is_refused(workplace: Path, heard):
    run = train("packaging=none")
    assert main(["promote", run.fingerprint]) == 2
    assert "has no bundle to promote: packaging=none" in heard()
    assert main(["predict", run.fingerprint, "data.path=x.csv", "out=y.csv"]) == 2
    assert "has no bundle to predict with: packaging=none" in heard()


def test_a_damaged_bundle_is_refused(runs, heard):
    folder = recorded(runs[0]).folder
    assert folder is not None
    path = folder / "model" / "bundle" / "model.onnx"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    assert main(["promote", runs[0], "force=please"]) == 1
    assert "model.onnx" in heard()
    assert holder() is None


@pytest.fixture
def table(workplace: Path) -> Path:
    frame = bundled.read("breast_cancer")
    frame.to_csv("table.csv", index=False)
    return workplace / "table.csv"


CSV = ("data=csv", "data.path=table.csv", "data.target=target")


def test_a_run_whose_data_has_changed_is_not_judged_on_other_rows(table: Path, heard):
    run = train(*CSV)
    text = table.read_text()
    table.write_text(text.replace("17.99,", "18.99,", 1))
    assert main(["promote", run.fingerprint, "force=please"]) == 2
    assert "has changed since the run learnt from it" in heard()
    (table.parent / "old.csv").write_text(text)
    assert main(["promote", run.fingerprint, "data.path=old.csv"]) == 0, "the old data is somewhere else"
    table.unlink()
    assert main(["promote", run.fingerprint, "to=challenger"]) == 2
    assert "data.path: no such file, got 'table.csv'" in heard()


def test_code_of_the_user_is_named_only_where_it_is_trusted(workplace: Path, heard):
    module = f"own_{secrets.token_hex(4)}"
    Path(f"{module}.py").write_text(
        "from torch import nn\n\n\nclass Mine(nn.Linear):\n"
        "    def __init__(self, in_features: int, out_features: int) -> None:\n"
        "        super().__init__(in_features, out_features)\n"
    )
    run = train(f"model._target_={module}.Mine")
    assert main(["promote", run.fingerprint]) == 2
    assert "add its package to trust=[...]" in heard()
    assert holder() is None
    assert main(["promote", run.fingerprint, f"trust=[{module}]"]) == 0


def test_a_server_that_is_down_is_told_and_nothing_moves(runs, heard):
    main(["promote", runs[0]])
    heard()
    assert main(["promote", runs[1], *DEAD_SERVER]) == 1
    said = heard()
    assert "TrackingError: the registry of models in MLflow at http://127.0.0.1:9" in said and "Traceback" not in said
    assert main(["rollback", NAME, *DEAD_SERVER]) == 1
    assert main(["predict", f"{NAME}@champion", *DEAD_SERVER, "data.path=x.csv", "out=y.csv"]) == 1
    assert fingerprint() == runs[0] and len(history()) == 1


def test_the_store_that_is_typed_goes_before_that_of_the_shell(runs, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert main(["promote", runs[0], "tracking.uri=sqlite:///${output_dir}/mlflow.db"]) == 0
    assert main(["promote", runs[1]]) == 1, "the shell's is down"


def test_versions_are_where_the_runs_are_whatever_the_shell_says(runs, monkeypatch: pytest.MonkeyPatch):
    """MLflow would take the registry's address from there."""
    monkeypatch.setenv("MLFLOW_REGISTRY_URI", "sqlite:///elsewhere.db")
    assert main(["promote", runs[0]]) == 0
    assert fingerprint() == runs[0]
    assert not Path("elsewhere.db").exists()


# --- rollback


def test_a_rollback_goes_to_the_version_before_and_each_further_one_further(runs, heard):
    for run in runs[:3]:
        main(["promote", run])
    heard()
    assert main(["rollback", NAME]) == 0
    assert f"{NAME}@champion is version 2 again (was 3)" in heard()
    assert main(["rollback", NAME]) == 0
    assert fingerprint() == runs[0]
    assert main(["rollback", NAME]) == 2
    assert "version 1 has the alias champion, and none that still exists had it before" in heard()
    assert main(["promote", runs[2]]) == 0, "and there is a way forward"
    assert main(["rollback", NAME]) == 0
    assert fingerprint() == runs[0]


def test_each_alias_has_a_past_of_its_own(runs):
    for to in ("champion", "challenger"):
        for run in runs[:2]:
            main(["promote", run, f"to={to}"])
    assert main(["rollback", NAME, "alias=challenger"]) == 0
    assert (fingerprint(), fingerprint(CHALLENGER)) == (runs[1], runs[0])


# --- register


def test_register_passed_makes_a_version_that_nothing_points_to(runs, heard):
    argv = [*QUICK, "seed=0", "register=passed"]
    assert main(argv) == 0
    assert f"registered as version 1 of {NAME}" in heard()
    assert main(argv) == 0
    assert (num_versions(), holder(), holder(CHALLENGER), history()) == (1, None, None, [])
    version, run = registry().version_of(NAME, 1), recorded(runs[0])
    assert version is not None
    assert (version.fingerprint, version.verdict, version.run_id) == (runs[0], "passed", run.run_id)
    assert version.lineage == run.lineage.digest
    parts = [version.tags[f"lineage.{part}"] for part in ("config", "data", "code")]
    assert parts == [run.lineage.config, run.lineage.data, run.lineage.code]
    assert version.tags["gate.beats_baseline"].startswith("passed: test/log_loss ")


@pytest.mark.parametrize("register", ["passed", "promote"])
def test_a_run_that_failed_becomes_no_version(register: str, runs, heard):
    assert main([*QUICK, "seed=3", HARD, f"register={register}"]) == 3
    assert f"not registered (register={register}): beats_baseline failed" in heard()
    assert (num_versions(), holder()) == (0, None)


def test_training_judging_and_promoting_is_one_step(workplace: Path, heard):
    argv = [*QUICK, "register=promote"]
    assert main(argv) == 0
    assert f"{NAME}@champion is version 1 now" in heard()
    (move,) = history()
    assert (move.verdict, move.reason, move.forced) == ("passed", "register=promote", False)
    assert main(argv) == 0
    assert f"version 1 of {NAME} is champion already" in heard()
    assert history() == [move] and num_versions() == 1


def test_a_worse_model_leaves_the_champion_where_it_is(runs, heard):
    gate = ("+gates.better.metric=accuracy", "+gates.better.better_than=champion")
    promote = ["register=promote", *gate]
    assert main([*QUICK, "seed=0", *promote]) == 0, "there is no champion yet"
    worse = [*QUICK, "seed=0", "optimizer.lr=0.000001", "gates=none", *gate, "+gates.better.if_undecided=fail"]
    assert main([*worse, "register=promote"]) == 3
    assert "not registered (register=promote): better failed" in heard()
    assert fingerprint() == runs[0] and len(history()) == 1


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["name=a/b", "register=passed"], "must hold neither / nor : for a model"),
        (["name=a:b", "register=promote"], "must hold neither / nor : for a model"),
        (["packaging=none", "register=passed"], "needs a bundle to register: packaging=bundle"),
        (["register=promoted"], "Did you mean promote?"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_could_not_be_registered_is_not_trained(overrides, said, workplace: Path, heard):
    assert main([*QUICK, *overrides]) == 2
    assert said in heard()
    assert not Path("outputs/runs").exists()


# --- what is promoted predicts


def test_mlflow_loads_the_champion_without_pickle_and_it_predicts_what_was_recorded(
    runs, monkeypatch: pytest.MonkeyPatch
):
    main(["promote", runs[0]])
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    assert_predicts(recorded(runs[0]), LOCAL)


def assert_predicts(run: RecordedRun, uri: str, name: str = NAME) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # importing it warns of MLflow's own type hints
        from mlflow.pyfunc import load_model
    from mlflow.tracking import _model_registry, _tracking_service

    assert run.folder is not None
    with pytest.MonkeyPatch.context() as patched:  # what `set_tracking_uri` would leave behind
        patched.setattr(_tracking_service.utils, "_tracking_uri", anchored(uri))
        patched.setattr(_model_registry.utils, "_registry_uri", anchored(uri))
        model = load_model(f"models:/{name}@champion")
    known = pd.read_parquet(run.folder / "predictions.parquet").query("split == 'test'")
    said = model.predict(bundled.read("breast_cancer").drop(columns="target").iloc[known["row"]])
    assert len(known) > 100
    columns = [column for column in known.columns if column.startswith("p_")]
    assert columns == ["p_benign", "p_malignant"]
    np.testing.assert_allclose(said[columns].to_numpy(), known[columns].to_numpy(), atol=1e-5)


# --- on a server


@pytest.mark.slow
def test_all_of_it_on_a_real_server(workplace: Path, mlflow_server: str, heard, monkeypatch: pytest.MonkeyPatch):
    """Trained, judged, promoted, promoted again, challenged, rolled back and fetched there. Takes 10 s."""
    name = f"demo {secrets.token_hex(3)}"
    there = ("tracking=server", f"tracking.uri={mlflow_server}")
    quick = [*QUICK[1:], f"name='{name}'", *there]
    first = [*quick, "register=promote"]
    assert main(first) == 0
    assert main(first) == 0
    assert main([*quick, "seed=1", "register=passed"]) == 0
    one, two = local_runs("outputs")
    assert (num_versions(mlflow_server, name), len(history(mlflow_server, name))) == (2, 1)
    assert main(["promote", two.fingerprint, *there]) == 0
    assert main(["promote", one.fingerprint, *there, "to=challenger"]) == 0
    assert num_versions(mlflow_server, name) == 2
    assert main(["rollback", name, *there]) == 0
    version = holder(uri=mlflow_server, name=name)
    assert version is not None and version.fingerprint == one.fingerprint
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    assert_predicts(one, mlflow_server, name)
    assert one.run_id is not None
    shutil.rmtree("outputs")
    assert main(["promote", one.run_id, *there, "to=challenger"]) == 0, "everything is there"
    bundled.read("breast_cancer").to_parquet("in.parquet")
    assert main(["predict", f"{name}@champion", *there, "data.path=in.parquet", "out=out.csv"]) == 0
    assert len(pd.read_csv("out.csv")) == 569


def test_a_run_that_another_store_recorded_is_not_promoted_here(runs, mlflow_server: str, heard):
    assert main(["promote", runs[2], "tracking=server", f"tracking.uri={mlflow_server}"]) == 1
    said = heard()
    assert "TrackingError" in said and "not found" in said and "Traceback" not in said
    assert holder() is None


# --- processes


def promote_at_once(fingerprints: list[str]) -> list[subprocess.CompletedProcess[str]]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "mlops_hydra", "promote", each],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
        )
        for each in fingerprints
    ]
    outputs = [process.communicate(timeout=300)[0] for process in started]
    return [
        subprocess.CompletedProcess(process.args, process.returncode, output)
        for process, output in zip(started, outputs, strict=True)
    ]


def assert_one_champion(fingerprints: list[str]) -> None:
    done = promote_at_once(fingerprints)
    assert [process.returncode for process in done] == [0] * len(fingerprints), [each.stdout for each in done]
    moves = history()
    assert sorted(move.after for move in moves if move.after) == list(range(1, len(fingerprints) + 1))
    assert [move.before for move in moves] == [None, *(move.after for move in moves[:-1])]
    champion = holder()
    assert champion is not None and champion.version == moves[-1].after
    versions = [registry().version_of(NAME, number + 1) for number in range(len(fingerprints))]
    assert sorted(version.fingerprint for version in versions if version) == sorted(fingerprints)


@pytest.mark.slow
def test_three_processes_that_promote_at_once_leave_one_champion_and_three_entries(runs):
    """Takes 10 s."""
    assert_one_champion(runs[:3])


@pytest.mark.slow
def test_eight_processes_that_promote_at_once_leave_one_champion_and_eight_entries(workplace: Path):
    """Takes a minute."""
    assert_one_champion([train(f"seed={seed}").fingerprint for seed in range(8)])


def test_the_result_of_a_run_that_was_promoted_is_what_it_was(runs):
    folder = recorded(runs[0]).folder
    assert folder is not None
    before = (folder / "result.json").read_text()
    main(["promote", runs[0]])
    assert json.loads((folder / "result.json").read_text()) == json.loads(before)
