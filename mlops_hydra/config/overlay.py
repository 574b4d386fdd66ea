"""A config as an overlay of one's own: `experiment/NAME.yaml`, differences from the defaults only, composed by anyone.

It relies on the packaged options alone, so that one `--config-dir` is enough to run it.
"""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Final

from omegaconf import DictConfig, OmegaConf

from mlops_hydra.atomic import replacing
from mlops_hydra.config.compose import compose_from, compose_tree
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
    config = config.model_copy(update={"sweeps": None})
    for groups in (_options(config), dict.fromkeys(_GROUPS)):
        base, values = _base(groups), OmegaConf.create()
        values.merge_with(_differences(base, _tree(config), is_first=True))
        again = _written(path, _text(groups, values, comment))
        if again != config:  # something refers to something else, but has a value of its own
            values.merge_with(_differences(_tree(again) if again else base, _tree(config)))
            again = _written(path, _text(groups, values, comment))
        if again == config:
            break
    return path


def _options(config: ExperimentConfig) -> dict[str, str | None]:
    """The packaged option of each group that `config` was composed from; None where it cannot be built upon.

    That is, where it was somebody's own, or has what `config` has not: an overlay cannot take anything away.
    """
    choices = dict(config.origin.choices)
    known = {group: choices[group] for group in _GROUPS if _is_packaged(group, choices.get(group))}
    base, tree = _base(known), _tree(config)
    return {group: None if _has_more(base.get(group), tree.get(group)) else known.get(group) for group in _GROUPS}


def _is_packaged(group: str, option: str | None) -> bool:
    return (packaged_conf() / group / f"{option}.yaml").exists()


def _has_more(base: Any, tree: Any) -> bool:
    """Whether a key of `base`, at any depth, is not in `tree`."""
    if not isinstance(base, Mapping) or not isinstance(tree, Mapping):
        return False
    return any(key not in tree or _has_more(value, tree[key]) for key, value in base.items())


def _text(groups: Mapping[str, str | None], values: DictConfig, comment: str) -> str:
    chosen = _chosen()
    changed = [{f"override /{group}": option} for group, option in groups.items() if option != chosen[group]]
    tree = OmegaConf.merge({"defaults": [*changed, "_self_"]}, values)
    return f"# @package _global_\n{comment}\n{OmegaConf.to_yaml(tree, sort_keys=False)}"


@cache
def _chosen() -> dict[str, str]:
    """The option of each group that is chosen where nobody asks for another."""
    return dict(compose_tree([], Roots())[1].choices)


def _base(groups: Mapping[str, str | None]) -> dict[str, Any]:
    """What the chosen options give by themselves, with references as text; a group without one gives nothing."""
    cfg, _ = compose_tree([f"{group}={option}" for group, option in groups.items() if option is not None], Roots())
    tree = OmegaConf.to_container(cfg, resolve=False)
    assert isinstance(tree, dict)
    return {str(key): value for key, value in tree.items() if groups.get(str(key), "") is not None}


def _tree(config: ExperimentConfig) -> dict[str, Any]:
    """Plain values, without those that nobody needs to give."""
    tree: dict[str, Any] = json.loads(config.model_dump_json(exclude_defaults=True))
    return tree


def _differences(base: Mapping[str, Any], tree: Mapping[str, Any], *, is_first: bool = False) -> dict[str, Any]:
    """What of `tree` is not in `base`, nested as in YAML; at first, references are trusted to follow what they name."""
    changed: dict[str, Any] = {}
    for key, value in tree.items():
        known = base.get(key)
        if isinstance(value, Mapping) and isinstance(known, Mapping) and known:
            if inner := _differences(known, value, is_first=is_first):
                changed[key] = inner
        elif is_first and isinstance(known, str) and "${" in known:
            continue
        elif key not in base or known != value:
            changed[key] = value
    return changed


def _written(path: Path, text: str) -> ExperimentConfig | None:
    """Write an overlay, and what it composes to."""
    with replacing(path) as file:
        file.write(text.encode())
    try:
        return compose_from([f"{GROUP}={path.stem}"], Roots(config_dir=str(path.parents[1])))
    except ConfigError:
        return None
