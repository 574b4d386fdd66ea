"""The schema of a bundle from its file, where nothing can be taken for granted."""

import math
from typing import Any, get_args

from mlops_hydra.config.section import Kind, Task
from mlops_hydra.data.encoding import ClassLabel, FeatureSchema
from mlops_hydra.errors import BundleError
from mlops_hydra.packaging.seal import read_json_text

_TOP = {"features", "target", "task", "classes", "image_shape"}
_FEATURE = {"name", "kind", "categories", "minimum", "maximum", "missing_rate"}


def read_schema(content: bytes, task: Task, classes: tuple[ClassLabel, ...]) -> FeatureSchema:
    """What `FeatureSchema.to_json` wrote, for this task and these classes.

    Raises:
        BundleError: it is something else.
    """
    try:
        data = read_json_text(content)
        good = data.keys() == _TOP and all(_is_feature(item) for item in data["features"]) and _is_shape(data)
        schema = FeatureSchema.from_json(content.decode()) if good else None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise BundleError("schema.json: cannot be read") from error
    if schema is None or len(set(schema.names)) != len(schema.names) or not schema.names:
        raise BundleError("schema.json: cannot be read")
    if (schema.task, schema.classes) != (task, classes):
        raise BundleError("schema.json: is of another task, or of other classes")
    return schema


def _is_feature(item: dict[str, Any]) -> bool:
    categories, bounds = item["categories"], (item["minimum"], item["maximum"])
    return (
        item.keys() == _FEATURE
        and isinstance(item["name"], str)
        and item["kind"] in get_args(Kind)
        and isinstance(categories, list)
        and all(isinstance(text, str) for text in categories)
        and len(set(categories)) == len(categories)
        and all(bound is None or _is_number(bound) for bound in bounds)
        and _is_number(item["missing_rate"])
    )


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(float(value))  # type: ignore[arg-type]


def _is_shape(data: dict[str, Any]) -> bool:
    shape, target = data["image_shape"], data["target"]
    whole = shape is None or (isinstance(shape, list) and all(type(size) is int for size in shape))
    return whole and isinstance(target, str | None)
