"""What the commands other than training may be asked for; values live in `conf/<command>.yaml`."""

from typing import Literal

from pydantic import Field

from mlops_hydra.config.gate import GateConfig
from mlops_hydra.config.schema import Composed, Device, Folder, TrackingConfig


class CommandConfig(Composed):
    """What all of them share."""

    output_dir: Folder = Field(min_length=1, description="folder of everything local")
    tracking: TrackingConfig = Field(description="where runs are recorded")


class RunsConfig(CommandConfig):
    """Which runs are listed, and how."""

    state: Literal["finished", "trained", "pruned", "running", "failed", "killed"] | None = Field(
        description="null: any"
    )
    verdict: Literal["passed", "failed", "undecided"] | None = Field(description="null: any")
    overrides: str | None = Field(description="text that the overrides contain, such as model=mlp")
    days: float | None = Field(gt=0, description="how far back; null: all")
    limit: int | None = Field(ge=1, description="the newest so many; null: all")
    format: Literal["table", "json"] = Field(description="json: a line a run, for programs")


class CleanConfig(CommandConfig):
    """What is removed."""

    apply: bool = Field(description="false only says what would go")
    days: float = Field(ge=0, description="an unfinished run untouched for so long is abandoned")


class SyncConfig(CommandConfig):
    """Nothing of its own."""


class DiffConfig(CommandConfig):
    """Nothing of its own."""


class VerifyDataConfig(Composed):
    """Where the data is now."""

    path: str | None = Field(description="file of the source; null: where it was")
    num_workers: int | None = Field(ge=0, le=256, description="null: as it was")


class VerifyConfig(CommandConfig):
    """How a run is trained again."""

    allow: tuple[Literal["data", "code"], ...] = Field(description="what may have changed since")
    trust: tuple[str, ...] = Field(description="packages that the recorded configuration may name")
    tolerance: float = Field(ge=0, description="relative, where the environment is another one")
    data: VerifyDataConfig
    device: Device | None = Field(description="null: as it was")
    progress: Literal["auto", "bar", "plain", "off"] = Field(description="as for training")


class PromoteConfig(CommandConfig):
    """What a run is judged by, and what it becomes."""

    to: Literal["champion", "challenger"] = Field(description="the alias that it gets")
    gates: dict[str, GateConfig] | None = Field(description="null: those of the run")
    reason: str | None = Field(description="for the audit")
    force: str | None = Field(
        min_length=1, description="why it gets the alias though it did not pass; null: it gets none"
    )
    trust: tuple[str, ...] = Field(description="packages that the recorded configuration may name")
    data: VerifyDataConfig


class RollbackConfig(CommandConfig):
    """Which alias goes back."""

    alias: Literal["champion", "challenger"] = Field(description="what goes back to the version before")
    reason: str | None = Field(description="for the audit")


class PredictDataConfig(Composed):
    """What is predicted."""

    path: str | None = Field(description="CSV or Parquet file of rows")
    target: str | None = Field(description="column to compare with; null: that of the model, if it is there")
    separator: str = Field(min_length=1, max_length=1, description="between the fields of a CSV file, and of `out`")
    encoding: str = Field(description="of the text of a CSV file; `out` is utf-8")
    decimal: str = Field(min_length=1, max_length=1, description="of numbers in a CSV file, and in `out`")


class PredictConfig(CommandConfig):
    """Rows in, predictions out."""

    data: PredictDataConfig
    out: str | None = Field(description="CSV or Parquet file that is written")
    chunk_rows: int = Field(ge=1, description="rows in memory at a time")
