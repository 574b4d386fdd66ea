"""The page of a check: whole in one file, nothing that is fetched or run, and all that drifted."""

import re
from dataclasses import replace
from html import escape
from html.parser import HTMLParser

import pytest

from mlops_hydra.monitoring import page as module
from mlops_hydra.monitoring.page import page
from mlops_hydra.monitoring.wording import sentence, shown
from tests.monitoring.reports import HOSTILE, SCRIPT, categories, of_credit, of_faults, points, report, result, unknown

VOID = {"meta", "img", "br", "wbr"}


class Read(HTMLParser):
    """Elements and text of a page; fails where elements are not closed in order."""

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.text = [], [], ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text += data


@pytest.fixture(scope="module")
def credit():
    return page(of_credit())


@pytest.fixture(scope="module")
def faults():
    return page(of_faults())


def test_every_column_that_drifted_is_named_with_its_reason(credit):
    text = Read(credit).text
    for each in of_credit():
        if each.is_drifted:
            assert each.feature in text
            assert each.reason in text


def test_it_says_the_verdict_and_what_was_compared(credit):
    text = Read(credit).text
    assert sentence(of_credit()) in text
    assert "new.parquet (10,000 rows)" in text
    assert "what credit@champion was trained on (100,000 rows)" in text
    assert "3.2 % of such checks" in text
    assert "export_time" in text


@pytest.mark.parametrize("name", ["credit", "faults"])
def test_nothing_is_fetched_and_nothing_runs(name, request):
    html = request.getfixturevalue(name)
    allowed = ("data:image/png;base64,", "#picture-")
    for tag, attributes in Read(html).tags:
        assert tag not in {"script", "link", "iframe", "object", "embed", "base", "form"}
        assert not any(key.startswith("on") or key == "srcset" for key in attributes)
        for key in ("src", "href"):
            assert attributes.get(key, allowed[0]).startswith(allowed)
    assert "url(" not in html
    assert "@import" not in html
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert ("meta", {"http-equiv": "Content-Security-Policy", "content": policy}) in Read(html).tags


def test_hostile_names_are_text(faults):
    assert SCRIPT not in faults
    assert escape(SCRIPT) in faults
    assert all(shown(name) in Read(faults).text for name in HOSTILE)
    assert "\x1b" not in faults


def test_each_link_leads_to_a_picture(credit):
    tags = Read(credit).tags
    targets = {attributes["id"] for _, attributes in tags if "id" in attributes}
    links = {attributes["href"].removeprefix("#") for tag, attributes in tags if tag == "a"}
    assert links == targets
    assert len(targets) == len(of_credit().pictures)


def test_pictures_end_somewhere_and_that_is_said(monkeypatch):
    monkeypatch.setattr(module, "draw", lambda *_: b"")
    names = [f"column_{number}" for number in range(60)]
    pictures = {("feature", name): points([1.0], [0, 1, 0], [0, 0, 1]) for name in names}
    html = page(report([result(name, "drifted") for name in names], pictures=pictures))
    assert html.count("<figure ") == 50
    assert html.count("<a ") == 50
    assert "10 more that drifted are not pictured" in html


def test_only_columns_that_drifted_are_pictured():
    pictures = {("feature", "a"): categories(["x"], [1], [1]), ("prediction", "a"): categories(["x"], [1], [1])}
    made = report([result("a"), result("a", "drifted", part="prediction")], pictures=pictures)
    assert page(made).count("<figure ") == 1


def test_stable_results_are_in_the_collapsed_table_alone():
    html = page(report([result("calm"), unknown("rare")]))
    assert "calm" not in html[: html.index("<details>")].partition("<dl>")[2]
    assert "calm" in html[html.index("<details>") :]
    assert "0.31 spreads" in html[: html.index("<details>")]
    assert len(re.findall("<details[ >]", html)) == 1


@pytest.mark.parametrize("rows", [0, 10_000])
def test_an_empty_report_is_a_page_that_says_so(rows):
    assert "nothing to compare" in Read(page(report([], num_current_rows=rows))).text


def test_it_is_the_same_page_twice(credit):
    assert page(replace(of_credit())) == credit
