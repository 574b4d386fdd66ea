"""Whatever a configuration names becomes a source; what users' tables look like."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from mlops_hydra.config.schema import DataConfig
from mlops_hydra.data.encoding import encode
from mlops_hydra.data.features import FeatureTransform
from mlops_hydra.data.sources import Source, open_source
from mlops_hydra.data.splits import SPLITS, Splits, Table
from mlops_hydra.errors import ConfigError, DataError
from mlops_hydra.testing import assert_no_leakage, assert_preserves_rows

Opened = Callable[..., Source]


def table_of(splits: Splits, name: str) -> Table:
    split = splits[name]
    assert isinstance(split, Table)
    return split


def rows_of(splits: Splits) -> list[int]:
    return sorted(row for name in SPLITS for row in table_of(splits, name).rows.tolist())


def numbers(size: int = 60, seed: int = 0, **columns: Any) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame({"x": rng.normal(size=size), "target": np.arange(size) % 2} | columns)


@pytest.mark.parametrize(
    ("name", "task", "num_rows", "num_classes"),
    [("breast_cancer", "binary", 569, 2), ("wine", "multiclass", 178, 3), ("diabetes", "regression", 442, 0)],
)
def test_bundled_tables_are_split_without_loss_and_leakage(
    data_config: Callable[..., DataConfig], name: str, task: str, num_rows: int, num_classes: int
) -> None:
    target = {"_target_": "mlops_hydra.data.tables.SklearnTable", "name": name}
    splits = open_source(data_config(source=target)).load()
    assert (splits.task, len(splits.classes)) == (task, num_classes)
    assert rows_of(splits) == list(range(num_rows))
    assert_no_leakage(splits)


def test_digits_are_images(data_config: Callable[..., DataConfig]) -> None:
    target = {"_target_": "mlops_hydra.data.tables.SklearnTable", "name": "digits"}
    splits = open_source(data_config(source=target, image_shape=(1, 8, 8))).load()
    assert splits.schema is not None
    assert splits.schema.image_shape == (1, 8, 8)
    with pytest.raises(DataError, match=r"data\.image_shape: must multiply to the number of feature columns, 64"):
        open_source(data_config(source=target, image_shape=(3, 8, 8))).load()


def test_a_mixed_table_is_learnt_from_without_a_manual_step(
    opened: Opened, data_config: Callable[..., DataConfig], mixed: pd.DataFrame
) -> None:
    splits = opened(mixed).load()
    schema = splits.schema
    assert schema is not None
    assert {f.name: f.kind for f in schema.features} == {
        "größe": "numeric",
        "数量": "numeric",
        "aktiv": "boolean",
        "stadt": "categorical",
        "date": "date",
        "text date": "date",
    }
    assert splits.classes == ("ja", "nein")
    train = table_of(splits, "train")
    transform = FeatureTransform.fit(encode(train.columns(), schema), schema, data_config().encoding)

    def transformed(table: Table) -> torch.Tensor:
        encoded = encode(table.columns(), schema)
        return transform(torch.from_numpy(encoded.numeric), torch.from_numpy(encoded.codes))

    for name in SPLITS:
        assert_preserves_rows(transformed, table_of(splits, name))
        assert transformed(table_of(splits, name)).isfinite().all()


def test_a_csv_and_the_frame_it_was_written_from_are_split_alike(
    opened: Opened, data_config: Callable[..., DataConfig], mixed: pd.DataFrame, tmp_path: Path
) -> None:
    mixed.to_csv(tmp_path / "mixed.csv", index=False)
    target = {"_target_": "mlops_hydra.data.tables.Csv"}
    from_csv = open_source(data_config(source=target, path=str(tmp_path / "mixed.csv"))).load()
    from_frame = opened(mixed).load()
    assert from_csv.schema is not None
    assert from_csv.schema == from_frame.schema
    for name in SPLITS:
        assert len(table_of(from_csv, name)) == len(table_of(from_frame, name))


def test_the_schema_is_fitted_on_the_training_rows_alone(opened: Opened) -> None:
    frame = numbers(split=["train"] * 40 + ["val"] * 10 + ["test"] * 10)
    frame.loc[45, "x"], frame.loc[55, "x"] = -1e6, 1e6
    frame["city"] = ["a", "b"] * 20 + ["new"] * 20
    schema = opened(frame, split={"by": "column", "column": "split"}).load().schema
    assert schema is not None
    x, city = schema.features
    assert (x.minimum, x.maximum) == (frame["x"][:40].min(), frame["x"][:40].max())
    assert city.categories == ("a", "b")


def test_categories_that_training_did_not_see_are_unknown(opened: Opened) -> None:
    frame = numbers(city=["a", "b"] * 25 + ["new"] * 10, when=range(60))
    splits = opened(frame, split={"by": "time", "column": "when"}).load()
    assert splits.schema is not None
    assert set(encode(table_of(splits, "test").columns(), splits.schema).codes[-10:, 0].tolist()) == {1}


def test_the_target_the_id_and_the_column_that_splits_are_no_features(opened: Opened) -> None:
    frame = numbers(who=range(60), where=np.arange(60) // 3)
    schema = opened(frame, id="who", split={"by": "group", "column": "where"}).load().schema
    assert schema is not None
    assert schema.names == ("x",)


def test_columns_are_kept_and_dropped_as_asked(opened: Opened) -> None:
    frame = numbers(a=np.linspace(0, 1, 60), b=np.linspace(1, 2, 60))
    for options, names in (({"keep": ("a", "x")}, ("x", "a")), ({"drop": ("a",)}, ("x", "b"))):
        schema = opened(frame, **options).load().schema
        assert schema is not None
        assert schema.names == names


def test_all_wrong_column_names_are_reported_at_once_with_the_nearest(opened: Opened) -> None:
    source = opened(numbers(), target="targte", drop=("xx",), id="who", kinds={"y": "numeric"}, keep=("z",))
    with pytest.raises(DataError) as caught:
        source.load()
    assert [fault.path for fault in caught.value.faults] == [
        "data.target",
        "data.id",
        "data.keep",
        "data.drop",
        "data.kinds",
    ]
    assert caught.value.faults[0].nearest == ("target",)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": None}, r"data\.target: is needed: the column to predict; there are x, target"),
        ({"keep": ("target", "x")}, r"data\.keep: names the column of data\.target, which is no feature"),
        ({"keep": ("x",), "drop": ("x",)}, r"data\.keep: names the column of data\.drop"),
        ({"drop": ("x",)}, r"data: no feature column is left"),
        ({"kinds": {"x": "date"}}, r"column 'x', row 0: must be a date"),
        ({"image_shape": (1, 1, 2)}, r"data\.image_shape: must multiply to the number of feature columns, 1"),
        ({"split": {"by": "time", "column": "t"}}, r"data\.split\.column: no such column"),
    ],
)
def test_a_configuration_that_does_not_fit_the_table_is_refused(
    opened: Opened, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        opened(numbers(), **options).load()


@pytest.mark.parametrize("by", ["group", "time"])
def test_a_missing_group_or_time_is_named_with_its_row(opened: Opened, by: str) -> None:
    when = [None if row == 7 else float(row // 2) for row in range(60)]
    options: dict[str, Any] = {"split": {"by": by, "column": "when"}}
    with pytest.raises(DataError, match=rf"column 'when', row 7: data\.split\.by={by} needs a value in every row"):
        opened(numbers(when=when), **options).load()


@pytest.mark.parametrize("spelling", ["text", "datetime", "number"])
def test_times_of_any_kind_are_ordered(opened: Opened, spelling: str) -> None:
    days = pd.Timestamp("2024-01-01") + pd.to_timedelta(np.random.default_rng(1).permutation(60), unit="D")
    when: Any = {"text": days.strftime("%Y-%m-%d"), "datetime": days, "number": days.day_of_year}[spelling]
    splits = opened(numbers(when=when), split={"by": "time", "column": "when"}).load()
    latest = {name: days[table_of(splits, name).rows].max() for name in SPLITS}
    assert latest["train"] < latest["val"] < latest["test"]


def test_copies_of_a_row_and_rows_of_an_id_stay_in_one_split(opened: Opened) -> None:
    frame = numbers(30)
    frame = pd.concat([frame, frame, frame], ignore_index=True).assign(who=np.arange(90) // 2)
    splits = opened(frame, id="who").load()
    assert_no_leakage(splits)
    assert splits.warnings == ()


def test_copies_are_counted_when_they_are_not_kept_together(opened: Opened) -> None:
    frame = pd.concat([numbers(30)] * 3, ignore_index=True)
    warnings = opened(frame, split={"duplicates": "count"}).load().warnings
    assert any("test rows are exact copies of training rows" in warning for warning in warnings)


def test_three_frames_keep_their_splits(opened: Opened) -> None:
    frames = {"train": numbers(30), "val": numbers(10, seed=1), "test": numbers(12, seed=2)}
    splits = opened(frames).load()
    assert [len(table_of(splits, name)) for name in SPLITS] == [30, 10, 12]
    pd.testing.assert_frame_equal(table_of(splits, "val").features, frames["val"][["x"]])


def test_three_frames_must_fit_each_other_and_the_options(opened: Opened) -> None:
    frames = {"train": numbers(30), "val": numbers(10, extra=1), "test": numbers(12)}
    with pytest.raises(DataError) as caught:
        opened(frames, split={"by": "group", "column": "x"})
    assert [fault.path for fault in caught.value.faults] == ["data.source['val']", "data.split.by"]


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (7, r"must give a table reader .* got 'int'"),
        ([1, 2], r"must give a table reader .* got 'list'"),
        ({"train": pd.DataFrame()}, r"a mapping must have the keys train, val and test, got 'train'"),
        ({"train": 1, "val": 2, "test": 3}, r"must have three DataFrames or three torch Datasets, got 'int, int, int'"),
        (pd.DataFrame({"x": [], "target": []}), r"data\.source: has columns but no rows"),
    ],
)
def test_something_else_is_refused_with_what_is_accepted(opened: Opened, returned: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        opened(returned).load()


def test_an_error_of_the_users_function_is_told(data_config: Callable[..., DataConfig]) -> None:
    with pytest.raises(ConfigError, match="no_such_module"):
        open_source(data_config(source={"_target_": "no_such_module.make"}))


class OwnSource:
    """A source of the user's own, which is changed after it was named."""

    def __init__(self, splits: object) -> None:
        self.splits, self.name = splits, "v1"

    def digest(self) -> str:
        return self.name

    def load(self) -> Any:
        return self.splits


def test_a_source_of_the_users_own_is_checked_too(opened: Opened) -> None:
    good = opened(numbers()).load()
    assert opened(OwnSource(good)).load() == good
    table = table_of(good, "test")
    leaking = Splits(table, table, table, good.task, good.classes, good.schema)
    with pytest.raises(DataError, match="the val split: is the same object as train"):
        opened(OwnSource(leaking)).load()
    with pytest.raises(DataError, match=r"load\(\) must return mlops_hydra\.data\.splits\.Splits"):
        opened(OwnSource([1])).load()


def test_data_that_changes_between_digest_and_load_is_refused(
    opened: Opened, data_config: Callable[..., DataConfig], tmp_path: Path
) -> None:
    path = tmp_path / "t.csv"
    numbers().to_csv(path, index=False)
    source = open_source(data_config(source={"_target_": "mlops_hydra.data.tables.Csv"}, path=str(path)))
    source.digest()
    source.load()
    numbers(seed=1).to_csv(path, index=False)
    with pytest.raises(DataError, match=r"data\.source: the data changed while it was being read"):
        source.load()
    frame = numbers()
    source = opened(frame)
    source.digest()
    frame.loc[0, "x"] = 7.0
    with pytest.raises(DataError, match="the data changed"):
        source.load()


def test_the_same_data_and_seed_give_the_same_splits(opened: Opened, mixed: pd.DataFrame) -> None:
    first, second = (opened(mixed, split={"seed": 5}).load() for _ in range(2))
    other = opened(mixed, split={"seed": 6}).load()
    for name in SPLITS:
        np.testing.assert_array_equal(table_of(first, name).rows, table_of(second, name).rows)
    assert not np.array_equal(table_of(first, "test").rows, table_of(other, "test").rows)
