"""The name of an experiment: what of its configuration can change the result, and the digest of that.

Pure: nothing is imported or read. Values were brought to their declared types when the configuration was checked.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from mlops_hydra.config.schema import ExperimentConfig

FINGERPRINT_DIGITS = 12


def identity(config: ExperimentConfig) -> dict[str, Any]:
    """The part of `config` that can change the result, as plain JSON values."""
    return _without_neutral(type(config), config.model_dump(mode="json"))


def neutral_values(config: ExperimentConfig) -> dict[str, Any]:
    """The rest: every neutral field by its dotted path, as plain JSON values."""
    tree = config.model_dump(mode="json")
    values = {}
    for path in neutral_paths():
        value: Any = tree
        for key in path.split("."):
            value = value[key]
        values[path] = value
    return values


def neutral_paths(model: type[BaseModel] = ExperimentConfig) -> tuple[str, ...]:
    """Dotted paths of the fields that are not part of the fingerprint; a section that is neutral counts once."""
    return tuple(_neutral_paths(model, ""))


def _neutral_paths(model: type[BaseModel], prefix: str) -> Iterator[str]:
    for name, field in model.model_fields.items():
        if is_neutral(field):
            yield prefix + name
        elif section := section_of(field):
            yield from _neutral_paths(section, f"{prefix}{name}.")


def is_neutral(field: FieldInfo) -> bool:
    """Whether the field was declared with `neutral(...)`."""
    extra = field.json_schema_extra
    return isinstance(extra, dict) and bool(extra.get("neutral"))


def _is_absent(field: FieldInfo, value: Any) -> bool:
    """Whether it was declared with `later(...)`, and says what was so before there was such a field."""
    extra = field.json_schema_extra
    return isinstance(extra, dict) and bool(extra.get("later")) and value == extra.get("absent")


def section_of(field: FieldInfo) -> type[BaseModel] | None:
    """The model of a field that is a section of its own."""
    inner: Any = field.annotation
    return inner if isinstance(inner, type) and issubclass(inner, BaseModel) else None


def _without_neutral(model: type[BaseModel], tree: Mapping[str, Any]) -> dict[str, Any]:
    kept = {}
    for name, field in model.model_fields.items():
        if is_neutral(field) or _is_absent(field, tree[name]):
            continue
        section = section_of(field)
        kept[name] = _without_neutral(section, tree[name]) if section else tree[name]
    return kept


def canonical_json(value: Any) -> str:
    """One text for equal values: sorted keys, no spaces, floats as Python's shortest repr, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def config_digest(config: ExperimentConfig) -> str:
    """SHA-256 over the canonical JSON of `identity(config)`, 64 hex digits."""
    return hashlib.sha256(canonical_json(identity(config)).encode()).hexdigest()


def family_digest(config: ExperimentConfig) -> str:
    """Like the fingerprint, but without how long is trained and from which weights: a longer training shares it."""
    tree = identity(config)
    tree["trainer"] = {name: value for name, value in tree["trainer"].items() if name not in ("epochs", "steps")}
    tree.pop("init_from", None)
    return hashlib.sha256(canonical_json(tree).encode()).hexdigest()[:FINGERPRINT_DIGITS]


def fingerprint(config: ExperimentConfig) -> str:
    """The first 12 hex digits of `config_digest`."""
    return config_digest(config)[:FINGERPRINT_DIGITS]


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings to dotted keys; an empty mapping stays as a value."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
