"""A process that has everything imported and forks a command at a time: for tests that kill many of them.

    python tests/mortal.py

One JSON object a line in, one a line out. In: `argv`, `cwd`, `log` (file for what is printed), and perhaps `end`:
either `{"after": seconds, "signal": number}`, or the point of the program at which the process sends itself a signal,
SIGKILL unless told: `{"owner": "module:Class", "name": method, "match": pattern over the arguments, "number": n-th such
call, "when": "before", "after", or "half" of the last argument}`. Out: `code` (negative: the signal that ended the
process) and `seconds`.
"""

import gc
import importlib
import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from functools import reduce
from typing import Any, NoReturn

LONGEST_SECONDS = 120


def preload() -> None:
    """What a run imports: seconds in a fresh process, nothing in a fork."""
    for name in ("mlflow", "mlflow.store.tracking.sqlalchemy_store", "mlops_hydra.cli", "mlops_hydra.experiment"):
        importlib.import_module(name)
    for name in ("torch._dynamo", "matplotlib.figure", "matplotlib.backends.backend_agg", "pyarrow.parquet"):
        importlib.import_module(name)
    importlib.import_module("safetensors.torch")
    gc.freeze()


def serve() -> None:
    """Answer until nobody asks any more."""
    for line in sys.stdin:
        request = json.loads(line)
        started = time.monotonic()
        pid = os.fork()
        if pid == 0:
            become(request)
        code = watch(pid, started, request.get("end") or {})
        print(json.dumps({"code": code, "seconds": time.monotonic() - started}), flush=True)


def watch(pid: int, started: float, end: dict[str, Any]) -> int:
    """Wait for the end of `pid`, sending the signal when it is time."""
    when, number = end.get("after", LONGEST_SECONDS), end.get("signal", signal.SIGKILL)
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() - started >= when:
            os.kill(pid, number)
            when, number = LONGEST_SECONDS, signal.SIGKILL
        time.sleep(0.002)


def become(request: dict[str, Any]) -> NoReturn:
    """The command, as `python -m mlops_hydra` starts it."""
    os.chdir(request["cwd"])
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    if "owner" in (request.get("end") or {}):
        die_at(**request["end"])
    sys.argv = ["mlops-hydra", *request["argv"]]
    from mlops_hydra.__main__ import main

    main()


def die_at(*, owner: str, name: str, match: str = "", number: int = 1, when: str, signal: int = signal.SIGKILL) -> None:
    """Replace a function by one that does the same until its time has come."""
    module, _, path = owner.partition(":")
    holder: Any = reduce(getattr, path.split(".") if path else (), importlib.import_module(module))
    original: Callable[..., Any] = getattr(holder, name)
    calls = 0

    def mortal(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        is_one = re.search(match, " ".join(map(str, args))) is not None
        calls += is_one
        if not is_one or calls != number:
            return original(*args, **kwargs)
        if when == "half":
            original(*args[:-1], args[-1][: len(args[-1]) // 2], **kwargs)
        result = original(*args, **kwargs) if when == "after" else None
        os.kill(os.getpid(), signal)
        return result if when == "after" else original(*args, **kwargs)

    setattr(holder, name, mortal)


if __name__ == "__main__":
    preload()
    print(json.dumps({"ready": True}), flush=True)
    serve()
