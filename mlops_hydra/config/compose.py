"""From overrides to an `ExperimentConfig`: Hydra composes the YAML, `check` says what is wrong with it.

Overrides that stop composition are reported, left out, and the rest is composed and checked too, so that one answer
holds every fault. The only place that reads `conf/`.
"""

import itertools
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, TypeVar

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from mlops_hydra.config.check import as_tree, checked, recorded, validated
from mlops_hydra.config.fingerprint import flatten
from mlops_hydra.config.overrides import quoted
from mlops_hydra.config.roots import Roots, offering
from mlops_hydra.config.schema import Composed, ExperimentConfig, Origin
from mlops_hydra.errors import ConfigError, Fault, UsageError, nearest

C = TypeVar("C", bound=Composed)
_COMPOSING: Final = threading.RLock()  # Hydra keeps what it composes with in one place for all threads


def compose(
    overrides: Sequence[str] = (), *, config_dir: str | None = None, config_name: str | None = None
) -> ExperimentConfig:
    """The experiment that `overrides` ask for, with Hydra's override grammar.

    Args:
        overrides: such as `["model=mlp", "optimizer.lr=0.01"]`.
        config_dir: a folder with your own options, beside the packaged ones.
        config_name: another primary config than `config`.

    Raises:
        ConfigError: with every fault that was found.
    """
    return compose_from(overrides, Roots(config_dir=config_dir, config_name=config_name))


def compose_from(overrides: Sequence[str], roots: Roots) -> ExperimentConfig:
    """`compose` for any roots."""
    cfg, origin, faults = _composed(overrides, roots)
    return config_of(cfg, origin, faults)


def compose_tree(overrides: Sequence[str], roots: Roots) -> tuple[DictConfig, Origin]:
    """What Hydra makes of it, Hydra's own node among it, unchecked.

    Raises:
        ConfigError: with every fault that stopped composition.
    """
    cfg, origin, faults = _composed(overrides, roots)
    if faults:
        raise ConfigError(faults)
    return cfg, origin


def _composed(overrides: Sequence[str], roots: Roots) -> tuple[DictConfig, Origin, list[Fault]]:
    if isinstance(overrides, str) or not all(isinstance(text, str) for text in overrides):
        raise UsageError(Fault("overrides", 'must be a list of texts such as ["model=mlp", "seed=1"]', overrides))
    _check_roots(roots)
    with _initialized(roots):
        cfg, faults = _compose_tree([quoted(text) for text in overrides], roots.name)
    if cfg is None:
        raise ConfigError(faults)
    return cfg, origin_of(overrides, OmegaConf.select(cfg, "hydra.runtime.choices"), roots), faults


def origin_of(overrides: Sequence[str], choices: Mapping[str, Any], roots: Roots = Roots()) -> Origin:  # noqa: B008  frozen
    """Where a config came from, by Hydra's own account of it."""
    own = sorted((str(group), str(option)) for group, option in choices.items() if not str(group).startswith("hydra/"))
    return Origin(tuple(overrides), tuple(own), roots)


def config_of(cfg: DictConfig, origin: Origin, faults: Sequence[Fault] = ()) -> ExperimentConfig:
    """The experiment in a composed config, as Hydra hands it to a task; `faults` are reported with what is found here.

    Raises:
        ConfigError: with every fault.
    """
    tree, unresolved = _plain(cfg)
    faults = [*faults, *unresolved]
    try:
        config = checked(tree)
    except ConfigError as error:
        known = {fault.path for fault in unresolved}
        raise ConfigError([*faults, *(fault for fault in error.faults if fault.path not in known)]) from None
    if faults:
        raise ConfigError(faults)
    config._origin = origin
    return config


def compose_command(model: type[C], overrides: Sequence[str], roots: Roots) -> C:
    """What a command other than training was asked for; `roots` names its own primary config.

    Raises:
        ConfigError: with every fault that was found.
    """
    _check_roots(roots)
    with _initialized(roots):
        cfg, faults = _compose_tree([quoted(text) for text in overrides], roots.name)
    if cfg is None:
        raise ConfigError(faults)
    tree, unresolved = _plain(cfg)
    command, wrong = validated(model, tree)
    if command is None or (faults := [*faults, *unresolved, *wrong]):
        raise ConfigError([*faults, *wrong] if command is None else faults)
    command._origin = origin_of(overrides, OmegaConf.select(cfg, "hydra.runtime.choices"), roots)
    return command


def read_recorded(path: Path, changes: Mapping[str, Any], trust: tuple[str, ...]) -> ExperimentConfig:
    """The experiment in a recorded `config.yaml`; it decides nothing about what may be imported.

    Args:
        changes: dotted keys that the person who asks sets otherwise.
        trust: packages that it may name besides ours and torch's.

    Raises:
        ConfigError: it is damaged, or names what is not trusted.
    """
    cfg = OmegaConf.create(read_yaml(path))
    for key, value in changes.items():
        OmegaConf.update(cfg, key, value)
    tree, faults = _plain(cfg)
    try:
        if faults:
            raise ConfigError(faults)
        return recorded(tree, trust)
    except ConfigError as error:
        raise ConfigError([replace(fault, path=f"{path}: {fault.path}") for fault in error.faults]) from None


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file, with interpolations as text.

    Raises:
        ConfigError: it is missing or damaged.
    """
    try:
        tree = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    except Exception as error:  # the YAML library has a tree of its own
        raise ConfigError(Fault(str(path), f"cannot be read: {_message(error)}")) from error
    if not isinstance(tree, dict) or not tree:
        raise ConfigError(Fault(str(path), "is empty, or holds no mapping"))
    return {str(key): value for key, value in tree.items()}


def to_yaml(config: ExperimentConfig) -> str:
    """The whole config as YAML that composes to it again."""
    return OmegaConf.to_yaml(OmegaConf.create(as_tree(config)), sort_keys=False)


def split_swept(overrides: Sequence[str]) -> tuple[list[str], list[str]]:
    """Those that give one value, and those that give several, or a range of them; what a later one gives anew is out.

    Raises:
        ConfigError: one cannot be parsed.
    """
    parsed, faults = parse_overrides([quoted(text) for text in overrides])
    if faults:
        raise ConfigError(faults)
    last = {override.get_key_element(): index for index, override in enumerate(parsed)}
    fixed, swept = [], []
    for index, (text, override) in enumerate(zip(overrides, parsed, strict=True)):
        if override.is_sweep_override() and index == last[override.get_key_element()]:
            swept.append(text)
        elif not override.is_sweep_override():
            fixed.append(text)
    return fixed, swept


def asks_for_study(overrides: Sequence[str], roots: Roots) -> str | None:
    """The launcher with which a study is asked for; None if it is none, or cannot be composed.

    Args:
        overrides: without the swept ones.
    """
    try:
        cfg, _ = compose_tree(overrides, roots)
    except ConfigError:
        return None
    launcher = str(OmegaConf.select(cfg, "hydra.runtime.choices")["hydra/launcher"])
    return None if OmegaConf.select(cfg, "sweeps") is None else launcher


def sweep_jobs(overrides: Sequence[str], roots: Roots, *, one_at_a_time: bool = False) -> list[list[str]]:
    """The overrides of each job that Hydra's basic sweeper makes of `overrides`, in its order.

    Overrides that ask for a range that is not a list of values give one job without them.

    Args:
        one_at_a_time: rather each value once, beside the first of the others.

    Raises:
        ConfigError: an override cannot be parsed, or the config cannot be composed.
    """
    with _initialized(roots):
        parsed, faults = parse_overrides([*_sweeper_params(roots), *overrides])
    if faults:
        raise ConfigError(faults)
    values: dict[str, list[str]] = {}
    for override in parsed:
        key = override.get_key_element()
        if not override.is_sweep_override():
            values[key] = [override.input_line]
        elif override.is_discrete_sweep():
            values[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
    if not one_at_a_time:
        return [list(job) for job in itertools.product(*values.values())]
    first = {key: texts[0] for key, texts in values.items()}
    others = [{**first, key: text} for key, texts in values.items() for text in texts[1:]]
    return [list(job.values()) for job in (first, *others)]


def _sweeper_params(roots: Roots) -> list[str]:
    """The sweep that the primary config itself declares, in `hydra.sweeper.params`."""
    import hydra

    cfg = hydra.compose(roots.name, return_hydra_config=True)
    params = OmegaConf.select(cfg, "hydra.sweeper.params") or {}
    return [f"{key}={value}" for key, value in params.items()]


def _check_roots(roots: Roots) -> None:
    """Raises ConfigError when a folder is missing, or a file in `config_dir` would silently not be used."""
    for option, value in (("--config-path", roots.config_path), ("--config-dir", roots.config_dir)):
        if value is not None and not Path(value).is_dir():
            raise ConfigError(Fault(option, "no such folder", value))
    folder = Path(roots.config_dir or roots.primary)
    if folder.resolve() == roots.primary:
        return
    own = sorted(path.relative_to(folder) for path in folder.rglob("*.yaml"))
    rule = "a file of this name comes with mlops_hydra and is used instead; give yours another name"
    if hidden := [Fault(str(folder / path), rule) for path in own if (roots.primary / path).exists()]:
        raise ConfigError(hidden)


@contextmanager
def _initialized(roots: Roots) -> Iterator[None]:
    from hydra.core.global_hydra import GlobalHydra
    from hydra.initialize import initialize_config_search_path

    with _COMPOSING:
        outer = GlobalHydra.instance().hydra  # of a notebook that has initialized Hydra for itself
        GlobalHydra.instance().clear()
        try:
            with offering(), initialize_config_search_path(roots.sources, job_name="mlops-hydra"):
                yield
        finally:
            GlobalHydra.instance().hydra = outer


def _compose_tree(overrides: list[str], config_name: str) -> tuple[DictConfig | None, list[Fault]]:
    """The composed config, and faults of overrides that had to be left out (None if nothing composes)."""
    try:
        return _compose(overrides, config_name), []
    except Exception as error:
        whole = error
    parsed, faults = parse_overrides(overrides)
    try:
        cfg = _compose([], config_name)
    except Exception as error:
        return None, [*faults, Fault(config_name, _message(error))]
    used: list[str] = []
    for override in sorted(parsed, key=_values_last):
        text = str(override.input_line)
        try:
            cfg = _compose([*used, text], config_name)
            used.append(text)
        except Exception as error:
            faults.append(_override_fault(override, error, cfg))
    return cfg, faults or [Fault("overrides", _message(whole))]


def _values_last(override: Any) -> bool:
    """Groups first: a value may belong to the option that was chosen."""
    return (
        override.value_type is None
        or override.value_type.name != "ELEMENT"
        or "." in override.key_or_group
        or override.is_add()
    )


def _compose(overrides: list[str], config_name: str) -> DictConfig:
    import hydra

    return hydra.compose(config_name, overrides, return_hydra_config=True)


def parse_overrides(overrides: Sequence[str]) -> tuple[list[Any], list[Fault]]:
    """Hydra's objects for them, and a fault for each that is none."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    parser, parsed, faults = OverridesParser.create(), [], []
    for text in overrides:
        try:
            parsed += parser.parse_overrides([text])
        except HydraException as error:
            detail = str(error).splitlines()[1:2] or [str(error)]
            rule = f"is not an override: {detail[0]}; write key=value and quote values with special characters"
            faults.append(Fault(text, rule))
    return parsed, faults


def _override_fault(override: Any, error: Exception, cfg: DictConfig) -> Fault:
    """What is wrong with one override that `cfg` composed without."""
    from hydra.errors import MissingConfigException

    key = override.key_or_group
    if override.is_sweep_override():
        return Fault(key, "several values need a multirun: add -m", override.input_line.partition("=")[2])
    value = "" if override.is_delete() else override.get_value_element_as_str()
    options = sorted(_group_options(key))
    if isinstance(error, MissingConfigException) and error.options is not None:
        options = sorted(error.options)
    if options and (isinstance(error, MissingConfigException) or value == "null"):
        return Fault(key, f"no such option; choose from {', '.join(options)}", value, nearest(value, options))
    known = [path for path in flatten(_unresolved(cfg)) if not path.startswith("hydra.")]
    if not override.is_add() and OmegaConf.select(cfg, key, throw_on_missing=False) is None and key not in known:
        return _unknown_key(key, value, known)
    return Fault(key, _message(error), value)


def is_group(key: str, roots: Roots) -> bool:
    """Whether `key` names a config group rather than a value."""
    with _initialized(roots):
        return bool(_group_options(key.partition("@")[0]))


def apply_values(overrides: Sequence[Any], cfg: DictConfig, roots: Roots) -> list[Fault]:
    """Set what parsed overrides of values say, by the very function that Hydra composes with.

    Gives a fault for each whose key does not exist, or whose value does not fit; it is left out.
    """
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra.errors import HydraException

    faults = []
    for override in overrides:
        try:
            ConfigLoaderImpl._apply_overrides_to_config([override], cfg)
        except (HydraException, OmegaConfBaseException) as error:
            with _initialized(roots):
                faults.append(_override_fault(override, error, cfg))
    return faults


def _group_options(key: str) -> list[str]:
    from hydra.core.global_hydra import GlobalHydra

    return list(GlobalHydra.instance().config_loader().get_group_options(key))


def _unknown_key(key: str, value: str, known: list[str]) -> Fault:
    parent, _, leaf = key.rpartition(".")
    has_siblings = any(_is_below(path, parent) for path in known if path != parent)
    if parent in _OPEN or (not has_siblings and parent.rpartition(".")[0] in _OPEN):
        return Fault(key, f"is new: add it with a plus, +{key}={value}", value)
    siblings = sorted({path[len(parent) :].strip(".").split(".")[0] for path in known if _is_below(path, parent)})
    meant = tuple(f"{parent}.{name}".strip(".") for name in nearest(leaf, siblings))
    meant = meant or tuple(path for path in known if path.endswith(f".{leaf}"))[:2] or nearest(key, known)
    return Fault(key, "no such key", value, meant)


_OPEN: Final = frozenset(
    {"tags", "metrics", "callbacks", "gates", "data.kinds", "trainer.loss", "trainer.step", "scheduler"}
)
"""Where keys are the person's own, or there may be none yet."""


def _is_below(path: str, parent: str) -> bool:
    return not parent or path.startswith(f"{parent}.")


def _message(error: BaseException) -> str:
    """The text of a composition error on one line, with its cause's where that says more."""
    texts = [str(error)]
    if isinstance(error.__cause__, OmegaConfBaseException | OSError):
        texts.append(str(error.__cause__))
    elif error.__cause__ is not None:
        texts.append(f"{type(error.__cause__).__name__}: {error.__cause__}")
    return " ".join(" ".join(text.split("full_key:")[0] for text in texts).split())


def _unresolved(cfg: DictConfig) -> dict[str, Any]:
    tree = OmegaConf.to_container(cfg, resolve=False)
    assert isinstance(tree, dict)
    return {str(key): value for key, value in tree.items()}


def _plain(cfg: DictConfig) -> tuple[dict[str, Any], list[Fault]]:
    """Plain values without Hydra's own node, and a fault for each interpolation that cannot be resolved.

    What has no value yet is left out.
    """
    try:  # a third of the time, where nothing is amiss
        whole = {
            str(key): OmegaConf.to_container(cfg[key], resolve=True, throw_on_missing=True)
            if OmegaConf.is_config(cfg[key])
            else cfg[key]
            for key in cfg
            if key != "hydra"
        }
        return whole, []
    except (OmegaConfBaseException, ValueError):
        pass
    faults: list[Fault] = []
    tree = {str(key): _resolve(cfg, key, str(key), faults) for key in cfg if key != "hydra"}
    return {key: value for key, value in tree.items() if value is not _NO_VALUE}, faults


_NO_VALUE: Final = object()


def _resolve(node: DictConfig | ListConfig, key: Any, path: str, faults: list[Fault]) -> Any:
    if OmegaConf.is_missing(node, key):
        return _NO_VALUE
    try:
        value = node[key]
    except OmegaConfBaseException as error:
        faults.append(Fault(path, " ".join(str(error).split("full_key")[0].split())))
        return None
    if isinstance(value, DictConfig):
        inner = {str(k): _resolve(value, k, f"{path}.{k!s}", faults) for k in value}
        return {k: v for k, v in inner.items() if v is not _NO_VALUE}
    if isinstance(value, ListConfig):
        return [_resolve(value, i, f"{path}[{i}]", faults) for i in range(len(value))]
    return value
