"""POST /predict, as a bare ASGI application: what lies between the bytes of a request and those of its answer.

FastAPI and pydantic would take 85 % of the time of such an endpoint; they document this one and serve all others.
"""

import asyncio
import hmac
import itertools
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, MutableMapping, Sequence
from typing import Any, Final

from msgspec import UNSET, Raw

from mlops_hydra.config.serving import LimitsConfig
from mlops_hydra.errors import BundleError
from mlops_hydra.serving.answers import written
from mlops_hydra.serving.arms import Choice, Watch
from mlops_hydra.serving.batching import Batcher
from mlops_hydra.serving.body import Body, read_body
from mlops_hydra.serving.counts import Counts
from mlops_hydra.serving.model import Outcome, ServedModel
from mlops_hydra.serving.refusal import MAX_FAULTS, Refusal, RowFault, refused
from mlops_hydra.serving.rows import Row

logger = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Heard = Callable[[Choice, str, Body, list[Row], Outcome], None]
"""What hears of each prediction: choice, request id, body, rows, outcome."""

PATH: Final = "/predict"
_JSON: Final = (b"content-type", b"application/json")


class ClientGone(Exception):  # noqa: N818 - nobody is left to be told
    """The client closed the connection before its body was complete."""


class Endpoint:
    """Predictions for whoever has the key, if there is one."""

    def __init__(
        self, watch: Watch, batcher: Batcher, counts: Counts, limits: LimitsConfig, *, key: "Key", heard: Heard | None
    ) -> None:
        self._watch = watch
        self._batcher = batcher
        self._counts = counts
        self._limits = limits
        self._key = key
        self._heard = heard
        self._prefix = secrets.token_hex(6)
        self._numbers = itertools.count(1)
        self._num_under_way = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        start = time.perf_counter()
        arm, headers = "", list[tuple[bytes, bytes]]()
        try:
            if scope["method"] != "POST":
                raise refused(405, "must be POST", scope["method"], allow="POST")
            self._key.check(scope["headers"])
            self._num_under_way += 1
            try:
                if self._num_under_way > self._limits.max_requests:
                    raise refused(503, "too many requests are under way; try again", retry_after="1")
                arm, content = await self._answer(await self._body(receive))
            finally:
                self._num_under_way -= 1
            status = 200
        except Refusal as refusal:
            status, content = refusal.status, refusal.body()
            headers = [(name.encode(), text.encode()) for name, text in refusal.headers.items()]
        except ClientGone:
            return
        except Exception:  # a graph that fails, or a bug of ours: the log says what, the answer does not
            logger.exception("A prediction failed")
            status, content = 500, refused(500, "the prediction failed; the log of the service says why").body()
        length = (b"content-length", b"%d" % len(content))
        await send({"type": "http.response.start", "status": status, "headers": [_JSON, length, *headers]})
        await send({"type": "http.response.body", "body": content})
        self._counts.answered(arm, status, time.perf_counter() - start)

    async def _answer(self, content: bytes) -> tuple[str, bytes]:
        """The arm, and the body of the answer."""
        body = read_body(content)
        request_id = f"{self._prefix}-{next(self._numbers):x}"
        user_id = None if body.user_id is None else str(body.user_id)
        choice = self._watch.arms.choose(user_id, request_id)
        if choice is None:
            raise refused(503, "no model is loaded yet; GET /ready says why", retry_after="1")
        is_one = body.rows is UNSET
        rows = self._rows(body, choice)
        try:
            found = await self._batcher.submit(choice.model, rows)
        except BundleError:
            if choice.model.bundle.schema is None:  # integers that the graph looks up: nothing says which there are
                await asyncio.to_thread(_blame, choice.model, rows)
            raise
        self._counts.rows[choice.arm] += len(rows)
        if self._heard is not None:
            self._heard(choice, request_id, body, rows, found)
        return choice.arm, written(choice, request_id, found, is_one=is_one, with_probabilities=body.probabilities)

    def _rows(self, body: Body, choice: Choice) -> list[Row]:
        reader = choice.model.reader
        if isinstance(body.features, Raw):
            return reader.row(body.features)
        assert isinstance(body.rows, Raw), "one of them is there"
        rows = reader.rows(body.rows, max_rows=self._limits.max_rows)
        if not rows:
            raise refused(422, "`rows` must have at least one row", [])
        return rows

    async def _body(self, receive: Receive) -> bytes:
        message = await receive()
        content: bytes = message.get("body", b"")
        if message.get("more_body", False):
            content = await self._whole(content, receive)
        elif message["type"] == "http.disconnect":
            raise ClientGone
        self._check_length(content)
        return content

    async def _whole(self, start: bytes, receive: Receive) -> bytes:
        """Up to one byte more than is allowed. The rest is dropped, but read: who still writes reads no answer."""
        content, room = bytearray(start), self._limits.max_body_bytes + 1
        more = True
        try:
            async with asyncio.timeout(self._limits.timeout_seconds):
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ClientGone
                    content += message.get("body", b"")[: room - len(content)]
                    more = message.get("more_body", False)
        except TimeoutError:
            self._check_length(content)
            raise refused(408, "the body did not arrive in time", connection="close") from None
        return bytes(content)

    def _check_length(self, content: bytes | bytearray) -> None:
        limit = self._limits.max_body_bytes
        if len(content) > limit:
            raise refused(413, f"the body must have at most {limit} bytes", connection="close")


def _blame(model: ServedModel, rows: Sequence[Row]) -> None:
    """Raises Refusal where a row by itself is what the graph fails at."""
    wrong = list(itertools.islice(_failing(model, rows, 0), MAX_FAULTS))
    if wrong:
        raise Refusal(422, [RowFault(row, None, "has values that the model cannot take") for row in wrong])


def _failing(model: ServedModel, rows: Sequence[Row], start: int) -> Iterator[int]:
    try:
        model.predict(rows)
    except BundleError:
        half = len(rows) // 2
        if half == 0:
            yield start
            return
        yield from _failing(model, rows[:half], start)
        yield from _failing(model, rows[half:], start + half)


class Key:
    """Whether a request shows the API key, compared in constant time."""

    def __init__(self, key: str | None) -> None:
        self._key = None if key is None else key.encode()

    def check(self, headers: Iterable[tuple[bytes, bytes]]) -> None:
        """Raises Refusal."""
        if self._key is None:
            return
        for name, value in headers:
            if name == b"x-api-key" and hmac.compare_digest(value, self._key):
                return
            is_bearer = name == b"authorization" and value[:7].lower() == b"bearer "
            if is_bearer and hmac.compare_digest(value[7:].strip(), self._key):
                return
        rule = "needs the API key, as `Authorization: Bearer KEY` or `X-API-Key: KEY`"
        raise refused(401, rule, www_authenticate="Bearer")
