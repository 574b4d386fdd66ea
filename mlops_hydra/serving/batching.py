"""Micro-batches: what arrives in one turn of the event loop is predicted together, without waiting for more.

A batch that takes less than `INLINE_SECONDS` is predicted right there: handing it to a thread would cost more than the
model. A slower model runs in a thread of its own, one batch at a time, and what arrives meanwhile is the next batch.
`MANY_ROWS` do not wait for the end of the turn: whoever joins them saves little. The queue is bounded; nobody waits
longer than `timeout_seconds`.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Final

from mlops_hydra.serving.model import Outcome, ServedModel
from mlops_hydra.serving.refusal import Refusal, refused
from mlops_hydra.serving.rows import Arrays, Row

INLINE_SECONDS: Final = 0.005
MANY_ROWS: Final = 16
_Predicted = tuple[list[Outcome | Exception], list[Arrays]]


class _Waiting:
    """Rows of one request, and who waits for what becomes of them."""

    __slots__ = ("answer", "model", "rows", "since")

    def __init__(
        self, model: ServedModel, rows: Sequence[Row], answer: "asyncio.Future[Outcome]", since: float
    ) -> None:
        self.model = model
        self.rows = rows
        self.answer = answer
        self.since = since


@dataclass
class Batcher:
    """The queue of one worker; its methods are called on the event loop.

    `on_batch(model, num_rows, arrays)` hears of each batch.
    """

    max_batch_rows: int
    max_queued_rows: int
    timeout_seconds: float
    on_batch: Callable[[ServedModel, int, list[Arrays]], None]
    queued_rows: int = field(default=0, init=False)
    _queues: dict[ServedModel, deque[_Waiting]] = field(default_factory=dict, init=False)
    _is_armed: bool = field(default=False, init=False)
    _is_busy: bool = field(default=False, init=False)
    _thread: ThreadPoolExecutor | None = field(default=None, init=False)

    def submit(self, model: ServedModel, rows: Sequence[Row]) -> "asyncio.Future[Outcome]":
        """What will hold what the model says of these rows, or a Refusal.

        Raises:
            Refusal: too many rows are waiting.
        """
        if self.queued_rows and self.queued_rows + len(rows) > self.max_queued_rows:
            raise refused(503, "too many rows are waiting; try again", retry_after="1")
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Outcome] = loop.create_future()
        waiting = _Waiting(model, rows, answer, loop.time())
        if len(rows) >= MANY_ROWS and not self._queues and not self._is_busy and model.batch_seconds <= INLINE_SECONDS:
            self._settle([waiting], _predicted(model, [waiting]))
            return answer
        queue = self._queues.get(model)
        if queue is None:
            queue = self._queues[model] = deque()
        queue.append(waiting)
        self.queued_rows += len(rows)
        self._arm(loop)
        return answer

    def close(self) -> None:
        """The thread ends when its batch does."""
        if self._thread is not None:
            self._thread.shutdown(wait=False)

    def _arm(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._queues and not self._is_armed and not self._is_busy:
            self._is_armed = True
            loop.call_soon(self._flush, loop)

    def _flush(self, loop: asyncio.AbstractEventLoop) -> None:
        """A batch of each model that somebody waits for; what does not fit has to wait for the next turn."""
        self._is_armed = False
        for _ in range(len(self._queues)):
            batch = self._next(loop.time())
            if batch:
                model = batch[0].model
                if model.batch_seconds > INLINE_SECONDS:
                    self._run_aside(model, batch, loop)
                    return
                self._settle(batch, _predicted(model, batch))
        self._arm(loop)

    def _next(self, now: float) -> list[_Waiting]:
        """The longest waiting, and those behind it for the same model, up to a full batch."""
        model = min(self._queues, key=self._since) if len(self._queues) > 1 else next(iter(self._queues))
        queue = self._queues[model]
        batch: list[_Waiting] = []
        num_rows = 0
        while queue and (not batch or num_rows + len(queue[0].rows) <= self.max_batch_rows):
            first = queue.popleft()
            self.queued_rows -= len(first.rows)
            if now - first.since > self.timeout_seconds:
                _fail(first, _overdue())
            elif not first.answer.done():  # else its client is gone
                batch.append(first)
                num_rows += len(first.rows)
        if not queue:
            del self._queues[model]  # which may have been replaced: nothing keeps it
        return batch

    def _since(self, model: ServedModel) -> float:
        return self._queues[model][0].since

    def _run_aside(self, model: ServedModel, batch: list[_Waiting], loop: asyncio.AbstractEventLoop) -> None:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="predict")
        self._is_busy = True
        running = loop.run_in_executor(self._thread, _predicted, model, batch)
        timer = loop.call_later(self.timeout_seconds, self._give_up, batch, loop)

        def done(future: "asyncio.Future[_Predicted]") -> None:
            timer.cancel()
            self._is_busy = False
            self._settle(batch, future.result())
            self._arm(loop)

        running.add_done_callback(done)

    def _settle(self, batch: Sequence[_Waiting], predicted: _Predicted) -> None:
        outcomes, arrays = predicted
        num_rows = 0
        for each, outcome in zip(batch, outcomes, strict=True):
            if isinstance(outcome, Exception):
                _fail(each, outcome)
                continue
            num_rows += len(each.rows)
            if not each.answer.done():
                each.answer.set_result(outcome)
        if num_rows:
            self.on_batch(batch[0].model, num_rows, arrays)

    def _give_up(self, batch: list[_Waiting], loop: asyncio.AbstractEventLoop) -> None:
        """A graph cannot be stopped; who waits for it, or behind it, for too long is told."""
        for each in batch:
            _fail(each, _overdue())
        for queue in self._queues.values():
            for late in queue:
                if loop.time() - late.since > self.timeout_seconds:
                    _fail(late, _overdue())
        if self._is_busy:
            loop.call_later(self.timeout_seconds / 4, self._give_up, [], loop)


def _overdue() -> Refusal:
    return refused(503, "the prediction took too long; try again", retry_after="1")


def _predicted(model: ServedModel, batch: Sequence[_Waiting]) -> _Predicted:
    """What becomes of each request, and the arrays of those that were predicted.

    If the batch cannot be predicted together, each request is tried by itself: one bad value fails its own alone.
    """
    try:
        outcome, arrays = model.predict([row for each in batch for row in each.rows])
    except Exception as error:
        if len(batch) == 1:
            return [error], []
        apart = [_predicted(model, [each]) for each in batch]
        return [outcomes[0] for outcomes, _ in apart], [arrays for _, each in apart for arrays in each]
    if len(batch) == 1:
        return [outcome], [arrays]
    stops = list(accumulate(len(each.rows) for each in batch))
    return [outcome.part(start, stop) for start, stop in zip([0, *stops], stops, strict=False)], [arrays]


def _fail(waiting: _Waiting, error: Exception) -> None:
    if isinstance(error, Refusal):
        error = replace(error)  # an exception that two wait for would mix their tracebacks
    if not waiting.answer.done():
        waiting.answer.set_exception(error)
