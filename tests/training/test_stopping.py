"""When to stop."""

import dataclasses
import math
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops_hydra import EarlyStopping
from mlops_hydra.errors import UsageError

Direction = Literal["minimize", "maximize"]


def after(stopping: EarlyStopping, *scores: float) -> EarlyStopping:
    for score in scores:
        stopping = stopping.step(score)
    return stopping


def test_the_missions_call_runs() -> None:
    stopping = EarlyStopping(patience=2)
    assert not stopping.should_stop
    assert after(stopping, 1.0, 2.0, 2.0).should_stop


@pytest.mark.parametrize(
    ("direction", "scores"), [("minimize", (1.0, 1.1, 0.9, 1.0)), ("maximize", (1.0, 0.9, 1.1, 1.0))]
)
def test_the_best_follows_the_direction(direction: Direction, scores: tuple[float, ...]) -> None:
    stopping = after(EarlyStopping(3, direction=direction), *scores)
    assert stopping.best == scores[2]
    assert stopping.num_bad == 1


def test_it_stops_in_the_epoch_that_uses_up_the_patience() -> None:
    stopping = after(EarlyStopping(patience=3), 1.0, 1.0, 1.0)
    assert not stopping.should_stop
    assert stopping.step(1.0).should_stop


def test_an_improvement_gives_the_whole_patience_back() -> None:
    stopping = after(EarlyStopping(patience=2), 1.0, 1.5, 0.5, 0.6)
    assert not stopping.should_stop
    assert stopping.step(0.7).should_stop


def test_a_change_of_exactly_min_delta_does_not_count() -> None:
    assert not EarlyStopping(min_delta=0.5).step(2.0).step(1.5).improved
    assert EarlyStopping(min_delta=0.5).step(2.0).step(1.25).improved


def test_nan_stops_at_once_and_for_good_whatever_the_patience() -> None:
    stopping = EarlyStopping(patience=None).step(1.0).step(math.nan)
    assert stopping.should_stop
    assert not stopping.improved
    assert stopping.best == 1.0
    assert stopping.step(0.0).should_stop
    assert EarlyStopping().step(math.nan).should_stop


def test_without_patience_it_never_stops_but_knows_the_best() -> None:
    stopping = after(EarlyStopping(patience=None), *range(100))
    assert not stopping.should_stop
    assert stopping.best == 0


def test_a_state_never_changes() -> None:
    first = EarlyStopping(patience=1)
    first.step(1.0).step(2.0)
    assert first == EarlyStopping(patience=1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        first.best = 1.0  # type: ignore[misc]


def test_arguments_that_make_no_sense_are_refused_all_at_once() -> None:
    with pytest.raises(UsageError) as caught:
        EarlyStopping(patience=0, min_delta=-1, direction="min")  # type: ignore[arg-type]
    assert [fault.path for fault in caught.value.faults] == ["direction", "patience", "min_delta"]
    with pytest.raises(UsageError, match="min_delta"):
        EarlyStopping(min_delta=math.nan)


@given(
    st.lists(st.floats(-10, 10) | st.just(math.nan) | st.sampled_from([math.inf, -math.inf]), max_size=30),
    st.integers(1, 5),
    st.sampled_from([0.0, 0.1, 2.0]),
    st.sampled_from(["minimize", "maximize"]),
)
def test_it_does_what_a_plain_loop_does(
    scores: list[float], patience: int, min_delta: float, direction: Direction
) -> None:
    stopping = EarlyStopping(patience, min_delta, direction)
    best, best_at = None, -1
    for index, score in enumerate(scores):
        stopping = stopping.step(score)
        if math.isnan(score):
            assert stopping.should_stop
            return
        gain = None if best is None else (best - score) * (1 if direction == "minimize" else -1)
        if gain is None or gain > min_delta:
            best, best_at = score, index
        assert stopping.best == best
        assert stopping.improved == (best_at == index)
        assert stopping.should_stop == (index - best_at >= patience)
        if stopping.should_stop:
            return
