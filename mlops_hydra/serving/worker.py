"""A process that predicts: `python -m mlops_hydra.serving.worker`, started by the supervisor.

It reads one line from stdin, what to serve and on which socket; when stdin ends the supervisor is gone, and it finishes
what it accepted and leaves. Imports neither torch, MLflow, SciPy, pandas, pyarrow nor Hydra.
"""

import asyncio
import contextlib
import gc
import json
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from typing import Any

import uvicorn
import uvloop

from mlops_hydra.config.serving import ServeConfig
from mlops_hydra.serving.app import Service
from mlops_hydra.serving.protocol import Protocol

KEEP_ALIVE_SECONDS = 30


class _Server(uvicorn.Server):
    """Signals are handled here: uvicorn would raise them again after an orderly stop."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Nothing."""
        yield


def main() -> int:
    """Serve until SIGTERM, or the end of stdin."""
    line = sys.stdin.readline()
    if not line:  # the supervisor went before it knew what to ask for
        return 0
    asked = json.loads(line)
    logging.basicConfig(format="worker: %(message)s", level=logging.INFO)
    config = ServeConfig.model_validate_json(json.dumps(asked["config"]))
    with socket.socket(fileno=asked["fd"]) as listener:
        uvloop.run(_serve(config, listener, str(asked["index"])))
    return 0


async def _serve(config: ServeConfig, listener: socket.socket, worker: str) -> None:
    service = Service(config, worker=worker)
    server = _Server(_settings(config, service))
    loop = asyncio.get_running_loop()

    def stop() -> None:
        server.should_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    threading.Thread(target=_until_left_alone, args=(loop, stop), daemon=True).start()
    gc.freeze()  # what was imported stays
    await server.serve(sockets=[listener])


def _settings(config: ServeConfig, service: Service) -> uvicorn.Config:
    return uvicorn.Config(
        service,
        http=Protocol,
        interface="asgi3",
        ws="none",
        lifespan="on",
        access_log=False,
        proxy_headers=False,
        log_level="warning",
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=max(1, round(config.shutdown_seconds)),
    )


def _until_left_alone(loop: asyncio.AbstractEventLoop, stop: Any) -> None:
    while os.read(sys.stdin.fileno(), 4096):
        pass
    with contextlib.suppress(RuntimeError):  # the loop is closed: it leaves already
        loop.call_soon_threadsafe(stop)


if __name__ == "__main__":
    sys.exit(main())
