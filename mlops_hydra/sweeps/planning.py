"""From a config to the plan of its study: the space, the objective, and what everything is of. Only reads."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlops_hydra.config.compose import compose_from
from mlops_hydra.config.fingerprint import flatten, identity
from mlops_hydra.config.objective import METRICS, NUM_PARAMETERS, resolve_objective
from mlops_hydra.config.roots import Roots
from mlops_hydra.config.schema import Direction, ExperimentConfig, SweepsConfig
from mlops_hydra.config.variations import Variations
from mlops_hydra.data.digests import remembering
from mlops_hydra.data.sources import open_source
from mlops_hydra.errors import ConfigError, Fault
from mlops_hydra.sweeps.plan import STORE, STUDIES, Plan, make_plan
from mlops_hydra.sweeps.space import Space, parse_space
from mlops_hydra.tracking.find import identified
from mlops_hydra.tracking.lineage import code_digest


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked for: `config` is what all trials share, and carries the settings of the study."""

    config: ExperimentConfig
    settings: SweepsConfig
    plan: Plan
    variations: Variations


def base_config(fixed: Sequence[str], swept: Sequence[str], roots: Roots) -> ExperimentConfig:
    """The experiment that is varied; where it is none without the swept values, with the first of each.

    Raises:
        ConfigError: with every fault that was found.
    """
    try:
        return compose_from(fixed, roots)
    except ConfigError:
        first = next(parse_space({}, swept).probes()) if swept else []
        return compose_from([*fixed, *first], roots)


def planned(config: ExperimentConfig, overrides: Sequence[str] = ()) -> Request:
    """The study that `config.sweeps` and the swept `overrides` ask for, checked as far as that is possible.

    Raises:
        RequestError: with every fault of every part of the space; nothing was written.
    """
    settings = config.sweeps
    if settings is None:
        raise ConfigError(Fault("sweeps", "a study needs one of the options: sweeps=tpe, random, hyperband, ..."))
    space = parse_space(settings.params, overrides)
    variations = Variations(config)
    base = variations.with_overrides(space.fixed) if space.fixed else config
    base = identified(base.model_copy(update={"sweeps": settings}))
    base._origin = variations.with_overrides(space.fixed).origin
    variations = Variations(base)
    codes = _checked(variations, space)
    with remembering(base.output_dir):
        source = open_source(base.data)
        data = source.digest()
        task = source.load().task
    objective = resolve_objective(base.objective, task)
    others = tuple((name, _direction(name)) for name in base.objective.others if name != objective.metric)
    plan = make_plan(
        settings,
        space,
        objectives=((objective.metric, objective.direction), *others),
        seed=base.seed,
        storage=f"sqlite:///{Path(base.output_dir).absolute() / STUDIES / STORE}",
        of={"experiment": _fixed_identity(base, space), "data": data, "code": codes},
    )
    return Request(base, settings, plan, variations)


def _checked(variations: Variations, space: Space) -> list[str]:
    """The digests of all code that trials may run; raises ConfigError with the faults of every part of the space."""
    faults: dict[str, Fault] = {}
    codes: set[str] = set()
    for changes in space.probes():
        try:
            codes.add(code_digest(variations.with_overrides(changes)))
        except ConfigError as error:
            faults |= {str(fault): fault for fault in error.faults}
    if faults:
        raise ConfigError(list(faults.values()))
    return sorted(codes)


def _direction(name: str) -> Direction:
    if name == NUM_PARAMETERS:
        return "minimize"
    if name in METRICS:
        return METRICS[name].direction
    raise ConfigError(Fault("objective.others", "takes built-in metrics, whose direction is known", name))


def _fixed_identity(config: ExperimentConfig, space: Space) -> dict[str, Any]:
    """What names the experiment, without what is varied."""
    varied = [name.lstrip("+").partition("@")[0].replace("/", ".") for name in space.distributions]
    flat = flatten(identity(config))
    return {key: value for key, value in flat.items() if not any(_is_below(key, name) for name in varied)}


def _is_below(key: str, name: str) -> bool:
    return key == name or key.startswith(f"{name}.")
