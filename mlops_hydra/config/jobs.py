"""How the jobs of a multirun tell the command that started them what came out: a line each, in a file.

Jobs may run in processes of a launcher, which inherit the name of the file.
"""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

_VARIABLE: Final = "MLOPS_HYDRA_JOBS"


@contextmanager
def collected() -> Iterator[list[dict[str, Any]]]:
    """What jobs within the block said; filled at its end."""
    said: list[dict[str, Any]] = []
    with TemporaryDirectory(prefix="mlops_hydra_") as folder:
        path = Path(folder) / "jobs.jsonl"
        os.environ[_VARIABLE] = str(path)
        try:
            yield said
        finally:
            del os.environ[_VARIABLE]
            if path.exists():
                said += [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def say(job: Mapping[str, Any]) -> None:
    """Add a line, if anybody listens."""
    if path := os.environ.get(_VARIABLE):
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(f"{json.dumps(job)}\n")
