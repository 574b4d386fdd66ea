"""What is asked and answered, as clients see it; and the way in which a worker writes it, forty times faster.

`PredictionRequest` and `PredictionResponse` are for clients, documentation and tests; the worker itself decodes with
`body.py` and writes with the structs below, of the same fields, which a test compares.
"""

from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType
from pydantic import BaseModel, ConfigDict, Field, model_validator

from mlops_hydra.serving.arms import Choice
from mlops_hydra.serving.model import Outcome

AssignedBy = Literal["user_id", "request_id", "tester", "kill_switch", "no_model"]
Label = str | int | bool | float


class PredictionRequest(BaseModel):
    """One row as `features`, or rows by column name."""

    model_config = ConfigDict(extra="forbid")

    features: list[Any] | None = Field(None, description="one row: values in the order of the columns")
    rows: list[dict[str, Any] | list[Any]] | None = Field(
        None, description="each by column name, or values in the order of the columns; null where one is missing"
    )
    user_id: str | int | None = Field(None, description="the same user is always served by the same arm")
    probabilities: bool = Field(False, description="also the probability of each class")

    @model_validator(mode="after")
    def _check(self) -> "PredictionRequest":
        if (self.features is None) == (self.rows is None):
            raise ValueError("needs either `features` or `rows`")
        return self


class Prediction(BaseModel):
    """Of one row."""

    model_config = ConfigDict(extra="forbid")

    prediction: Label = Field(description="class, or value in the units of the target")
    confidence: float | None = Field(ge=0, le=1, description="probability of that class; null for a value")
    probabilities: dict[str, float] | None = Field(None, description="of each class, where asked for")


class _Source(BaseModel):
    model_config = ConfigDict(extra="forbid")

    model_version: str = Field(description="of the registered model; empty for a folder")
    fingerprint: str = Field(description="of the configuration that the model was trained with")
    variant: str = Field(description="arm of the A/B test")
    assigned_by: AssignedBy = Field(description="what chose the arm; `request_id` where no user was named")
    request_id: str = Field(description="of this answer, in the request log, too")


class PredictionResponse(Prediction, _Source):
    """The answer to `features`."""


class BatchPredictionResponse(_Source):
    """The answer to `rows`, in their order."""

    predictions: list[Prediction]


class Fault(BaseModel):
    """One thing that is wrong with a request."""

    row: int | None = Field(description="from 0; null where it is not about a row")
    column: str | None = Field(description="or a key of the body; null where it is about neither")
    rule: str = Field(description="what should be so")
    value: Any = Field(None, description="what was sent; text of 100 characters where it was longer")
    nearest: list[str] = Field(default=[], description="known names like the one that is not")


class Faults(BaseModel):
    """Why a request is refused."""

    detail: list[Fault]


class _Written(msgspec.Struct, gc=False):
    prediction: Any
    confidence: float | None
    probabilities: dict[str, float] | UnsetType = UNSET


class _One(msgspec.Struct, gc=False):
    prediction: Any
    confidence: float | None
    probabilities: dict[str, float] | UnsetType
    model_version: str
    fingerprint: str
    variant: str
    assigned_by: str
    request_id: str


class _Many(msgspec.Struct, gc=False):
    predictions: list[_Written]
    model_version: str
    fingerprint: str
    variant: str
    assigned_by: str
    request_id: str


_encode = msgspec.json.Encoder().encode


def written(
    choice: Choice, request_id: str, found: Outcome, *, is_one: bool, with_probabilities: bool = False
) -> bytes:
    """The body of an answer."""
    model = choice.model
    source = (model.version, model.bundle.fingerprint, choice.arm, choice.assigned_by, request_id)
    probabilities: list[dict[str, float] | UnsetType] = [UNSET] * len(found.predictions)
    if with_probabilities and model.label_texts:
        probabilities = [dict(zip(model.label_texts, row, strict=True)) for row in found.outputs.tolist()]
    if is_one:
        return _encode(_One(found.predictions[0], found.confidences[0], probabilities[0], *source))
    rows = map(_Written, found.predictions, found.confidences, probabilities)
    return _encode(_Many(list(rows), *source))
