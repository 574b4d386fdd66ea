"""Readers of tables: good files, and every way in which a file is bad."""

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sklearn.datasets
from hypothesis import given
from hypothesis import strategies as st

from mlops_hydra.data.tables import Csv, Frame, Parquet, Reader, SklearnTable
from mlops_hydra.errors import DataError


def written(tmp_path: Path, text: str | bytes, name: str = "table.csv") -> str:
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


@pytest.mark.parametrize("name", ["breast_cancer", "wine", "digits", "diabetes"])
def test_a_bundled_table_is_exactly_that_of_scikit_learn(name: str) -> None:
    options: dict[str, Any] = {"scaled": False} if name == "diabetes" else {}
    theirs = getattr(sklearn.datasets, f"load_{name}")(as_frame=True, **options)
    ours = SklearnTable(name).read()
    pd.testing.assert_frame_equal(ours.drop(columns="target"), theirs.data, check_exact=True)
    expected = theirs.target.to_numpy()
    if name in ("breast_cancer", "wine"):
        expected = theirs.target_names[expected]
    assert ours["target"].tolist() == expected.tolist()
    assert len(SklearnTable(name).digest()) == 64


def test_the_bundled_tables_have_different_digests() -> None:
    assert len({SklearnTable(name).digest() for name in ("breast_cancer", "wine", "digits", "diabetes")}) == 4


def test_an_unknown_bundled_table_is_refused_with_the_nearest() -> None:
    with pytest.raises(DataError, match=r"data\.source\.name: choose from .*, got 'digit'\. Did you mean digits\?"):
        SklearnTable("digit").digest()


@pytest.mark.parametrize("reader", [SklearnTable("wine"), Csv("x.csv"), Parquet("x"), Frame(pd.DataFrame())])
def test_every_reader_follows_the_protocol(reader: object) -> None:
    assert isinstance(reader, Reader)


def test_csv_and_gzipped_csv_give_the_same_table(tmp_path: Path) -> None:
    text = "größe,stadt\n1.5,Köln\n,Wien\n"
    plain = Csv(written(tmp_path, text)).read()
    packed = Csv(written(tmp_path, gzip.compress(text.encode()), "table.csv.gz")).read()
    pd.testing.assert_frame_equal(plain, packed)
    assert plain["größe"].isna().tolist() == [False, True]


@given(numbers=st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=20))
def test_numbers_in_csv_are_read_to_the_last_bit(
    tmp_path_factory: pytest.TempPathFactory, numbers: list[float]
) -> None:
    path = tmp_path_factory.mktemp("numbers") / "n.csv"
    path.write_text("n\n" + "\n".join(map(repr, numbers)))
    assert Csv(str(path)).read()["n"].astype(float).tolist() == numbers


def test_separator_decimal_and_encoding_are_followed(tmp_path: Path) -> None:
    path = written(tmp_path, "a;ö\n1,5;ü\n".encode("cp1252"))
    frame = Csv(path, separator=";", decimal=",", encoding="cp1252").read()
    assert frame.to_dict("list") == {"a": [1.5], "ö": ["ü"]}


def test_the_byte_order_mark_of_excel_is_no_part_of_a_name(tmp_path: Path) -> None:
    assert list(Csv(written(tmp_path, "\ufeffa,b\n1,2\n")).read()) == ["a", "b"]


def test_fields_with_line_breaks_and_blank_lines_are_no_ragged_rows(tmp_path: Path) -> None:
    frame = Csv(written(tmp_path, 'a,b\n1,"x\ny"\n\n2,\n')).read()
    assert len(frame) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("\n\n", "is empty"),
        ("a,b\n", "has columns but no rows"),
        ("a,b,a\n1,2,3\n", "line 1 names 1 column(s) twice: names must be unique, got 'a'"),
        ("a,b,c\n1,2,3\n4,5\n", "table.csv, line 3: must have 3 fields, as many as line 1, got 2"),
        ("a,b,c\n1,2,3\n4,5,6,7\n", "table.csv, line 3: must have 3 fields, as many as line 1, got 4"),
        ("a,b\n0,2,3\n1,5,6\n", "table.csv, line 2: must have 2 fields, as many as line 1, got 3"),
        ("a,b\n1,2,3\n4,5,6\n", "table.csv, line 2: must have 2 fields, as many as line 1, got 3"),
        ("a,b\n1,ü\n".encode("latin-1"), "is not utf-8: set data.source.encoding"),
        ('a,b\n1,"2\n', "cannot be read as CSV"),
    ],
)
def test_a_damaged_csv_is_named_with_what_is_wrong(tmp_path: Path, text: str | bytes, message: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(DataError) as caught:
        Csv(path).read()
    assert message in str(caught.value)
    assert path in str(caught.value)


def test_a_torn_gzip_is_named(tmp_path: Path) -> None:
    packed = gzip.compress(b"a,b\n" + b"1,2\n" * 1000)
    for name, content in (("torn.csv.gz", packed[:-20]), ("plain.csv.gz", b"a,b\n1,2\n")):
        with pytest.raises(DataError, match=f"{name}: is a damaged gzip file"):
            Csv(written(tmp_path, content, name)).read()


@pytest.mark.parametrize("make", [Csv, Parquet])
def test_a_missing_file_is_named_with_the_nearest_in_its_folder(tmp_path: Path, make: Any) -> None:
    written(tmp_path, "a\n1\n", "customers.csv")
    with pytest.raises(DataError, match=r"data\.path: no such file, got '.*costumers\.csv'.*mean customers\.csv\?"):
        make(str(tmp_path / "costumers.csv")).digest()
    with pytest.raises(DataError, match="no such folder"):
        make(str(tmp_path / "nowhere" / "x.csv")).digest()
    with pytest.raises(DataError, match=r"is a folder; name a file in it \(customers\.csv\)"):
        make(str(tmp_path)).digest()
    with pytest.raises(DataError, match=r"data\.path: is needed"):
        make(None).digest()


@pytest.mark.parametrize(("field", "value"), [("separator", "||"), ("encoding", "utf-99")])
def test_impossible_options_are_named(tmp_path: Path, field: str, value: str) -> None:
    with pytest.raises(DataError, match=rf"data\.source\.{field}: "):
        Csv(written(tmp_path, "a\n1\n"), **{field: value}).read()


def test_parquet_comes_back_as_it_was_saved(tmp_path: Path, mixed: pd.DataFrame) -> None:
    path = tmp_path / "t.parquet"
    mixed.to_parquet(path)
    pd.testing.assert_frame_equal(Parquet(str(path)).read(), mixed)


def test_a_named_index_becomes_a_column(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pd.DataFrame({"a": [1, 2]}, index=pd.Index(["x", "y"], name="key")).to_parquet(path)
    assert list(Parquet(str(path)).read()) == ["key", "a"]


@pytest.mark.parametrize("content", [b"a,b\n1,2\n", b"PAR1 and then nothing"])
def test_a_file_that_is_no_parquet_is_named(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(DataError, match=r"t\.parquet: cannot be read as Parquet"):
        Parquet(written(tmp_path, content, "t.parquet")).read()


def test_a_digest_follows_the_bytes(tmp_path: Path) -> None:
    path = written(tmp_path, "a\n1\n")
    before = Csv(path).digest()
    assert Csv(written(tmp_path, "a\n1\n", "copy.csv")).digest() == before
    written(tmp_path, "a\n2\n")
    assert Csv(path).digest() != before


def test_a_frame_has_text_names_and_rows_from_0() -> None:
    frame = Frame(pd.DataFrame(np.zeros((2, 2)), index=[7, 9])).read()
    assert list(frame) == ["0", "1"]
    assert list(frame.index) == [0, 1]


def test_columns_of_one_name_are_refused() -> None:
    with pytest.raises(DataError, match="columns of the same name: names must be unique, got '1'"):
        Frame(pd.DataFrame([[1, 2]], columns=[1, "1"])).read()
