"""Profiles: what they say of a column, how two become one, and their JSON, which a stranger may have written."""

import json
import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlops_hydra.config.section import Kind
from mlops_hydra.data.values import Values
from mlops_hydra.errors import DataError, UsageError
from mlops_hydra.monitoring.grid import count
from mlops_hydra.monitoring.profile import CategoryProfile, ColumnProfile, Moments, NumericProfile, Profile
from mlops_hydra.monitoring.profiling import profile_columns

BIG = st.floats(-1e6, 1e6).map(lambda x: round(x, 3))


def column(values: Values, kind: Kind = "numeric", *, bins: int = 128, max_categories: int = 20) -> ColumnProfile:
    (found,) = profile_columns(
        {"x": values}, {"x": kind}, bins=bins, max_categories=max_categories, num_rows=len(values)
    )
    return found


def numeric(values: Values, *, bins: int = 128) -> NumericProfile:
    found = column(values, bins=bins)
    assert isinstance(found, NumericProfile)
    return found


def categorical(values: Values, *, max_categories: int = 20) -> CategoryProfile:
    found = column(values, "categorical", max_categories=max_categories)
    assert isinstance(found, CategoryProfile)
    return found


def mixed(num_rows: int = 200, seed: int = 0) -> Profile:
    rng = np.random.default_rng(seed)
    columns: dict[str, Values] = {
        "n": np.append(rng.normal(size=num_rows - 3), [np.nan, np.inf, 5]),
        "text": [*map(str, rng.integers(0, 9, num_rows - 1)), "?"],
        "c": rng.choice(["rot", "blü", 'a"b'], num_rows).tolist(),
        "b": rng.random(num_rows) < 0.3,
        "d": [f"2024-05-{day:02}" for day in rng.integers(1, 31, num_rows)],
        "empty": [None] * num_rows,
    }
    kinds: dict[str, Kind] = {"n": "numeric", "text": "numeric", "c": "categorical", "b": "boolean"}
    kinds |= {"d": "date", "empty": "numeric"}
    features = profile_columns(columns, kinds, bins=16, max_categories=2, num_rows=num_rows)
    outputs: dict[str, Kind] = {"prediction": "categorical"}
    said = profile_columns({"prediction": columns["c"]}, outputs, bins=16, max_categories=9, num_rows=num_rows)
    return Profile(num_rows, features, said, {"log_loss": Moments.of(rng.random(num_rows))})


def test_a_column_says_its_range_and_its_spread() -> None:
    rng = np.random.default_rng(0)
    found = numeric(rng.normal(10, 3, size=5000))
    assert found.spread == pytest.approx(3, rel=0.05)
    assert 0 < found.resolution < 1.2 / 128
    assert (found.minimum, found.maximum) == (found.edges[1], found.edges[-1])
    outliers = numeric(np.append(rng.normal(10, 3, size=5000), [1e9] * 50))
    assert outliers.deviation > 1e7
    assert outliers.spread == pytest.approx(3, rel=0.05)


def test_the_spread_of_mostly_one_value_is_its_deviation_and_of_only_one_nothing() -> None:
    assert numeric([0.1] * 90 + [1.1] * 10).spread == pytest.approx(0.3, rel=0.01)
    assert numeric([0.1] * 7).spread == 0.0
    assert numeric([0.1] * 7).mean == 0.1


def test_nothing_has_no_range_and_no_mean() -> None:
    for values in ([], [None, None], ["x"]):
        found = numeric(values)
        assert len(found.edges) == 0
        assert np.isnan([found.minimum, found.maximum, found.mean, found.resolution]).all()
        assert found.spread == 0.0
        assert found.counts.num_rows == len(values)


def test_very_large_numbers_are_profiled_without_overflow() -> None:
    found = numeric([-1.7e308, 1.7e308, 1.0, -np.inf] * 3, bins=2)
    assert math.isfinite(found.mean)
    assert math.isfinite(found.spread)
    assert found.counts.num_infinite == 3
    assert Profile.from_json(Profile(12, (found,)).to_json()).to_json() == Profile(12, (found,)).to_json()


@given(st.lists(BIG, max_size=30), st.lists(BIG, max_size=30))
@settings(max_examples=60, deadline=None)
def test_moments_of_parts_are_those_of_all(some: list[float], others: list[float]) -> None:
    merged = Moments.of(np.array(some)).merged(Moments.of(np.array(others)))
    both = np.array([*some, *others])
    assert merged.n == len(both)
    assert merged.mean == pytest.approx(both.mean() if len(both) else 0.0, rel=1e-9, abs=1e-6)
    assert merged.variance == pytest.approx(both.var(ddof=1) if len(both) > 1 else 0.0, rel=1e-9, abs=1e-6)


def test_the_moments_of_equal_numbers_have_no_variance_and_nan_is_left_out() -> None:
    assert Moments.of(np.array([0.1, np.nan, 0.1, 0.1])) == Moments(3, 0.1, 0.0)


def test_profiles_of_the_same_grid_add_up_exactly() -> None:
    one = mixed()
    both = one.merged(one)
    assert both.num_rows == 400
    for single, double in zip(one.features, both.features, strict=True):
        assert (2 * single.counts.cells == double.counts.cells).all()
        assert double.counts.num_rows == 400
    assert isinstance(both.features[0], NumericProfile)
    assert both.features[0].uncertainty == 0.0


@given(st.integers(0, 1000), st.sampled_from([1, 30, 3000]), st.sampled_from([8, 128]), st.floats(-2, 2))
@settings(max_examples=40, deadline=None)
def test_merged_shares_are_as_uncertain_as_it_says_at_most(seed: int, num_rows: int, bins: int, shift: float) -> None:
    rng = np.random.default_rng(seed)
    tables = [rng.normal(size=500), rng.normal(shift, size=num_rows), rng.exponential(size=300).round(1)]
    merged = numeric(tables[0], bins=128)
    for table in tables[1:]:
        merged = merged.merged(numeric(table, bins=bins))
    both = np.concatenate(tables)
    truth = np.cumsum(count(both, merged.edges)) / len(both)
    assert merged.counts.num_values == len(both)
    assert np.abs(np.cumsum(merged.counts.cells) / len(both) - truth).max() <= merged.uncertainty + 1e-12
    assert merged.uncertainty <= 0.5
    assert (merged.minimum, merged.maximum) == (both.min(), both.max())
    assert merged.mean == pytest.approx(both.mean(), rel=1e-9, abs=1e-12)
    assert merged.deviation == pytest.approx(both.std(ddof=1), rel=1e-9)


def test_a_column_without_values_merges_with_one_that_has_some() -> None:
    empty, full = numeric([None] * 5), numeric([1.0, 2.0, 3.5])
    for merged in (empty.merged(full), full.merged(empty)):
        assert merged.edges.tolist() == full.edges.tolist()
        assert merged.counts.cells.tolist() == full.counts.cells.tolist()
        assert merged.counts.num_missing == 5
        assert (merged.mean, merged.deviation) == (full.mean, full.deviation)
        assert merged.uncertainty == 0.0


def test_categories_are_united() -> None:
    merged = categorical(["a", "b", "a"]).merged(categorical(["c", "b", None]))
    assert merged.categories == ("a", "b", "c")
    assert merged.counts.cells.tolist() == [2, 2, 1, 0]
    assert merged.counts.num_missing == 1


def test_columns_that_differ_are_named() -> None:
    with pytest.raises(UsageError, match="column 'n'"):
        Profile(1, (numeric([1.0]),)).merged(mixed())
    with pytest.raises(UsageError, match="numeric and categorical"):
        Profile(1, (numeric([1.0]),)).merged(Profile(1, (categorical(["1"]),)))


def test_json_gives_an_equal_profile_back() -> None:
    before = mixed()
    after = Profile.from_json(before.to_json())
    assert after.to_json() == before.to_json()
    assert after.losses == before.losses
    assert after.num_rows == before.num_rows
    for one, other in zip((*before.features, *before.outputs), (*after.features, *after.outputs), strict=True):
        assert (one.name, one.kind) == (other.name, other.kind)
        assert one.counts.cells.tolist() == other.counts.cells.tolist()
        assert one.counts.num_missing == other.counts.num_missing
        assert one.counts.num_unreadable == other.counts.num_unreadable
        if isinstance(one, NumericProfile) and isinstance(other, NumericProfile):
            assert one.edges.tolist() == other.edges.tolist()
            assert np.array_equal([one.mean, one.deviation], [other.mean, other.deviation], equal_nan=True)
        elif isinstance(one, CategoryProfile) and isinstance(other, CategoryProfile):
            assert one.categories == other.categories


@given(st.lists(st.floats(), max_size=40), st.lists(st.floats(), max_size=40))
@settings(max_examples=60, deadline=None)
def test_json_keeps_any_numbers_exactly_merged_or_not(some: list[float], others: list[float]) -> None:
    one = numeric(some, bins=4)
    for profile in (one, one.merged(numeric(others, bins=4))):
        text = Profile(0, (profile,)).to_json()
        (again,) = Profile.from_json(text).features
        assert isinstance(again, NumericProfile)
        assert again.edges.tolist() == profile.edges.tolist()
        assert again.counts.cells.tolist() == profile.counts.cells.tolist()
        assert again.uncertainty == profile.uncertainty
        assert "Infinity" not in text
        assert "NaN" not in text


SHAPES: dict[str, Callable[[np.random.Generator, int], Any]] = {
    "normal": lambda rng, n: rng.normal(size=n),
    "lognormal": lambda rng, n: rng.lognormal(10, 1, size=n),
    "uniform": lambda rng, n: rng.uniform(size=n),
    "t3": lambda rng, n: rng.standard_t(3, size=n),
    "integers": lambda rng, n: rng.integers(0, 100_000, size=n),
    "few integers": lambda rng, n: rng.integers(0, 120, size=n),
    "rounded": lambda rng, n: rng.normal(50, 20, size=n).round(2),
}


@pytest.mark.parametrize("shape", sorted(SHAPES))
def test_a_hundred_columns_of_a_hundred_thousand_rows_make_at_most_200_kb(shape: str) -> None:
    """Two thousand rows here; with fifty times as many, a count has up to two digits more (measured: 1.41-1.56 KB)."""
    rng = np.random.default_rng(1)
    found = numeric(SHAPES[shape](rng, 2000))
    line = Profile(2000, (found,)).to_json().splitlines()[3]
    more_digits = sum(len(str(50 * cell)) - len(str(cell)) for cell in found.counts.cells.tolist() if cell > 1)
    assert len(line) + more_digits <= 2000


def test_values_of_rows_are_written_only_where_they_are_frequent_or_the_ends_of_the_range() -> None:
    values = np.random.default_rng(2).normal(size=3000) * np.pi
    text = Profile(3000, (numeric(values),)).to_json()
    written = [value for value in values.tolist() if f"{value!r}," in text or f"{value!r}]" in text]
    assert sorted(written) == [values.min(), values.max()]


def test_names_of_rare_categories_are_not_written() -> None:
    found = categorical(["often", "often", "Jane Doe"], max_categories=1)
    assert found.counts.cells.tolist() == [2, 1]
    assert "Jane" not in Profile(3, (found,)).to_json()


def _edited(change: Callable[[Any], Any]) -> str:
    found = json.loads(mixed().to_json())
    return json.dumps(change(found) or found)


def _put(value: object, *path: Any) -> Callable[[Any], None]:
    def change(found: Any) -> None:
        for key in path[:-1]:
            found = found[key]
        found[path[-1]] = value

    return change


def _drop(*path: Any) -> Callable[[Any], None]:
    def change(found: Any) -> None:
        for key in path[:-1]:
            found = found[key]
        del found[path[-1]]

    return change


WRONG: dict[str, tuple[Callable[[Any], Any], str]] = {
    "another version": (_put(2, "format"), "format: must be 1"),
    "no version": (_drop("format"), "format"),
    "a list": (lambda _: [1], "must be a mapping"),
    "rows below zero": (_put(-1, "rows"), "rows: must be a whole number"),
    "rows as a flag": (_put(True, "rows"), "rows"),
    "rows as a float": (_put(1.0, "rows"), "rows"),
    "an unknown key": (_put(1, "pickle"), "key that nobody knows"),
    "features as text": (_put("x", "features"), "features: must be a list"),
    "a column that is null": (_put(None, "features", 0), r"features\[0\]"),
    "a kind with no hash": (_put([], "features", 0, "kind"), "kind"),
    "an unknown kind": (_put("image", "features", 0, "kind"), "kind"),
    "a key of a column missing": (_drop("features", 0, "cells"), "must have cells"),
    "two columns of a name": (_put("n", "features", 1, "name"), "different names"),
    "a name that is a number": (_put(5, "features", 0, "name"), "must be text"),
    "points that descend": (_put([2, 1], "features", 0, "points"), "ascending"),
    "points twice": (_put([1, 1], "features", 0, "points"), "ascending"),
    "a point that is text": (_put(["1"], "features", 0, "points"), "finite number"),
    "a point that is NaN": (_put([math.nan], "features", 0, "points"), "NaN"),
    "a point beyond all floats": (_put([10**400], "features", 0, "points"), "finite number"),
    "an edge too many": (_put([0.5], "features", 0, "edges"), "cells: must be"),
    "a count below zero": (_put(-1, "features", 0, "cells", 1), "whole number"),
    "a count that is huge": (_put(2**60, "features", 0, "cells", 1), "whole number"),
    "a count in pieces": (_put(0.5, "features", 0, "cells", 1), "whole number"),
    "counts that add up to too much": (_put([2**52] * 3, "features", 3, "cells"), "whole number"),
    "more infinite than all": (_put(10**6, "features", 0, "infinite"), "infinite: must be at most"),
    "no mean": (_put(None, "features", 0, "mean"), "mean: must be a finite number"),
    "a negative deviation": (_put(-1, "features", 0, "deviation"), "negative"),
    "much uncertainty": (_put(2, "features", 0, "uncertainty"), "uncertainty"),
    "six weekdays": (_put([1] * 6, "features", 4, "weekdays"), "weekdays: must be 7"),
    "categories twice": (_put(["a", "a"], "features", 2, "categories"), "different texts"),
    "booleans of other words": (_put(["no", "yes"], "features", 3, "categories"), "must be"),
    "losses as a list": (_put([], "losses"), "losses: must be a mapping"),
    "losses without n": (_drop("losses", "log_loss", "n"), "must have n"),
    "a negative variance": (_put(-0.1, "losses", "log_loss", "variance"), "negative"),
}


@pytest.mark.parametrize("name", sorted(WRONG))
def test_what_is_no_profile_is_refused_with_one_fault(name: str) -> None:
    change, message = WRONG[name]
    with pytest.raises(DataError, match=message) as caught:
        Profile.from_json(_edited(change))
    assert len(caught.value.faults) == 1
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "null",
        "[" * 100_000,
        '{"format": 1e999}',
        '{"rows": ' + "9" * 5000 + "}",
        '{"format": "' + "x" * 10**6 + '"}',
    ],
)
def test_text_that_is_no_profile_is_refused(text: str) -> None:
    with pytest.raises(DataError) as caught:
        Profile.from_json(text)
    assert len(str(caught.value)) < 400


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)


@given(st.data())
@settings(max_examples=80, deadline=None)
def test_a_profile_with_anything_anywhere_is_read_or_refused(data: st.DataObject) -> None:
    found = json.loads(BASE)
    place, path = found, []
    while isinstance(place, dict | list) and place and (not path or data.draw(st.booleans())):
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        path.append(data.draw(st.sampled_from(keys)))
        place = place[path[-1]]
    _put(data.draw(JSON), *path)(found)
    try:
        read = Profile.from_json(json.dumps(found))
    except DataError:
        return
    read.merged(read).to_json()


BASE = mixed().to_json()


def test_unseen_categories_are_merged_and_bounded() -> None:
    one = categorical(["a"]).counts
    one.add(Counter({f"x{i}": 1 for i in range(2000)}), {"a": 0})
    both = one.merged(one)
    assert len(both.unseen) == 1000
    assert both.unseen["x0"] == 2
    assert both.cells.tolist() == [2, 4000]
