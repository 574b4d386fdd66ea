"""What a judgement leaves besides verdicts: intervals, the count of candidates, warnings; and calibrated probabilities.

Verdicts and their reasons are in `test_gate_cases.py`.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mlops_hydra import Result, compose, run, sweep
from mlops_hydra.cli import main
from mlops_hydra.errors import ConfigError
from mlops_hydra.evaluation.metrics import metric_names
from mlops_hydra.packaging.bundle import load_bundle
from mlops_hydra.packaging.files import read_predictions
from mlops_hydra.tracking.test_sets import TEST_SETS

QUICK = ("model=linear", "trainer=debug", "progress=off")  # what `trained` was asked for
ANY = "+gates.any={metric: accuracy, threshold: 0}"


def again(*overrides: str) -> Result:
    """The run of `trained`, judged once more."""
    result = run(compose([*QUICK, "reuse=config", *overrides]))
    assert result.status == "reused"
    return result


def saved(result: Result) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((result.folder / "result.json").read_text(encoding="utf-8"))
    return content


def test_every_metric_on_test_has_an_interval_that_holds_it(trained: Path) -> None:
    data = json.loads((trained / "result.json").read_text(encoding="utf-8"))
    assert set(data["intervals"]) == {f"test/{name}" for name in metric_names("binary")}
    num_rows = len(read_predictions(trained).rows["test"])
    for name, found in data["intervals"].items():
        assert found["n"] == num_rows
        assert found["low"] < found["high"], name
        if name != "test/calibration_error":  # a mean of absolute values: resamples lie above it
            assert found["low"] <= data["metrics"][name] <= found["high"], name


def test_the_intervals_of_a_run_that_is_judged_again_are_the_same(trained: Path) -> None:
    before = json.loads((trained / "result.json").read_text(encoding="utf-8"))
    assert saved(again())["intervals"] == saved(again(ANY))["intervals"] == before["intervals"]


def test_intervals_follow_the_seed_the_confidence_and_the_resamples(trained: Path) -> None:
    wide, narrow = (again(f"judging.confidence={share}").intervals for share in (0.99, 0.6))
    for name, found in wide.items():
        assert found.low <= narrow[name].low < narrow[name].high <= found.high, name
    assert again("judging.resamples=100").intervals != again("judging.resamples=101").intervals


def test_the_confidence_is_that_of_a_comparison_with_the_champion_too(workplace: Path) -> None:
    champion = run(compose([*QUICK, "gates=none"]))
    assert main(["promote", champion.fingerprint]) == 0
    gate = "+gates.x={metric: accuracy, better_than: champion, by: 0.001}"
    other = [*QUICK, "optimizer.lr=0.02", "gates=none", gate, "packaging=none"]
    bounds = []
    for share in (0.99, 0.6):
        (verdict,) = run(compose([*other, f"judging.confidence={share}"])).gates
        assert f"({100 * share:g} %: " in verdict.reason and verdict.low is not None and verdict.high is not None
        bounds.append((verdict.low, verdict.high))
    (wide, narrow) = bounds
    assert wide[0] < narrow[0] < narrow[1] < wide[1]


def test_a_test_set_counts_the_models_that_it_judged_and_warns_when_they_are_many(trained: Path) -> None:
    assert [again(ANY).test_set.num_candidates for _ in range(2)] == [1, 1]  # type: ignore[union-attr]
    others = [run(compose([*QUICK, ANY, "packaging=none", f"optimizer.lr=0.0{place}"])) for place in (2, 3)]
    counted = [result.test_set for result in others]
    assert [one.num_candidates for one in counted if one] == [2, 3]
    first = again(ANY)
    assert first.test_set == counted[1] and first.warnings == (), "the count of today, and no warning below 100"
    (path,) = Path("outputs", TEST_SETS).iterdir()
    assert path.stem == first.test_set.digest and len(path.read_text().split()) == 3
    for most, is_warned in ((3, False), (2, True), (2, True), (1, True), (3, False), ("null", False)):
        data = saved(again(ANY, f"judging.max_candidates={most}"))
        told = [text for text in data["warnings"] if "has judged 3 models, more than" in text]
        assert len(told) == len(data["warnings"]) == is_warned, most
        assert all(f"judging.max_candidates={most}" in text for text in told)
        assert data["verdict"] == "passed", "a warning is no gate"
    assert saved(again("gates=none", "judging.max_candidates=1"))["warnings"] == [], "nobody was judged by it"


def test_another_split_is_another_test_set(trained: Path) -> None:
    first = again().test_set
    other = run(compose([*QUICK, "packaging=none", "data.split.seed=1"])).test_set
    assert first and other and first.digest != other.digest and other.num_candidates == 1


TEXT = (
    "data.source._target_=own_project.Reviews", "~data.source.name", "data.target=label", "data.classes=null",
    "model=linear", "model._target_=own_project.BagOfWords", "trainer.batch_size=16", "gates=none", "progress=off",
)  # fmt: skip


@pytest.fixture
def project(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Dataset and a model of the user's own."""
    code = Path(__file__).with_name("training").joinpath("own_project.py").read_text(encoding="utf-8")
    (workplace / "own_project.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(workplace)
    sys.modules.pop("own_project", None)
    return workplace


def test_a_torch_dataset_is_judged_against_a_champion_that_is_only_a_bundle(project: Path) -> None:
    better = (*TEXT, "trainer.epochs=12", "optimizer.lr=0.05", "packaging=none")
    gate = "+gates.x={metric: log_loss, better_than: champion, min_rows: 20, if_no_champion: fail}"
    assert run(compose([*better, gate])).exit_code == 3, "there is no champion yet"
    champion = run(compose([*TEXT, "trainer.epochs=1"]))
    assert main(["promote", champion.fingerprint, "trust=[own_project]"]) == 0
    (verdict,) = run(compose([*better, gate])).gates
    assert verdict.verdict == "passed" and "on the same 23 rows" in verdict.reason
    assert f"version 1 ({champion.fingerprint})" in str(verdict.compared_with)
    expected = verdict.value - champion.metrics["test/log_loss"]  # type: ignore[operator]
    assert verdict.low is not None and verdict.high is not None and verdict.low < expected < verdict.high
    code = main([*better, "+gates.x={metric: accuracy, threshold: 0, slice: label}"])
    assert code == 3, "a Dataset has no columns"


HARD = ("model=mlp", "model.hidden=[256,64]", "model.dropout=0", "trainer.epochs=30", "trainer.batch_size=16",
        "trainer.early_stopping.patience=null", "optimizer.lr=0.02", "objective.metric=accuracy", "gates=none",
        "data=csv", "data.path=noisy.csv", "data.target=y", "data.split.val=0.3", "data.split.test=0.3",
        "progress=off")  # fmt: skip


def _noisy(path: Path) -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(700, 6))
    labels = features[:, 0] + features[:, 1] + rng.normal(0, 1.5, 700) > 0
    frame = pd.DataFrame(features, columns=list("abcdef")).round(4)
    frame.assign(y=np.where(labels, "yes", "no")).to_csv(path, index=False)


def test_calibration_is_part_of_the_name_only_where_it_is_asked_for() -> None:
    plain = compose(QUICK).fingerprint
    assert compose([*QUICK, "trainer.calibrate=none"]).fingerprint == plain
    assert compose([*QUICK, "trainer.calibrate=temperature"]).fingerprint != plain


def test_an_overfitted_network_is_calibrated_in_its_metrics_its_bundle_and_when_it_is_verified(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _noisy(workplace / "noisy.csv")
    plain = run(compose([*HARD, "packaging=none"]))
    result = run(compose([*HARD, "trainer.calibrate=temperature"]))
    assert "temperature" not in plain.metrics and result.metrics["temperature"] > 1.5
    assert saved(result)["metrics"]["temperature"] == result.metrics["temperature"]
    for name in ("log_loss", "calibration_error"):
        assert result.metrics[f"test/{name}"] < 0.8 * plain.metrics[f"test/{name}"], name
    for name in ("accuracy", "f1", "balanced_accuracy", "roc_auc"):
        assert result.metrics[f"test/{name}"] == pytest.approx(plain.metrics[f"test/{name}"], abs=1e-12), name

    recorded, table = read_predictions(result.folder), pd.read_csv("noisy.csv")
    bundle = load_bundle(result.folder / "model")
    for split in ("val", "test"):
        rows = table.iloc[recorded.rows[split]].drop(columns="y")
        assert np.abs(bundle.predict_proba(rows) - recorded.splits[split].predictions).max() < 1e-5

    assert run(compose([*HARD, "trainer.calibrate=temperature"])).metrics == result.metrics, "reused"
    capsys.readouterr()
    assert main(["verify", result.fingerprint, "progress=off"]) == 0
    assert "reproduced" in capsys.readouterr().out


def test_a_trial_that_becomes_a_run_is_calibrated_like_one_that_never_was_one(workplace: Path, tmp_path: Path) -> None:
    asked = ("model=linear", "trainer.epochs=2", "trainer.calibrate=temperature", "packaging=none", "progress=off")
    study = sweep(compose([*asked, "sweeps=random", "sweeps.n_trials=1"]), overrides=("optimizer.lr=0.02,0.03",))
    assert study.result is not None
    elsewhere = (f"output_dir={tmp_path / 'other'}", f"tracking.uri=sqlite:///{tmp_path}/other/m.db")
    alone = run(compose([*asked, study.best["overrides"][-1], *elsewhere]))
    costs = ("latency_p50_ms", "latency_p95_ms", "model_size_mb")
    same = [
        {name: value for name, value in result.metrics.items() if name not in costs} for result in (study.result, alone)
    ]
    assert same[0] == same[1] and same[0]["temperature"] != 1
    weights = [(result.folder / "weights.safetensors").read_bytes() for result in (study.result, alone)]
    assert weights[0] == weights[1]


def test_a_regression_has_nothing_to_calibrate(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = [*QUICK, "data=diabetes", "trainer.calibrate=temperature"]
    with pytest.raises(ConfigError, match=r"trainer\.calibrate: is for probabilities; this is a regression"):
        run(compose(asked))
    assert main(asked) == 2
    assert "Traceback" not in capsys.readouterr().err
