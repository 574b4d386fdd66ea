"""The constructor's signature is the schema of what a `_target_` is called with.

Names, required parameters and the types that YAML can say are checked at every depth; what an annotation says beyond
that is left to the constructor.
"""

import functools
import inspect
import json
import math
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal, Union

from pydantic import ConfigDict, TypeAdapter, ValidationError

from mlops_hydra.config.frozen import FrozenMap, Target, freeze, thaw
from mlops_hydra.config.targets import parameters_of, resolve, walk
from mlops_hydra.errors import ConfigError, Fault, nearest

_EMPTY: Final = inspect.Parameter.empty
_RESERVED: Final = frozenset({"_partial_", "_args_"})
_SCALARS: Final = (int, float, bool, str, type(None), Path)
_CONTAINERS: Final = (list, tuple, set, dict, Sequence, Mapping)

_ABOUT_PYTHON: Final = frozenset({"is_instance_of", "needs_python_object"})  # alternatives that YAML cannot say

_AT_LEAST_0: Final = (0.0, float("inf"))
_SHARE: Final = (0.0, 1.0)
OPTIMIZER_BOUNDS: Final[dict[str, tuple[float, float]]] = {
    "lr": _AT_LEAST_0,
    "weight_decay": _AT_LEAST_0,
    "momentum": _AT_LEAST_0,
    "eps": _AT_LEAST_0,
    "lr_decay": _AT_LEAST_0,
    "betas": _SHARE,
    "alpha": _SHARE,
    "rho": _SHARE,
}
"""What torch's own optimizers accept (each element, for a pair); torch itself says so only when it is built."""


def check_signature(
    target: Target, where: str, offers: frozenset[str] = frozenset(), *, num_passed: int = 0
) -> list[Fault]:
    """Faults of `target` against the signature of what it names, at every depth.

    Args:
        where: config path of the target, for the faults.
        offers: parameters that this package passes if the signature names them; they must not be given.
        num_passed: how many positional arguments a function gets when it is called later (a class gets none).
    """
    faults = []
    for path, inner in walk(target, where):
        try:
            outermost = path == where
            faults += _check_scalars(inner.args, path)
            faults += _check_one(inner, path, offers if outermost else frozenset(), num_passed if outermost else 0)
        except ConfigError as error:
            faults += [fault.below(path) for fault in error.faults]
    return faults


def _check_one(target: Target, where: str, offers: frozenset[str], num_passed: int) -> list[Fault]:
    found = resolve(target.path)
    parameters = parameters_of(found)
    if parameters is None:
        return []
    parameters = parameters[0 if isinstance(found, type) else num_passed :]
    named = {p.name: p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
    settable = [name for name in named if name not in offers]
    faults = []
    for key, value in target.args.items():
        path = f"{where}.{key}"
        if key in offers and key in named:
            faults.append(Fault(path, f"is passed to {target.path} by mlops_hydra; leave it out", thaw(value)))
        elif key in named:
            faults += _check_type(value, named[key].annotation, path) or _check_bounds(target, key, path)
        elif key.startswith("_") and key.endswith("_") and key not in _RESERVED:
            faults.append(
                Fault(path, f"is a word of Hydra's that may not be used here; only {', '.join(sorted(_RESERVED))}")
            )
        elif not takes_any and key not in _RESERVED:
            rule = f"{target.path} has no parameter {key!r}; it takes {', '.join(settable) or 'none'}"
            faults.append(Fault(path, rule, thaw(value), nearest(key, settable)))
    return faults + _check_missing(target, where, named, offers)


def _check_scalars(value: Any, path: str) -> list[Fault]:
    """What no argument may be, at any depth (targets inside are visited for themselves).

    NaN and infinities have no name in JSON, so no fingerprint could hold them. Interpolations are resolved when a
    config is composed; one that is left would be resolved when it is built, and could make a `_target_` that nobody
    checked.
    """
    if isinstance(value, float) and not math.isfinite(value):
        return [Fault(path, "must be a finite number", value)]
    if isinstance(value, str) and "${" in value:
        return [Fault(path, "must not hold an interpolation that composing has left", value)]
    if isinstance(value, Mapping):
        return [fault for key, inner in value.items() for fault in _check_scalars(inner, f"{path}.{key}")]
    if isinstance(value, tuple):
        return [fault for index, inner in enumerate(value) for fault in _check_scalars(inner, f"{path}[{index}]")]
    return []


def _check_missing(
    target: Target, where: str, named: Mapping[str, inspect.Parameter], offers: frozenset[str]
) -> list[Fault]:
    if target.args.get("_partial_", False):
        return []
    by_position = len(target.args.get("_args_", ()))
    required = [name for name, p in list(named.items())[by_position:] if p.default is _EMPTY]
    missing = [name for name in required if name not in target.args and name not in offers]
    return [Fault(where, f"{target.path} needs a value for {', '.join(missing)}")] if missing else []


def _check_bounds(target: Target, key: str, path: str) -> list[Fault]:
    bounds = OPTIMIZER_BOUNDS.get(key) if target.path.startswith("torch.optim.") else None
    value = target.args[key]
    numbers = [
        number for number in (value if isinstance(value, tuple) else (value,)) if isinstance(number, int | float)
    ]
    if bounds is None or all(bounds[0] <= number <= bounds[1] for number in numbers):
        return []
    rule = "must be at least 0" if bounds == _AT_LEAST_0 else f"must be from {bounds[0]:g} to {bounds[1]:g}"
    return [Fault(path, rule, thaw(value))]


def _check_type(value: Any, annotation: Any, path: str) -> list[Fault]:
    try:
        _converted(value, annotation)
    except ValidationError as error:
        rules = dict.fromkeys(_in_words(e) for e in error.errors() if e["type"] not in _ABOUT_PYTHON)
        got = ", got null" if value is None else ""
        return [Fault(path, f"must be {' or '.join(rules)}{got}", thaw(value))]
    return []


def _in_words(error: Any) -> str:
    if error["type"] in ("missing", "too_long", "too_short"):
        return "a list of another length"
    return str(error["msg"].removeprefix("Input should be "))


def _converted(value: Any, annotation: Any) -> Any:
    """`value` in the type that is declared, or as it is where nothing can be said about it."""
    annotation = _evaluated(annotation)
    if any(True for _ in walk(value)) or not _says_something(annotation):
        return value
    return _adapter(annotation).validate_json(json.dumps(thaw(value)))


def _adapter(annotation: Any) -> TypeAdapter[Any]:
    try:
        return _kept_adapter(annotation)
    except TypeError:  # metadata of `Annotated` cannot always be hashed
        return _kept_adapter.__wrapped__(annotation)


@functools.cache
def _kept_adapter(annotation: Any) -> TypeAdapter[Any]:
    return TypeAdapter(annotation, config=ConfigDict(arbitrary_types_allowed=True, strict=True))


def _evaluated(annotation: Any) -> Any:
    """An annotation written as text, if plain Python types are enough to read it."""
    if not isinstance(annotation, str):
        return annotation
    known = {"Literal": Literal, "Optional": typing.Optional, "Union": Union, "Sequence": Sequence, "Mapping": Mapping}
    try:
        return eval(annotation, {**known, "Path": Path})
    except (NameError, AttributeError, SyntaxError, TypeError):
        return _EMPTY


def _says_something(annotation: Any) -> bool:
    """Whether a YAML value can be judged: plain types, containers of them, or a union that has some.

    A class alone says nothing: constructors often accept more (`device: torch.device` takes "cpu").
    """
    origin = typing.get_origin(annotation)
    if annotation in _SCALARS or origin is Literal:
        return True
    inner = [arg for arg in typing.get_args(annotation) if arg is not ...]
    if origin in (Union, types.UnionType):
        return any(_says_something(arg) for arg in inner if arg is not type(None))
    if annotation in _CONTAINERS or origin in _CONTAINERS:
        return all(_says_something(arg) for arg in inner)
    return False


def as_declared(target: Target) -> Target:
    """`target` with values in their declared types, so that `1` and `1.0` are the same where a float is declared."""
    annotations = {p.name: p.annotation for p in parameters_of(resolve(target.path)) or []}
    args = {key: _as_declared(value, annotations.get(key, _EMPTY)) for key, value in target.args.items()}
    return Target(target.path, FrozenMap(args))


def _as_declared(value: Any, annotation: Any) -> Any:
    if isinstance(value, Target):
        return as_declared(value)
    if isinstance(value, tuple) and any(True for _ in walk(value)):
        return tuple(_as_declared(item, _EMPTY) for item in value)
    converted = _converted(value, annotation)
    return freeze(converted) if isinstance(converted, int | float | str | list | tuple | dict | None) else value
