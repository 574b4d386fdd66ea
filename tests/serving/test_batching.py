"""Micro-batches: who is predicted together, who waits how long, and that one bad request fails its own alone."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlops_hydra.serving.batching import INLINE_SECONDS, MANY_ROWS, Batcher
from mlops_hydra.serving.model import ServedModel, load_model
from mlops_hydra.serving.refusal import Refusal
from tests.serving.conftest import CREDIT_ROW

ROW = tuple(CREDIT_ROW.values())
BAD = (*ROW[:-1], "yesterday")


@pytest.fixture(scope="module")
def models(trained_bundle: Callable[[int], Path]) -> tuple[ServedModel, ServedModel]:
    return tuple(load_model(trained_bundle(seed), str(seed), max_batch_rows=8) for seed in (0, 1))  # type: ignore[return-value]


class Heard:
    def __init__(self) -> None:
        self.batches: list[tuple[str, int]] = []

    def __call__(self, model: ServedModel, num_rows: int, arrays: Any) -> None:
        self.batches.append((model.version, num_rows))


def make(heard: Heard, **changed: Any) -> Batcher:
    limits = {"max_batch_rows": 8, "max_queued_rows": 100, "timeout_seconds": 5.0} | changed
    return Batcher(**limits, on_batch=heard)


def run(story: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    return asyncio.run(asyncio.wait_for(story(), 20))


def row(age: float) -> tuple[Any, ...]:
    return (age, *ROW[1:])


def test_what_arrives_in_one_turn_is_predicted_together_and_each_gets_its_own(models: Any) -> None:
    heard = Heard()

    async def story() -> list[Any]:
        batcher = make(heard)
        return await asyncio.gather(*(batcher.submit(models[0], [row(20 + i)] * (1 + i)) for i in range(3)))

    outcomes = run(story)
    assert heard.batches == [("0", 6)]
    for i, outcome in enumerate(outcomes):
        alone = models[0].predict([row(20 + i)] * (1 + i))[0]
        np.testing.assert_allclose(outcome.outputs, alone.outputs, rtol=0, atol=1e-12)
        assert outcome.predictions == alone.predictions
        assert outcome.confidences == pytest.approx(alone.confidences)


def test_many_rows_are_predicted_where_they_arrive_unless_somebody_waits_before_them(models: Any) -> None:
    heard = Heard()

    async def story() -> None:
        batcher = make(heard)
        many = [ROW] * MANY_ROWS
        assert batcher.submit(models[0], many).done()
        first = batcher.submit(models[1], [ROW])
        later = batcher.submit(models[0], many)
        assert not first.done()
        assert not later.done()
        assert heard.batches == [("0", MANY_ROWS)]
        outcomes = await asyncio.gather(first, later)
        assert [len(outcome.predictions) for outcome in outcomes] == [1, MANY_ROWS]

    run(story)
    assert heard.batches == [("0", MANY_ROWS), ("1", 1), ("0", MANY_ROWS)]


def test_two_models_are_never_mixed_and_the_longest_waiting_comes_first(models: Any) -> None:
    heard = Heard()

    async def story() -> list[Any]:
        batcher = make(heard)
        order = [models[1], models[0], models[1], models[0]]
        return await asyncio.gather(*(batcher.submit(model, [ROW]) for model in order))

    outcomes = run(story)
    assert heard.batches == [("1", 2), ("0", 2)]
    expected = [models[i].predict([ROW])[0].outputs for i in (1, 0, 1, 0)]
    np.testing.assert_allclose([o.outputs for o in outcomes], expected, rtol=0, atol=1e-12)


def test_a_batch_is_not_larger_than_allowed_unless_one_request_is(models: Any) -> None:
    heard = Heard()

    async def story() -> None:
        batcher = make(heard)
        await asyncio.gather(*(batcher.submit(models[0], [ROW] * size) for size in (5, 4, 20, 1)))
        assert batcher.queued_rows == 0

    run(story)
    assert [size for _, size in heard.batches] == [5, 4, 20, 1]


def test_one_bad_request_fails_alone(models: Any) -> None:
    async def story() -> list[Any]:
        batcher = make(Heard())
        waiting = [batcher.submit(models[0], rows) for rows in ([ROW], [ROW, BAD], [ROW, ROW])]
        return await asyncio.gather(*waiting, return_exceptions=True)

    first, refused, last = run(story)
    assert (len(first.predictions), len(last.predictions)) == (1, 2)
    assert isinstance(refused, Refusal)
    assert [(fault.row, fault.column) for fault in refused.faults] == [(1, "since")]


def test_a_full_queue_refuses_and_takes_again_when_there_is_room(models: Any) -> None:
    async def story() -> None:
        batcher = make(Heard(), max_queued_rows=10)
        first = batcher.submit(models[0], [ROW] * 8)
        with pytest.raises(Refusal) as caught:
            batcher.submit(models[0], [ROW] * 3)
        assert (caught.value.status, caught.value.headers) == (503, {"retry-after": "1"})
        await first
        await batcher.submit(models[0], [ROW] * 3)

    run(story)


def test_a_request_larger_than_the_queue_is_taken_when_nothing_waits(models: Any) -> None:
    async def story() -> Any:
        return await make(Heard(), max_queued_rows=2).submit(models[0], [ROW] * 5)

    assert len(run(story).predictions) == 5


def test_whom_nobody_waits_for_any_more_is_not_predicted(models: Any) -> None:
    heard = Heard()

    async def story() -> None:
        batcher = make(heard)
        gone, stays = batcher.submit(models[0], [ROW] * 2), batcher.submit(models[0], [ROW])
        gone.cancel()
        await stays

    run(story)
    assert heard.batches == [("0", 1)]


@pytest.fixture
def slow(models: Any) -> Iterator[tuple[ServedModel, threading.Event, threading.Event]]:
    """A model whose graph waits for an event, and tells by another when it is reached."""
    go, reached = threading.Event(), threading.Event()
    model = models[0]

    class Waiting:
        inputs = model.bundle.graph.inputs

        def run(self, arrays: Any, num_rows: int) -> Any:
            reached.set()
            assert go.wait(20)
            return model.bundle.graph.run(arrays, num_rows)

    bundle = replace(model.bundle, graph=Waiting())  # type: ignore[arg-type]
    yield replace(model, bundle=bundle, batch_seconds=2 * INLINE_SECONDS), go, reached
    go.set()


def test_a_slow_model_leaves_the_loop_free_and_what_comes_meanwhile_is_the_next_batch(slow: Any) -> None:
    heard = Heard()
    model, go, reached = slow

    async def story() -> None:
        batcher = make(heard)
        first = batcher.submit(model, [ROW])
        await asyncio.to_thread(reached.wait, 20)
        others = [batcher.submit(model, [ROW]) for _ in range(3)]
        await asyncio.sleep(0)
        assert not first.done()
        go.set()
        await asyncio.gather(first, *others)
        batcher.close()

    run(story)
    assert [size for _, size in heard.batches] == [1, 3]


def test_a_model_that_hangs_lets_nobody_wait_for_ever(slow: Any) -> None:
    model, go, reached = slow

    async def story() -> list[Any]:
        batcher = make(Heard(), timeout_seconds=0.05)
        first = batcher.submit(model, [ROW])
        await asyncio.to_thread(reached.wait, 20)
        outcomes = await asyncio.gather(first, batcher.submit(model, [ROW]), return_exceptions=True)
        go.set()
        batcher.close()
        return outcomes

    assert [outcome.status for outcome in run(story)] == [503, 503]


def test_a_graph_that_fails_fails_its_requests_and_no_others(models: Any) -> None:
    class Broken:
        def run(self, arrays: Any, num_rows: int) -> Any:
            raise RuntimeError("broken")

    broken = replace(models[0], bundle=replace(models[0].bundle, graph=Broken()))  # type: ignore[arg-type]

    async def story() -> list[Any]:
        batcher = make(Heard())
        waiting = [batcher.submit(model, [ROW]) for model in (broken, models[1], broken)]
        return await asyncio.gather(*waiting, return_exceptions=True)

    first, good, last = run(story)
    assert isinstance(first, RuntimeError) and isinstance(last, RuntimeError)
    assert len(good.predictions) == 1


def test_values_without_a_finite_answer_are_refused_by_row(models: Any) -> None:
    class Overflowing:
        def run(self, arrays: Any, num_rows: int) -> Any:
            return np.array([[0.5, 0.5], [np.nan, np.nan]])[:num_rows]

    model = replace(models[0], bundle=replace(models[0].bundle, graph=Overflowing()))  # type: ignore[arg-type]
    with pytest.raises(Refusal) as caught:
        model.predict([ROW, ROW])
    assert [fault.row for fault in caught.value.faults] == [1]
