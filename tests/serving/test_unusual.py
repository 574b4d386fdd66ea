"""Unusual values: together they are counted as they would be one by one."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlops_hydra.packaging.graph import Input
from mlops_hydra.serving import unusual
from mlops_hydra.serving.array_rows import ArrayReader
from mlops_hydra.serving.model import ServedModel, load_model
from mlops_hydra.serving.unusual import UnusualValues
from tests.serving.conftest import CREDIT_ROW, Service


@pytest.fixture(scope="module")
def model(trained_bundle: Callable[[int], Path]) -> ServedModel:
    return load_model(trained_bundle(0), "0", max_batch_rows=8)


def rows(**changed: Any) -> list[tuple[Any, ...]]:
    return [tuple((CREDIT_ROW | changed).values())]


def test_what_waits_is_counted_when_it_is_asked_for(model: ServedModel) -> None:
    counts: dict[tuple[str, ...], Any] = {}
    values = UnusualValues(counts)
    for changed in ({"age": 999}, {}, {"age": -5, "city": "Atlantis"}, {"city": None}):
        values.add(model.reader, model.reader.arrays(rows(**changed)))
    assert counts == {}
    values.count()
    values.count()  # nothing twice
    found = dict(zip(model.reader.names, counts[model.reader.names].tolist(), strict=True))
    assert {name: count for name, count in found.items() if count} == {"age": 2, "city": 1}


def test_many_are_counted_without_being_asked_for(model: ServedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = model.reader.arrays(rows(age=999) * 3)
    monkeypatch.setattr(unusual, "_MAX_WAITING", 2 * sum(array.size for array in arrays.values()))
    counts: dict[tuple[str, ...], Any] = {}
    values = UnusualValues(counts)
    seen = []
    for _ in range(3):
        values.add(model.reader, arrays)
        seen.append(int(counts[model.reader.names].sum()) if counts else 0)
    assert seen == [0, 6, 6]
    values.count()
    assert counts[model.reader.names].sum() == 9


def test_nothing_waits_of_a_model_that_knows_no_ranges() -> None:
    reader = ArrayReader([Input("x", "float32", (3,))], (("x", "float32 [3]"),))
    counts: dict[tuple[str, ...], Any] = {}
    values = UnusualValues(counts)
    values.add(reader, {"x": np.zeros((2, 3), np.float32)})
    assert values._waiting == {}
    values.count()
    assert counts == {}


def test_metrics_tell_of_what_was_just_asked(running: Service) -> None:
    def told() -> float:
        status, text = running.ask("/metrics")
        found = re.search(r'^mlops_hydra_serving_unusual_total\{column="age"\} (.*)$', text, re.MULTILINE)
        assert status == 200
        return float(found[1]) if found else 0.0

    before = told()
    assert (
        running.ask("/predict", {"rows": [CREDIT_ROW | {"age": 999}, CREDIT_ROW, CREDIT_ROW | {"age": -1}]})[0] == 200
    )
    assert told() == before + 2
