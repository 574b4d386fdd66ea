"""Where a service listens: one socket, bound here and inherited by all workers.

It listens before any of them is there, so that two services cannot share a port, and a client that comes too early, or
while a worker is replaced, waits instead of being turned away.
"""

import errno
import select
import socket
from contextlib import suppress
from typing import Any, Final

from mlops_hydra.errors import Fault, UsageError

BACKLOG: Final = 2048
_WILDCARDS: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}
_CONNECT_SECONDS: Final = 1.0
_REQUEST: Final = b"GET /ready HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
_REASONS: Final = {
    errno.EADDRINUSE: (
        "port",
        "another process listens there; choose another one, or port=0 for any that is free",
    ),
    errno.EACCES: ("port", "needs more rights than this user has; choose one above 1023"),
    errno.EADDRNOTAVAIL: ("host", "is no address of this machine"),
}


def unbound() -> socket.socket:
    """A socket of the most usual kind, for `listen`."""
    return socket.socket(socket.AF_INET, socket.SOCK_STREAM)


def listen(host: str, port: int, prepared: socket.socket | None = None) -> socket.socket:
    """A socket that listens at the first address of the host; `prepared` itself where it is of the kind.

    Raises:
        UsageError: nothing can listen there.
    """
    family, address = _resolved(host, port)
    if prepared is not None and prepared.family == family:
        listener = prepared
    else:
        listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        path, rule = _REASONS.get(error.errno or 0, ("host", f"cannot be listened at: {error.strerror or error}"))
        raise UsageError(Fault(path, rule, host if path == "host" else port)) from None
    return listener


def _resolved(host: str, port: int) -> tuple[socket.AddressFamily, Any]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise UsageError(Fault("host", f"cannot be resolved: {error}", host)) from None
    family, _, _, _, address = min(found, key=lambda each: each[0] != socket.AF_INET)
    return family, address


def url_of(listener: socket.socket, host: str) -> str:
    """As a person types it."""
    name = f"[{host}]" if ":" in host else host
    return f"http://{name}:{listener.getsockname()[1]}"


class Probe:
    """Asks for GET /ready, without waiting for the answer longer than it is told to."""

    def __init__(self, listener: socket.socket) -> None:
        host, *rest = listener.getsockname()
        self._address = (_WILDCARDS.get(host, host), *rest)
        self._family = listener.family
        self._asked: socket.socket | None = None

    def status(self, seconds: float) -> int | None:
        """Of an answer that comes within `seconds`; the next call goes on waiting for the same one."""
        if self._asked is None:
            self._asked = self._ask()
        if self._asked is None or not select.select([self._asked], [], [], seconds)[0]:
            return None
        start = b""
        with suppress(OSError):
            start = self._asked.recv(64)
        self.close()
        words = start.split(maxsplit=2)
        return int(words[1]) if start.startswith(b"HTTP/1.") and len(words) > 1 else None

    def _ask(self) -> socket.socket | None:
        asked = socket.socket(self._family, socket.SOCK_STREAM)
        try:
            asked.settimeout(_CONNECT_SECONDS)
            asked.connect(self._address)
            asked.sendall(_REQUEST)
        except OSError:
            asked.close()
            return None
        return asked

    def close(self) -> None:
        """Forget what was asked."""
        if self._asked is not None:
            self._asked.close()
            self._asked = None
