"""Pictures of columns: odd data neither stops them nor makes matplotlib warn, and what they show adds up."""

import io
import struct

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure

from mlops_hydra.monitoring.number_pictures import draw_numbers, grid_of
from mlops_hydra.monitoring.pictures import DPI, draw
from mlops_hydra.monitoring.result import Picture
from tests.monitoring.reports import HOSTILE, bells, categories, of_values, points


def grid_over(values, bins=128):
    """Quantiles, and both ends."""
    inner = np.quantile(values, np.arange(1, bins) / bins)
    return np.unique([np.nextafter(values.min(), -np.inf), *inner, values.max()])


def lognormal():
    rng = np.random.default_rng(0)
    before, now = rng.lognormal(0, 1.5, 20_000), rng.lognormal(0.3, 1.5, 5_000)
    return of_values(before, now, grid_over(before))


def dates(first=18_000.0, last=19_000.0):
    rng = np.random.default_rng(0)
    before, now = rng.uniform(first, last, 5_000), rng.uniform((first + last) / 2, last * 1.01, 500)
    return of_values(before, now, grid_over(before, 32), kind="date")


ODD = {
    "constant": points([1.0], [0, 1, 0], [0.2, 0.5, 0.3]),
    "of zeros": points([0.0], [0, 1, 0], [0, 1, 0]),
    "huge constant": points([1.7e308], [0, 1, 0], [0.2, 0.5, 0.3]),
    "over all numbers": points([-1.7e308, 0.0, 1e300, 1.7e308], [0, 0.3, 0.3, 0.2, 0.2, 0], [0, 0, 0.5, 0.2, 0.2, 0.1]),
    "subnormal": points([0.0, 5e-324], [0, 0.5, 0.5, 0], [0, 0.5, 0.2, 0.3]),
    "infinite edges": Picture(
        "numeric",
        np.array([0, 0.1, 0.4, 0.4, 0.1]),
        np.array([0, 0.5, 0.1, 0.2, 0.2]),
        np.array([-np.inf, 0, 1, np.inf]),
    ),
    "infinite only": Picture("numeric", np.array([0, 1.0]), np.array([0, 1.0]), np.array([np.inf])),
    "all outside": points([1.0, 2.0], [0, 0.5, 0.5, 0], [0, 0, 0, 1]),
    "empty current": points([1.0, 2.0], [0, 0.5, 0.5, 0], [0, 0, 0, 0]),
    "empty reference": Picture("numeric", np.array([0.0]), np.array([1.0])),
    "nothing at all": Picture("numeric", np.array([np.nan]), np.array([np.nan])),
    "dates of hours": dates(18_000.0, 18_000.4),
    "dates of centuries": dates(-600_000.0, 19_000.0),
    "no dates": Picture("date", np.array([0, 0.5, 0.5, 0]), np.array([0, 0.1, 0.1, 0.8]), np.array([1e7, 2e7, 1e300])),
    "one category": categories(["a"], [1], [1]),
    "no category": categories(["a", "b"], [0, 0], [0, 0]),
    "hostile names": categories([*HOSTILE, "$a$", "漢字", "x" * 300], [1 / 9] * 9, [0.2, *[0.1] * 8]),
}  # fmt: skip


def size(png):
    """Width and height in pixels, from the header."""
    assert png.startswith(b"\x89PNG\r\n")
    return struct.unpack(">II", png[16:24])


@pytest.mark.parametrize("name", ODD)
def test_odd_data_is_drawn_without_a_warning(name):
    width, height = size(draw(name, ODD[name]))
    assert width == round(5.4 * DPI)
    assert 200 < height < 500


def test_a_picture_has_both_colours():
    image = mpl.image.imread(io.BytesIO(draw("age", bells(0.5))))[..., :3]
    red, blue = image[..., 0] - image[..., 2], image[..., 2] - image[..., 0]
    assert (red > 0.4).sum() > 500
    assert (blue > 0.15).sum() > 5000


def test_drawing_leaves_matplotlib_as_it_was_and_is_repeatable():
    before = dict(mpl.rcParams)
    assert draw(HOSTILE[1], bells(0.5)) == draw(HOSTILE[1], bells(0.5))
    assert dict(mpl.rcParams) == before


def heights(picture):
    """Of all bars, by whether they are filled, as percentages."""
    axes = Figure().subplots()
    both = np.stack([picture.reference, picture.current])
    grid = grid_of(picture.edges)
    assert grid is not None
    draw_numbers(axes, grid, both, is_date=picture.kind == "date")
    totals = {True: 0.0, False: 0.0}
    for patch in axes.patches:
        is_filled = patch.get_facecolor()[3] > 0 and patch.get_fill()
        values = patch.get_data().values if hasattr(patch, "get_data") else [patch.get_height()]
        totals[bool(is_filled)] += float(np.sum(values))
    return totals, axes


@pytest.mark.parametrize("picture", [bells(0.4), lognormal(), dates(), ODD["constant"], ODD["all outside"]])
def test_the_bars_of_each_add_up_to_all_values(picture):
    totals, _ = heights(picture)
    assert totals[True] == pytest.approx(100, abs=0.2)
    assert totals[False] == pytest.approx(100, abs=0.2)


def test_a_long_tail_does_not_squeeze_the_picture():
    picture = lognormal()
    _, axes = heights(picture)
    assert axes.get_xlim()[1] < picture.edges[-1] / 4
    assert any(text.get_text().startswith("> ") for text in axes.texts)


def test_what_lies_beyond_does_not_flatten_the_rest():
    picture = points(range(40), [0, *[1 / 40] * 40, 0], [0, *[0.4 / 40] * 40, 0.6])
    _, axes = heights(picture)
    assert axes.get_ylim()[1] < 4 * 100 / 40
    assert "60 %" in [text.get_text() for text in axes.texts]


def test_short_tails_are_shown_whole():
    _, axes = heights(bells(0.0))
    low, high = axes.get_xlim()
    edges = bells(0.0).edges
    assert low <= edges[0] and high >= edges[-1]


def test_many_categories_are_cut_to_those_that_differ_most():
    shares = np.random.default_rng(0).dirichlet(np.ones(200), size=2)
    many = size(draw("zip", categories([f"c{place}" for place in range(200)], *shares)))
    assert many == size(draw("zip", categories([f"c{place}" for place in range(21)], *shares[:, :21])))
