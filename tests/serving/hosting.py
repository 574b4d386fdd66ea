"""A worker's service that runs in a thread of the test, at a socket of its own."""

import asyncio
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn

from mlops_hydra.config.serving import ServeConfig
from mlops_hydra.serving.app import Service
from mlops_hydra.serving.folder import ServiceFolder
from mlops_hydra.serving.protocol import Protocol
from mlops_hydra.serving.targets import Target, Targets, write_targets


def prepared(config: ServeConfig, bundle: Path) -> Service:
    """One that will serve this bundle in each arm."""
    targets = Targets({arm: Target("1", str(bundle)) for arm in config.variants})
    write_targets(ServiceFolder.for_config(config).targets, targets)
    return Service(config)


@contextmanager
def hosted(service: Service) -> Iterator[str]:
    """Its URL."""
    settings = uvicorn.Config(
        service, http=Protocol, lifespan="on", ws="none", interface="asgi3", log_level="error", access_log=False
    )
    server = uvicorn.Server(settings)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=asyncio.run, args=(server.serve([listener]),))
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive()
                time.sleep(0.005)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(30)
