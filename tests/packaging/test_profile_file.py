"""The profile that travels in the bundle: what training showed, what the model made of it, and nothing of its rows."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from torch.utils.data import TensorDataset

from mlops_hydra import compose, run
from mlops_hydra.config.compose import ExperimentConfig
from mlops_hydra.data.sources import open_source
from mlops_hydra.data.splits import Splits, Table
from mlops_hydra.errors import BundleError, MlopsHydraError, UsageError
from mlops_hydra.evaluation.evaluate import Predicted
from mlops_hydra.monitoring.profile import CategoryProfile, NumericProfile, Profile
from mlops_hydra.packaging.profile_file import make_profile, outputs_as_columns, read_profile, write_profile
from mlops_hydra.packaging.seal import seal

ROWS = 240
SECRET = "only one customer lives in Kleinkleckersdorf"
OVERRIDES = (
    "model=linear", "trainer=debug", "progress=off", "gates=none", "data=csv", "data.path=table.csv",
    "data.target=label", "data.encoding.max_one_hot=4", "data.encoding.max_categories=5",
)  # fmt: skip


def table() -> pd.DataFrame:
    """Columns of every kind, with missing values, and a category that only one row has."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"x": rng.normal(size=ROWS), "count": rng.integers(0, 9, ROWS)})
    frame["since"] = [f"2024-{1 + i % 12:02}-{1 + i % 28:02}" for i in range(ROWS)]
    frame["shop"] = rng.choice(list("abcd"), ROWS)
    frame["is_open"] = rng.choice([True, False], ROWS)
    frame["label"] = np.where(frame["x"] + rng.normal(size=ROWS) > 0, "yes", "no")
    for column in ("x", "since", "shop", "is_open"):
        frame[column] = frame[column].astype(object)
        frame.loc[rng.choice(ROWS, 20, replace=False), column] = None
    frame.loc[7, "shop"] = SECRET
    return frame


@pytest.fixture(scope="module")
def trained(
    empty_store: Path, known_graphs: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Any]]:
    """In its place: the run, its splits and its bundle."""
    place, before = tmp_path_factory.mktemp("profiled"), Path.cwd()
    (place / "outputs").mkdir()
    shutil.copy(empty_store, place / "outputs" / "mlflow.db")
    (place / "outputs" / "graphs").symlink_to(known_graphs)
    table().to_csv(place / "table.csv", index=False)
    os.chdir(place)
    try:
        config = composed()
        result = run(config)
        splits = open_source(config.data).load()
        yield {"result": result, "splits": splits, "bundle": place / result.folder / "model" / "bundle", "place": place}
    finally:
        os.chdir(before)


def composed(*more: str) -> ExperimentConfig:
    return compose([*OVERRIDES, *more])


@pytest.fixture
def profile(trained) -> Profile:
    return read_profile(trained["bundle"])


def test_features_are_those_of_the_training_rows_and_kinds_are_those_of_the_model(trained, profile: Profile):
    train = trained["splits"].train
    assert isinstance(train, Table) and profile.num_rows == len(train) < ROWS
    kinds = {feature.name: feature.kind for feature in trained["splits"].schema.features}
    assert {column.name: column.kind for column in profile.features} == kinds
    assert sorted(kinds.values()) == ["boolean", "categorical", "date", "numeric", "numeric"]
    rows = pd.DataFrame(train.columns())
    for column in profile.features:
        known = rows[column.name].dropna()
        assert column.counts.num_missing == len(rows) - len(known) and not column.counts.num_unreadable
        assert column.counts.num_values == len(known)
        if isinstance(column, CategoryProfile):
            shares = known.map(lambda value: str(value).lower() if isinstance(value, bool) else value).value_counts()
            told = dict(zip(column.categories, column.counts.cells.tolist(), strict=False))
            assert all(told[name] == shares[name] for name in told) and len(told) >= 2
            assert sum(told.values()) + column.counts.cells[-1] == len(known)
        elif column.kind == "numeric":
            numbers = known.astype(float)
            assert (column.minimum, column.maximum) == (numbers.min(), numbers.max())
            assert column.mean == pytest.approx(numbers.mean()) and column.counts.cells[[0, -1]].tolist() == [0, 0]


def test_a_category_that_the_model_does_not_keep_is_counted_and_not_named(trained, profile: Profile):
    (shop,) = (column for column in profile.features if column.name == "shop")
    assert isinstance(shop, CategoryProfile)
    schema = {feature.name: feature for feature in trained["splits"].schema.features}
    assert shop.categories == schema["shop"].categories
    rows = list(trained["splits"].train.columns()["shop"])
    assert shop.counts.cells[-1] == sum(value is not None and value not in shop.categories for value in rows)


def test_predictions_are_of_validation_and_test_and_losses_of_test(trained, profile: Profile):
    predicted = pd.read_parquet(trained["place"] / trained["result"].folder / "predictions.parquet")
    prediction, confidence = profile.outputs
    assert isinstance(prediction, CategoryProfile) and prediction.categories == ("no", "yes")
    counts = predicted["prediction"].value_counts()
    assert prediction.counts.cells.tolist() == [counts.get("no", 0), counts.get("yes", 0), 0]
    assert isinstance(confidence, NumericProfile) and confidence.counts.num_values == len(predicted)
    assert confidence.maximum == pytest.approx(predicted[["p_no", "p_yes"]].max(axis=1).max())
    metrics, num_test = trained["result"].metrics, int((predicted["split"] == "test").sum())
    assert profile.losses["error_rate"].n == num_test
    assert profile.losses["error_rate"].mean == pytest.approx(1 - metrics["test/accuracy"])
    assert profile.losses["log_loss"].mean == pytest.approx(metrics["test/log_loss"], rel=1e-5)


def test_a_regression_has_values_and_errors():
    schema_free = Splits(*[TensorDataset()] * 3, "regression")  # type: ignore[arg-type]
    truth, said = np.arange(50.0), np.arange(50.0) + np.tile([1.0, -3.0], 25)
    predicted = {name: Predicted(truth, said) for name in ("val", "test")}
    profile = make_profile(schema_free, predicted, bins=16)
    (prediction,) = profile.outputs
    assert isinstance(prediction, NumericProfile) and prediction.counts.num_values == 100
    assert (profile.losses["absolute_error"].mean, profile.losses["squared_error"].mean) == (2.0, 5.0)
    assert profile.losses["absolute_error"].n == 50
    assert list(outputs_as_columns((), said)) == ["prediction"]


def test_a_model_of_tensors_has_outputs_and_no_features(tmp_path: Path):
    data = TensorDataset()
    chances = np.array([[0.9, 0.1], [0.3, 0.7], [0.8, 0.2]])
    predicted = {name: Predicted(np.array([0, 1, 1]), chances) for name in ("val", "test")}
    profile = make_profile(Splits(data, data, data, "binary", ("no", 1)), predicted, bins=16)
    assert (profile.num_rows, profile.features) == (0, ())
    prediction, confidence = profile.outputs
    assert prediction.categories == ("no", "1") and prediction.counts.cells.tolist() == [4, 2, 0]
    assert confidence.counts.num_values == 6 and profile.losses["error_rate"].mean == pytest.approx(1 / 3)
    assert outputs_as_columns(("no", 1), chances)["prediction"].tolist() == ["no", "1", "no"]


def test_it_holds_no_row_and_little_of_anything(trained):
    text = (trained["bundle"] / "profile.json").read_text(encoding="utf-8")
    assert "Kleinkleckersdorf" not in text or SECRET in trained["splits"].schema.features[3].categories
    assert len(text) < 20_000
    numbers = re.findall(r"-?\d\.\d{9,}", text)
    exact = {f"{value:.17g}" for value in trained["splits"].train.columns()["x"] if value is not None}
    assert len(exact & set(numbers)) <= 0.1 * len(exact), "quantiles are rounded"


def test_bins_say_how_fine_it_is_and_are_no_part_of_the_name(trained):
    config = composed("profile_bins=16")
    assert config.fingerprint == composed().fingerprint
    features = make_profile(
        trained["splits"], {"val": Predicted(np.array([0]), np.array([[0.9, 0.1]]))} | {
            "test": Predicted(np.array([0]), np.array([[0.9, 0.1]]))}, bins=16,
    ).features  # fmt: skip
    assert len(features[0].edges) < 25 < len(read_profile(trained["bundle"]).features[0].edges)


def test_judging_a_run_again_keeps_it(trained):
    before = (trained["bundle"] / "profile.json").read_bytes()
    again = run(composed("gates.x={metric: accuracy, threshold: 0.0}".replace("gates", "+gates")))
    assert again.status == "reused"
    assert (trained["bundle"] / "profile.json").read_bytes() == before
    read_profile(trained["bundle"])


def test_reading_it_needs_neither_torch_nor_pandas_nor_mlflow(trained):
    code = (
        "import sys; from pathlib import Path\n"
        "from mlops_hydra.packaging.profile_file import read_profile\n"
        "print(read_profile(Path(sys.argv[1])).num_rows, sorted({'torch', 'pandas', 'mlflow'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code, str(trained["bundle"])]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert said == f"{len(trained['splits'].train)} []\n"


# --- bundles of strangers


@pytest.fixture
def bundle(trained, tmp_path: Path) -> Path:
    return shutil.copytree(trained["bundle"], tmp_path / "bundle")


def sealed(folder: Path, content: bytes) -> None:
    """Whoever can write a file can write its digest."""
    (folder / "profile.json").write_bytes(content)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["profile.json"] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    (folder / "manifest.json").write_text(json.dumps(manifest))


def test_a_changed_byte_is_seen(bundle: Path):
    content = bytearray((bundle / "profile.json").read_bytes())
    content[20] ^= 1
    (bundle / "profile.json").write_bytes(content)
    with pytest.raises(BundleError, match="was changed after it was packaged"):
        read_profile(bundle)


@pytest.mark.parametrize(
    ("content", "error", "said"),
    [
        (b"{}", UsageError, "was packaged without a profile: train it again (reuse=never)"),
        (b"", BundleError, "is no JSON"),
        (b"\xff\xfe\x00", BundleError, "is no JSON"),
        (b"[" * 100_000, BundleError, "is no JSON"),
        (b'{"format": 2}', BundleError, "format: must be 1: it was written by another version"),
        (b'{"format": 1}', BundleError, "must have features, losses, outputs, rows"),
        (b'{"format": 1, "rows": NaN}', BundleError, "NaN is no number"),
        (
            b'{"format": 1, "rows": -1, "features": [], "outputs": [], "losses": {}}',
            BundleError, "rows: must be a whole",
        ),
        (b" " * (17 * 2**20), BundleError, "bytes, more than 16777216"),
    ],
)  # fmt: skip
def test_what_is_none_is_refused_in_one_line(content: bytes, error: type[MlopsHydraError], said: str, bundle: Path):
    sealed(bundle, content)
    with pytest.raises(error) as caught:
        read_profile(bundle)
    assert said in str(caught.value) and str(bundle) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1 and len(str(caught.value)) < 600


def test_what_is_written_is_read_again(tmp_path: Path, profile: Profile):
    write_profile(tmp_path, profile)
    seal(tmp_path)
    assert read_profile(tmp_path).to_json() == profile.to_json()
