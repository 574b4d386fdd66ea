"""How the jobs of a multirun tell the command that started them what came out: a line each, in a file.

Jobs may run in processes of a launcher, which inherit the name of the file.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, NoReturn

from mlops_hydra.errors import MlopsHydraError

_VARIABLE: Final = "MLOPS_HYDRA_JOBS"
_errors: Final[list[MlopsHydraError]] = []


@contextmanager
def collected() -> Iterator[list[dict[str, Any]]]:
    """What jobs within the block said; filled at its end.

    Raises:
        MlopsHydraError: what `stopped` was told.
    """
    said: list[dict[str, Any]] = []
    _errors.clear()
    with TemporaryDirectory(prefix="mlops_hydra_") as folder:
        path = Path(folder) / "jobs.jsonl"
        os.environ[_VARIABLE] = str(path)
        try:
            yield said
        finally:
            del os.environ[_VARIABLE]
            if path.exists():
                said += [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    if _errors:
        raise _errors.pop()


def say(job: Mapping[str, Any]) -> None:
    """Add a line, if anybody listens."""
    if path := os.environ.get(_VARIABLE):
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(f"{json.dumps(job)}\n")


def stopped(error: MlopsHydraError) -> NoReturn:
    """End a multirun from within: Hydra would print the frames of an error that is not its own, and lose the code."""
    _errors.append(error)
    raise SystemExit(error.exit_code) from error
