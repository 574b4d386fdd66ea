"""/docs in a browser that reaches nothing but the service: a person tries a prediction out, and reads it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.serving.browser import CHROMIUM, Browser

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed: nothing can open the page"),
]
PREDICT = "#operations-predictions-predict"


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    with Browser(tmp_path / "profile") as opened:
        yield opened


def test_a_prediction_is_made_from_the_page(running: Any, browser: Browser, tmp_path: Path) -> None:
    browser.ask("Page.navigate", url=f"{running.url}/docs")
    browser.click(f"{PREDICT} .opblock-summary-control")
    browser.click(f"{PREDICT} .try-out__btn")
    body = browser.until(f"document.querySelector('{PREDICT} textarea')?.value")
    assert json.loads(body)["rows"][0].keys() == {"age", "income", "employed", "city", "since"}
    browser.click(f"{PREDICT} .execute")
    status = browser.until(
        f"document.querySelector('{PREDICT} .live-responses-table tbody .response-col_status')?.innerText"
    )
    assert status.split()[0] == "200"
    answer = json.loads(browser.until(f"document.querySelector('{PREDICT} .live-responses-table code')?.innerText"))
    assert answer["predictions"][0]["prediction"] in ("yes", "no")
    assert 0.5 <= answer["predictions"][0]["confidence"] <= 1 and answer["variant"] in ("control", "treatment")
    browser.picture(tmp_path / "docs.png")
    asked = {event["request"]["url"] for event in browser.named("Network.requestWillBeSent")}
    assert f"{running.url}/predict" in asked and f"{running.url}/openapi.json" in asked
    assert all(url.startswith((f"{running.url}/", "data:")) for url in asked), asked
    assert not browser.named("Network.loadingFailed")
    assert not browser.named("Runtime.exceptionThrown")
    assert not [event for event in browser.named("Log.entryAdded") if event["entry"]["level"] == "error"]
