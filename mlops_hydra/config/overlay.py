"""A config as an overlay of one's own: `experiment/NAME.yaml`, differences from the defaults only, composed by anyone.

It relies on the packaged options alone, so that one `--config-dir` is enough to run it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from omegaconf import OmegaConf

from mlops_hydra.atomic import replacing
from mlops_hydra.config.check import as_tree
from mlops_hydra.config.compose import compose_from
from mlops_hydra.config.roots import Roots, packaged_conf
from mlops_hydra.config.schema import ExperimentConfig
from mlops_hydra.errors import ConfigError

GROUP: Final = "experiment"
_GROUPS: Final = ("model", "optimizer", "scheduler", "data", "trainer", "gates", "tracking")


def write_overlay(config: ExperimentConfig, folder: Path, name: str, comment: str) -> Path:
    """Write `folder/experiment/<name>.yaml`, which composes to `config`.

    Raises:
        TrackingError: the disk does not take it.
    """
    path = folder / GROUP / f"{name}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    for groups in (_options(config), dict.fromkeys(_GROUPS)):
        with replacing(path) as file:
            file.write(_text(config, groups, comment).encode())
        if _composes_to(config, folder, name):
            break
    return path


def _options(config: ExperimentConfig) -> dict[str, str | None]:
    """The packaged option of each group that `config` was composed from; None where it was somebody's own."""
    choices = dict(config.origin.choices)
    return {
        group: option if (packaged_conf() / group / f"{option}.yaml").exists() else None
        for group in _GROUPS
        for option in [choices.get(group)]
    }


def _text(config: ExperimentConfig, groups: Mapping[str, str | None], comment: str) -> str:
    defaults = compose_from([], Roots())
    chosen = dict(defaults.origin.choices)
    changed = {f"override /{group}": option for group, option in groups.items() if option != chosen.get(group)}
    base = _base(groups)
    values = _differences(base, as_tree(config.model_copy(update={"sweeps": None})))
    tree = {"defaults": [{key: option} for key, option in changed.items()] + ["_self_"], **values}
    return f"# @package _global_\n{comment}\n{OmegaConf.to_yaml(OmegaConf.create(tree), sort_keys=False)}"


def _base(groups: Mapping[str, str | None]) -> dict[str, Any]:
    """What the chosen options give by themselves; a group without one gives nothing."""
    overrides = [f"{group}={option}" for group, option in groups.items() if option is not None]
    tree = as_tree(compose_from(overrides, Roots()))
    return {key: value for key, value in tree.items() if groups.get(key, "") is not None}


def _differences(base: Mapping[str, Any], tree: Mapping[str, Any]) -> dict[str, Any]:
    """What of `tree` is not in `base`, nested as in YAML."""
    changed: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and isinstance(base.get(key), Mapping) and base[key]:
            if inner := _differences(base[key], value):
                changed[key] = inner
        elif key not in base or base[key] != value:
            changed[key] = value
    return changed


def _composes_to(config: ExperimentConfig, folder: Path, name: str) -> bool:
    try:
        again = compose_from([f"{GROUP}={name}"], Roots(config_dir=str(folder)))
    except ConfigError:
        return False
    return again.fingerprint == config.fingerprint
