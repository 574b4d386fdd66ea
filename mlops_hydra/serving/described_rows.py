"""What a row of a model looks like, in the words of JSON Schema: types, what training saw, and examples.

A range is what training saw; values outside it are served, and counted.
"""

from collections.abc import Mapping
from datetime import date, timedelta
from typing import Any, Final

import numpy as np

from mlops_hydra.data.encoding import Feature, FeatureSchema
from mlops_hydra.packaging.graph import Input
from mlops_hydra.serving.model import ServedModel
from mlops_hydra.serving.refusal import Refusal
from mlops_hydra.serving.rows import MAX_TEXT_LENGTH

Json = dict[str, Any]
MAX_LISTED_CATEGORIES: Final = 50
_MAX_TABLE_COLUMNS: Final = 50
_MAX_EXAMPLE_SIZE: Final = 1_000  # numbers; a page with more is slow
_DAY: Final = "2024-05-31"
_MISSING: Final = "null where it is missing"


def described_row(model: ServedModel) -> tuple[Json, Json | None]:
    """The schema of a row by name, and of one by position where the model takes such rows."""
    schema = model.bundle.schema
    if schema is None:
        return _row_of_arrays(model.bundle.inputs)
    described = {feature.name: _described(feature) for feature in schema.features}
    values = {
        "type": "array",
        "minItems": len(described),
        "maxItems": len(described),
        "prefixItems": list(described.values()),
        "items": False,
        "description": f"one row, in the order of the columns: {', '.join(described)}",
    }
    return _object_of(described), values


def _object_of(described: Mapping[str, Json]) -> Json:
    return {
        "type": "object",
        "required": list(described),
        "properties": dict(described),
        "description": "one row by column name; other keys are not looked at",
    }


def example_row(model: ServedModel) -> Json | None:
    """A row of the test split, as it would be sent; None where it would be too long to read."""
    golden, schema = model.bundle.golden, model.bundle.schema
    if schema is None:
        rows = {item.name: golden.rows[item.name][0] for item in model.bundle.inputs}
        size = sum(array.size for array in rows.values())
        return None if size > _MAX_EXAMPLE_SIZE else {name: array.tolist() for name, array in rows.items()}
    row = {name: golden.rows[name][0] for name in schema.names}
    return row if _is_taken(row, model) else _row_of_examples(schema)


def _is_taken(row: Json, model: ServedModel) -> bool:
    """Not where text stands for a number, which training reads and a client should not send."""
    from msgspec import Raw
    from msgspec.json import encode

    try:
        model.reader.arrays(model.reader.rows(Raw(encode([row]))))
    except Refusal:
        return False
    return True


def _row_of_examples(schema: FeatureSchema) -> Json:
    return {feature.name: _example(feature) for feature in schema.features}


def column_table(schema: FeatureSchema) -> str:
    """What `Row` says of the columns, in Markdown: a page shows it without being asked."""
    lines = ["| column | is | in training |", "|---|---|---|"]
    for feature in schema.features[:_MAX_TABLE_COLUMNS]:
        told = _told(feature).removeprefix("In training: ")
        cells = (f"`{feature.name}`", _uncapitalised(_WORDS[feature.kind]), told)
        lines.append("| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |")
    more = len(schema.features) - _MAX_TABLE_COLUMNS
    return "\n".join(lines) + (f"\n\nand {more} more, which the schema `Row` describes." if more > 0 else "")


def _uncapitalised(text: str) -> str:
    return text[:1].lower() + text[1:]


def _described(feature: Feature) -> Json:
    return {
        **_KINDS[feature.kind],
        **_seen(feature),
        "description": f"{_WORDS[feature.kind]}; {_MISSING}. {_told(feature)}",
        "examples": [_example(feature)],
    }


_KINDS: Final[Mapping[str, Json]] = {
    "numeric": {"type": ["number", "null"]},
    "boolean": {"anyOf": [{"type": "boolean"}, {"type": "number", "enum": [0, 1]}, {"type": "null"}]},
    "categorical": {
        "anyOf": [
            {"type": "string", "maxLength": MAX_TEXT_LENGTH},
            {"type": "number"},
            {"type": "boolean"},
            {"type": "null"},
        ]
    },
    "date": {"type": ["string", "null"], "format": "date", "maxLength": 64},
}
_WORDS: Final[Mapping[str, str]] = {
    "numeric": "A number",
    "boolean": "True or false",
    "categorical": "A category: text, a number, true or false",
    "date": f"A date such as {_DAY}, or a moment such as {_DAY}T12:00:00Z",
}


def _seen(feature: Feature) -> Json:
    """For programs, what `_told` says to people."""
    if feature.kind == "numeric" and feature.minimum is not None and feature.maximum is not None:
        return {"x-minimum-seen": feature.minimum, "x-maximum-seen": feature.maximum}
    return {"x-categories": list(feature.categories[:MAX_LISTED_CATEGORIES])} if feature.categories else {}


def _told(feature: Feature) -> str:
    seen = ""
    if feature.minimum is not None and feature.maximum is not None and feature.kind in ("numeric", "date"):
        low, high = feature.minimum, feature.maximum
        seen = f"{_day(low)} to {_day(high)}" if feature.kind == "date" else f"{low:g} to {high:g}"
    if feature.categories:
        more = len(feature.categories) - MAX_LISTED_CATEGORIES
        seen = ", ".join(feature.categories[:MAX_LISTED_CATEGORIES]) + (f" and {more} more" if more > 0 else "")
    rate = f"{feature.missing_rate:.1%} missing" if feature.missing_rate else "none missing"
    return f"In training: {seen}; {rate}" if seen else f"In training: {rate}"


def _day(days: float) -> str:
    try:
        return (date(1970, 1, 1) + timedelta(days=days)).isoformat()
    except OverflowError:
        return f"{days:g} days after 1970-01-01"


def _example(feature: Feature) -> Any:
    """A value such as training saw."""
    low, high = feature.minimum or 0.0, feature.maximum or 0.0
    if feature.kind == "numeric":
        return float(f"{(low + high) / 2:.4g}")
    if feature.kind == "date":
        return _DAY if feature.minimum is None else _day((low + high) // 2)
    if feature.kind == "categorical":
        return feature.categories[0] if feature.categories else None
    return True


def _row_of_arrays(inputs: tuple[Input, ...]) -> tuple[Json, Json | None]:
    described = {item.name: _described_array(item) for item in inputs}
    return _object_of(described), next(iter(described.values())) if len(described) == 1 else None


def _described_array(item: Input) -> Json:
    schema = _described_number(item.dtype)
    for size in reversed(item.shape):
        schema = {"type": "array", "minItems": size, "maxItems": size, "items": schema}
    shape = " x ".join(map(str, item.shape))
    what = f"a list of {shape} numbers" if len(item.shape) == 1 else f"nested lists of {shape} numbers"
    return schema | {"description": f"{item.dtype}: {what if item.shape else 'one value'}"}


def _described_number(dtype: str) -> Json:
    if dtype == "bool":
        return {"type": "boolean"}
    if dtype == "float64":
        return {"type": "number"}
    if dtype.startswith("float"):  # what is rounded to the largest one is taken
        info = np.finfo(dtype)
        beyond = float(info.max) + 2.0 ** (info.maxexp - info.nmant - 2)
        return {"type": "number", "exclusiveMinimum": -beyond, "exclusiveMaximum": beyond}
    return {"type": "integer", "minimum": int(np.iinfo(dtype).min), "maximum": int(np.iinfo(dtype).max)}
