"""From a dotted path to the thing itself: resolving, the policy of trust, building.

Resolving imports the module that a path names, and nothing else happens until `build`. Who may be named depends on
where the configuration comes from: a person's own command line and files may name anything (Hydra's own list of
refused targets, such as `os.system`, still holds); a recorded one only what `check_trusted` allows.
"""

import functools
import importlib
import inspect
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from mlops_hydra.config.frozen import Target, thaw
from mlops_hydra.errors import ConfigError, Fault, MlopsHydraError, nearest

TRUSTED_PREFIXES: Final = ("mlops_hydra.models", "mlops_hydra.data", "torch.optim", "torch.nn")


def resolve(path: str) -> Any:
    """The class or function at `path`, importing its module.

    Raises:
        ConfigError: no such module, or no such name in it (with the nearest names).
    """
    parts = path.split(".")
    if len(parts) < 2 or not all(part.isidentifier() for part in parts):
        raise ConfigError(Fault("_target_", "a dotted path such as my_package.module.Name is needed", path))
    found, index = _import_longest(path, parts)
    for name in parts[index:]:
        if not hasattr(found, name):
            raise ConfigError(Fault("_target_", f"{found.__name__} has no {name!r}", path, _alike(found, name)))
        found = getattr(found, name)
    if not callable(found):
        raise ConfigError(Fault("_target_", "names something that cannot be called", path))
    return found


def _import_longest(path: str, parts: list[str]) -> tuple[Any, int]:
    """The deepest module on the path, and how many parts it took."""
    for index in range(len(parts) - 1, 0, -1):
        module = ".".join(parts[:index])
        try:
            return importlib.import_module(module), index
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module}.".startswith(f"{error.name}."):
                rule = f"importing {module} failed: no module named {error.name!r}"
                raise ConfigError(Fault("_target_", rule, path)) from error
        except Exception as error:
            rule = f"importing {module} failed: {type(error).__name__}: {error}"
            raise ConfigError(Fault("_target_", rule, path)) from error
    rule = f"no module named {parts[0]!r}; the current directory and installed packages were searched"
    raise ConfigError(Fault("_target_", rule, path))


def _alike(owner: Any, name: str) -> tuple[str, ...]:
    return nearest(name, [known for known in dir(owner) if not known.startswith("_")])


def check_trusted(target: Target, trust: tuple[str, ...] = ()) -> list[Fault]:
    """Faults of a recorded configuration that names something outside the trusted packages, at every depth.

    The path must lie below a trusted prefix *before* anything is imported, and so must the module where the resolved
    object was defined: `torch.optim.optimizer.torch.load` starts well and ends elsewhere.
    """
    allowed = TRUSTED_PREFIXES + trust
    faults = []
    for where, inner in walk(target):
        if not _below(inner.path, allowed):
            faults.append(_untrusted(where, inner.path, allowed))
            continue
        try:
            found = resolve(inner.path)
        except ConfigError as error:
            faults += [fault.below(where) for fault in error.faults]
            continue
        is_code = isinstance(found, type | types.FunctionType)
        if not is_code or not _below(str(getattr(found, "__module__", "")), allowed):
            faults.append(_untrusted(where, inner.path, allowed))
    return faults


def _below(path: str, prefixes: tuple[str, ...]) -> bool:
    return any(path == prefix or path.startswith(f"{prefix}.") for prefix in prefixes)


def _untrusted(where: str, path: str, allowed: tuple[str, ...]) -> Fault:
    rule = f"a recorded configuration may only name code below {', '.join(allowed)}; add its package to trust=[...]"
    return Fault(f"{where}._target_".lstrip("."), rule, path)


def walk(value: Any, where: str = "") -> Iterator[tuple[str, Target]]:
    """Every `Target` in `value`, outermost first, with the config path that leads to it."""
    if isinstance(value, Target):
        yield where, value
        value = value.args
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from walk(inner, f"{where}.{key}".lstrip("."))
    elif isinstance(value, tuple):
        for index, inner in enumerate(value):
            yield from walk(inner, f"{where}[{index}]")


def parameters_of(found: Any) -> list[inspect.Parameter] | None:
    """None where Python knows no signature (some C functions): nothing can be checked there."""
    try:
        return list(inspect.signature(found).parameters.values())
    except (TypeError, ValueError):
        return None


def names_parameter(target: Target, name: str) -> bool:
    """Whether the signature of what `target` names has a parameter called `name`."""
    return any(p.name == name for p in parameters_of(resolve(target.path)) or [])


def offered(found: Any, offers: Mapping[str, Any]) -> dict[str, Any]:
    """Those `offers` that the signature of `found` names."""
    return {p.name: offers[p.name] for p in parameters_of(found) or [] if p.name in offers}


def build(target: Target, offers: Mapping[str, Any] | None = None, *, where: str = "_target_") -> Any:
    """Call what `target` names with its args and those `offers` that its signature names.

    Raises:
        ConfigError: the call failed; the message is that of the constructor, the path is `where`.
    """
    from hydra.errors import InstantiationException
    from hydra.utils import instantiate

    extras = offered(resolve(target.path), offers or {})
    try:
        return instantiate(thaw(target), **extras, _execution_whitelist_=_packages(target), _convert_="all")
    except MlopsHydraError:
        raise
    except Exception as error:
        cause = error.__cause__ if isinstance(error, InstantiationException) and error.__cause__ else error
        if isinstance(cause, MlopsHydraError):
            raise cause from None
        message = " ".join(str(cause).split())
        raise ConfigError(Fault(where, f"{target.path} failed: {type(cause).__name__}: {message}")) from error


def _packages(target: Target) -> list[str]:
    """Hydra's whitelist for `target`: the packages it names, where they define what they export.

    Hydra authorises the path as well as the class of what comes out, so exact paths are not enough.
    """
    paths = [inner.path for _, inner in walk(target)]
    defined = [str(getattr(resolve(path), "__module__", None) or path) for path in paths]
    return sorted({f"{path.partition('.')[0]}.*" for path in paths + defined})


def as_function(
    target: Target, offers: Mapping[str, Any] | None = None, *, where: str = "_target_"
) -> Callable[..., Any]:
    """A function with its args bound, or the instance of a class: something to call later."""
    found = resolve(target.path)
    if isinstance(found, type):
        built: Callable[..., Any] = build(target, offers, where=where)
        return built
    args = {key: build(value) if isinstance(value, Target) else thaw(value) for key, value in target.args.items()}
    return functools.partial(found, **args, **offered(found, offers or {}))
