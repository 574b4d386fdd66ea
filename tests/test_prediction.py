"""`mlops-hydra predict`: the rows of a file with what a run or a version of a model says of them."""

import gzip
import os
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mlops_hydra.cli import main
from mlops_hydra.data import bundled
from mlops_hydra.data.chunks import MISSING_WORDS, are_spelled, as_read
from mlops_hydra.packaging.bundle import Bundle
from mlops_hydra.tracking.recorded import RecordedRun, local_runs

QUICK = ("model=linear", "trainer=debug", "progress=off", "gates=none")
NUM_ROWS = 240


def mixed_table() -> pd.DataFrame:
    """Columns of every kind, with missing values; ids that look like numbers but for one."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"x": rng.normal(size=NUM_ROWS), "count": rng.integers(0, 9, NUM_ROWS)})
    frame["since"] = [f"2024-{1 + i % 12:02}-{1 + i % 28:02}" for i in range(NUM_ROWS)]
    frame["shop"] = rng.choice(["01", "02", "1", "2", "A1"], NUM_ROWS)
    frame["zone"] = rng.integers(1, 4, NUM_ROWS)
    frame["is_open"] = rng.choice(["True", "False"], NUM_ROWS)
    frame["label"] = np.where(frame["x"] + frame["shop"].isin(["01", "A1"]) > 0, "yes", "no")
    for column in ("x", "since", "shop", "is_open"):
        frame.loc[rng.choice(NUM_ROWS, 20, replace=False), column] = None
    return frame


def trained_in(place: Path, *overrides: str) -> RecordedRun:
    before = Path.cwd()
    os.chdir(place)
    try:
        assert main([*QUICK, *overrides]) == 0
        return local_runs("outputs")[-1]
    finally:
        os.chdir(before)


@pytest.fixture(scope="module")
def once(known_graphs: Path, empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """A place with `table.csv` and three runs: of that table, of breast cancer, and of a regression."""
    place = tmp_path_factory.mktemp("once")
    (place / "outputs").mkdir()
    (place / "outputs" / "mlflow.db").write_bytes(empty_store.read_bytes())
    (place / "outputs" / "graphs").symlink_to(known_graphs)
    mixed_table().to_csv(place / "table.csv", index=False)
    table = ("data=csv", "data.path=table.csv", "data.target=label", "+data.kinds.zone=categorical")
    yield {
        "place": place,
        "mixed": trained_in(place, *table),
        "cancer": trained_in(place, "data=breast_cancer"),
        "diabetes": trained_in(place, "data=diabetes"),
    }


@pytest.fixture
def names(once, move_in: Callable[[Path], None], tmp_path: Path) -> dict[str, str]:
    """Fingerprints by name; their runs and `table.csv` are below the current directory."""
    move_in(once["place"])
    (tmp_path / "table.csv").write_bytes((once["place"] / "table.csv").read_bytes())
    return {name: run.fingerprint for name, run in once.items() if name != "place"}


@pytest.fixture
def heard(capsys: pytest.CaptureFixture[str]) -> Callable[[], str]:
    """Everything that was printed since."""

    def read() -> str:
        captured = capsys.readouterr()
        return captured.out + captured.err

    return read


def predict(run: str, path: str, *overrides: str, out: str = "out.csv", code: int = 0) -> pd.DataFrame:
    """What was written, as text; nothing where nothing was."""
    assert main(["predict", run, f"data.path={path}", f"out={out}", *overrides]) == code
    return pd.read_csv(out, dtype=str, na_filter=False) if out.endswith((".csv", ".gz")) else pd.read_parquet(out)


def known_predictions(run: str) -> pd.DataFrame:
    (recorded,) = local_runs("outputs", run)
    assert recorded.folder is not None
    return pd.read_parquet(recorded.folder / "predictions.parquet").query("split == 'test'").set_index("row")


# --- the same, however it is read


@pytest.mark.parametrize("name", ["mixed", "cancer", "diabetes"])
@pytest.mark.parametrize("kind", ["csv", "csv.gz", "parquet"])
def test_predictions_are_those_that_were_recorded_whole_or_in_chunks(name: str, kind: str, names):
    sources = {"mixed": lambda: pd.read_csv("table.csv")}
    frame = sources.get(name, lambda: bundled.read({"cancer": "breast_cancer"}.get(name, name)))()
    path = f"in.{kind}"
    frame.to_parquet(path) if kind == "parquet" else frame.to_csv(path, index=False)
    whole = predict(names[name], path, out=f"whole.{kind}")
    chunked = predict(names[name], path, "chunk_rows=7", out=f"chunked.{kind}")
    pd.testing.assert_frame_equal(whole, chunked)
    assert len(whole) == len(frame)
    known = known_predictions(names[name])
    columns = [column for column in known.columns if column.startswith("p_")] or ["prediction"]
    said = whole.loc[known.index, columns].astype(float)
    scale = 1 if "p_" in columns[0] else known["prediction"].std()
    np.testing.assert_allclose(said / scale, known[columns] / scale, atol=1e-5)
    if columns != ["prediction"]:
        assert whole.loc[known.index, "prediction"].tolist() == known["prediction"].astype(str).tolist()


def test_the_metrics_are_those_of_the_recorded_test_rows(names, heard):
    (recorded,) = local_runs("outputs", names["cancer"])
    rows = known_predictions(names["cancer"]).index
    bundled.read("breast_cancer").iloc[rows].to_csv("in.csv", index=False)
    heard()
    predict(names["cancer"], "in.csv", "chunk_rows=7")
    said = heard()
    assert recorded.result is not None
    for name in ("accuracy", "roc_auc", "log_loss", "calibration_error"):
        assert f"{name:<18} {recorded.result['metrics'][f'test/{name}']:.4f}" in said
    assert f"on {len(rows)} rows" in said


def test_a_regression_predicts_values_and_is_measured(names, heard):
    bundled.read("diabetes").to_csv("in.csv", index=False)
    out = predict(names["diabetes"], "in.csv")
    assert [column for column in out.columns if column.startswith("p_")] == []
    assert out["prediction"].astype(float).between(0, 400).all()
    assert "rmse" in heard()


def test_rows_stand_in_the_output_as_they_do_in_the_file(names):
    """Ids keep their zeros, numbers their digits, and NA remains NA."""
    text = 'shop,x,count,since,zone,is_open,note\n01,1.50,3,2024-01-01,1,TRUE,"a, b"\n1,NA,4,,02,false,007\n'
    Path("in.csv").write_text(text)
    out = predict(names["mixed"], "in.csv")
    assert [line.split(",no,")[0].split(",yes,")[0] for line in Path("out.csv").read_text().splitlines()[1:]] == (
        text.splitlines()[1:]
    )
    assert list(out.columns) == [*text.splitlines()[0].split(","), "prediction", "p_no", "p_yes", "problem"]


@pytest.mark.parametrize("shop", ["01", "1", "2", "A1"])
def test_an_id_that_looks_like_a_number_is_the_text_that_training_saw(shop: str, names):
    """pandas would read 01 as 1 in a chunk where all ids look like numbers."""
    row = {"x": 0.1, "count": 3, "since": "2024-01-01", "zone": 1, "is_open": True}
    pd.DataFrame([{**row, "shop": shop}, {**row, "shop": "A1"}]).to_csv("both.csv", index=False)
    pd.DataFrame([{**row, "shop": shop}]).to_csv("alone.csv", index=False)
    pd.DataFrame([{**row, "shop": shop}]).to_parquet("alone.parquet")
    both = predict(names["mixed"], "both.csv")
    alone = predict(names["mixed"], "alone.csv")
    typed = predict(names["mixed"], "alone.parquet", out="out.parquet")
    assert both.loc[0, "p_yes"] == alone.loc[0, "p_yes"]
    assert float(alone.loc[0, "p_yes"]) == typed.loc[0, "p_yes"]
    if shop == "01":
        assert alone.loc[0, "p_yes"] != predict(names["mixed"], "both.csv").loc[1, "p_yes"]


@pytest.mark.parametrize("zone", ["1", "01", "1.0"])
def test_a_category_that_was_a_number_is_the_same_however_it_is_written(zone: str, names):
    header, row = "x,count,since,shop,is_open,zone", "0.1,3,2024-01-01,01,True"
    Path("in.csv").write_text(f"{header}\n{row},{zone}\n{row},1\n{row},somewhere\n{row},\n")
    said = predict(names["mixed"], "in.csv")["p_yes"].tolist()
    assert said[0] == said[1]
    assert said[1] not in said[2:], "another one is unknown, and none is missing"


def test_what_is_missing_in_a_csv_file_is_what_pandas_takes_for_it(tmp_path: Path):
    words = [*sorted(MISSING_WORDS), "na", "none", "-", "NAN", "0"]
    (tmp_path / "words.csv").write_text("id,word\n" + "".join(f"1,{word}\n" for word in words))
    frame = pd.read_csv(tmp_path / "words.csv")
    assert frame["word"].isna().tolist() == [word in MISSING_WORDS for word in words]


@pytest.mark.parametrize("text", ["1", "01", "1.0", "+1", "1e2", "-3.5", "True", "TRUE", "false", "x"])
def test_a_text_in_a_column_of_numbers_or_flags_is_read_as_pandas_reads_it(text: str, tmp_path: Path):
    (tmp_path / "in.csv").write_text(f"a\n{text}\n")
    assert as_read(text) == pd.read_csv(tmp_path / "in.csv")["a"].tolist()[0]


@pytest.mark.parametrize(
    ("categories", "examples", "spelled"),
    [
        (("1", "2"), [1, 2, None], False),
        (("1", "2"), ["1", "2"], True),
        (("01", "2"), [None], True),
        (("1.5", "2"), [1.5], False),
        (("False", "True"), [True], False),
        (("False", "True", "maybe"), [None], True),
        (("10000000000000000000", "2"), [2.0], False),
        (("1", "True"), [None], True),
        (("1", "A"), [None], True),
    ],
)
def test_whether_categories_were_texts_shows_in_their_names_and_in_raw_values(categories, examples, spelled: bool):
    assert are_spelled(categories, examples) == spelled


def test_a_class_that_is_a_number_may_be_written_as_another(workplace: Path, heard):
    """A missing target makes pandas read 1 as 1.0."""
    frame = bundled.read("breast_cancer")
    frame["target"] = (frame["target"] == "malignant").astype(int)
    frame.to_csv("train.csv", index=False)
    run = trained_in(workplace, "data=csv", "data.path=train.csv", "data.target=target")
    frame["target"] = frame["target"].astype(float)
    frame.loc[3, "target"] = np.nan
    frame.to_csv("in.csv", index=False)
    heard()
    assert predict(run.fingerprint, "in.csv")["prediction"].isin(["0", "1"]).all()
    assert "on 568 rows" in heard()


def test_a_table_with_other_separators_is_read_and_written_alike(names):
    frame = pd.read_csv("table.csv")
    frame.to_csv("semicolons.csv", index=False, sep=";", decimal=",", encoding="cp1252")
    dialect = ('data.separator=";"', 'data.decimal=","', "data.encoding=cp1252")
    assert main(["predict", names["mixed"], "data.path=semicolons.csv", "out=out.csv", *dialect]) == 0
    said = pd.read_csv("out.csv", sep=";", decimal=",")
    known = predict(names["mixed"], "table.csv", out="known.csv")
    np.testing.assert_array_equal(said["p_yes"], known["p_yes"].astype(float))


# --- rows that cannot be read


def bad_rows(frame: pd.DataFrame) -> pd.DataFrame:
    frame = frame.astype(object)
    frame.loc[3, "x"] = "oops"
    frame.loc[20, "since"] = "yesterday"
    frame.loc[20, "is_open"] = "maybe"
    frame.loc[21, "x"] = "inf"
    return frame


PROBLEMS = {
    3: "column 'x' must be a number, got 'oops'",
    20: (
        "column 'since' must be a date such as 2024-05-31 or 2024-05-31T12:00:00Z, got 'yesterday'; "
        "column 'is_open' must be true or false, got 'maybe'"
    ),
    21: "column 'x' must be finite, got ",
}


@pytest.mark.parametrize("chunk_rows", [1000, 7])
def test_bad_rows_are_named_and_stay_where_they_are_without_a_prediction(chunk_rows: int, names, heard):
    known = predict(names["mixed"], "table.csv", out="known.csv")
    bad_rows(pd.read_csv("table.csv", dtype=str, na_filter=False)).to_csv("bad.csv", index=False)
    heard()
    out = predict(names["mixed"], "bad.csv", f"chunk_rows={chunk_rows}", code=2)
    said = heard()
    assert "237 of 240 rows predicted" in said
    for row, problem in PROBLEMS.items():
        assert f"row {row}: {problem}" in said
        assert out.loc[row, "problem"].startswith(problem)
        assert out.loc[row, ["prediction", "p_no", "p_yes"]].tolist() == [""] * 3
    assert out.loc[3, "x"] == "oops"
    good = ~out.index.isin(list(PROBLEMS))
    pd.testing.assert_frame_equal(out[good], known[good])
    assert "on 237 rows" in said


def test_bad_rows_in_parquet_are_missing_in_columns_of_numbers_and_the_problem_tells_them(names):
    bad_rows(pd.read_csv("table.csv", dtype=str, na_filter=False)).to_csv("bad.csv", index=False)
    out = predict(names["mixed"], "bad.csv", "chunk_rows=7", out="out.parquet", code=2)
    assert out["x"].dtype == np.float64 and np.isnan(out.loc[3, "x"])
    assert out["prediction"].isna().sum() == 3
    assert out.loc[3, "problem"] == PROBLEMS[3]


def test_of_many_bad_rows_ten_are_shown(names, heard):
    frame = pd.read_csv("table.csv").assign(x="bad")
    frame.to_csv("bad.csv", index=False)
    out = predict(names["mixed"], "bad.csv", code=2)
    said = heard()
    assert said.count("  row ") == 10
    assert "240 without a prediction; column 'problem' says why (rows count from 0; 230 more than shown)" in said
    assert (out["prediction"] == "").all()


def test_a_model_that_gives_no_number_has_a_bad_row(names, monkeypatch: pytest.MonkeyPatch):
    before = Bundle.outputs

    def outputs(bundle: Bundle, rows: Any) -> Any:
        values = before(bundle, rows)
        if len(values) > 100:
            values[5] = np.nan
        return values

    monkeypatch.setattr(Bundle, "outputs", outputs)
    bundled.read("diabetes").to_csv("in.csv", index=False)
    assert predict(names["diabetes"], "in.csv", code=2).loc[5, "problem"] == "the model gives no number for it"


# --- requests that are wrong


def write(path: str, text: str) -> None:
    Path(path).write_text(text)


WRONG: dict[str, tuple[list[str], str]] = {
    "no file": (["data.path=tabel.csv"], "data.path: no such file, got 'tabel.csv'. Did you mean table.csv or"),
    "no path": ([], "data.path: is needed: predict RUN data.path=in.csv out=out.csv"),
    "a folder": (["data.path=outputs"], "is a folder; name a file in it"),
    "empty": (["data.path=empty.csv"], "empty.csv: is empty: a line of column names and rows are needed"),
    "blank": (["data.path=blank.csv"], "blank.csv: is empty: a line of column names and rows are needed"),
    "columns missing": (["data.path=few.csv"], "column 'since': is missing"),
    "a row too long": (["data.path=long.csv"], "long.csv, line 3: must have 2 fields, as many as line 1, got 3"),
    "a row too short": (["data.path=short.csv"], "short.csv, line 3: must have 2 fields, as many as line 1, got 1"),
    "a name twice": (["data.path=twice.csv"], "twice.csv: line 1 names 1 column(s) twice"),
    "no parquet": (["data.path=no.parquet"], "no.parquet: cannot be read as Parquet"),
    "no gzip": (["data.path=no.csv.gz"], "no.csv.gz: is a damaged gzip file"),
    "cut gzip": (["data.path=cut.csv.gz"], "cut.csv.gz: is a damaged gzip file"),
    "no utf-8": (["data.path=latin.csv"], "set data.encoding, e.g. cp1252 or latin-1"),
    "no encoding": (["data.path=table.csv", "data.encoding=utf-99"], "data.encoding: is no encoding that Python knows"),
    "semicolons": (["data.path=semicolons.csv"], "column 'x': is missing"),
    "predicted already": (["data.path=again.csv"], "column 'prediction': is there already"),
    "no target": (["data.path=table.csv", "data.target=lable"], "data.target: no such column, got 'lable'. Did you"),
    "a strange class": (
        ["data.path=strange.csv"],
        "column 'label', row 9: must be a class that the model knows (no, yes); or leave the column out, got 'perhaps'",
    ),
    "no folder": (["data.path=table.csv", "out=nowhere/out.csv"], "out: no such folder, got 'nowhere'"),
    "out is a folder": (["data.path=table.csv", "out=outputs"], "out: is a folder; name a file in it"),
    "out is the input": (["data.path=table.csv", "out=./table.csv"], "out: is the file that is read; name another"),
    "chunks of nothing": (["data.path=table.csv", "chunk_rows=0"], "chunk_rows: must be greater than or equal to 1"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_request_is_told_and_leaves_nothing(case: str, names, heard):
    frame = pd.read_csv("table.csv")
    write("empty.csv", "")
    write("blank.csv", "\n\n")
    frame[["x", "count"]].to_csv("few.csv", index=False)
    write("long.csv", "a,b\n1,2\n1,2,3\n")
    write("short.csv", "a,b\n1,2\n1\n")
    write("twice.csv", "a,a\n1,2\n")
    write("no.parquet", "nothing of the kind")
    write("no.csv.gz", "nothing of the kind")
    Path("cut.csv.gz").write_bytes(gzip.compress(Path("table.csv").read_bytes())[:500])
    Path("latin.csv").write_bytes(Path("table.csv").read_bytes().replace(b"yes", b"j\xe4"))
    frame.to_csv("semicolons.csv", index=False, sep=";")
    frame.assign(prediction="yes").to_csv("again.csv", index=False)
    frame.assign(label=["perhaps" if row == 9 else label for row, label in enumerate(frame["label"])]).to_csv(
        "strange.csv", index=False
    )
    before = {path: path.stat().st_mtime_ns for path in Path().iterdir()}
    words, said = WRONG[case]
    out = [] if any(word.startswith("out=") for word in words) else ["out=out.csv"]
    heard()
    assert main(["predict", names["mixed"], "chunk_rows=7", *words, *out]) == 2
    assert said in " ".join(heard().split())
    assert {path: path.stat().st_mtime_ns for path in Path().iterdir()} == before


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("1234567e8901", "RUN: no such run, here or in MLflow"),
        ("nobody", "MODEL: if it is a model, say which version: nobody@champion, or nobody@1"),
        ("nobody@champion", "MODEL: there is no such model, or no such alias or version of it"),
        ("nobody@champoin", "Did you mean nobody@champion?"),
        ("nobody@3", "MODEL: there is no such model, or no such alias or version of it, got 'nobody@3'"),
    ],
)
def test_a_model_that_is_not_there_is_told(name: str, said: str, names, heard):
    assert main(["predict", name, "data.path=table.csv", "out=out.csv"]) == 2
    assert said in heard()
    assert not Path("out.csv").exists()


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_file_without_rows_has_no_predictions(kind: str, names, heard):
    frame = pd.read_csv("table.csv").head(0)
    frame.to_parquet("none.parquet") if kind == "parquet" else frame.to_csv("none.csv", index=False)
    for out in ("out.csv", "out.parquet"):
        assert list(predict(names["mixed"], f"none.{kind}", out=out).columns)[-4:] == [
            "prediction",
            "p_no",
            "p_yes",
            "problem",
        ]
    assert "0 rows predicted" in heard()


def test_what_stood_there_before_stays_until_the_new_file_is_whole(names):
    Path("out.csv").write_text("of yesterday")
    frame = pd.read_csv("table.csv").astype(object)
    frame.loc[200, "label"] = "perhaps"
    frame.to_csv("strange.csv", index=False)
    assert main(["predict", names["mixed"], "data.path=strange.csv", "out=out.csv", "chunk_rows=7"]) == 2
    assert Path("out.csv").read_text() == "of yesterday"
    assert not list(Path().glob(".*"))
    predict(names["mixed"], "table.csv")
    assert len(pd.read_csv("out.csv")) == NUM_ROWS


@pytest.mark.parametrize("out", ["out.csv", "out.csv.gz", "out.parquet"])
def test_an_interrupted_prediction_leaves_no_file(out: str, names, monkeypatch: pytest.MonkeyPatch):
    before, num_calls = Bundle.outputs, 0

    def outputs(bundle: Bundle, rows: Any) -> Any:
        nonlocal num_calls
        num_calls += 1
        if num_calls > 5:
            raise KeyboardInterrupt
        return before(bundle, rows)

    monkeypatch.setattr(Bundle, "outputs", outputs)
    assert main(["predict", names["mixed"], "data.path=table.csv", f"out={out}", "chunk_rows=7"]) == 130
    assert num_calls > 5
    assert not Path(out).exists() and not list(Path().glob(".*"))


def test_a_parquet_file_keeps_its_types_and_what_is_missing(names):
    frame = pd.read_csv("table.csv")
    frame["since"] = pd.to_datetime(frame["since"])
    frame["kept"] = pd.array([None, 2**53 + 1] * (NUM_ROWS // 2), dtype="Int64")
    frame["shop"] = frame["shop"].astype("category")
    frame.to_parquet("in.parquet")
    out = predict(names["mixed"], "in.parquet", "chunk_rows=7", out="out.parquet")
    import pyarrow.parquet as pq

    before, after = pq.read_schema("in.parquet"), pq.read_schema("out.parquet")
    assert all(after.field(name).type == before.field(name).type for name in before.names)
    assert out["kept"].dropna().astype(object).map(int).unique().tolist() in ([2**53 + 1], [2**53])
    np.testing.assert_array_equal(out["p_yes"], predict(names["mixed"], "table.csv")["p_yes"].astype(float))


def test_a_model_of_tensors_says_what_to_use_instead(names, monkeypatch: pytest.MonkeyPatch, heard):
    from dataclasses import replace

    from mlops_hydra import prediction

    load = prediction.load_bundle
    monkeypatch.setattr(prediction, "load_bundle", lambda path: replace(load(path), schema=None))
    assert main(["predict", names["mixed"], "data.path=table.csv", "out=out.csv"]) == 2
    assert "takes tensors, not tables: use load_bundle(...) in Python" in heard()


# --- weight


def test_predicting_loads_neither_torch_nor_mlflow(names):
    script = (
        "import sys; from mlops_hydra.cli import main\n"
        f"assert main(['predict', '{names['mixed']}', 'data.path=table.csv', 'out=out.csv']) == 0\n"
        "assert not {'torch', 'mlflow', 'sklearn'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_memory_does_not_grow_with_the_file(kind: str, names):
    """Takes a minute. Ten times the rows, without a target; Python's and NumPy's memory at its highest."""
    frame = pd.read_csv("table.csv").drop(columns="label")
    highest = []
    for times in (100, 1000):
        large, path = pd.concat([frame] * times), f"large.{kind}"
        large.to_parquet(path, row_group_size=10_000) if kind == "parquet" else large.to_csv(path, index=False)
        del large
        tracemalloc.start()
        assert main(["predict", names["mixed"], f"data.path={path}", f"out=out.{kind}", "chunk_rows=5000"]) == 0
        highest.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert highest[1] < 1.3 * highest[0], highest
