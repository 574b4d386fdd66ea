"""Everything about a configuration that can be known to be wrong before anything is read, built or written.

Pure but for importing what a `_target_` names. All faults are reported at once.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ValidationError

from mlops_hydra.config.frozen import TARGET_KEY, Target, freeze, thaw
from mlops_hydra.config.gate import GateConfig
from mlops_hydra.config.objective import COSTS, METRICS, NUM_PARAMETERS
from mlops_hydra.config.schema import ExperimentConfig
from mlops_hydra.config.section import Section
from mlops_hydra.config.signatures import as_declared, check_signature
from mlops_hydra.config.targets import check_trusted, parameters_of, resolve
from mlops_hydra.errors import ConfigError, Fault, nearest

S = TypeVar("S", bound=Section)
_TARGETS: Final = (
    *("model", "optimizer", "scheduler", "data.source", "trainer.loss", "trainer.step"),
    *("sweeps.sampler", "sweeps.pruner"),
)
PLATEAU: Final = "torch.optim.lr_scheduler.ReduceLROnPlateau"
_OFFERS: Final[dict[str, frozenset[str]]] = {
    "model": frozenset({"in_features", "out_features", "in_shape"}),
    "optimizer": frozenset({"params"}),
    "scheduler": frozenset({"optimizer", "total_steps"}),
    "data.source": frozenset({"path", "version"}),
    "trainer.loss": frozenset({"class_counts"}),
    "metrics": frozenset({"probabilities"}),
    "sweeps.sampler": frozenset({"seed", "search_space"}),
}
"""What this package passes to each target if its signature names it."""
_CALLED_WITH_TWO: Final = ("trainer.loss", "trainer.step", "metrics")
"""Functions there get their first two arguments when they are called."""


def checked(tree: Mapping[str, Any]) -> ExperimentConfig:
    """The experiment that `tree` (plain values, as YAML gives them) describes.

    Raises:
        ConfigError: with every fault that was found.
    """
    tree = dict(tree)
    targets = dict(_targets(tree))
    faults = [fault for where, target in targets.items() for fault in _check_target(target, where)]
    config, schema_faults = validated(ExperimentConfig, _declared(tree, targets) if not faults else tree)
    faults = schema_faults + faults + _check_file(targets.get("data.source"), tree)
    if config is not None:
        faults += _check_names(config)
    if faults or config is None:
        raise ConfigError(faults)
    return config


def recorded(tree: Mapping[str, Any], trust: tuple[str, ...] = ()) -> ExperimentConfig:
    """Like `checked`, for configuration from elsewhere than this person's disk or command line.

    Nothing outside the trusted packages is imported, however deep it is named (see `targets.check_trusted`).
    `trust` comes from the person who asks, never from `tree`.
    """
    try:
        faults = [fault.below(where) for where, node in _targets(dict(tree)) for fault in check_trusted(node, trust)]
    except RecursionError:
        raise ConfigError(Fault("config", "is nested too deeply to be an experiment")) from None
    if faults:
        raise ConfigError(faults)
    return checked({**tree, "trust": list(trust)})


def _targets(tree: Mapping[str, Any]) -> Iterator[tuple[str, Target]]:
    """Every well-formed target that an experiment has, by its config path."""
    for where in _TARGETS:
        yield from _target_at(_select(tree, where), where)
    for group in ("metrics", "callbacks"):
        nodes = tree.get(group)
        for name, node in nodes.items() if isinstance(nodes, Mapping) else ():
            yield from _target_at(node, f"{group}.{name}")


def _select(tree: Mapping[str, Any], path: str) -> Any:
    node: Any = tree
    for key in path.split("."):
        node = node.get(key) if isinstance(node, Mapping) else None
    return node


def _target_at(node: Any, where: str) -> Iterator[tuple[str, Target]]:
    if isinstance(node, Mapping) and isinstance(node.get(TARGET_KEY), str):
        yield where, freeze(node)


def _check_target(target: Target, where: str) -> list[Fault]:
    group = where if where in _OFFERS or where in _CALLED_WITH_TWO else where.partition(".")[0]
    offers = _OFFERS.get(group, frozenset())
    if target.path == PLATEAU:
        offers |= {"mode"}
    return check_signature(target, where, offers, num_passed=2 if group in _CALLED_WITH_TWO else 0)


def _check_file(source: Target | None, tree: Mapping[str, Any]) -> list[Fault]:
    """A source that reads a file needs its path, and the column to predict."""
    try:
        parameters = parameters_of(resolve(source.path)) if source else None
    except ConfigError:
        return []  # reported with the target
    if not any(p.name == "path" and p.default is p.empty for p in parameters or []):
        return []
    data = tree.get("data", {})
    needed = {"path": "the file to read, data.path=table.csv", "target": "the column to predict, data.target=label"}
    return [Fault(f"data.{key}", f"needs a value: {what}") for key, what in needed.items() if data.get(key) is None]


def _declared(tree: Mapping[str, Any], targets: Mapping[str, Target]) -> dict[str, Any]:
    """`tree` with its targets' values in the types that their signatures declare."""
    result: dict[str, Any] = dict(tree)
    for where, target in targets.items():
        *parents, name = where.split(".")
        node = result
        for key in parents:
            node[key] = dict(node[key])
            node = node[key]
        node[name] = as_declared(target)
    return result


def validated(model: type[S], tree: Mapping[str, Any]) -> tuple[S | None, list[Fault]]:
    """`tree` as a `model`, or every way in which it is none."""
    try:
        return model.model_validate(_strict_input(tree)), []
    except ValidationError as error:
        return None, [_as_fault(e, model) for e in error.errors(include_url=False)]


def _strict_input(value: Any) -> Any:
    """Lists as tuples, which is what the frozen models hold; the models are strict about everything else."""
    if isinstance(value, Mapping) and not isinstance(value, Target):
        return {key: _strict_input(inner) for key, inner in value.items()}
    return tuple(_strict_input(inner) for inner in value) if isinstance(value, list | tuple) else value


def _as_fault(error: Any, root: type[BaseModel]) -> Fault:
    path = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        parent, known = _fields_at(root, error["loc"][:-1])
        rule = f"no such key; {parent} has {', '.join(known)}"
        return Fault(path, rule, error["input"], nearest(str(error["loc"][-1]), known))
    if error["type"] == "missing":
        return Fault(path, "needs a value")
    value = error["input"]
    rule = _IN_WORDS.get(error["type"]) or error["msg"].removeprefix("Value error, ")
    rule = rule.replace("Input should be", "must be").replace("String should", "must")
    if value is None:
        rule += ", got null"
    if isinstance(value, bool):
        rule += " (YAML reads on, off, yes and no as booleans: quote text)"
    value = None if isinstance(value, Mapping) else thaw(value)
    return Fault(path or "config", rule, value, nearest(str(value), _expected(error)))


_IN_WORDS: Final = {
    "model_type": "must be a mapping",
    "dict_type": "must be a mapping",
    "is_instance_of": "must be a mapping",
    "tuple_type": "must be a list",
}


def _expected(error: Any) -> list[str]:
    """The values that a field with a fixed choice allows."""
    listed = (error.get("ctx") or {}).get("expected", "")
    return [choice.strip("' ") for choice in listed.replace(" or ", ",").split(",") if choice.strip("' ")]


def _fields_at(root: type[BaseModel], loc: tuple[Any, ...]) -> tuple[str, list[str]]:
    model = root
    for part in loc:
        annotation = model.model_fields[part].annotation if part in model.model_fields else GateConfig
        model = annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else GateConfig
    whole = "an experiment" if root is ExperimentConfig else "the command"
    return ".".join(map(str, loc)) or whole, list(model.model_fields)


def _check_names(config: ExperimentConfig) -> list[Fault]:
    """Names that refer to something elsewhere in the configuration: metrics."""
    faults = []
    measured = {*METRICS, *config.metrics}
    own = config.objective.metric
    if own is not None and own not in measured:
        rule = f"no such metric; choose from {', '.join(sorted(measured))}"
        faults.append(Fault("objective.metric", rule, own, nearest(own, measured)))
    if own in config.metrics and config.objective.direction is None:
        rule = f"needed, because {own} is a metric of your own: minimize or maximize"
        faults.append(Fault("objective.direction", rule))
    for name, gate in config.gates.items():
        faults += _check_gate(f"gates.{name}", gate, measured, own)
    if config.register != "never" and config.packaging == "none":
        faults.append(Fault("register", "needs a bundle to register: packaging=bundle", config.register))
    if config.scheduler is None and config.trainer.scheduler_interval != "auto":
        rule = "there is no scheduler to move: choose one, or leave it at auto"
        faults.append(Fault("trainer.scheduler_interval", rule, config.trainer.scheduler_interval))
    for name in config.objective.others:
        if name not in (known := sorted({*measured, NUM_PARAMETERS})):
            rule = f"no such metric; choose from {', '.join(known)}"
            faults.append(Fault("objective.others", rule, name, nearest(name, known)))
    for name in sorted(set(config.metrics) & set(METRICS)):
        faults.append(Fault(f"metrics.{name}", "is the name of a built-in metric; choose another"))
    return faults


def _check_gate(where: str, gate: GateConfig, measured: set[str], objective: str | None) -> list[Fault]:
    judged = {"objective", *measured, *COSTS}
    if gate.metric not in judged:
        rule = f"no such metric; choose from {', '.join(sorted(judged))}"
        return [Fault(f"{where}.metric", rule, gate.metric, nearest(gate.metric, judged))]
    if gate.metric not in METRICS and gate.metric not in ("objective", *COSTS) and gate.direction is None:
        return [Fault(f"{where}.direction", f"needed, because {gate.metric} is a metric of your own: higher or lower")]
    if gate.metric in COSTS and (gate.threshold is None or gate.slice is not None or gate.on != "test"):
        rule = f"{gate.metric} is of the model, not of rows: give a threshold, and neither slice nor on"
        return [Fault(where, rule)]
    if objective == "loss" and gate.metric == "objective":
        if gate.on == "test":
            rule = "the loss is measured on val only: choose another objective, or gates=none"
            return [Fault(f"{where}.metric", rule, gate.metric)]
        if gate.slice is not None or gate.needs_champion:
            return [Fault(where, "the loss is measured on val as a whole: choose another metric, or give a threshold")]
    return []


def as_tree(config: ExperimentConfig) -> dict[str, Any]:
    """Plain values again: `checked(as_tree(config)) == config`."""
    tree: dict[str, Any] = json.loads(config.model_dump_json())
    return tree
