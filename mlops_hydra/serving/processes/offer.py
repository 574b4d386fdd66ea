"""What a service can offer before anybody asked the registry: folders that are named, and copies of the last time.

Only what was followed under the same alias in the same registry counts. Copies are looked at briefly (names and lengths
of files): the workers read them whole.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from mlops_hydra.atomic import read_json, write_json_atomic
from mlops_hydra.config.serving import ServeConfig
from mlops_hydra.errors import BundleError, Fault, UsageError
from mlops_hydra.packaging.seal import open_sealed
from mlops_hydra.serving.ab.assignment import ASSIGNMENT
from mlops_hydra.serving.folder import ServiceFolder
from mlops_hydra.serving.targets import Target, Targets, read_targets, write_targets
from mlops_hydra.tracking.store import redacted

_FOLLOWED: Final = "followed.json"
_ASIDE: Final = ".aside"


def offer(config: ServeConfig, folder: ServiceFolder) -> Targets:
    """Write down what can be served at once, and what is followed from now on.

    Raises:
        UsageError: a folder that is named holds no bundle, or one of other columns than control's.
        TrackingError: the disk does not take it.
    """
    asked = {arm: each.alias for arm, each in config.variants.items() if each.bundle is None}
    followed = {"uri": redacted(config.tracking.uri), "aliases": asked}
    before = read_targets(folder.targets) or Targets({})
    memory = read_json(folder.path / _FOLLOWED) or {}
    kept = {arm: target for arm, target in before.arms.items() if _is_valid(arm, target, followed, memory)}
    arms = named_bundles(config) | kept
    is_answered = all(arm in arms for arm in asked)
    targets = Targets(arms, checked_at=before.checked_at if is_answered else None)
    if followed != memory and before.arms:
        _set_aside(folder)
    if targets != before:
        write_targets(folder.targets, targets)
    if followed != memory:
        write_json_atomic(folder.path / _FOLLOWED, followed)
    return targets


def _set_aside(folder: ServiceFolder) -> None:
    """What was served last, of another registry or other aliases: it comes back if nothing comes of this start."""
    for path in (folder.targets, folder.path / _FOLLOWED):
        if path.exists():
            path.replace(path.with_suffix(_ASIDE))


def put_back(folder: ServiceFolder) -> None:
    """After a start of which nothing came: as if it had not been, and nothing left of a misspelt name."""
    for path in (folder.targets, folder.path / _FOLLOWED):
        path.unlink(missing_ok=True)
        if path.with_suffix(_ASIDE).exists():
            path.with_suffix(_ASIDE).replace(path)
    if {path.name for path in folder.path.iterdir()} <= {folder.lock.name, ASSIGNMENT}:
        shutil.rmtree(folder.path, ignore_errors=True)


def _is_valid(arm: str, target: Target, followed: Mapping[str, Any], memory: Mapping[str, Any]) -> bool:
    aliases = memory.get("aliases")
    if memory.get("uri") != followed["uri"] or arm not in followed["aliases"] or not isinstance(aliases, dict):
        return False
    try:
        open_sealed(Path(target.folder))
    except BundleError:
        return False
    return bool(aliases.get(arm) == followed["aliases"][arm])


def named_bundles(config: ServeConfig) -> dict[str, Target]:
    """The folders that are named instead of an alias, each with a bundle that predicts its golden rows.

    Raises:
        UsageError: with a fault for each that has none, or one of other columns than control's.
    """
    folders = {arm: each.bundle for arm, each in config.variants.items() if each.bundle is not None}
    if not folders:
        return {}
    from mlops_hydra.packaging.bundle import load_bundle  # with NumPy and onnxruntime, 0.2 s

    bundles, faults = {}, []
    for arm, path in folders.items():
        try:
            bundles[arm] = load_bundle(Path(path).expanduser().absolute())
        except BundleError as error:
            faults.append(Fault(f"variants.{arm}.bundle", str(error), path))
    faults = faults or ([] if config.follow.allow_schema_change else _misfits(bundles))
    if faults:
        raise UsageError(faults)
    return {arm: Target("", str(bundle.folder)) for arm, bundle in bundles.items()}


def _misfits(bundles: Mapping[str, Any]) -> list[Fault]:
    from mlops_hydra.serving.columns import columns_of, difference

    first, *others = sorted(bundles, key="control".__ne__)
    found = {arm: difference(columns_of(bundles[first]), columns_of(bundles[arm])) for arm in others}
    rule = f"does not take the columns of {first}: {{}}; follow.allow_schema_change=true serves it nevertheless"
    return [Fault(f"variants.{arm}.bundle", rule.format(change)) for arm, change in found.items() if change]
