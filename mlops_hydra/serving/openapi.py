"""How POST /predict is described: from the columns of the bundle that control serves, with types, ranges and examples.

A range is what training saw; values outside it are served, and counted.
"""

from collections.abc import Mapping
from typing import Any, Final

from mlops_hydra.config.serving import LimitsConfig
from mlops_hydra.data.encoding import Feature, FeatureSchema
from mlops_hydra.packaging.graph import Input
from mlops_hydra.serving.answers import BatchPredictionResponse, Faults, PredictionResponse
from mlops_hydra.serving.body import MAX_USER_ID_LENGTH
from mlops_hydra.serving.model import ServedModel
from mlops_hydra.serving.rows import MAX_TEXT_LENGTH

Json = dict[str, Any]
MAX_LISTED_CATEGORIES: Final = 50
_REFUSALS: Final = {
    401: "the API key is missing or wrong",
    408: "the body did not arrive in time",
    413: "too many rows, or too many bytes",
    422: "what is wrong: row, column, rule and value",
    503: "no model yet, or too many requests: try again",
}


def describe(document: Json, model: ServedModel | None, limits: LimitsConfig, *, has_key: bool) -> Json:
    """The document of the other routes, and this one; without a model, rows are not described."""
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    for answer in (PredictionResponse, BatchPredictionResponse, Faults):
        described = answer.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas.update(described.pop("$defs", {}))
        schemas[answer.__name__] = described
    row, values = _described_row(model)
    schemas["Row"], schemas["RowOfValues"] = row, values
    schemas["PredictionRequest"] = _request(limits, has_lists=model is None or model.bundle.schema is not None)
    _describe_errors(document)
    document["paths"]["/predict"] = {"post": _operation(model, has_key=has_key)}
    if has_key:
        _describe_key(document)
    return document


def _operation(model: ServedModel | None, *, has_key: bool) -> Json:
    answers = [{"$ref": f"#/components/schemas/{name}"} for name in ("PredictionResponse", "BatchPredictionResponse")]
    content: Json = {"schema": {"$ref": "#/components/schemas/PredictionRequest"}}
    if model is not None:
        content["examples"] = _examples(model)
    refusals = {
        str(status): {
            "description": text,
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Faults"}}},
        }
        for status, text in _REFUSALS.items()
        if has_key or status != 401
    }
    return {
        "operationId": "predict",
        "summary": "Predict one row, or several",
        "tags": ["predictions"],
        "requestBody": {"required": True, "content": {"application/json": content}},
        "responses": {
            "200": {
                "description": "predictions, and which model and arm made them",
                "content": {"application/json": {"schema": {"anyOf": answers}}},
            },
            **refusals,
        },
    }


def _request(limits: LimitsConfig, *, has_lists: bool) -> Json:
    named, values = ({"$ref": f"#/components/schemas/{name}"} for name in ("Row", "RowOfValues"))
    size = {"type": "array", "minItems": 1, "maxItems": limits.max_rows}
    by_name = {**size, "items": named, "description": "each by column name"}
    by_place = {**size, "items": values, "description": "each a list of values"}
    rows = {"anyOf": [by_name, by_place]} if has_lists else by_name
    user_id = {
        "anyOf": [
            {"type": "string", "minLength": 1, "maxLength": MAX_USER_ID_LENGTH},
            {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1},
            {"type": "null"},
        ],
        "description": "the same user is always served by the same arm",
    }
    probabilities = {"type": "boolean", "default": False, "description": "also the probability of each class"}
    shared = {"user_id": user_id, "probabilities": probabilities}
    forms = [("rows", rows), ("features", values)]
    return {
        "oneOf": [
            {
                "type": "object",
                "title": f"by {name}",
                "additionalProperties": False,
                "required": [name],
                "properties": {name: schema, **shared},
            }
            for name, schema in forms
        ]
    }


def _described_row(model: ServedModel | None) -> tuple[Json, Json]:
    """The schema of a row by name, and of one by position."""
    if model is None:
        return {"type": "object"}, {"type": "array"}
    schema = model.bundle.schema
    if schema is None:
        return _row_of_arrays(model.bundle.inputs)
    described = {feature.name: _described(feature) for feature in schema.features}
    row = {"type": "object", "required": list(described), "properties": described}
    values = {
        "type": "array",
        "minItems": len(described),
        "maxItems": len(described),
        "prefixItems": list(described.values()),
        "items": {},
        "description": "one row, in the order " + ", ".join(described),
    }
    return row, values


def _described(feature: Feature) -> Json:
    described = dict(_KINDS[feature.kind])
    about = []
    if feature.kind == "numeric" and feature.minimum is not None and feature.maximum is not None:
        described["x-minimum-seen"], described["x-maximum-seen"] = feature.minimum, feature.maximum
        about.append(f"training saw {feature.minimum:g} to {feature.maximum:g}")
    if feature.categories:
        listed = feature.categories[:MAX_LISTED_CATEGORIES]
        described["x-categories"] = list(listed)
        more = len(feature.categories) - len(listed)
        about.append("training saw " + ", ".join(listed) + (f" and {more} more" if more else ""))
    if feature.missing_rate:
        about.append(f"{feature.missing_rate:.1%} were missing")
    example = example_of(feature)
    return described | {"description": "; ".join(about) or feature.kind, "examples": [example]}


_KINDS: Final[Mapping[str, Json]] = {
    "numeric": {"type": ["number", "null"]},
    "boolean": {"anyOf": [{"type": "boolean"}, {"type": "number", "enum": [0, 1]}, {"type": "null"}]},
    "categorical": {
        "anyOf": [
            {"type": "string", "maxLength": MAX_TEXT_LENGTH},
            {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1},
            {"type": "number", "minimum": -(2.0**62), "maximum": 2.0**62},
            {"type": "boolean"},
            {"type": "null"},
        ]
    },
    "date": {"type": ["string", "null"], "format": "date", "maxLength": 64},
}


def example_of(feature: Feature) -> Any:
    """A value such as training saw."""
    if feature.kind == "numeric":
        low, high = feature.minimum or 0.0, feature.maximum or 0.0
        return float(f"{(low + high) / 2:.4g}")
    if feature.kind == "categorical":
        return feature.categories[0] if feature.categories else None
    return True if feature.kind == "boolean" else "2024-05-31"


def _row_of_arrays(inputs: tuple[Input, ...]) -> tuple[Json, Json]:
    described = {item.name: _described_array(item) for item in inputs}
    row = {"type": "object", "required": list(described), "properties": described}
    return row, next(iter(described.values())) if len(described) == 1 else {"type": "array", "maxItems": 0}


def _described_array(item: Input) -> Json:
    kind = "boolean" if item.dtype == "bool" else "number" if item.dtype.startswith("float") else "integer"
    schema: Json = {"type": kind}
    for size in reversed(item.shape):
        schema = {"type": "array", "minItems": size, "maxItems": size, "items": schema}
    return schema


def _examples(model: ServedModel) -> Json:
    schema = model.bundle.schema
    if schema is None:
        return {}
    row = golden_row(model, schema)
    return {
        "rows": {"summary": "rows by name, for a user", "value": {"rows": [row], "user_id": "user-1"}},
        "features": {"summary": "one row by position", "value": {"features": list(row.values())}},
    }


def golden_row(model: ServedModel, schema: FeatureSchema) -> dict[str, Any]:
    """A row of the test split, as it would be sent."""
    row = {name: model.bundle.golden.rows[name][0] for name in schema.names}
    try:
        model.reader.arrays([tuple(row.values())])
    except Exception:  # a value that JSON does not have
        return {feature.name: example_of(feature) for feature in schema.features}
    return row


def _describe_errors(document: Json) -> None:
    """Other routes answer 422 in their own words, which none of them needs: they take no input."""
    for path in document["paths"].values():
        for operation in path.values():
            operation["responses"].pop("422", None)


def _describe_key(document: Json) -> None:
    document["components"]["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer"},
        "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    }
    for path in ("/predict", "/model", "/metrics"):
        for operation in document["paths"][path].values():
            operation["security"] = [{"bearer": []}, {"header": []}]
