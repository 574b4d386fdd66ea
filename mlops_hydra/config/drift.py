"""What `mlops-hydra drift` may be asked for, and what counts as drift; values live in `conf/`."""

import json
from collections.abc import Collection
from functools import cache
from typing import Annotated, Self

from pydantic import Field, model_validator

from mlops_hydra.config.commands import CommandConfig
from mlops_hydra.config.moments import Moment, check_span
from mlops_hydra.config.roots import packaged_conf
from mlops_hydra.config.schema import Composed

Share = Annotated[float, Field(ge=0, le=1)]


class EffectsConfig(Composed):
    """Sizes of differences, each in its own unit."""

    numeric: float = Field(ge=0, description="Wasserstein distance, in spreads of the reference")
    categorical: Share = Field(description="total variation: share of the rows that would have to change")
    share: Share = Field(description="of the rows: missing, unreadable, out of range, in new categories")
    loss: float = Field(ge=0, description="growth of an error measure, relative to the reference")


class MonitoringConfig(Composed):
    """When something counts as drifted, and when too little was seen to say that it has not."""

    alpha: float = Field(gt=0, lt=1, description="false discovery rate over all tests of a check")
    columns: tuple[str, ...] | None = Field(description="features that are looked at; null: all")
    ignore: tuple[str, ...] = Field(description="features that are not")
    min_effect: EffectsConfig = Field(description="smaller differences do not matter, however sure they are")
    by_column: dict[str, Annotated[float, Field(ge=0)]] = Field(description="another min_effect of the values of one")
    must_see: EffectsConfig = Field(description="a check that could not have found these is undecided")

    def without(self, names: Collection[str]) -> "MonitoringConfig":
        """The same for data that does not tell these features."""
        columns = None if self.columns is None else tuple(name for name in self.columns if name not in names)
        ignore = tuple(dict.fromkeys([*self.ignore, *sorted(names)]))
        return self.model_copy(update={"ignore": ignore, "columns": columns})


class DriftConfig(CommandConfig):
    """One check."""

    current: str | None = Field(min_length=1, description="CSV or Parquet file, or the folder of a request log")
    reference: str | None = Field(min_length=1, description="table to compare with; null: the model's profile")
    since: Moment | None = Field(description="of a request log: from then on")
    until: Moment | None = Field(description="and before then")
    target: str | None = Field(description="column of the labels; null: the model's, if it is there")
    separator: str = Field(min_length=1, max_length=1, description="between the fields of a CSV file")
    encoding: str = Field(description="of the text of a CSV file")
    decimal: str = Field(min_length=1, max_length=1, description="of numbers in a CSV file")
    chunk_rows: int = Field(ge=1, description="rows in memory at a time")
    bins: int = Field(ge=2, le=10_000, description="of the profile of a `reference`")
    estimate_false_alarms: bool = Field(description="check the reference against itself, many times")
    record: bool = Field(description="in MLflow, on the run of the model")
    out: str | None = Field(min_length=1, description="folder of the answer; null: output_dir/drift/NAME")
    monitoring: MonitoringConfig

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_span(self.since, self.until)
        return self


@cache
def default_rules() -> MonitoringConfig:
    """As `conf/monitoring.yaml` has them, for who calls a function."""
    from omegaconf import OmegaConf

    tree = OmegaConf.to_container(OmegaConf.load(packaged_conf() / "monitoring.yaml").monitoring)
    return MonitoringConfig.model_validate_json(json.dumps(tree))
