"""Gates through the command: which evidence gives which verdict, reason and exit code.

A few runs are trained once; each case asks for one of them again with a gate of its own, which only judges it.
"""

import json
import math
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mlops_hydra import compose
from mlops_hydra.cli import main
from mlops_hydra.tracking.registry import CHAMPION, Registry
from tests.sampled import some

NUM_ROWS = 1200
EXIT_CODES = {"passed": 0, "failed": 3, "undecided": 4}

METRICS = """
import numpy as np
from tests.sampled import some

def nothing(targets, predictions):
    return float("nan")

def misses(targets, predictions):
    return int((targets != predictions).sum()) / len(targets)

def whole_only(targets, predictions):
    if len(targets) < 200:
        raise ValueError("of all rows only")
    return 1.0
"""
OWN = tuple(f"+metrics.{name}._target_=own_metrics.{name}" for name in ("nothing", "misses", "whole_only"))
COMMON = ("data=csv", "data.drop=[after,flag]", "gates=none", "progress=off", "reuse=config", "judging.resamples=500")
HOUSE = (*COMMON, "data.path=rows.csv", "data.target=bought", "name=house")
NUMBERS = (*COMMON, "data.path=rows.csv", "data.target=price", "data.drop=[after,flag,bought]", "name=numbers")
GOOD = ("model=mlp", "trainer.epochs=30", "trainer.early_stopping.patience=null", "optimizer.lr=0.01", *OWN)
LINEAR = ("model=linear", "trainer.epochs=20", "optimizer.lr=0.03")
STILL = ("model=linear", "trainer=debug", "optimizer.lr=1e-9")

RUNS = {
    "champion": (*HOUSE, "model=linear", "trainer=debug"),
    "better": (*HOUSE, *GOOD),
    "worse": (*HOUSE, *STILL, "seed=2", "data.split.seed=0"),
    "flipped": (*HOUSE, *LINEAR, "data.classes=['yes','no']"),
    "renamed": (*HOUSE, "model=linear", "trainer=debug", "data.target=after", "data.drop=[bought,flag]"),
    "lonely": (*HOUSE, "model=linear", "trainer=debug", "name=lonely", "packaging=none"),
    "number": (*NUMBERS, *LINEAR),
    "number champion": (*NUMBERS, *STILL),
}


def table() -> pd.DataFrame:
    """A sale that depends on a product of two numbers, more noisily in France; few rows of Luxembourg, some of none."""
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, NUM_ROWS)).round(4)
    country = rng.choice(["de", "fr", "lu", ""], NUM_ROWS, p=[0.45, 0.3, 0.02, 0.23])
    logit = (3 * first * second + 1.5 * first) * np.where(country == "fr", 0.5, 2)
    bought = rng.random(NUM_ROWS) < 1 / (1 + np.exp(-logit))
    return pd.DataFrame(
        {
            "first": first,
            "second": second,
            "country": country,
            "flag": rng.choice(["x", "y"], NUM_ROWS),
            "bought": np.where(bought, "yes", "no"),
            "after": np.where(bought, "kept", "returned"),
            "price": (3 * first + rng.normal(0, 0.5, NUM_ROWS)).round(3),
        }
    )


@cache
def published(name: str) -> Path:
    return Path("outputs", "runs", compose(RUNS[name]).fingerprint, "result.json")


def ask(name: str, *overrides: str) -> tuple[int, dict[str, Any]]:
    """The exit code of the command, and the result.json that it leaves."""
    code = main([*RUNS[name], *overrides])
    return code, json.loads(published(name).read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Place:
    """Where all runs are, and two models have a champion; and the metrics of each run."""

    folder: Path
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)


@pytest.fixture(scope="module")
def place(empty_store: Path, known_graphs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    place, before = tmp_path_factory.mktemp("gates"), Path.cwd()
    metrics: dict[str, dict[str, float]] = {}
    (place / "outputs").mkdir()
    shutil.copy(empty_store, place / "outputs" / "mlflow.db")
    (place / "outputs" / "graphs").symlink_to(known_graphs)
    (place / "own_metrics.py").write_text(METRICS, encoding="utf-8")
    rows = table()
    rows.to_csv(place / "rows.csv", index=False)
    rows.assign(second=rows["second"] + 1).to_csv(place / "features.csv", index=False)
    rows.assign(bought=np.where(rows.index % 3 == 0, "yes", rows["bought"])).to_csv(place / "labels.csv", index=False)
    rows.iloc[:-100].to_csv(place / "fewer.csv", index=False)
    os.chdir(place)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.syspath_prepend(place)
        try:
            for name in RUNS:
                code, result = ask(name)
                assert (code, result["status"]) == (0, "new"), name
                metrics[name] = result["metrics"]
                if name.endswith("champion"):
                    assert main(["promote", result["fingerprint"]]) == 0
            yield Place(place, metrics)
        finally:
            os.chdir(before)


@pytest.fixture(autouse=True)
def _there(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place.folder)
    monkeypatch.syspath_prepend(place.folder)


def filled(text: str, own: dict[str, float], champion: dict[str, float]) -> str:
    """<accuracy> is that on test, <accuracy+> and <accuracy-> its neighbours, <gain accuracy> less the champion's."""
    neighbours = {"": 0.0, "+": math.inf, "-": -math.inf}

    def value(match: re.Match[str]) -> str:
        gain, name, side = match.groups()
        number = own[f"test/{name}"] - (champion[f"test/{name}"] if gain else 0.0)
        return repr(math.nextafter(number, neighbours[side]) if side else number)

    return re.sub(r"<(gain )?(\w+)([+-]?)>", value, text)


@dataclass(frozen=True)
class Case:
    """A run, a gate, and what comes of them; `told` are pieces of the reason."""

    run: str
    gate: str
    verdict: str
    told: tuple[str, ...]
    overrides: tuple[str, ...] = field(default=())

    def __str__(self) -> str:
        return " ".join([self.run, self.gate.replace("metric: ", ""), *self.overrides])


def case(run: str, gate: str, verdict: str, *told: str, more: tuple[str, ...] = ()) -> Case:
    return Case(run, gate, verdict, told, more)


THRESHOLDS = [
    case("better", "metric: accuracy, threshold: <accuracy>", "passed", "test/accuracy ", ">="),
    case("better", "metric: accuracy, threshold: <accuracy+>", "failed", "test/accuracy is", "must be >="),
    case("better", "metric: log_loss, threshold: <log_loss>", "passed", "test/log_loss ", "<="),
    case("better", "metric: log_loss, threshold: <log_loss->", "failed", "test/log_loss is", "must be <="),
    case("better", "metric: accuracy, threshold: <accuracy>, direction: lower", "passed", "test/accuracy ", "<="),
    case("better", "metric: accuracy, threshold: 0, direction: lower", "failed", "must be <= 0"),
    case("better", "metric: log_loss, threshold: 0, direction: higher", "passed", ">= 0"),
    case("better", "metric: roc_auc, threshold: 1.01", "failed", "test/roc_auc is", "must be >= 1.01"),
    case("better", "metric: f1, threshold: <f1>", "passed", "test/f1 "),
    case("better", "metric: calibration_error, threshold: 0", "failed", "test/calibration_error is", "must be <= 0"),
    case("better", "metric: objective, threshold: <log_loss>", "passed", "test/log_loss ", "<="),
    case("better", "metric: accuracy, threshold: 0.5, on: val", "passed", "val/accuracy ", ">= 0.5"),
    case("better", "metric: loss, threshold: 100, on: val", "passed", "val/loss ", "<= 100"),
    case("better", "metric: loss, threshold: 0, on: val", "failed", "val/loss is", "must be <= 0"),
    case("number", "metric: rmse, threshold: <rmse>", "passed", "test/rmse ", "<="),
    case("number", "metric: rmse, threshold: <rmse->", "failed", "test/rmse is", "must be <="),
]

OF_THE_USER = [
    case(
        "better", "metric: nothing, threshold: 0, direction: higher", "failed", "nothing could not be measured", "nan"
    ),
    case("better", "metric: nothing, better_than: champion, direction: lower", "failed", "could not be measured"),
    case("better", "metric: nothing, threshold: 0, slice: flag, direction: lower", "failed", "could not be measured"),
    case("better", "metric: misses, threshold: 0.45, direction: lower", "passed", "test/misses ", "<= 0.45"),
    case("better", "metric: misses, threshold: 0.45, direction: higher", "failed", "must be >= 0.45"),
    case("better", "metric: misses, better_than: champion, direction: lower", "passed", "on the same", "must be < 0"),
    case("better", "metric: misses, threshold: 1, slice: flag, direction: lower", "passed", "flag=", "of 2 slices"),
    case("better", "metric: misses, better_than: baseline, direction: lower", "passed", "(baseline/misses "),
    case("better", "metric: whole_only, threshold: 0, slice: flag, direction: higher", "failed", "of all rows only"),
]

COSTS = [
    case("better", "metric: latency_p95_ms, threshold: 1e6", "passed", "latency_p95_ms ", "<= 1000000"),
    case("better", "metric: model_size_mb, threshold: 5", "passed", "model_size_mb ", "<= 5"),
    case("better", "metric: model_size_mb, threshold: 0", "failed", "model_size_mb is", "must be <= 0"),
    case("lonely", "metric: model_size_mb, threshold: 5", "failed", "model_size_mb was not measured"),
]

BASELINE = [
    case("better", "metric: accuracy, better_than: baseline", "passed", "> ", "(baseline/accuracy "),
    case("better", "metric: accuracy, better_than: baseline, by: 0.05", "passed", ">= ", " + 0.05)"),
    case("better", "metric: accuracy, better_than: baseline, by: 10%", "passed", ">= ", " + 10%)"),
    case("better", "metric: accuracy, better_than: baseline, by: 0.9", "failed", "must be >= ", " + 0.9)"),
    case(
        "better", "metric: log_loss, better_than: baseline, by: 10%", "passed", "<= ", "(baseline/log_loss ", " - 10%)"
    ),
    case("better", "metric: log_loss, better_than: baseline, by: 99.9%", "failed", "must be <= ", " - 99.9%)"),
    case("better", "metric: accuracy, better_than: baseline, direction: lower", "failed", "must be < "),
    case("worse", "metric: log_loss, better_than: baseline", "failed", "must be < ", "(baseline/log_loss "),
    case("number", "metric: rmse, better_than: baseline, by: 20%", "passed", "(baseline/rmse ", " - 20%)"),
    case("number champion", "metric: mae, better_than: baseline, by: 20%", "failed", "(baseline/mae ", " - 20%)"),
]

CHAMPIONS = [
    case("better", "metric: accuracy, better_than: champion", "passed", "on the same 240 rows", "must be > 0"),
    case("better", "metric: accuracy, better_than: champion, by: 0.01", "passed", "must be >= +0.01"),
    case("better", "metric: accuracy, better_than: champion, by: 1%", "passed", "must be >= +", "(1% of "),
    case("better", "metric: accuracy, better_than: champion, by: 0.9", "failed", "must be >= +0.9"),
    case("better", "metric: accuracy, better_than: champion, by: <gain accuracy>", "undecided", "may never decide"),
    case(
        "better",
        "metric: accuracy, better_than: champion, by: <gain accuracy>, if_undecided: pass",
        "passed",
        "undecided, which this gate lets pass (if_undecided)",
    ),
    case(
        "better",
        "metric: accuracy, better_than: champion, by: <gain accuracy>, if_undecided: fail",
        "failed",
        "undecided, which this gate lets fail (if_undecided)",
    ),
    case("better", "metric: objective, better_than: champion", "passed", "test/log_loss is", "must be < 0"),
    case("better", "metric: roc_auc, better_than: champion, on: val", "passed", "val/roc_auc is", "must be > 0"),
    case("better", "metric: accuracy, better_than: champion, direction: lower", "failed", "must be < 0"),
    case("better", "metric: f1, no_worse_than: champion, tolerance: 0", "passed", "must be >= 0"),
    case("better", "metric: accuracy, better_than: champion, min_rows: 241", "undecided", "too few rows", "240, needs"),
    case("better", "metric: accuracy, better_than: champion, if_no_champion: fail", "passed", "on the same 240 rows"),
    case("worse", "metric: log_loss, better_than: champion", "failed", "test/log_loss is", "must be < 0"),
    case("worse", "metric: log_loss, no_worse_than: champion, tolerance: 0.001", "failed", "must be <= +0.001"),
    case("worse", "metric: log_loss, no_worse_than: champion, tolerance: 300%", "passed", "(300% of "),
    case("champion", "metric: accuracy, better_than: champion", "passed", "this model is the champion itself"),
    case("lonely", "metric: accuracy, better_than: champion", "passed", "no champion yet (if_no_champion: pass)"),
    case("lonely", "metric: f1, better_than: champion, if_no_champion: fail", "failed", "no champion yet"),
    case("flipped", "metric: accuracy, better_than: champion, by: 0.9", "failed", "the champion has <champion>"),
    case("flipped", "metric: accuracy, no_worse_than: champion, tolerance: 5%", "passed", "must be >= -"),
    case("renamed", "metric: accuracy, better_than: champion", "failed", "it knows the classes no, yes, here are kept"),
    case("number", "metric: rmse, better_than: champion", "passed", "on the same 240 rows", "must be < 0"),
    case("number", "metric: r2, better_than: champion, by: 0.1", "passed", "must be >= +0.1"),
    case("number", "metric: mae, better_than: champion, by: 99%", "failed", "must be <= -", "(99% of "),
    case("number", "metric: rmse, no_worse_than: champion, tolerance: 5%, on: val", "passed", "val/rmse is"),
    case("number champion", "metric: rmse, better_than: champion, by: 1", "passed", "the champion itself"),
]

SLICES = [
    case("better", "metric: accuracy, threshold: 0.3, slice: country", "undecided", "country=lu", "too few rows"),
    case("better", "metric: accuracy, threshold: 0.3, slice: country, if_undecided: pass", "passed", "lets pass"),
    case("better", "metric: accuracy, threshold: 0.3, slice: country, if_undecided: fail", "failed", "lets fail"),
    case("better", "metric: accuracy, threshold: 0, slice: country, min_rows: 1", "passed", "the worst of 4 slices"),
    case(
        "better", "metric: accuracy, threshold: 1.01, slice: country", "failed", "failed: ", "missing", "undecided: lu"
    ),
    case("better", "metric: log_loss, threshold: 100, slice: country, min_rows: 1", "passed", "<= 100"),
    case("better", "metric: accuracy, threshold: 0.3, slice: country, on: val, min_rows: 1", "passed", "val/accuracy "),
    case("better", "metric: accuracy, threshold: 0.5, slice: after", "passed", "the worst of 2 slices"),
    case("better", "metric: roc_auc, threshold: 0.5, slice: after", "failed", "after=", "could not be measured", "nan"),
    case(
        "better", "metric: accuracy, threshold: 0, slice: contry", "failed", "column 'contry'", "Did you mean country"
    ),
    case("better", "metric: accuracy, threshold: 0, slice: first", "failed", "it is no column to slice by"),
    case("better", "metric: log_loss, better_than: champion, slice: flag", "passed", "flag=", "must be < 0"),
    case("better", "metric: accuracy, better_than: champion, slice: country", "undecided", "country=lu"),
    case("worse", "metric: log_loss, better_than: champion, slice: flag", "failed", "flag=", "of 2 slices (failed: "),
    case("lonely", "metric: accuracy, better_than: champion, slice: country", "passed", "no champion yet"),
    case("lonely", "metric: accuracy, better_than: champion, slice: contry", "failed", "column 'contry'"),
    case("number", "metric: rmse, better_than: champion, slice: flag", "passed", "flag=", "must be < 0"),
]

CHANGED = "has changed since the run was trained"
DATA = [
    case("better", gate, verdict, told, more=(f"data.path={path}.csv",))
    for path in ("features", "labels", "fewer")
    for gate, verdict, told in (
        ("metric: accuracy, threshold: <accuracy>", "passed", ">="),
        ("metric: accuracy, threshold: 0, slice: flag", "failed", CHANGED),
        ("metric: accuracy, better_than: champion", "failed", CHANGED),
    )
]


@pytest.mark.parametrize(
    "asked", some([*THRESHOLDS, *OF_THE_USER, *COSTS, *BASELINE, *CHAMPIONS, *SLICES, *DATA], every=2), ids=str
)
def test_the_command_gives_verdict_reason_and_exit_code(asked: Case, place: Place) -> None:
    champion = place.metrics["number champion" if asked.run.startswith("number") else "champion"]
    gate = filled(asked.gate, place.metrics[asked.run], champion)
    code, result = ask(asked.run, *asked.overrides, f"+gates.x={{{gate}}}")
    (found,) = result["gates"]
    assert found["verdict"] == asked.verdict, found["reason"]
    told = [piece.replace("<champion>", f"{champion.get('test/accuracy', math.nan):.4g}") for piece in asked.told]
    assert [piece for piece in told if piece not in found["reason"]] == [], found["reason"]
    assert (code, result["verdict"], result["status"]) == (EXIT_CODES[asked.verdict], asked.verdict, "reused")


def test_the_worst_gate_gives_the_exit_code(place: Place) -> None:
    passed = "+gates.a={metric: accuracy, threshold: 0}"
    undecided = "+gates.b={metric: accuracy, threshold: 0, slice: country}"
    failed = "+gates.c={metric: accuracy, threshold: 2}"
    together = [(), (passed,), (passed, undecided), (failed, passed, undecided)]
    assert [ask("better", *gates)[0] for gates in together] == [0, 0, 4, 3]


def test_a_gate_of_another_task_is_not_asked(place: Place) -> None:
    code, result = ask("better", "+gates.x={metric: rmse, threshold: 0, tasks: [regression]}")
    assert (code, result["gates"], result["verdict"]) == (0, [], "passed")


def test_every_slice_is_told_with_its_rows_the_worst_first_and_those_without_a_value_as_none(place: Place) -> None:
    _, result = ask("better", "+gates.x={metric: accuracy, threshold: 0.8, slice: country}")
    slices = result["gates"][0]["slices"]
    assert [found["slice"] for found in slices if found["verdict"] == "undecided"] == ["lu"]
    assert {found["slice"] for found in slices} == {"de", "fr", "lu", None}
    assert sum(found["num_rows"] for found in slices) == 240
    rank = [["failed", "undecided", "passed"].index(found["verdict"]) for found in slices]
    assert rank == sorted(rank) and slices[0]["slice"] == "fr", "it was made to be the hardest"


@pytest.mark.parametrize(
    ("gate", "told"),
    [
        ("metric: acuracy, threshold: 0.5", "Did you mean accuracy"),
        ("metric: rmse, threshold: 0.5", "not measured for binary"),
        ("metric: misses, threshold: 0.5", "gates.x.direction"),
        ("metric: model_size_mb, better_than: champion", "of the model, not of rows"),
        ("metric: accuracy, threshold: 0.5, better_than: champion", "one of threshold"),
    ],
)
def test_a_gate_that_makes_no_sense_exits_2_and_judges_nothing(
    gate: str, told: str, place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    before = ask("better")[1]
    code, after = ask("better", f"+gates.x={{{gate}}}")
    assert (code, after) == (2, before)
    assert told in " ".join(capsys.readouterr().err.split())


BETTER = "metric: accuracy, better_than: champion"


@pytest.fixture
def champions_folder(place: Place) -> Iterator[Path]:
    """The folder of the bundle of house@champion; whatever a test does to it is undone."""
    registry = Registry("sqlite:///outputs/mlflow.db", "outputs", timeout_seconds=30)
    version = registry.version_of("house", CHAMPION)
    assert version is not None
    folder = registry.fetch(version)
    kept = folder.with_name("kept")
    shutil.copytree(folder, kept)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)
    kept.rename(folder)


def _overwrite(folder: Path, name: str) -> None:
    path = folder / "bundle" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", ["model.onnx", "schema.json", "weights.safetensors", "gone", "empty"])
def test_a_champion_that_cannot_be_loaded_fails_the_gate_and_not_the_run(damage: str, champions_folder: Path) -> None:
    if damage in ("gone", "empty"):
        shutil.rmtree(champions_folder if damage == "gone" else champions_folder / "bundle")
    else:
        _overwrite(champions_folder, damage)
    asked = f"+gates.x={{{BETTER}, if_undecided: pass, if_no_champion: pass}}"
    code, result = ask("better", asked, "+gates.y={metric: accuracy, threshold: 0}")
    first, second = result["gates"]
    assert (code, first["verdict"], second["verdict"]) == (3, "failed", "passed")
    assert "house@champion, version 1 (" in first["reason"] and "cannot predict test: " in first["reason"]
    assert first["compared_with"].startswith("house@champion, version 1 (")
    assert ask("champion", f"+gates.x={{{BETTER}}}")[0] == 0, "it is not asked of itself"


def test_a_registry_that_is_down_is_not_one_without_a_champion(place: Place) -> None:
    down = ("tracking=server", "tracking.uri=http://127.0.0.1:9", "tracking.timeout_seconds=1")
    code, result = ask("better", f"+gates.x={{{BETTER}, if_no_champion: pass}}", *down)
    assert (code, result["verdict"]) == (3, "failed")
    assert "the champion cannot be asked: " in result["gates"][0]["reason"]
