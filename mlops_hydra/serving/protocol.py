"""uvicorn's HTTP protocol with one write an answer.

uvicorn writes the head and the body of an answer apart, and uvloop 0.23 hands each to the kernel at once: two system
calls and two packets. Joined, a worker answers a fifth more requests a second. Not here: anything of HTTP.
"""

import asyncio
import re
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES: Final = 2**16
_UPGRADE: Final = re.compile(rb"^upgrade:", re.IGNORECASE | re.MULTILINE)


class OneWrite:
    """A transport that passes on what is written in one turn of the event loop together."""

    __slots__ = ("_loop", "_parts", "_transport")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._parts: list[bytes] = []

    def write(self, data: bytes) -> None:
        """Soon."""
        if not self._parts:
            self._loop.call_soon(self._flush)
        self._parts.append(data)

    def close(self) -> None:
        """After what was written."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._parts:
            data = b"".join(self._parts)
            self._parts.clear()
            self._transport.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class Protocol(HttpToolsProtocol):
    """One connection. The head of a request has a time and a size, which uvicorn sets no bounds to.

    `Upgrade: h2c`, which Java sends with its first request, is taken for what it is, an offer: httptools would drop the
    body.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Both ends are there."""
        super().connection_made(OneWrite(transport, self.loop))  # type: ignore[arg-type]
        self._head_bytes = 0
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def data_received(self, data: bytes) -> None:
        """Part of a request, or several."""
        timer, self.timeout_keep_alive_task = self.timeout_keep_alive_task, None  # it runs until a head is whole
        if timer is None:  # a body
            super().data_received(data)
            return
        super().data_received(_without_upgrade(data))
        if self.cycle is not None and not self.cycle.response_complete:
            timer.cancel()
            self._head_bytes = 0
            return
        self.timeout_keep_alive_task = timer
        self._head_bytes += len(data)
        if self._head_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response("The head of the request is too long.")


def _without_upgrade(data: bytes) -> bytes:
    end = data.find(b"\r\n\r\n")
    head = data if end < 0 else data[:end]  # to search a body of 17 KB as well takes 8 us
    return _UPGRADE.sub(b"x-upgrade:", head) + data[len(head) :] if b"pgrade:" in head else data
