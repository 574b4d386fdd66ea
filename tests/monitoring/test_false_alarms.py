"""How often a check of this size raises an alarm although nothing drifted, by drawing from the reference again."""

import numpy as np
import pytest

from mlops_hydra.config.drift import MonitoringConfig, default_rules
from mlops_hydra.monitoring.false_alarms import false_alarm_rate
from mlops_hydra.monitoring.profile import Profile
from mlops_hydra.monitoring.reference import Reference
from mlops_hydra.monitoring.window import Window

N = 2000


def table() -> dict[str, np.ndarray]:
    """Of every kind, with values that are missing, infinite, rare or always the same."""
    rng = np.random.default_rng(0)
    bell = rng.normal(size=N)
    return {
        "bell": bell,
        "missing": np.where(rng.random(N) < 0.3, np.nan, bell),
        "infinite": np.where(rng.random(N) < 0.1, np.inf, bell),
        "endless": np.full(N, np.inf),
        "nothing": np.full(N, np.nan),
        "constant": np.ones(N),
        "city": rng.choice(np.array([*"abcd", None], dtype=object), N),
        "rare": np.array([f"id {number}" for number in rng.zipf(2, N)], dtype=object),
        "flag": rng.random(N) < 0.2,
        "since": np.datetime64("2024-01-01") + rng.integers(0, 700, N),
    }


def of_rows(reference: Reference, num_rows: int) -> Window:
    window = Window(reference.profile)
    window.num_rows = num_rows
    return window


def careless() -> MonitoringConfig:
    """Every difference matters, and nearly every one is taken for real."""
    rules = default_rules()
    none = rules.min_effect.model_copy(update=dict.fromkeys(("numeric", "categorical", "share", "loss"), 0.0))
    return rules.model_copy(update={"alpha": 0.99, "min_effect": none})


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference.of(table())


def test_a_sane_check_seldom_raises_one_and_a_careless_one_often_does(reference: Reference):
    window = of_rows(reference, 500)
    sane = false_alarm_rate(reference, window, default_rules(), num_checks=60)
    often = false_alarm_rate(reference, window, careless(), num_checks=60)
    assert sane <= 0.06 and often >= 0.15


def test_the_size_of_the_check_counts(reference: Reference):
    """Large samples show that small differences are none that matter; small ones cannot."""
    rules = careless().model_copy(update={"min_effect": default_rules().min_effect})
    few, many = (false_alarm_rate(reference, of_rows(reference, n), rules, num_checks=40) for n in (50, 20_000))
    assert many < few


def test_no_rows_and_no_columns_raise_none(reference: Reference):
    assert false_alarm_rate(reference, of_rows(reference, 0), default_rules(), num_checks=3) == 0.0
    empty = Reference(Profile(0, ()))
    assert false_alarm_rate(empty, of_rows(empty, 100), default_rules(), num_checks=3) == 0.0


def test_the_seed_decides_and_not_what_columns_are_called():
    def rate(names: str, seed: int) -> float:
        rng = np.random.default_rng(0)
        reference = Reference.of({name: rng.normal(size=50) for name in names})
        rules = default_rules().model_copy(update={"alpha": 0.9})
        return false_alarm_rate(reference, of_rows(reference, 20), rules, num_checks=40, seed=seed)

    first, *renamed = (rate(names, 0) for names in ("abcdefgh", "zyxwvuts", "stuvwxyz", "ahbgcfde"))
    assert renamed == [first] * 3
    assert {rate("abcdefgh", seed) for seed in (1, 2)} != {first}
