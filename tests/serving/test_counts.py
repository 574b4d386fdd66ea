"""What workers count, and that a scrape of one is about all of them."""

import os
from pathlib import Path

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from mlops_hydra.serving.counts import SECONDS, Counts, CountsFolder, Histogram, exposition, gauge


def samples(text: bytes) -> dict[tuple[str, str], float]:
    """By name without the prefix, and labels in the order of their names."""
    return {
        (
            sample.name.removeprefix("mlops_hydra_serving_"),
            ",".join(value for _, value in sorted(sample.labels.items())),
        ): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def counted() -> Counts:
    counts = Counts()
    counts.answered("control", 200, 0.003)
    counts.answered("control", 200, 20.0)
    counts.answered("", 422, 0.0001)
    counts.rows["control"] += 5
    counts.unusual[("age", "city")] = np.array([3, 0])
    counts.batch_rows.observe(4)
    counts.totals = {"log_rows": 5, "log_rows_dropped": 0}
    counts.gauges = {"queued_rows": 2}
    return counts


def test_every_number_reaches_prometheus() -> None:
    found = samples(exposition([counted().as_json()]))
    assert found["requests_total", "200,control"] == 2
    assert found["requests_total", "422,"] == 1
    assert found["rows_total", "control"] == 5
    assert {key: value for key, value in found.items() if key[0] == "unusual_total"} == {("unusual_total", "age"): 3}
    assert (found["queued_rows", ""], found["log_rows_total", ""]) == (2, 5)
    assert found["batch_rows_sum", ""] == 4
    assert found["request_seconds_sum", "control"] == pytest.approx(20.003)


def test_buckets_hold_all_that_lies_at_or_below_their_bound() -> None:
    histogram = Histogram(SECONDS)
    for value in (0.0005, 0.00051, 0.01, 11.0):
        histogram.observe(value)
    counts = Counts(seconds={"a": histogram})
    found = samples(exposition([counts.as_json()]))
    buckets = {key[1]: value for key, value in found.items() if key[0] == "request_seconds_bucket"}
    assert [buckets[f"{bound},a"] for bound in ("0.0005", "0.001", "0.01", "10.0", "+Inf")] == [1, 2, 3, 3, 4]


def test_all_workers_are_added_up_dead_ones_too(tmp_path: Path) -> None:
    alive, dead = CountsFolder(tmp_path, "0"), CountsFolder(tmp_path, "1")
    dead.write(counted())
    alive.write(counted())  # its own file is older than what it says itself
    now = counted()
    now.answered("control", 200, 0.1)
    (path,) = (path for path in tmp_path.glob("1-*.json"))
    os.utime(path, (0, 0))
    found = samples(exposition([now.as_json(), *alive.others()]))
    assert found["queued_rows", ""] == 2  # of the living
    assert found["requests_total", "200,control"] == 5
    assert found["unusual_total", "age"] == 6


def test_a_damaged_file_of_another_worker_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "1-2-ab.json").write_bytes(b'{"requests"')
    assert list(CountsFolder(tmp_path, "0").others()) == []


def test_labels_are_escaped() -> None:
    odd = 'a"b\\c\nd'
    found = samples(exposition([], [gauge("model_info", "text", {(odd,): 1.0}, ("variant",))]))
    assert found["model_info", odd] == 1
