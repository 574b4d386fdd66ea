"""Categories that a sample shows and another lacks are no drift by themselves."""

from collections import Counter

import numpy as np
import pytest

from mlops_hydra.monitoring.categories import new_categories_p_value, side_by_side
from mlops_hydra.monitoring.counts import CategoryCounts
from mlops_hydra.monitoring.frequencies import chi_square
from mlops_hydra.monitoring.profile import CategoryProfile
from mlops_hydra.monitoring.profiling import profile_columns
from mlops_hydra.monitoring.window import Profile, Window

CITIES = np.array([f"city {i}" for i in range(2000)], dtype=object)
ZIPF = 1 / np.arange(1, 2001) / (1 / np.arange(1, 2001)).sum()


def drawn(rng: np.random.Generator, n: int, m: int, *, most: int) -> tuple[CategoryProfile, CategoryCounts]:
    """What n rows show, and m more of the same kind."""
    before, now = (CITIES[rng.choice(2000, rows, p=ZIPF)] for rows in (n, m))
    (profile,) = profile_columns({"city": before}, {"city": "categorical"}, bins=8, max_categories=most, num_rows=n)
    window = Window(Profile(n, (profile,)))
    window.add({"city": now}, m)
    assert isinstance(profile, CategoryProfile)
    return profile, window.categorical("feature", "city")


@pytest.mark.parametrize(
    ("n", "m", "most"), [(1000, 500, 1000), (1000, 4000, 1000), (20_000, 2000, 1000), (5000, 5000, 50)]
)
def test_further_rows_of_the_same_kind_are_told_apart_no_more_often_than_is_said(n: int, m: int, most: int) -> None:
    """60 draws at 5 %: more than 12 are less probable than one in ten thousand."""
    rng = np.random.default_rng(n + m + most)
    pairs = [drawn(rng, n, m, most=most) for _ in range(60)]
    found = [chi_square(*side_by_side(*pair)) for pair in pairs]
    assert sum(each is not None and each.p_value < 0.05 for each in found) <= 12
    assert sum(new_categories_p_value(*pair) < 0.05 for pair in pairs) <= 12


@pytest.mark.parametrize(("n", "m", "most"), [(1000, 500, 1000), (20_000, 2000, 50)])
def test_no_row_is_lost_side_by_side(n: int, m: int, most: int) -> None:
    before, now = side_by_side(*drawn(np.random.default_rng(0), n, m, most=most))
    assert (before.sum(), now.sum(), len(before)) == (n, m, len(now))


def test_a_category_that_is_new_and_frequent_is_found() -> None:
    profile = CategoryProfile("city", "categorical", ("a", "b"), CategoryCounts(np.array([600, 400, 0])))
    now = CategoryCounts(np.array([50, 40, 10]), unseen=Counter({"c": 10}))
    assert new_categories_p_value(profile, now) == pytest.approx((100 / 1100) ** 10, rel=1e-3, abs=1e-12)
    (before, after) = side_by_side(profile, now)
    assert (before.tolist(), after.tolist()) == ([600, 400, 0], [50, 40, 10])


def test_new_rows_are_as_probable_as_a_simulation_finds() -> None:
    """All orders of the rows of both samples are alike: which of them are the new ones is drawn again and again."""
    rng = np.random.default_rng(7)
    counts = np.array([300, 200, 3, 3, 2, 2, 2, 1, 1, 1, 1, 1])
    owners = np.repeat(np.arange(len(counts)), counts)
    found = []
    for _ in range(4000):
        new = np.bincount(rng.permutation(owners)[: len(owners) // 3], minlength=len(counts))
        found.append(new[new == counts].sum())
    profile = CategoryProfile(
        "city", "categorical", tuple("abcdefgh"), CategoryCounts(np.array([200, 133, 3, 3, 2, 2, 2, 1, 0]))
    )
    now = CategoryCounts(np.array([100, 67, 0, 0, 0, 0, 0, 0, 4]), unseen=Counter("ijkl"))
    probability = float(np.mean(np.array(found) >= 4))
    assert probability <= new_categories_p_value(profile, now) + 0.02
    assert new_categories_p_value(profile, now) <= probability + 0.08


def test_a_profile_with_the_most_frequent_categories_alone_does_not_test_new_ones() -> None:
    profile = CategoryProfile("city", "categorical", ("a", "b"), CategoryCounts(np.array([600, 300, 100])))
    assert new_categories_p_value(profile, CategoryCounts(np.array([50, 40, 90]))) == 1.0
