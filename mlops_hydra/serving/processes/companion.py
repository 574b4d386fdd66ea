"""How a companion of the service hears what to do, and when to leave: at once, there is nothing to finish.

Not for the recorder, which finishes.
"""

import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Final, NoReturn

from mlops_hydra.config.serving import ServeConfig

LEAVE_SECONDS: Final = 2.0  # for what a stop interrupts to clean up


def accompany(work: Callable[[ServeConfig], NoReturn]) -> NoReturn:
    """Work until told to stop: by SIGTERM, or because nobody holds the other end of standard input any more.

    One line of JSON comes there: {"config": {...}}.
    """
    signal.signal(signal.SIGTERM, _leave)
    asked = sys.stdin.buffer.readline()
    if not asked:
        os._exit(0)
    threading.Thread(target=_watch, name="parent", daemon=True).start()
    try:
        work(ServeConfig.model_validate_json(json.dumps(json.loads(asked)["config"])))
    except SystemExit:
        os._exit(0)  # at once: threads of MLflow's may still wait for a server


def _leave(*_: object) -> NoReturn:
    """Unwind what is being done, so that scratch files go; a library that does not let go is not waited for."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    timer = threading.Timer(LEAVE_SECONDS, os._exit, (0,))
    timer.daemon = True
    timer.start()
    raise SystemExit(0)


def _watch() -> None:
    sys.stdin.buffer.read()
    os.kill(os.getpid(), signal.SIGTERM)
