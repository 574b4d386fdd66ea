"""The process around `cli.main`: what the console script and `python -m mlops_hydra` start."""

import atexit
import contextlib
import gc
import logging
import os
import sys
import threading
from typing import NoReturn


def main() -> NoReturn:
    """Run the command line, and leave the process at once.

    Imports make a million objects that live to the end: looking through them costs 0.5 s, and taking them down one by
    one at the end as much again.
    """
    gc.set_threshold(100_000, 50, 100)
    from mlops_hydra.cli import main as command

    code = command(sys.argv[1:])
    threading._shutdown()  # type: ignore[attr-defined]  # as Python ends: a launcher's executor is told to let go here
    atexit._run_exitfuncs()
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):  # nobody reads it any more
            stream.flush()
    os._exit(code)


if __name__ == "__main__":
    main()
