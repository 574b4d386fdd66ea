"""Who saw which arm when: against a plain reading of the same log, and in the cases that mislead a test."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops_hydra.errors import DataError
from mlops_hydra.serving.ab import exposures as module
from mlops_hydra.serving.ab.exposures import OUTAGE, Exposures, read_exposures
from mlops_hydra.serving.ab.first_seen import hashed
from mlops_hydra.serving.request_log.parquet_files import FIXED

START = datetime(2026, 11, 25, tzinfo=UTC)
WEIGHTS = {"control": 90, "treatment": 10}


def table(rows: Sequence[dict[str, Any]]) -> pa.Table:
    """Of requests; what is not given is as usual."""
    usual = {"row": 0, "assigned_by": "user_id", "model_version": "1", "variant": "control"}
    full = [usual | {"request_id": f"r{number}"} | row for number, row in enumerate(rows)]
    names = [field for field in FIXED if field.name in module.COLUMNS]
    return pa.table({field.name: pa.array([row.get(field.name) for row in full], field.type) for field in names})


def seen(user: str | None, arm: str = "control", *, hour: float = 0, **others: Any) -> dict[str, Any]:
    return {"user_id": user, "variant": arm, "time": START + timedelta(hours=hour), **others}


def hours_of(rows: Sequence[dict[str, Any]]) -> list[pa.Table]:
    """As the reader gives them."""
    keys = sorted({row["time"].replace(minute=0, second=0, microsecond=0) for row in rows})
    return [table([row for row in rows if key <= row["time"] < key + timedelta(hours=1)]) for key in keys]


def read(rows: Sequence[dict[str, Any]], **options: Any) -> Exposures:
    return read_exposures(hours_of(rows), options.pop("weights", WEIGHTS), **{"joined_by": "user_id"} | options)


def first_arms(found: Exposures) -> dict[int, str]:
    return {int(unit): found.arms[arm] for unit, arm in zip(found.units, found.arm, strict=True)}


def key_of(name: str, kind: str = "user_id") -> int:
    return int(hashed(pa.array([name]), kind)[0])


def test_a_user_counts_once_in_the_arm_that_he_saw_first() -> None:
    rows = [
        seen("a", "treatment", hour=0.5),
        seen("a", "control", hour=0.2),
        seen("b", "treatment", hour=0.1),
        seen("b", "treatment", hour=1.1),
        seen("c", "control", hour=1.9),
        seen("c", "treatment", hour=2.1),
    ]
    found = read(rows)
    assert first_arms(found) == {key_of("a"): "control", key_of("b"): "treatment", key_of("c"): "control"}
    assert found.counts() == {"control": 2, "treatment": 1}
    assert found.num_crossed == 2
    first = int((START + timedelta(hours=0.1)).timestamp() * 1e6)
    assert found.first[list(found.units).index(key_of("b"))] == first
    assert found.counts(until=first) == {"control": 0, "treatment": 1}


def test_a_request_of_many_rows_counts_once() -> None:
    rows = [seen("a", request_id="r", row=row) for row in range(5)] + [seen("b", "treatment")]
    assert read(rows).num_requests == 2


def test_what_the_router_did_not_decide_is_left_out_and_counted() -> None:
    rows = [
        *(seen(f"t{number}", "treatment", assigned_by="tester") for number in range(3)),
        *(seen(f"k{number}", assigned_by="kill_switch") for number in range(2)),
        seen(None, assigned_by="request_id"),
        seen(None),
        seen("a"),
        seen("b", "treatment"),
    ]
    found = read(rows)
    assert found.counts() == {"control": 1, "treatment": 1}
    assert found.left_out == {
        "of testers": 3,
        "while the kill switch was on": 2,
        "without a user id": 1,
        "of users whose id is not logged": 1,
    }


def test_hours_in_which_an_arm_had_no_model_are_left_out_for_all_arms() -> None:
    """Its users were answered by control: counted, control would have too many, who came at another time."""
    rows = [
        *(seen(f"early{number}", hour=0) for number in range(5)),  # no user of the treatment came
        *(seen(f"c{number}", hour=1) for number in range(9)),
        *(seen(f"n{number}", assigned_by="no_model", hour=1) for number in range(1)),
        *(seen(f"d{number}", hour=2) for number in range(9)),
        seen("x", "treatment", hour=3),
        seen("y", "control", hour=3.5),
        seen("c1", "control", hour=4),
        seen("z", "treatment", hour=4.5),
    ]
    found = read(rows)
    assert set(first_arms(found)) == {key_of(name) for name in ("x", "y", "z", "c1")}
    assert found.left_out == {OUTAGE: 24}


def test_an_hour_in_which_an_arm_was_not_seen_by_chance_counts() -> None:
    rows = [seen("a", hour=0), seen("b", hour=1), seen("c", "treatment", hour=1.1), seen("d", hour=2)]
    found = read(rows)
    assert found.counts() == {"control": 3, "treatment": 1}
    assert not found.left_out


def test_an_arm_without_weight_need_not_be_seen() -> None:
    rows = [
        seen("a", hour=0, assigned_by="no_model"),
        seen("b", hour=1),
        seen("c", "treatment", hour=1),
        seen("d", hour=2),
    ]
    assert read(rows, weights=WEIGHTS | {"over": 0}).counts() == {"control": 2, "treatment": 1, "over": 0}


def test_an_arm_that_the_weights_do_not_know_is_a_fault() -> None:
    with pytest.raises(DataError, match=r"weights: the log has an arm.*treatmemt.*Did you mean treatment"):
        read([seen("a", "treatmemt")])


def test_requests_are_units_where_nobody_is_known() -> None:
    rows = [
        seen(None, assigned_by="request_id", request_id="r1"),
        seen(None, "treatment", assigned_by="request_id", request_id="r2"),
        seen("r1", "treatment", request_id="r3"),  # a user of the same name is somebody else
    ]
    wanted = np.sort(hashed(pa.array(["r1", "r3", "r9"]), "request_id"))
    found = read(rows, joined_by="request_id", wanted=wanted)
    assert found.counts() == {"control": 1, "treatment": 2}
    assert (found.num_crossed, found.unit) == (0, "unit")
    units = dict(zip(wanted.tolist(), found.unit_of.tolist(), strict=True))
    assert units[key_of("r1", "request_id")] == key_of("r1", "request_id")
    assert units[key_of("r3", "request_id")] == key_of("r1")
    assert units[key_of("r9", "request_id")] == 0


def test_the_versions_of_an_arm_are_told_with_their_first_time() -> None:
    rows = [
        seen("a", "treatment", hour=0.5, model_version="4"),
        seen("b", "treatment", hour=0.2, model_version="4"),
        seen("c", "treatment", hour=3, model_version="5"),
        seen("d", "control", hour=3, model_version="3"),
    ]
    hour = 3_600_000_000
    begin = int(START.timestamp()) * 10**6
    assert read(rows).versions == {
        "control": {"3": begin + 3 * hour},
        "treatment": {"4": begin + hour // 5, "5": begin + 3 * hour},
    }


def test_an_empty_log_has_no_exposures() -> None:
    found = read([])
    assert found.counts() == {"control": 0, "treatment": 0}
    assert len(found.units) == 0


logs = st.lists(
    st.builds(
        lambda user, arm, minute, by: seen(user, arm, hour=minute / 60, assigned_by=by),
        st.sampled_from(["a", "b", "c", "d", "e"]),
        st.sampled_from(["control", "treatment"]),
        st.integers(0, 600),
        st.sampled_from(["user_id", "user_id", "user_id", "tester", "kill_switch"]),
    ),
    max_size=60,
    unique_by=lambda row: row["time"],
)


@settings(max_examples=60, deadline=None)
@given(rows=logs, most_pending=st.sampled_from([0, 3, 10**6]))
def test_a_plain_reading_of_the_log_finds_the_same(rows: list[dict[str, Any]], most_pending: int) -> None:
    plain: dict[int, set[str]] = {}
    first: dict[int, str] = {}
    for row in sorted(rows, key=lambda row: row["time"]):
        if row["assigned_by"] == "user_id":
            unit = key_of(row["user_id"])
            first.setdefault(unit, row["variant"])
            plain.setdefault(unit, set()).add(row["variant"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_MOST_PENDING", most_pending)
        found = read(rows)
    assert first_arms(found) == first
    assert found.num_crossed == sum(len(arms) > 1 for arms in plain.values())
    assert found.num_requests == sum(row["assigned_by"] == "user_id" for row in rows)


def test_tables_that_share_an_hour_or_span_several_are_the_same_as_one_an_hour() -> None:
    rows = [
        seen(f"u{number % 17}", ("control", "treatment")[number % 17 % 2], hour=number / 10) for number in range(60)
    ]
    whole, pieces = table(rows), [table(rows[start : start + 7]) for start in range(0, 60, 7)]
    by_hour = read(rows)
    for tables in ([whole], pieces):
        found = read_exposures(tables, WEIGHTS, joined_by="user_id")
        assert first_arms(found) == first_arms(by_hour)
        assert (found.first == by_hour.first).all()
