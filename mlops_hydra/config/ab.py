"""What `mlops-hydra ab` may be asked for; values live in `conf/ab.yaml`."""

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from mlops_hydra.config.commands import CommandConfig
from mlops_hydra.config.moments import Moment, check_span
from mlops_hydra.config.schema import Composed
from mlops_hydra.config.section import Direction

Unit = Literal["user_id", "request_id"]
Several = Literal["sum", "mean", "max", "last"]


def _as_switch(value: object) -> object:
    """YAML 1.1 reads `on` as true."""
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else value


Switch = Annotated[Literal["on", "off"], BeforeValidator(_as_switch)]


class OutcomesConfig(Composed):
    """What became of users or requests: a table with an id and a value in each row."""

    path: str | None = Field(description="CSV or Parquet file")
    unit: Unit | None = Field(description="what the ids are; null: by the column that is there")
    id: str | None = Field(description="column of the ids; null: the one called as `unit`")
    value: str | None = Field(description="column of the numbers; null: the only other one")
    time: str | None = Field(description="column that says when the value was known; null: not known")
    several: Several | None = Field(description="values of one user make one: how; null: more than one is a fault")
    missing: float | None = Field(description="value of who was exposed and has none; null: is left out")
    separator: str = Field(min_length=1, max_length=1, description="between the fields of a CSV file")
    encoding: str = Field(description="of the text of a CSV file")
    decimal: str = Field(min_length=1, max_length=1, description="of numbers in a CSV file")


class AbConfig(CommandConfig):
    """The A/B test of a service: what is compared, and how sure the answer must be."""

    name: str = Field(min_length=1, description="registered model, as the service has it")
    outcomes: OutcomesConfig
    direction: Direction = Field(description="which values are better")
    control: str | None = Field(description="arm that others are compared with; null: as the service has it")
    weights: dict[str, Annotated[float, Field(ge=0)]] | None = Field(
        min_length=1, description="share of the users by arm, in any unit; null: as the service has them"
    )
    since: Moment | None = Field(description="first exposures from then on; null: as long as the weights were the same")
    until: Moment | None = Field(description="and before then")
    confidence: float = Field(gt=0.5, lt=1, description="of the interval, for all looks and arms together")
    planned_users: int = Field(ge=1, description="in both arms, where the interval is tightest; set before looking")
    out: str | None = Field(min_length=1, description="folder of the answer; null: output_dir/ab/NAME")
    kill_switch: Switch | None = Field(description="on: all users to control; nothing is judged then")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.weights is not None and not sum(self.weights.values()):
            raise ValueError("weights must not all be 0")
        check_span(self.since, self.until)
        if self.kill_switch is not None and self.outcomes.path is not None:
            raise ValueError("kill_switch judges nothing: leave outcomes.path out, or ask twice")
        return self
