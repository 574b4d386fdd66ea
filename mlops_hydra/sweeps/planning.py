"""From a config to the plan of its study: the space, the objective, and what everything is of. Only reads."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlops_hydra.config.compose import compose_from, is_group
from mlops_hydra.config.fingerprint import canonical_json, flatten, identity
from mlops_hydra.config.objective import METRICS, NUM_PARAMETERS, Objective, resolve_objective
from mlops_hydra.config.roots import Roots
from mlops_hydra.config.schema import ExperimentConfig
from mlops_hydra.config.search import SweepsConfig
from mlops_hydra.config.section import Direction
from mlops_hydra.config.variations import Variations
from mlops_hydra.data.digests import remembering
from mlops_hydra.data.sources import open_source
from mlops_hydra.errors import ConfigError, Fault
from mlops_hydra.sweeps.plan import NAME_DIGITS, STORE, Plan, make_plan
from mlops_hydra.sweeps.space import Space, parse_space
from mlops_hydra.tracking.find import start_of
from mlops_hydra.tracking.folders import STUDIES
from mlops_hydra.tracking.lineage import code_digest, target_paths


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked for: `config` is what all trials share, and carries the settings of the study.

    `probes` are trials that try each choice and both ends of each range.
    """

    config: ExperimentConfig
    settings: SweepsConfig
    plan: Plan
    variations: Variations
    probes: tuple[ExperimentConfig, ...]


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
    space = parse_space(settings.params, [*_typed(config, settings.params), *overrides])
    base = _base(config, space)
    variations = Variations(base)
    tried = _tried(variations, space)
    with remembering(base.output_dir):
        data, objective = _measured(list(tried.values()))
    others = tuple(
        (name, _direction(name)) for name in dict.fromkeys(base.objective.others) if name != objective.metric
    )
    plan = make_plan(
        settings,
        space,
        objectives=((objective.metric, objective.direction), *others),
        seed=base.seed,
        storage=f"sqlite:///{Path(base.output_dir).absolute() / STUDIES / STORE}",
        of={"experiment": _shared_identity(tried, space), "data": data, "code": _codes(tried.values())},
    )
    return Request(base, settings, plan, variations, tuple(tried.values()))


def _typed(config: ExperimentConfig, params: Mapping[str, str]) -> list[str]:
    """Overrides that give one value to what `params` in a file searches: what is typed wins over a file."""
    overrides = config.origin.overrides
    if any(text.lstrip("+").startswith("sweeps.params") for text in overrides):
        return []
    return [text for text in overrides if text.lstrip("+").partition("=")[0] in params]


def _base(config: ExperimentConfig, space: Space) -> ExperimentConfig:
    """What all trials share, with the run that `init_from` names as its lineage."""
    variations = Variations(config)
    try:
        base = variations.with_overrides(space.fixed)
    except ConfigError:
        _tried(variations, space)  # tells what else is wrong
        raise
    if (start := start_of(base)) is not None:
        base = variations.with_overrides([*space.fixed, f"init_from={start.lineage.digest}"])
    whole = base.model_copy(update={"sweeps": config.sweeps})
    whole._origin = base.origin
    return whole


def _tried(variations: Variations, space: Space) -> dict[tuple[str, ...], ExperimentConfig]:
    """The config of each probe of the space; raises ConfigError with the faults of every part of it."""
    faults: dict[str, Fault] = {}
    tried = {}
    for changes in space.probes():
        try:
            tried[tuple(changes)] = variations.with_overrides([*space.fixed, *changes])
        except ConfigError as error:
            faults |= {str(fault): fault for fault in error.faults}
    if faults:
        raise ConfigError(list(faults.values()))
    return tried


def _measured(configs: Sequence[ExperimentConfig]) -> tuple[list[str], Objective]:
    """The digests of all data that trials may learn from, and the objective that they share."""
    apart = {"split", "encoding", "num_workers"}
    asked = {
        canonical_json([one.data.model_dump(mode="json", exclude=apart), dict(one.objective)]): one for one in configs
    }
    digests, objectives = set(), set()
    for config in asked.values():
        source = open_source(config.data)
        digests.add(source.digest())
        objectives.add(resolve_objective(config.objective, source.load().task))
    if len(objectives) > 1:
        rule = "must be the same for all trials of a study: leave out what changes it"
        raise ConfigError(Fault("objective", rule, ", ".join(sorted(map(str, objectives)))))
    return sorted(digests), objectives.pop()


def _codes(configs: Iterable[ExperimentConfig]) -> list[str]:
    """The digests of all code that trials may run."""
    return sorted({code_digest(config) for config in {target_paths(one): one for one in configs}.values()})


def _direction(name: str) -> Direction:
    if name == NUM_PARAMETERS:
        return "minimize"
    if name in METRICS:
        return METRICS[name].direction
    raise ConfigError(Fault("objective.others", "takes built-in metrics, whose direction is known", name))


def _shared_identity(tried: Mapping[tuple[str, ...], ExperimentConfig], space: Space) -> dict[str, Any]:
    """What names the experiment, without the values that are varied: of the first probe key by key.

    Other probes that make more of it than a value, such as another option of a group, stand there with a digest each.
    """
    names = [name.lstrip("+").partition("@")[0].replace("/", ".") for name in space.distributions]
    roots = next(iter(tried.values())).origin.roots
    varied = [name for name in names if not is_group(name, roots)]
    flats = {changes: _without(flatten(identity(config)), varied) for changes, config in tried.items()}
    first = next(iter(flats))
    shared = dict(flats[first])
    for changes, flat in flats.items():
        if flat != flats[first]:
            digest = hashlib.sha256(canonical_json(flat).encode()).hexdigest()
            shared[" ".join(sorted({*changes} - {*first}))] = digest[:NAME_DIGITS]
    return shared


def _without(flat: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {key: value for key, value in flat.items() if not any(_is_below(key, name) for name in names)}


def _is_below(key: str, name: str) -> bool:
    return key == name or key.startswith(f"{name}.")
