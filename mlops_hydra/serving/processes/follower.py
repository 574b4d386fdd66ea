"""What the aliases of a registered model say, made into `targets.json`: the companion process of a service.

The only one of its processes that imports MLflow. A version that an alias names is served when its bundle loads,
predicts its golden rows, has a verdict and takes the same columns; until then, or if it never does, the one before goes
on. A registry that is down or slow changes nothing. Loading, warming and swapping is the workers' business (`arms.py`).
"""

import logging
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NoReturn

from mlops_hydra.config.serving import ServeConfig
from mlops_hydra.errors import BundleError, TrackingError
from mlops_hydra.packaging.bundle import Bundle, load_bundle
from mlops_hydra.packaging.graph import one_line
from mlops_hydra.serving.columns import Columns, columns_of, difference
from mlops_hydra.serving.folder import ServiceFolder
from mlops_hydra.serving.processes.bundle_cache import BundleCache
from mlops_hydra.serving.processes.candidates import Candidates
from mlops_hydra.serving.processes.companion import accompany
from mlops_hydra.serving.router import Router
from mlops_hydra.serving.targets import Refused, Target, Targets, read_targets, write_targets
from mlops_hydra.tracking.registry import ModelVersion
from mlops_hydra.tracking.store import redacted

logger = logging.getLogger("mlops_hydra.serving.processes.follower")  # also where this module is the program

AGAIN_SECONDS: Final = 300.0  # until a version that was refused is looked at once more
LONGEST_PAUSE_SECONDS: Final = 60.0  # between two looks at a registry that is down
_ADDRESS: Final = re.compile(r" at 0x[0-9a-f]+")


@dataclass(frozen=True, slots=True)
class _Served:
    """What an arm serves. `columns` is None where it cannot be told: it is damaged, and will be fetched again."""

    target: Target
    lineage: str = ""
    columns: Columns | None = None

    @classmethod
    def of(cls, bundle: Bundle, version: str) -> "_Served":
        return cls(Target(version, str(bundle.folder)), bundle.lineage, columns_of(bundle))

    def is_of(self, version: ModelVersion) -> bool:
        """A number alone can be given twice: to a model that was deleted, and to another of its name."""
        same = self.target.version == str(version.version) and version.lineage in ("", self.lineage)
        return same and self.columns is not None


@dataclass(frozen=True, slots=True)
class _Refusal:
    """Holds for the version as it was, and until a point in time."""

    refused: Refused
    version: ModelVersion | None = None
    until: float = 0.0


class Follower:
    """Looks at the registry once a `step`.

    Args:
        config: with the URI of the registry in `tracking.uri`.
        now: seconds since 1970.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        config: ServeConfig,
        folder: ServiceFolder,
        *,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._config, self._folder, self._now, self._clock = config, folder, now, clock
        self._control = Router(config.experiment, config.weights).control
        arms = config.variants.items()
        self._aliases = {arm: str(each.alias) for arm, each in arms if each.bundle is None}
        self._named = {arm: each.bundle for arm, each in arms if each.bundle is not None}
        self._cache = BundleCache(folder.bundles, clock=clock)
        self._candidates = Candidates(config, self._cache)
        self._refusals: dict[str, _Refusal] = {}
        self._previous: dict[str, str] = {}
        self._said: dict[str, str] = {}
        self._num_failures = 0
        self._targets = read_targets(folder.targets) or Targets({})
        self._served = self._start(self._targets)

    def _start(self, before: Targets) -> dict[str, _Served]:
        """The folders that are named, and what was served last by the arms that there still are."""
        targets = {arm: target for arm, target in before.arms.items() if arm in self._aliases}
        targets |= {arm: Target("", str(Path(folder).absolute())) for arm, folder in self._named.items()}
        served = {arm: self._loaded(arm, target) for arm, target in targets.items()}
        control = served.get(self._control)
        needed = None if control is None or self._config.follow.allow_schema_change else control.columns
        return {
            arm: each
            for arm, each in served.items()
            if arm in self._named or not (needed and each.columns and difference(needed, each.columns))
        }

    def _loaded(self, arm: str, target: Target) -> _Served:
        try:
            return _Served.of(load_bundle(target.folder), target.version)
        except BundleError as error:
            self._say(arm, f"what was served last does not load any more: {error}", logging.WARNING)
            return _Served(target)

    @property
    def pause_seconds(self) -> float:
        """Until the next step: longer and longer while the registry does not answer."""
        poll = self._config.follow.poll_seconds
        return max(poll, min(poll * 2.0 ** min(self._num_failures, 20), LONGEST_PAUSE_SECONDS))

    def step(self) -> Targets:
        """Ask, fetch what is new, and write down what is to be served."""
        try:
            is_known = bool(self._served.keys() & self._aliases.keys())
            named, error = self._candidates.named(self._aliases.values(), is_known=is_known), None
        except Exception as raised:  # whatever MLflow raises on a bad day
            error = _told(raised)
        self._hear(error)
        if error is None:
            for arm in sorted(self._aliases, key=self._control.__ne__):  # the others are compared with control
                self._follow(arm, named[self._aliases[arm]])
        self._targets = Targets(
            {arm: served.target for arm, served in self._served.items()},
            {arm: refusal.refused for arm, refusal in self._refusals.items()},
            error,
            self._now() if error is None else self._targets.checked_at,
        )
        self._write()
        return self._targets

    def _hear(self, error: str | None) -> None:
        """How the registry answered."""
        if error is None and self._num_failures:
            logger.info("registry answers again")
        elif error is not None and not self._num_failures:
            logger.warning("registry does not answer: %s; what is served stays", error)
        self._num_failures = 0 if error is None else self._num_failures + 1

    def _follow(self, arm: str, version: ModelVersion | None) -> None:
        served, refusal = self._served.get(arm), self._refusals.get(arm)
        if version is None:
            self._lose(arm)
        elif served is not None and served.is_of(version):
            self._refusals.pop(arm, None)
            self._said.pop(arm, None)  # the same trouble, another time, is news
        elif refusal is None or refusal.version != version or self._clock() >= refusal.until:
            self._try(arm, version)

    def _lose(self, arm: str) -> None:
        """No version has the alias: an arm but control goes, and its users are control's."""
        served, what = self._served.get(arm), f"no version has the alias {self._aliases[arm]}"
        if arm != self._control:
            self._served.pop(arm, None)
            self._refusals.pop(arm, None)
            if self._control in self._served:  # else nothing is served, which says more
                self._say(arm, f"{what}: its users are control's")
            return
        if served is None:  # nothing is served at all: the supervisor says so
            self._refusals[arm] = _Refusal(Refused("", self._absence(self._aliases[arm])))
            return
        reason = f"{what} any more; version {served.target.version} goes on"
        self._refusals[arm] = _Refusal(Refused("", reason))
        self._say(arm, reason, logging.WARNING)

    def _absence(self, alias: str) -> str:
        try:
            return self._candidates.absence(alias)
        except Exception as error:  # it answered a moment ago
            return f"no version of {self._config.name} has the alias {alias} ({_told(error)})"

    def _try(self, arm: str, version: ModelVersion) -> None:
        number, before = str(version.version), self._served.get(arm)
        try:
            bundle = self._candidates.take(version, self._needed(arm))
        except BundleError as error:
            self._refuse(arm, version, _told(error), until=self._clock() + AGAIN_SECONDS)
        except (TrackingError, OSError) as error:  # the registry's files, or our disk: perhaps it works the next time
            self._refuse(arm, version, _told(error), until=0.0)
        else:
            if before is not None:
                self._previous[arm] = before.target.folder
            self._served[arm] = _Served.of(bundle, number)
            self._refusals.pop(arm, None)
            self._say(arm, f"version {number} ({bundle.fingerprint}) is served from now on")

    def _needed(self, arm: str) -> dict[str, Columns]:
        """The columns that a version for this arm has to take, by whose they are."""
        served = {other: self._served[other] for other in (arm, self._control) if other in self._served}
        return {
            f"version {each.target.version}" if other == arm else other: each.columns
            for other, each in served.items()
            if each.columns is not None
        }

    def _refuse(self, arm: str, version: ModelVersion, reason: str, *, until: float) -> None:
        number, before = str(version.version), self._served.get(arm)
        self._refusals[arm] = _Refusal(Refused(number, reason), version, until)
        rest = "" if before is None else f"; version {before.target.version} goes on"
        self._say(arm, f"version {number} is not served: {reason}{rest}", logging.WARNING)

    def _write(self) -> None:
        """Say what is to be served, and only then remove what nobody needs any more."""
        try:
            write_targets(self._folder.targets, self._targets)
        except (OSError, TrackingError) as error:
            self._say("targets", f"cannot be written: {error}", logging.WARNING)
            return
        used = {target.folder for target in self._targets.arms.values()} | set(self._previous.values())
        self._cache.sweep({Path(folder) for folder in used})

    def _say(self, about: str, text: str, level: int = logging.INFO) -> None:
        """Once, until there is something else to say about it."""
        if self._said.get(about) != text:
            self._said[about] = text
            logger.log(level, "%s: %s", about, text)


def _told(error: Exception) -> str:
    """In one line, the same whenever it is the same: libraries put addresses of objects in their messages."""
    return redacted(_ADDRESS.sub("", one_line(error, limit=600)))


def _run(config: ServeConfig) -> NoReturn:
    logging.basicConfig(stream=sys.stderr, format="%(message)s", level=logging.WARNING)
    logging.getLogger("mlops_hydra").setLevel(logging.INFO)
    follower = Follower(config, ServiceFolder.for_config(config))
    while True:
        follower.step()
        time.sleep(follower.pause_seconds)


if __name__ == "__main__":
    accompany(_run)
