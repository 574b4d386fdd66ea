"""What a study is: everything that decides which points are tried, and the name that follows from it.

A plan is made before anything is written; two plans with the same identity are the same study.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from mlops_hydra.config.fingerprint import canonical_json, flatten
from mlops_hydra.config.frozen import Target, thaw
from mlops_hydra.config.search import SweepsConfig
from mlops_hydra.config.section import Direction
from mlops_hydra.errors import ConfigError, Fault
from mlops_hydra.sweeps.space import Space

GRID: Final = "optuna.samplers.GridSampler"
QMC: Final = "optuna.samplers.QMCSampler"
STORE: Final = "studies.db"
NAME_DIGITS: Final = 12


@dataclass(frozen=True, slots=True)
class Plan:
    """A study before it is opened.

    `objectives` pairs what is measured with which way is better; a task that is not ours has a direction alone. `total`
    counts all trials there will be, those of earlier commands too. `identity` is what must not change, as plain values.
    """

    name: str
    storage: str
    total: int
    space: Space
    objectives: tuple[tuple[str, Direction], ...]
    sampler: Target
    pruner: Target | None
    seed: int
    identity: Mapping[str, Any]
    max_failure_rate: float = 0.0
    custom_search_space: str | None = None

    @property
    def directions(self) -> list[Direction]:
        """Which way each objective is better."""
        return [direction for _, direction in self.objectives]

    @property
    def most_failures(self) -> int:
        """How many trials may fail; one more ends the study."""
        return int(self.max_failure_rate * self.total + 1e-9)


def make_plan(
    settings: SweepsConfig,
    space: Space,
    *,
    objectives: tuple[tuple[str, Direction], ...],
    seed: int,
    storage: str,
    of: Mapping[str, Any],
) -> Plan:
    """The plan of a study of `of`, which says what is varied.

    Raises:
        ConfigError: sampler, pruner and objectives do not fit together.
    """
    _check(settings, space, objectives)
    is_grid = settings.sampler.path == GRID
    identity = {
        **of,
        "objectives": [list(pair) for pair in objectives],
        "space": space.as_json(),
        "sampler": thaw(settings.sampler),
        "pruner": thaw(settings.pruner) if settings.pruner else None,
        "seed": seed,
        "custom_search_space": settings.custom_search_space,
    }
    return Plan(
        name=settings.study_name or hashlib.sha256(canonical_json(identity).encode()).hexdigest()[:NAME_DIGITS],
        storage=settings.storage or storage,
        total=min(settings.n_trials, space.grid_size()) if is_grid else settings.n_trials,
        space=space,
        objectives=objectives,
        sampler=settings.sampler,
        pruner=settings.pruner,
        seed=seed,
        identity=identity,
        max_failure_rate=settings.max_failure_rate,
        custom_search_space=settings.custom_search_space,
    )


def _check(settings: SweepsConfig, space: Space, objectives: tuple[tuple[str, Direction], ...]) -> None:
    if settings.pruner is not None and len(objectives) > 1:
        rule = "works with one objective: pruner=null, or leave out objective.others"
        raise ConfigError(Fault("sweeps.pruner", rule, settings.pruner.path))
    if settings.sampler.path == GRID:
        if settings.custom_search_space is not None:
            raise ConfigError(Fault("sweeps.custom_search_space", "a grid is known beforehand: choose another sampler"))
        space.grid()


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What of the identity changed, a line each."""
    old, new = flatten(dict(before)), flatten(dict(now))
    keys = sorted(key for key in {*old, *new} if old.get(key, _ABSENT) != new.get(key, _ABSENT))
    return [f"{key}: {_shown(old.get(key, _ABSENT))} -> {_shown(new.get(key, _ABSENT))}" for key in keys]


_ABSENT: Final = object()


def _shown(value: Any) -> str:
    return "nothing" if value is _ABSENT else str(value)
