"""Latency on a clock that the test turns by hand."""

import pytest

from mlops_hydra.errors import UsageError
from mlops_hydra.evaluation.latency import measure_latency

MS = 1_000_000


class Clock:
    """Time passes only in `predict`, which takes the given milliseconds one after the other, then the last again."""

    def __init__(self, *milliseconds):
        self.milliseconds, self.now_ns, self.calls = milliseconds, 0, 0

    def predict(self):
        self.now_ns += int(self.milliseconds[min(self.calls, len(self.milliseconds) - 1)] * MS)
        self.calls += 1

    def read_ns(self):
        return self.now_ns

    def measure(self, *, repeats=100, budget_seconds=10.0):
        return measure_latency(self.predict, repeats=repeats, budget_seconds=budget_seconds, clock_ns=self.read_ns)


def test_the_first_slow_calls_are_warm_up_and_not_measured():
    assert Clock(*[500] * 2, 1).measure() == {"latency_p50_ms": 1.0, "latency_p95_ms": 1.0}


def test_percentiles_are_times_that_were_measured():
    warm_up, measured = [1] * 10, range(1, 101)
    assert Clock(*warm_up, *measured).measure() == {"latency_p50_ms": 50.0, "latency_p95_ms": 95.0}


def test_few_measurements_make_the_slowest_the_95th_percentile():
    assert Clock(*[1] * 10, 1, 2, 30).measure(repeats=3)["latency_p95_ms"] == 30.0


def test_a_slow_prediction_is_timed_once_and_not_for_the_whole_day():
    clock = Clock(60_000)
    assert clock.measure(budget_seconds=1)["latency_p50_ms"] == 60_000
    assert clock.calls == 2  # one to warm up


def test_the_budget_ends_the_measurement_before_the_repeats_do():
    clock = Clock(10)
    clock.measure(repeats=1_000_000, budget_seconds=1)
    assert clock.now_ns <= 1010 * MS


def test_a_real_call_takes_a_positive_time_in_milliseconds():
    measured = measure_latency(lambda: sum(range(1000)), repeats=50, budget_seconds=1)
    assert 0 < measured["latency_p50_ms"] <= measured["latency_p95_ms"] < 1000


def test_the_error_of_a_prediction_that_fails_is_not_swallowed():
    with pytest.raises(ZeroDivisionError):
        measure_latency(lambda: 1 / 0, repeats=1, budget_seconds=1)


def test_impossible_numbers_are_told_together():
    with pytest.raises(UsageError) as caught:
        measure_latency(lambda: None, repeats=0, budget_seconds=float("nan"))
    assert [fault.path for fault in caught.value.faults] == ["repeats", "budget_seconds"]
