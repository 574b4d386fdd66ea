"""Rows of requests: what is taken, what is refused and in which words, and that encoding is the bundle's own."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from mlops_hydra.packaging.bundle import Bundle, load_bundle
from mlops_hydra.packaging.graph import Input
from mlops_hydra.serving.refusal import MAX_FAULTS, Refusal
from mlops_hydra.serving.rows import ArrayReader, TableReader, reader_of
from tests.serving.conftest import CREDIT_ROW


def raw(value: Any) -> msgspec.Raw:
    return msgspec.Raw(value if isinstance(value, bytes) else json.dumps(value).encode())


@pytest.fixture(scope="module")
def bundle(trained_bundle: Callable[[int], Path]) -> Bundle:
    return load_bundle(trained_bundle(0))


@pytest.fixture(scope="module")
def reader(bundle: Bundle) -> TableReader:
    made = reader_of(bundle)
    assert isinstance(made, TableReader)
    return made


def refusal(call: Callable[[], Any]) -> list[tuple[int | None, str | None, str, Any]]:
    with pytest.raises(Refusal) as caught:
        call()
    assert caught.value.status == 422
    return [(fault.row, fault.column, fault.rule, fault.value) for fault in caught.value.faults]


def test_rows_by_name_in_any_order_and_rows_by_place_are_the_same_rows(reader: TableReader) -> None:
    backwards = dict(reversed(CREDIT_ROW.items())) | {"something": "else"}
    values = list(CREDIT_ROW.values())
    for rows in (
        raw([CREDIT_ROW, backwards]),
        raw([values, values]),
        raw(b" \n[ " + b"\t[41,52e3,true," + b'"Wien","2024-03-01"] ]'),
    ):
        assert set(reader.rows(rows)) == {tuple(values)}
    assert reader.row(raw(values)) == [tuple(values)]


@pytest.mark.parametrize(
    "change",
    [{}, {"age": None}, {"employed": 0}, {"employed": 1.0}, {"city": "Oslo"}, {"city": None}, {"city": 5},
     {"since": None},     {"since": "2024-03-01T10:00:00+02:00"}, dict.fromkeys(CREDIT_ROW)],
)  # fmt: skip
def test_a_row_is_encoded_as_the_bundle_encodes_it(bundle: Bundle, reader: TableReader, change: dict[str, Any]) -> None:
    row = CREDIT_ROW | change
    arrays = reader.arrays(reader.rows(raw([row, CREDIT_ROW])))
    outputs = bundle.graph.run(arrays, 2)
    np.testing.assert_array_equal(outputs, bundle.outputs([row, CREDIT_ROW]))


@pytest.mark.parametrize(
    ("change", "rule"),
    [({"age": "41"}, "a number"), ({"age": True}, "a number"), ({"age": [1]}, "a number"),
     ({"employed": "yes"}, "true or false"), ({"city": ["Wien"]}, "text"),
     ({"city": "x" * 10_001}, "text"), ({"since": 3}, "a date")],
)  # fmt: skip
def test_a_value_of_the_wrong_type_is_told_with_row_column_rule_and_value(
    reader: TableReader, change: dict[str, Any], rule: str
) -> None:
    (fault,) = refusal(lambda: reader.rows(raw([CREDIT_ROW, CREDIT_ROW | change])))
    (column,) = change
    assert fault[:2] == (1, column)
    assert rule in fault[2]
    assert str(fault[3]).strip('"')[:20] == str(change[column])[:20]
    (fault,) = refusal(lambda: reader.row(raw(list((CREDIT_ROW | change).values()))))
    assert fault[:2] == (0, column)


@pytest.mark.parametrize("change", [{"employed": 0.5}, {"since": "yesterday"}, {"since": "2024-13-01"}])
def test_what_only_encoding_finds_is_told_alike(reader: TableReader, change: dict[str, Any]) -> None:
    rows = reader.rows(raw([CREDIT_ROW, CREDIT_ROW | change]))
    ((row, column, _, value),) = refusal(lambda: reader.arrays(rows))
    assert (row, {column: value}) == (1, change)


def test_a_missing_column_is_told_with_the_name_that_may_be_meant(reader: TableReader) -> None:
    row: dict[str, Any] = {("incme" if name == "income" else name): value for name, value in CREDIT_ROW.items()}
    with pytest.raises(Refusal) as caught:
        reader.rows(raw([row]))
    (fault,) = caught.value.faults
    assert (fault.row, fault.column, fault.nearest[0]) == (0, "income", "incme")


@pytest.mark.parametrize(
    "content", [b'[{"city": "\xff"}]', b'[{"city": "\xff"', b'[[41,52e3,true,"\xc3","2024-03-01"]]']
)
def test_text_that_is_no_utf8_is_refused(reader: TableReader, content: bytes) -> None:
    assert "must be JSON" in refusal(lambda: reader.rows(raw(content)))[0][2]


@pytest.mark.parametrize("rows", [{}, "x", 3, None, [3], [None], [[1, 2]], [CREDIT_ROW, [1, 2, 3, 4, 5, 6]], [[], {}]])
def test_what_is_no_list_of_rows_is_refused(reader: TableReader, rows: Any) -> None:
    assert refusal(lambda: reader.rows(raw(rows)))
    assert refusal(lambda: reader.row(raw(rows)))


def test_not_more_faults_are_told_than_a_person_reads(reader: TableReader) -> None:
    bad = {name: [] for name in CREDIT_ROW}
    with pytest.raises(Refusal) as caught:
        reader.rows(raw([bad] * 1000))
    assert len(json.loads(caught.value.body())["detail"]) == MAX_FAULTS


def test_a_long_value_is_cut(reader: TableReader) -> None:
    ((*_, value),) = refusal(lambda: reader.rows(raw([CREDIT_ROW | {"age": "9" * 1000}])))
    assert len(value) == 100


def test_values_outside_what_training_saw_are_counted_by_column(reader: TableReader) -> None:
    usual = reader.arrays(reader.rows(raw([CREDIT_ROW])))
    assert reader.unusual(usual) is None
    strange = [CREDIT_ROW | {"age": 200, "city": "Oslo"}, CREDIT_ROW | {"age": -1}, CREDIT_ROW | {"age": None}]
    counts = reader.unusual(reader.arrays(reader.rows(raw(strange))))
    assert counts is not None
    found = {name: int(count) for name, count in zip(reader.names, counts, strict=True) if count}
    assert found == {"age": 2, "city": 1}


class TestArrays:
    """Models of torch Datasets: each input is a nested list of its shape."""

    def make(self, *inputs: Input) -> ArrayReader:
        return ArrayReader(inputs, tuple((item.name, item.dtype) for item in inputs))

    def test_lists_become_arrays_of_the_dtype(self) -> None:
        reader = self.make(Input("image", "float32", (2, 2)), Input("place", "int64", ()))
        rows = reader.rows(raw([{"image": [[1, 2], [3, 4.5]], "place": 7}] * 3))
        arrays = reader.arrays(rows)
        assert {name: (a.shape, a.dtype.name) for name, a in arrays.items()} == {
            "image": ((3, 2, 2), "float32"), "place": ((3,), "int64")
        }  # fmt: skip

    def test_features_are_the_only_input(self) -> None:
        assert self.make(Input("x", "float32", (2,))).row(raw([1, 2]))[0][0].tolist() == [1, 2]
        two = self.make(Input("x", "float32", (2,)), Input("y", "float32", (2,)))
        assert "models of one input" in refusal(lambda: two.row(raw([1, 2])))[0][2]

    @pytest.mark.parametrize("value", [[1], [1, 2, 3], [[1, 2]], 1, "x", [1, None], [1, "2"], [1, 1e39], None, {}])
    def test_another_shape_or_kind_is_refused(self, value: Any) -> None:
        reader = self.make(Input("x", "float32", (2,)))
        assert "list of the shape [2] of float32" in refusal(lambda: reader.rows(raw([{"x": value}])))[0][2]

    @pytest.mark.parametrize("value", [256, -1, 1.5, True])
    def test_whole_numbers_stay_in_their_range(self, value: Any) -> None:
        assert refusal(lambda: self.make(Input("x", "uint8", ())).rows(raw([{"x": value}])))
