"""`mlops-hydra drift`: tables and request logs against the profile of a run, from the command line to the record."""

import errno
import json
import logging
import os
import re
import shutil
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mlops_hydra.cli import main
from mlops_hydra.config.compose import compose_command
from mlops_hydra.config.drift import DriftConfig
from mlops_hydra.config.roots import Roots
from mlops_hydra.drift import compare
from mlops_hydra.errors import UsageError
from mlops_hydra.monitoring.false_alarms import false_alarm_rate
from mlops_hydra.monitoring.window import Window
from mlops_hydra.packaging.bundle import load_bundle
from mlops_hydra.packaging.profile_file import read_profile
from mlops_hydra.serving.request_log.journal import ModelDescription, entry, hashed
from mlops_hydra.serving.request_log.recorder import Recorder
from mlops_hydra.tracking.recorded import RecordedRun, local_runs

QUICK = (
    "model=linear", "trainer.epochs=3", "progress=off", "gates=none", "data=csv", "data.path=table.csv",
    "+data.kinds.shop=categorical",
)  # fmt: skip
TARGETS = ("label", "code", "amount")
KINDS = {"x": "numeric", "count": "numeric", "since": "date", "shop": "categorical", "is_open": "boolean"}


def table(n: int = 2400, *, seed: int = 0, shift: float = 0.0) -> pd.DataFrame:
    """Columns of every kind with missing values, and three targets."""
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame({"x": rng.normal(shift, 1, n), "count": rng.integers(0, 9, n)})
    frame["since"] = [
        f"{day:%Y-%m-%d}" for day in pd.Timestamp("2024-01-01") + pd.to_timedelta(rng.integers(0, 700, n), "D")
    ]
    frame["shop"] = rng.choice(["Bonn", "Köln", "Ulm"], n)
    frame["is_open"] = rng.choice(["True", "False"], n)
    score = frame["x"] + rng.normal(size=n)
    frame["label"], frame["code"], frame["amount"] = (
        np.where(score > 0, "yes", "no"),
        (score > 0).astype(int),
        score.round(3),
    )
    for column in KINDS:
        frame.loc[rng.choice(n, n // 20, replace=False), column] = None
    return frame  # fmt: skip


@pytest.fixture(scope="module")
def once(known_graphs: Path, empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """A place with a run for each target, by its name."""
    place, before = tmp_path_factory.mktemp("drift"), Path.cwd()
    (place / "outputs").mkdir()
    shutil.copy(empty_store, place / "outputs" / "mlflow.db")
    (place / "outputs" / "graphs").symlink_to(known_graphs)
    table().to_csv(place / "table.csv", index=False)
    found: dict[str, Any] = {"place": place}
    os.chdir(place)
    try:
        for target in TARGETS:
            others = ",".join(name for name in TARGETS if name != target)
            assert main([*QUICK, f"data.target={target}", f"data.drop=[{others}]"]) == 0
            found[target] = max(local_runs("outputs"), key=lambda run: run.folder.stat().st_mtime)
    finally:
        os.chdir(before)
    yield found


@pytest.fixture
def runs(once, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Fingerprints by target; the runs are in `outputs`, which nobody writes to: see `drift`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outputs").symlink_to(once["place"] / "outputs")
    return {target: once[target].fingerprint for target in TARGETS}


@pytest.fixture
def heard(capsys: pytest.CaptureFixture[str]) -> Callable[[], str]:
    """Everything that was printed since."""

    def read() -> str:
        captured = capsys.readouterr()
        return captured.out + captured.err

    return read


def drift(run: str, current: str | pd.DataFrame, *overrides: str, code: int = 0) -> dict[str, Any]:
    """`result.json`, in `out`; MLflow is left alone."""
    if isinstance(current, pd.DataFrame):
        current.to_csv("current.csv", index=False)
        current = "current.csv"
    shutil.rmtree("out", ignore_errors=True)
    assert main(["drift", run, f"current={current}", "out=out", "record=false", *overrides]) == code
    assert sorted(path.name for path in Path("out").iterdir()) == ["report.html", "result.json"]
    return json.loads(Path("out/result.json").read_text())


def of(result: dict[str, Any], feature: str, test: str | None = None) -> dict[str, Any]:
    return next(r for r in result["results"] if r["feature"] == feature and test in (None, r["test"]))


# --- verdicts and what is left of them


def test_data_as_in_training_has_not_drifted(runs, heard):
    result = drift(runs["label"], table(seed=1))
    assert (result["verdict"], result["drifted"], result["alpha"]) == ("stable", [], 0.05)
    assert result["current"] == {"what": "current.csv", "rows": 2400}
    assert result["reference"]["rows"] == 1440 and runs["label"] in result["reference"]["what"]
    assert result["model"]["fingerprint"] == runs["label"] and result["model"]["run_id"]
    assert {part["part"] for part in result["results"]} == {"feature", "prediction", "performance"}
    assert result["tests"] == 5 * 4 + 1 + 4 + 3 + 2
    assert result["notes"] == ["columns that the model does not read: amount, code"]
    said = heard()
    assert "current.csv (2,400 rows) against the profile of" in said and "stable  no drift" in said
    assert "files  out/result.json, out/report.html" in said
    assert "<html" in Path("out/report.html").read_text()[:500]


def test_drift_is_told_with_its_column_on_the_terminal_in_json_and_on_the_page(runs, heard):
    result = drift(runs["label"], table(seed=1, shift=0.8), code=5)
    assert result["verdict"] == "drifted" and result["drifted"][0] == "x"
    assert {"prediction"} <= set(result["drifted"]) <= {"x", "prediction", "confidence", "log_loss", "error_rate"}
    x = of(result, "x", "ks")
    assert x["is_drifted"] and x["effect"] == pytest.approx(0.8, abs=0.15) and x["reason"].startswith("median ")
    said = heard()
    assert re.search(r"^x +values +0\.\d+ spreads +0\.05 +< 0\.0001 +drifted +median", said, re.MULTILINE)
    assert "drifted  1 of 5 columns drifted: x; so did what the model predicts" in said
    page = Path("out/report.html").read_text()
    assert (
        "<img" in page and x["reason"].split(",")[0] in page and "http://" not in page.replace("http://www.w3.org", "")
    )


def test_few_rows_are_undecided_and_none_at_all_are_too(runs, heard):
    assert drift(runs["label"], table(25, seed=2), code=4)["verdict"] == "undecided"
    assert "too few rows: " in heard()
    empty = drift(runs["label"], table(0), code=4)
    assert empty["current"]["rows"] == 0 and {r["reason"] for r in empty["results"]} == {"there are no rows"}
    assert "nothing to compare: the current data has no rows" in heard()


def rounded(value: Any) -> Any:
    """Sums of other chunks differ in their last digits."""
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    return [rounded(inner) for inner in value] if isinstance(value, list) else (
        float(f"{value:.9g}") if isinstance(value, float) else value
    )  # fmt: skip


def test_it_is_the_same_whole_or_in_chunks_and_in_whatever_file(runs):
    frame = table(300, seed=1, shift=0.8)
    frame.to_csv("now.csv", index=False)
    frame.to_csv("now.csv.gz", index=False)
    frame.to_csv("semicolons.csv", index=False, sep=";", decimal=",", encoding="cp1252")
    frame.assign(is_open=frame["is_open"].map({"True": True, "False": False})).to_parquet(
        "now.parquet", row_group_size=50
    )
    dialect = ('separator=";"', 'decimal=","', "encoding=cp1252")
    asked = [("now.csv",), ("now.csv", "chunk_rows=7"), ("now.csv.gz",), ("now.parquet",), ("semicolons.csv", *dialect)]
    results = [rounded(drift(runs["label"], *words, code=5) | {"current": None}) for words in asked]
    assert results[1:] == results[:1] * 4


def test_where_a_model_has_many_rows_memory_is_that_of_a_chunk(runs, monkeypatch: pytest.MonkeyPatch):
    """Python's and NumPy's memory at its highest, with five times the rows; chunks have no more rows than asked for."""
    sizes, added, before = [], [], Window.add

    def add(window: Window, columns: Any, num_rows: int, **rest: Any) -> None:
        added.append(num_rows)
        before(window, columns, num_rows, **rest)

    monkeypatch.setattr(Window, "add", add)
    for n in (2_000, 10_000):
        pd.concat([table(2_000, seed=1)] * (n // 2_000)).to_parquet("large.parquet", row_group_size=1_000)
        tracemalloc.start()
        drift(runs["label"], "large.parquet", "chunk_rows=500")
        sizes.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert max(added) == 500 and sum(added) == 12_000
    assert sizes[1] < 1.3 * sizes[0], sizes


# --- what is compared with what


def test_another_table_may_be_the_reference(runs, heard):
    table(2000, seed=3, shift=0.8).to_csv("before.csv", index=False)
    result = drift(runs["label"], table(seed=1, shift=0.8), "reference=before.csv", "chunk_rows=700")
    assert result["verdict"] == "stable" and result["reference"] == {"what": "before.csv", "rows": 2000}
    assert {part["part"] for part in result["results"]} == {"feature"}
    assert drift(runs["label"], table(seed=1), "reference=before.csv", code=5)["drifted"] == ["x"]


def test_rules_are_set_on_the_command_line(runs):
    shifted = table(seed=1, shift=0.8)
    assert "x" not in drift(runs["label"], shifted, "monitoring.ignore=[x]", code=5)["drifted"]
    result = drift(runs["label"], shifted.drop(columns="label"), "monitoring.columns=[count,shop]", code=5)
    assert {r["feature"] for r in result["results"] if r["part"] == "feature"} == {"count", "shop"}
    result = drift(runs["label"], shifted, "+monitoring.by_column.x=2", "monitoring.alpha=0.01", code=5)
    x = of(result, "x", "ks")
    assert (x["verdict"], x["min_effect"], result["alpha"]) == ("stable", 2, 0.01)


def test_the_rate_of_false_alarms_is_measured_when_asked_for(runs, heard, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("mlops_hydra.drift.false_alarm_rate", partial(false_alarm_rate, num_checks=20))
    result = drift(runs["label"], table(500, seed=2), "estimate_false_alarms=true", code=0)
    assert 0 <= result["false_alarms"] <= 0.1
    assert re.search(r"where nothing drifts, \S+ % of such checks raise an alarm", heard())


# --- labels


def flipped(frame: pd.DataFrame, target: str, share: float = 0.3) -> pd.DataFrame:
    """Labels that are wrong, or moved, at random: no feature changes."""
    frame = frame.copy()
    rows = frame.index[np.random.default_rng(0).random(len(frame)) < share]
    change = {"label": lambda v: "no" if v == "yes" else "yes", "code": lambda v: 1 - v, "amount": lambda v: v + 9}
    frame.loc[rows, target] = frame.loc[rows, target].map(change[target])
    return frame


@pytest.mark.parametrize("target", TARGETS)
def test_a_model_that_errs_more_has_drifted_although_no_feature_has(target: str, runs, heard):
    frame = table(seed=1)
    assert drift(runs[target], frame)["verdict"] == "stable"
    result = drift(runs[target], flipped(frame, target), code=5)
    assert set(result["drifted"]) <= {"error_rate", "log_loss", "absolute_error", "squared_error"}
    assert "the model errs more than it did" in heard()
    renamed = flipped(frame, target).rename(columns={target: "truth"})
    assert drift(runs[target], renamed)["verdict"] == "stable", "without labels nobody knows"
    assert drift(runs[target], renamed, "target=truth", code=5)["drifted"] == result["drifted"]


def test_labels_may_be_missing_or_written_otherwise_and_strange_ones_are_left_out(runs):
    frame = table(seed=1)
    known = of(drift(runs["code"], frame), "error_rate")
    as_floats = frame.assign(code=frame["code"].astype(float))
    assert of(drift(runs["code"], as_floats), "error_rate") == known
    strange = frame.astype({"code": object})
    strange.loc[:9, "code"], strange.loc[10:29, "code"] = "perhaps", None
    result = drift(runs["code"], strange)
    assert "10 labels are none that the model knows, and are left out" in result["notes"]
    assert of(result, "error_rate")["num_current"] == 2400 - 30


# --- the record


def test_it_is_recorded_on_the_run_of_the_model_and_the_answer_stands_without(
    once, move_in: Callable[[Path], None], caplog: pytest.LogCaptureFixture, heard
):
    from mlflow.tracking import MlflowClient

    move_in(once["place"])
    run = once["label"]
    table(seed=1, shift=0.8).to_csv("now.csv", index=False)
    assert main(["drift", run.fingerprint, "current=now.csv"]) == 5
    (folder,) = (Path("outputs") / "drift").iterdir()
    result = json.loads((folder / "result.json").read_text())
    client = MlflowClient(f"sqlite:///{Path('outputs/mlflow.db').absolute()}")  # MLflow keeps stores by their URI
    metrics = client.get_run(result["model"]["run_id"]).data.metrics
    assert {name: metrics[f"drift/{name}"] for name in ("drifted_features", "drifted_share", "exit_code", "rows")} == {
        "drifted_features": 1, "drifted_share": 0.2, "exit_code": 5, "rows": 2400,
    }  # fmt: skip
    (checked,) = client.list_artifacts(result["model"]["run_id"], "drift")
    files = client.list_artifacts(result["model"]["run_id"], checked.path)
    assert [Path(file.path).name for file in files] == ["report.html", "result.json"]
    history = client.get_metric_history(result["model"]["run_id"], "drift/exit_code")
    assert main(["drift", run.fingerprint, "current=now.csv", "record=false"]) == 5
    assert client.get_metric_history(result["model"]["run_id"], "drift/exit_code") == history
    heard()
    Path("outputs/mlflow.db").unlink()
    with caplog.at_level(logging.WARNING):
        assert main(["drift", run.fingerprint, "current=now.csv"]) == 5
    assert "not recorded in MLflow: " in heard() + caplog.text and "record=false" in heard() + caplog.text
    assert not Path("outputs/mlflow.db").exists()


# --- request logs

NOON = datetime(2025, 11, 25, 12, tzinfo=UTC)


def log(
    run: RecordedRun,
    frame: pd.DataFrame,
    *,
    hours: int = 0,
    left_out: str = "",
    is_hashed: str = "",
    lineage: str | None = None,
) -> None:
    """What the recorder of a service makes of these rows, asked at `hours` after noon."""
    bundle = load_bundle(run.folder / "model")
    kinds = {name: "hashed" if name == is_hashed else kind for name, kind in KINDS.items() if name != left_out}
    model = ModelDescription("1", bundle.fingerprint, lineage or bundle.lineage, "binary", tuple(kinds.items()))
    rows = json.loads(frame[list(kinds)].to_json(orient="records"))
    for row in rows:
        if is_hashed:
            row[is_hashed] = hashed(str(row[is_hashed]), b"k" * 32)
        if isinstance(row["is_open"], str):
            row["is_open"] = row["is_open"] == "True"
    outputs = bundle.outputs({name: frame[name].where(frame[name].notna(), None).to_numpy(object) for name in KINDS})
    line = entry(
        model=0, time_us=round((NOON + timedelta(hours=hours)).timestamp() * 1e6), request_id="r", user_id=None,
        variant="control", assigned_by="request_id", rows=json.dumps(rows).encode(),
        predictions=[bundle.classes[i] for i in outputs.argmax(axis=1)], confidences=outputs.max(axis=1).tolist(),
    )  # fmt: skip
    journal = Path("service/journal")
    journal.mkdir(parents=True, exist_ok=True)
    (journal / f"20251125T12{hours:04}.000000-1-{len(list(journal.iterdir())):04}.jsonl").write_bytes(
        model.line(0) + line
    )
    Recorder(journal, Path("service/requests"), (NOON + timedelta(days=3)).timestamp).drain()


def test_the_log_of_a_service_is_compared_in_a_span_of_time(once, runs, heard):
    log(once["label"], table(1200, seed=1))
    log(once["label"], table(1200, seed=2, shift=1.5), hours=3)
    log(once["label"], table(1200, seed=3, shift=9), hours=1, lineage="0" * 12)
    early = drift(runs["label"], "service", "until=2025-11-25T15:00")
    assert early["verdict"] == "stable" and early["current"]["rows"] == 1200
    assert early["notes"] == ["1,200 rows that another model answered are left out"]
    assert {part["part"] for part in early["results"]} == {"feature", "prediction"}
    late = drift(runs["label"], "service/requests", "since=2025-11-25T14:00", "until=2025-11-26", code=5)
    assert late["drifted"][0] == "x" and "prediction" in late["drifted"] and not late["notes"]
    assert late["current"]["what"] == (
        "the request log service/requests from 2025-11-25 14:00 until 2025-11-26 00:00"
    )  # fmt: skip
    assert drift(runs["label"], "service", code=5)["current"]["rows"] == 2400
    nobody = drift(runs["label"], "service", "since=2030-01-01", code=4)
    assert nobody["current"]["rows"] == 0


def test_what_a_log_does_not_tell_has_not_drifted(once, runs, heard):
    log(once["label"], table(1200, seed=1, shift=1.5), left_out="x", is_hashed="shop")
    result = drift(runs["label"], "service", code=5)
    assert {r["feature"] for r in result["results"] if r["part"] == "feature"} == {"count", "since", "is_open"}
    assert set(result["drifted"]) <= {"prediction", "confidence"}, "which are logged"
    assert "not in the request log, or hashed: shop, x" in result["notes"]


# --- tables with everything wrong


def faulty(n: int = 2400) -> pd.DataFrame:
    """Every fault of a schema at once."""
    frame = table(n, seed=1).astype(object)
    frame["x"] = [*frame["x"][: n - 400], *["inf"] * 100, *["oops"] * 100, *[99.5] * 200]
    frame["since"] = ["soon"] * n
    frame["shop"] = [*frame["shop"][: n - 300], *["[red]new[/red]"] * 200, *["<script>alert(1)</script>"] * 100]
    frame["is_open"] = None
    frame["<b>more</b>\x1b[31m"] = 1
    return frame.drop(columns=["count"])


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_table_with_every_fault_gives_one_report_that_can_be_read(kind: str, runs, heard):
    frame = faulty()
    if kind == "parquet":  # has types: what is no number makes the column one of text
        frame["x"] = frame["x"].astype(str)
        frame.to_parquet("faulty.parquet")
    else:
        frame.to_csv("faulty.csv", index=False)
    result = drift(runs["label"], f"faulty.{kind}", "chunk_rows=1000", code=5)
    told = {(r["feature"], r["test"]): r["reason"] for r in result["results"] if r["is_drifted"]}
    assert told["count", "column"] == "the column is missing"
    assert told["x", "unreadable"] == "100 are not a number and 100 are infinite, of 2,400"
    assert re.fullmatch(r"1\d\.\d % above 3\.\d+", told["x", "range"])
    assert told["since", "unreadable"] == "another type: 2,400 are not a date, of 2,400"
    assert told["is_open", "missing"].startswith("all missing, was ")
    assert "<script>" in told["shop", "new_categories"] and "[red]new[/red]" in told["shop", "new_categories"]
    assert "nothing was predicted: columns that the model needs are missing" in result["notes"]
    assert result["notes"][-1] == "columns that the model does not read: <b>more</b>\x1b[31m, amount, code"
    said, page = heard(), Path("out/report.html").read_text()
    assert "drifted  5 of 5 columns drifted: " in said
    assert "[red]new[/red]" in said and "\x1b[31m" not in said and "Traceback" not in said
    assert "<script>alert" not in page and "<b>more" not in page and "\x1b" not in page
    assert max(map(len, said.splitlines())) < 400


def test_columns_that_are_there_may_all_be_of_another_type(runs):
    """Parquet holds what no CSV file can."""
    n = 50
    frame = pd.DataFrame({
        "x": [[1.0, 2.0]] * n, "count": [{"a": 1}] * n, "since": pd.to_timedelta(range(n), "s"),
        "shop": [b"\xff"] * n, "is_open": pd.Timestamp("2024-01-01").time(),
    })  # fmt: skip
    frame.to_parquet("odd.parquet")
    result = drift(runs["label"], "odd.parquet", code=5)
    assert set(KINDS) - {"is_open"} <= set(result["drifted"])
    constant = drift(runs["label"], table(seed=1).assign(x=1.0, since="2024-02-01", shop="Bonn"), code=5)
    assert {"x", "since", "shop"} <= set(constant["drifted"])
    assert of(constant, "x", "ks")["reason"].startswith("nearly constant: all values at about ")


# --- requests that are wrong

WRONG: dict[str, tuple[list[str], str]] = {
    "no file": (["current=nwo.csv"], "current: no such file, got 'nwo.csv'. Did you mean now.csv"),
    "no reference": (
        ["current=now.csv", "reference=nwo.csv"],
        "reference: no such file, got 'nwo.csv'. Did you mean",
    ),
    "nothing to compare": ([], "current: is needed: drift MODEL current=new.csv, or the folder of a request log"),
    "an empty file": (["current=empty.csv"], "empty.csv: is empty: a line of column names and rows are needed"),
    "no Parquet": (["current=no.parquet"], "no.parquet: cannot be read as Parquet"),
    "other text": (["current=latin.csv"], "set encoding, e.g. cp1252 or latin-1"),
    "a folder of other things": (
        ["current=folder"],
        "current: is a folder without a request log: name that of a service",
    ),
    "a span of a table": (["current=now.csv", "since=2025-01-01"], "since: is of a request log, which is a folder"),
    "a span that ends first": (
        ["current=folder", "since=2025-01-02", "until=2025-01-01"], "since must be before until, got 2025-01-02 and",
    ),
    "no moment": (["current=folder", "since=yesterday"], "since: must be a date such as 2026-11-25"),
    "no such key": (
        ["current=now.csv", "monitoring.alfa=1"],
        "monitoring.alfa: no such key, got '1'. Did you mean monitoring.alpha?",
    ),
    "no rate": (["current=now.csv", "monitoring.alpha=1"], "monitoring.alpha: must be less than 1"),
    "no such column": (
        ["current=now.csv", "monitoring.columns=[shopp]"],
        "monitoring.columns: no such feature, got 'shopp'. Did you mean shop",
    ),
    "no target": (["current=now.csv", "target=lable"], "target: no such column, got 'lable'. Did you mean label?"),
    "labels of a log": (
        ["current=log", "target=label"],
        "target: is a column of a table; a request log has no labels",
    ),
    "labels of a reference": (
        ["current=now.csv", "reference=now.csv", "target=label"],
        "target: is of no use with `reference`",
    ),
    "less in the reference": (["current=now.csv", "reference=few.csv"], "column 'x': is missing in the reference"),
    "out is a file": (["current=now.csv", "out=now.csv"], "out: is a file; name a folder, got 'now.csv'"),
    "chunks of nothing": (["current=now.csv", "chunk_rows=0"], "chunk_rows: must be greater than or equal to 1"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_request_is_told_and_leaves_nothing(case: str, runs, heard):
    table(30).to_csv("now.csv", index=False)
    table(30).rename(columns={"x": "X"}).to_csv("few.csv", index=False)
    Path("empty.csv").write_text("")
    Path("no.parquet").write_text("nothing of the kind")
    Path("latin.csv").write_bytes(Path("now.csv").read_bytes().replace(b"yes", b"j\xe4"))
    Path("folder").mkdir()
    (Path("log") / "requests").mkdir(parents=True)
    words, said = WRONG[case]
    before = sorted(Path().iterdir())
    out = [] if any(word.startswith("out=") for word in words) else ["out=out"]
    assert main(["drift", runs["label"], "record=false", *words, *out]) == 2
    told = " ".join(heard().split())
    assert said in told and "Traceback" not in told
    assert sorted(Path().iterdir()) == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "it is `mlops-hydra drift RUN|MODEL current=new.csv"),
        (("1234567e8901",), "RUN: no such run, here or in MLflow"),
        (("nobody@champion",), "MODEL: there is no such model, or no such alias or version of it"),
        (("nobody",), "MODEL: if it is a model, say which version: nobody@champion, or nobody@1"),
    ],
)
def test_a_model_that_is_not_there_is_told(words: tuple[str, ...], said: str, runs, heard):
    table(30).to_csv("now.csv", index=False)
    assert main(["drift", *words, "current=now.csv", "out=out", "record=false"]) == 2
    assert said in " ".join(heard().split()) and not Path("out").exists()


def test_a_run_without_a_profile_says_what_to_do(once, tmp_path: Path, move_in: Callable[[Path], None], heard):
    from mlops_hydra.packaging.seal import seal

    move_in(once["place"])
    (bundle,) = Path("outputs/runs").glob(f"{once['label'].fingerprint}/*/model/bundle")
    (bundle / "profile.json").write_text("{}\n")
    seal(bundle)
    table(30).to_csv("now.csv", index=False)
    assert main(["drift", once["label"].fingerprint, "current=now.csv"]) == 2
    assert "was packaged without a profile: train it again (reuse=never)" in " ".join(heard().split())


def test_a_model_of_tensors_is_compared_by_its_log_alone(once, runs, monkeypatch: pytest.MonkeyPatch):
    bundle = load_bundle(once["label"].folder / "model")
    profile = read_profile(bundle.folder)
    monkeypatch.setattr("mlops_hydra.drift.read_profile", lambda _: replace(profile, num_rows=0, features=()))
    table(30).to_csv("now.csv", index=False)
    log(once["label"], table(1200, seed=1, shift=1.5))
    roots = Roots(config_name="drift")
    asked = [compose_command(DriftConfig, [f"current={name}"], roots) for name in ("now.csv", "service")]
    with pytest.raises(UsageError, match="takes tensors, not tables: only the request log of its service"):
        compare(replace(bundle, schema=None), asked[0])
    report = compare(replace(bundle, schema=None), asked[1])
    assert "prediction" in report.drifted and {result.part for result in report} == {"prediction"}


def test_a_full_disk_is_told_and_leaves_no_half_of_a_report(runs, monkeypatch: pytest.MonkeyPatch, heard):
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    table(30).to_csv("now.csv", index=False)
    monkeypatch.setattr(os, "fsync", full)
    assert main(["drift", runs["label"], "current=now.csv", "out=out", "record=false"]) == 1
    said = heard()
    assert "No space left on device" in said and "Traceback" not in said
    assert list(Path("out").iterdir()) == []


def test_the_command_is_a_process_that_needs_no_torch(runs):
    table(30, seed=1, shift=9).to_csv("now.csv", index=False)
    script = (
        "import sys; from mlops_hydra.cli import main\n"
        f"code = main(['drift', '{runs['label']}', 'current=now.csv', 'out=out', 'record=false'])\n"
        "assert not {'torch', 'mlflow', 'sklearn', 'optuna'} & set(sys.modules), sorted(sys.modules)\n"
        "sys.exit(code)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 5, done.stderr
    assert "\x1b" not in done.stdout and "drifted  1 of 5 columns drifted: x" in done.stdout
