"""What the service says of itself, for the documentation: GET /health, /ready, /model and /drift."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class _Report(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Health(_Report):
    """The process answers."""

    status: Literal["alive"]


class Version(_Report):
    """Of a model."""

    model_version: str = Field(description="of the registered model; empty for a folder")


class RefusedVersion(_Report):
    """One that an alias names, and that is not served."""

    version: str
    reason: str


class RegistryState(_Report):
    """What came of asking the registry."""

    error: str | None = Field(description="why it could not be asked the last time")
    checked_at: float | None = Field(description="when it last answered, in seconds since 1970")


class LogState(_Report):
    """Of the request log."""

    error: str | None = Field(description="why the disk does not take it")


class Readiness(_Report):
    """Whether predictions can be asked for; the answer 200 says so as well as `ready`, 503 that they cannot."""

    ready: bool = Field(description="control has a model, and it predicts its golden rows as it should")
    problems: dict[str, str] = Field(description="by arm, what is wrong with what it serves")
    variants: dict[str, Version | None] = Field(description="by arm, what it serves; null: its users are control's")
    refused: dict[str, RefusedVersion] = Field(description="by arm, the version that it should serve and does not")
    registry: RegistryState | None = Field(description="null where no registry is followed")
    kill_switch: bool = Field(description="all users are sent to control")
    request_log: LogState | None = Field(description="null where nothing is logged")


class ColumnSeen(_Report):
    """A column as training saw it."""

    name: str
    kind: Literal["numeric", "boolean", "categorical", "date"]
    categories: list[str]
    minimum: float | None = Field(description="of a date: in days since 1970-01-01")
    maximum: float | None
    missing_rate: float


class GraphInput(_Report):
    """A nested list that a model of arrays takes."""

    name: str
    kind: str = Field(description="dtype and shape")


class ServedArm(Version):
    """An arm of the A/B test, and the model that it serves."""

    weight: float = Field(description="share of the users, in any unit")
    fingerprint: str = Field(description="of the configuration that the model was trained with")
    lineage: str = Field(description="over configuration, data and code")
    run_id: str | None = Field(description="of the MLflow run that trained it")
    task: Literal["binary", "multiclass", "regression"]
    classes: list[str | int | bool] = Field(description="empty for a regression")
    verdict: str = Field(description="of the quality gates")
    metrics: dict[str, float | None]
    columns: list[ColumnSeen] | None = Field(alias="schema", description="null for a model of arrays")
    inputs: list[GraphInput] | None = Field(description="null for a model of a table")


class Served(_Report):
    """What is served."""

    name: str = Field(description="of the registered model")
    experiment: str = Field(description="of the A/B test")
    kill_switch: bool = Field(description="all users are sent to control")
    variants: dict[str, ServedArm | None] = Field(description="by arm; null where it has no model")


class Difference(_Report):
    """One test of one column that did not come out as stable."""

    feature: str = Field(description="name of the column; `prediction` and `confidence` are of the model")
    part: Literal["feature", "prediction", "performance"]
    kind: str = Field(description="of its values")
    test: str = Field(description="of the values: ks, chi_square, weekday; of shares of the rows; or of the column")
    verdict: Literal["drifted", "undecided"]
    is_drifted: bool
    reason: str = Field(description="in words")
    effect: float | None = Field(description="how large the difference is")
    unit: str = Field(description="of `effect`")
    min_effect: float | None = Field(description="what matters, as `monitoring` says")
    detectable: float | None = Field(description="what would have been found in 4 of 5 samples of this size")
    statistic: float | None
    p_value: float | None
    adjusted_p: float | None = Field(description="over all tests of this check (Benjamini and Hochberg)")
    psi: float | None = Field(description="population stability index")
    num_reference: int = Field(description="values in training")
    num_current: int = Field(description="values in the log")


class DriftOfArm(Version):
    """The rows that the model of an arm answered, in whatever arm, against what it was trained on."""

    fingerprint: str | None = Field(description="null where its bundle cannot be read")
    lineage: str | None
    verdict: Literal["drifted", "stable", "undecided"] = Field(description="undecided: too few rows, or an error")
    rows: int | None = Field(description="that were looked at")
    tests: int
    drifted: list[str] = Field(description="columns, the worst first")
    results: list[Difference] = Field(description="those that are not stable, the worst first, at most 100")
    notes: list[str] = Field(description="what was not looked at")
    error: str | None = Field(description="why it could not be compared")


class Drift(_Report):
    """Of the last check."""

    status: Literal["drifted", "undecided", "stable", "not_yet", "off"] = Field(
        description="the worst verdict of all arms; not_yet: since the start, nothing was checked; off: nothing will be"
    )
    checked_at: float | None = Field(description="in seconds since 1970")
    since: str | None = Field(description="time of the first rows that were looked at, UTC")
    until: str | None = Field(description="time of the check; the log may lack the last `log.roll_seconds`")
    variants: dict[str, DriftOfArm | None] = Field(description="by arm; null where nothing is known of it")
