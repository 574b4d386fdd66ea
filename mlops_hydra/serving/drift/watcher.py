"""`drift.json`: what each arm of a service was asked, compared with what its model was trained on.

Rows are told apart by the model that answered them, in whatever arm. The window is the last `drift.hours` hours that
are whole, and the one that runs. Whatever is wrong with a file is told there and does not end the process
(`processes/drift_watcher.py`). Not here: who reads it (`latest.py`).
"""

import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from mlops_hydra.atomic import write_json_atomic
from mlops_hydra.config.serving import ServeConfig
from mlops_hydra.errors import TrackingError
from mlops_hydra.serving.drift.watched import WatchedModel
from mlops_hydra.serving.folder import ServiceFolder
from mlops_hydra.serving.targets import Target, read_targets

_WORST_FIRST: Final = ("drifted", "undecided", "stable")
_HOUR_SECONDS: Final = 3600
_MAX_LETTERS: Final = 600
_NOTHING: Final[Mapping[str, Any]] = {
    "fingerprint": None, "lineage": None, "verdict": "undecided", "rows": None, "tests": 0, "drifted": [],
    "results": [], "notes": [],
}  # fmt: skip


def _warn(message: str) -> None:
    with suppress(OSError, ValueError):  # the supervisor may be gone, with its end of the pipe
        print(f"drift: {message}", file=sys.stderr, flush=True)


class DriftWatcher:
    """Compares once a `step`.

    Args:
        now: seconds since 1970.
    """

    def __init__(
        self,
        config: ServeConfig,
        folder: ServiceFolder,
        *,
        now: Callable[[], float] = time.time,
        warn: Callable[[str], None] = _warn,
    ) -> None:
        self._config, self._folder, self._now, self._warn = config, folder, now, warn
        self._models: dict[Target, WatchedModel] = {}
        self._said: dict[str, str] = {}

    def step(self) -> None:
        """Look at what is new in the log, and write what all of it says."""
        now = self._now()
        since = now // _HOUR_SECONDS * _HOUR_SECONDS - self._config.drift.hours * _HOUR_SECONDS
        targets = read_targets(self._folder.targets)
        arms = {} if targets is None else targets.arms
        self._models = {target: model for target, model in self._models.items() if target in arms.values()}
        variants = {arm: self._checked(arm, target, since) for arm, target in arms.items()}
        verdicts = {variant["verdict"] for variant in variants.values()}
        self._write(
            {
                "status": next((verdict for verdict in _WORST_FIRST if verdict in verdicts), "not_yet"),
                "checked_at": now,
                "since": _moment(since),
                "until": _moment(now),
                "variants": variants,
            }
        )

    def _checked(self, arm: str, target: Target, since: float) -> dict[str, Any]:
        names = {"model_version": target.version}
        try:
            model = self._models.get(target)
            if model is None:
                model = self._models[target] = WatchedModel(Path(target.folder), self._folder.requests)
            names |= model.names
            found = model.check(_hour(since), self._config.monitoring)
        except Exception as error:  # whatever it is, the other arms are looked at
            reason = " ".join(str(error).split())[:_MAX_LETTERS] or type(error).__name__
            self._say(arm, f"cannot be compared with what its model was trained on: {reason}")
            return {**_NOTHING, **names, "error": reason}
        self._said.pop(arm, None)  # the same trouble, another time, is news
        return {**names, **found, "error": None}

    def _write(self, found: Mapping[str, Any]) -> None:
        try:
            write_json_atomic(self._folder.drift, found)
        except (TrackingError, OSError) as error:
            self._say(self._folder.drift.name, f"cannot be written: {error}")

    def _say(self, about: str, text: str) -> None:
        """Once, until there is something else to say about it."""
        if self._said.get(about) != text:
            self._said[about] = text
            self._warn(f"{about}: {text}")


def _moment(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"


def _hour(seconds: float) -> str:
    """As the files of the log are named."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H}"
