"""Which model answers whom, at this moment: an unchangeable answer that is replaced as a whole.

A request takes `Arms` once and keeps to it, so that no answer mixes two models. `processes/follower.py` decides
what is served; `Watch` here obeys: it loads what is new beside the old, checks and warms it, and only then swaps.
"""

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, NamedTuple

from mlops_hydra.config.serving import ServeConfig
from mlops_hydra.packaging.graph import one_line
from mlops_hydra.serving.counts import Counts
from mlops_hydra.serving.folder import ServiceFolder
from mlops_hydra.serving.model import ServedModel, load_model
from mlops_hydra.serving.router import Router
from mlops_hydra.serving.targets import Refused, Target, Targets, read_targets

logger = logging.getLogger(__name__)

LOOK_SECONDS: Final = 0.2


class Choice(NamedTuple):
    """An arm, why it was chosen (user_id, request_id, tester, kill_switch, no_model), and its model."""

    arm: str
    assigned_by: str
    model: ServedModel


@dataclass(frozen=True)
class Arms:
    """The models by arm; an arm without one sends its users to control."""

    router: Router
    models: Mapping[str, ServedModel] = field(default_factory=dict)

    def choose(self, user_id: str | None, request_id: str) -> Choice | None:
        """None while control has no model."""
        router, control = self.router, self.router.control
        unit = request_id if user_id is None else user_id
        arm = router.variant(unit)
        model = self.models.get(arm)
        if model is None:
            model = self.models.get(control)
            return None if model is None else Choice(control, "no_model", model)
        if router.kill_switch:
            return Choice(arm, "kill_switch", model)
        if user_id is None:
            return Choice(arm, "request_id", model)
        return Choice(arm, "tester" if router.overrides and router.is_override(user_id) else "user_id", model)


class Watch:
    """Keeps `arms` at what the folder says.

    `refused` are the versions that are not served, by arm: those that the follower refused, and those that this worker
    could not load.
    """

    def __init__(self, config: ServeConfig, counts: Counts) -> None:
        self._config = config
        self._folder = ServiceFolder.for_config(config)
        self._counts = counts
        self._seen: object = None
        self._served: dict[str, Target] = {}
        self.targets: Targets | None = None
        self.refused: dict[str, Refused] = {}
        self.arms = Arms(
            Router(
                config.experiment,
                config.weights,
                earlier=config.earlier,
                overrides=dict[str | int, str](config.testers.items()),
            )
        )

    async def run(self) -> None:
        """Look five times a second, until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_SECONDS)

    async def look(self) -> None:
        """Obey what changed since the last look."""
        is_killed = self._config.kill_switch or self._folder.kill_switch.exists()
        if is_killed != self.arms.router.kill_switch:
            self.arms = replace(self.arms, router=replace(self.arms.router, kill_switch=is_killed))
        seen = _stamp(self._folder.targets)
        if seen == self._seen:
            return
        targets = read_targets(self._folder.targets)
        if targets is None:
            return
        self._seen, self.targets = seen, targets
        self.refused = dict(targets.refused)
        await self._follow({arm: target for arm, target in targets.arms.items() if arm in self._config.variants})

    async def _follow(self, targets: Mapping[str, Target]) -> None:
        models = {arm: model for arm, model in self.arms.models.items() if arm in targets}
        for arm, target in targets.items():
            if self._served.get(arm) == target:
                continue
            try:
                models[arm] = await asyncio.to_thread(self._load, target)
            except Exception as error:  # whatever it is, the one before goes on
                logger.warning("%s stays as it is: version %s: %s", arm, target.version, error)
                reason = f"a worker could not load it: {one_line(error)}"
                self.refused = {**self.refused, arm: Refused(target.version, reason)}  # others may be reading it
                continue
            self._served[arm] = target
            self._counts.swaps[arm] += 1
        self._served = {arm: target for arm, target in self._served.items() if arm in models}
        self.arms = replace(self.arms, models=models)

    def _load(self, target: Target) -> ServedModel:
        limits = self._config.limits
        return load_model(
            target.folder,
            target.version,
            max_batch_rows=limits.max_batch_rows,
            num_threads=self._config.num_threads,
        )


def _stamp(path: Path) -> object:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size
