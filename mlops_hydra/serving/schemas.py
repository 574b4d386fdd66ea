"""What is asked and answered, as clients see it: for their code, for documentation and for tests. Needs pydantic alone.

The worker decodes with `body.py` and writes with `answers.py`.
"""

from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

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

    @model_serializer(mode="wrap")
    def _sent(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """As it is posted: without what was not given."""
        return {name: value for name, value in write(self).items() if value is not None}

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
