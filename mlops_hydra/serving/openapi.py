"""The document behind /docs: POST /predict from the columns of the bundle that control serves, and the other routes.

FastAPI would write it from type annotations, which a route outside of it has not, and columns that are loaded later
cannot be. What rows look like is `described_rows.py`'s.
"""

from collections.abc import Mapping
from typing import Final

from pydantic import BaseModel

from mlops_hydra.config.serving import LimitsConfig
from mlops_hydra.serving.body import MAX_USER_ID_LENGTH
from mlops_hydra.serving.described_rows import Json, column_table, described_row, example_row
from mlops_hydra.serving.model import ServedModel
from mlops_hydra.serving.reports import Drift, Health, Readiness, Served
from mlops_hydra.serving.schemas import BatchPredictionResponse, Faults, PredictionResponse

_REF: Final = "#/components/schemas/{model}"
_REFUSALS: Final[Mapping[int, str]] = {
    401: "The API key is missing or wrong",
    408: "The body did not arrive in time",
    413: "Too many rows, or too many bytes",
    422: "What is wrong with the request: row, column, rule and value",
    503: "No model yet, or too many requests: try again after the seconds that Retry-After says",
}
_FAULTS: Final[Mapping[int, Json]] = {
    401: {"rule": "needs the API key, as `Authorization: Bearer KEY` or `X-API-Key: KEY`"},
    408: {"rule": "the body did not arrive in time"},
    413: {"rule": "must have at most 1000 rows", "value": 1001},
    422: {"row": 0, "column": "age", "rule": "is missing (null says that a value is)"},
    503: {"rule": "too many rows are waiting; try again"},
}
"""An example of each."""
_TEXT: Final = {"text/plain": {"schema": {"type": "string"}}}


def describe(document: Json, model: ServedModel | None, limits: LimitsConfig, *, has_key: bool) -> Json:
    """The document of the other routes, and this one; without a model, rows are not described."""
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    for answer in (PredictionResponse, BatchPredictionResponse, Faults, Health, Readiness, Served, Drift):
        described = answer.model_json_schema(ref_template=_REF)
        schemas.update(described.pop("$defs", {}))
        schemas[answer.__name__] = described
    schemas["Row"], values = ({"type": "object"}, {"type": "array"}) if model is None else described_row(model)
    if values is not None:
        schemas["RowOfValues"] = values
    has_lists = model is None or model.bundle.schema is not None
    schemas["PredictionRequest"] = _request(limits, has_values=values is not None, has_lists=has_lists)
    _describe_others(document["paths"], has_key=has_key)
    document["paths"] = {"/predict": {"post": _operation(model, limits, has_key=has_key)}, **document["paths"]}
    document["tags"] = [{"name": "predictions"}, {"name": "service"}]
    if has_key:
        _describe_key(document)
    return document


def _describe_others(paths: Json, *, has_key: bool) -> None:
    locked = _refusals(401) if has_key else {}
    paths["/health"]["get"]["responses"] = {"200": _answer(Health, "It is")}
    paths["/ready"]["get"]["responses"] = {
        "200": _answer(Readiness, "Predictions can be asked for"),
        "503": _answer(Readiness, "They cannot; `problems` says why"),
    }
    paths["/model"]["get"]["responses"] = {"200": _answer(Served, "By arm: version, verdict, columns"), **locked}
    paths["/drift"]["get"]["responses"] = {"200": _answer(Drift, "`status`, and by arm what differs"), **locked}
    about = "Requests, errors, latencies, batch sizes, the queue and unusual values, drift, as text for Prometheus"
    paths["/metrics"]["get"]["responses"] = {"200": {"description": about, "content": _TEXT}, **locked}


def _answer(answer: type[BaseModel], description: str) -> Json:
    return {"description": description, "content": {"application/json": {"schema": _reference(answer.__name__)}}}


def _reference(name: str) -> Json:
    return {"$ref": _REF.format(model=name)}


def _refusals(*statuses: int) -> Json:
    answers = {str(status): _answer(Faults, _REFUSALS[status]) for status in statuses}
    for status in statuses:
        fault = {"row": None, "column": None, "value": None, "nearest": [], **_FAULTS[status]}
        answers[str(status)]["content"]["application/json"]["example"] = {"detail": [fault]}
    return answers


def _operation(model: ServedModel | None, limits: LimitsConfig, *, has_key: bool) -> Json:
    answers = [_reference(answer.__name__) for answer in (PredictionResponse, BatchPredictionResponse)]
    asked: Json = {"schema": _reference("PredictionRequest")}
    answered: Json = {"schema": {"anyOf": answers}}
    refusals = _refusals(*(status for status in _REFUSALS if has_key or status != 401))
    row = None if model is None else example_row(model)
    if model is not None and row is not None:
        has_values = model.bundle.schema is not None
        asked["examples"], answered["examples"] = _examples(row, has_values), _example_answers(model, has_values)
        refusals["422"]["content"]["application/json"]["example"]["detail"][0]["column"] = next(iter(row))
    about = "The predictions, and which model of which arm made them"
    return {
        "operationId": "predict",
        "summary": "Predict one row, or several",
        "description": _told(model, limits),
        "tags": ["predictions"],
        "requestBody": {"required": True, "content": {"application/json": asked}},
        "responses": {"200": {"description": about, "content": {"application/json": answered}}, **refusals},
    }


def _told(model: ServedModel | None, limits: LimitsConfig) -> str:
    """In Markdown."""
    if model is None:
        return "No model is loaded yet; `GET /ready` says why."
    schema = model.bundle.schema
    target = f" `{schema.target}`" if schema is not None and schema.target else ""
    classes = ", ".join(f"`{label}`" for label in model.label_texts)
    what = f"the class{target}, one of {classes}" if classes else f"the value{target}"
    lines = [
        f"Predicts {what}.",
        "`rows` are objects by column name, `features` is one row by position."
        if schema is not None
        else "`rows` are objects with a list for each input.",
        f"At most {limits.max_rows:,} rows and {limits.max_body_bytes:,} bytes.",
    ]
    if schema is not None:
        lines.append(
            "A missing value is `null`. Categories and numbers that training did not see are taken, and counted in "
            "`GET /metrics`."
        )
        lines.append(column_table(schema))
    return "\n\n".join(lines)


def _request(limits: LimitsConfig, *, has_values: bool, has_lists: bool) -> Json:
    size = {"type": "array", "minItems": 1, "maxItems": limits.max_rows}
    by_name = {**size, "items": _reference("Row"), "description": "each by column name"}
    by_place = {**size, "items": _reference("RowOfValues"), "description": "each a list of values"}
    rows = {"anyOf": [by_name, by_place]} if has_lists else by_name
    user_id = {
        "anyOf": [
            {"type": "string", "minLength": 1, "maxLength": MAX_USER_ID_LENGTH},
            {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1},
            {"type": "null"},
        ],
        "description": "the same user is always served by the same arm; without one, each request may be by another",
    }
    probabilities = {"type": "boolean", "default": False, "description": "answer the probability of each class, too"}
    forms = {"rows": rows, "features": _reference("RowOfValues")} if has_values else {"rows": rows}
    described = [
        {
            "type": "object",
            "title": f"by {name}",
            "additionalProperties": False,
            "required": [name],
            "properties": {name: schema, "user_id": user_id, "probabilities": probabilities},
        }
        for name, schema in forms.items()
    ]
    return {"oneOf": described} if len(described) > 1 else described[0]


def _examples(row: Json, has_values: bool) -> Json:
    examples = {"rows": {"summary": "rows by name, for a user", "value": {"rows": [row], "user_id": "user-1"}}}
    if has_values:
        examples["features"] = {"summary": "one row by position", "value": {"features": list(row.values())}}
    return examples


def _example_answers(model: ServedModel, has_values: bool) -> Json:
    """What the examples are answered, or nearly: another arm may answer, and as another request."""
    output = model.bundle.golden.predictions[0]
    predicted: Json = {"prediction": float(output) if not model.labels else None, "confidence": None}
    if model.labels:
        place = int(output.argmax())
        predicted = {"prediction": model.labels[place], "confidence": min(1.0, float(output[place]))}
    source = {
        "model_version": model.version,
        "fingerprint": model.bundle.fingerprint,
        "variant": "control",
        "assigned_by": "user_id",
        "request_id": "8c5f1e07a2d4-1",
    }
    examples: Json = {"rows": {"summary": "to rows", "value": {"predictions": [predicted], **source}}}
    if has_values:
        value = {**predicted, **source, "assigned_by": "request_id"}
        examples["features"] = {"summary": "to features", "value": value}
    return examples


def _describe_key(document: Json) -> None:
    document["components"]["securitySchemes"] = {
        "bearer": {"type": "http", "scheme": "bearer"},
        "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    }
    for path in ("/predict", "/model", "/drift", "/metrics"):
        for operation in document["paths"][path].values():
            operation["security"] = [{"bearer": []}, {"header": []}]
