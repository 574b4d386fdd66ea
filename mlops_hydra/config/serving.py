"""What the prediction service may be asked for; values live in `conf/serve.yaml`."""

import ipaddress
from typing import Annotated, Self

from pydantic import BeforeValidator, Field, model_validator

from mlops_hydra.config.commands import CommandConfig
from mlops_hydra.config.drift import MonitoringConfig
from mlops_hydra.config.schema import Composed


def _as_text(value: object) -> object:
    """YAML reads `alias: 3` as a number."""
    return str(value) if type(value) is int else value


Alias = Annotated[str, BeforeValidator(_as_text)]


class VariantConfig(Composed):
    """An arm of the A/B test: which model it serves, and its share of the users."""

    alias: Alias | None = Field(None, min_length=1, description="of the registered model, or the number of a version")
    bundle: str | None = Field(None, min_length=1, description="folder of a bundle; then the alias is not read")
    weight: float = Field(ge=0, description="share of the users, in any unit")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.alias is None and self.bundle is None:
            raise ValueError("an arm needs an `alias` or a `bundle`")
        return self


class LimitsConfig(Composed):
    """What the service takes on at a time; more is refused."""

    max_body_bytes: int = Field(ge=1, description="of a request; more: 413")
    max_rows: int = Field(ge=1, description="of a request; more: 413")
    max_queued_rows: int = Field(ge=1, description="waiting, in a worker; more: 503 with Retry-After")
    max_batch_rows: int = Field(ge=1, description="of several requests that are predicted together")
    max_requests: int = Field(ge=1, description="under way at a time, in a worker; more: 503")
    timeout_seconds: float = Field(gt=0, description="for a body to arrive (408), and for a prediction (503)")


class FollowConfig(Composed):
    """How the registry is followed."""

    poll_seconds: float = Field(gt=0, description="between two looks at the aliases")
    allow_schema_change: bool = Field(description="also a version that takes other columns than the one before")


class LogConfig(Composed):
    """What is kept of each prediction, features included, in Parquet files."""

    sample: float = Field(ge=0, le=1, description="share of the users (else requests) that is logged; 0: no log")
    leave_out: tuple[str, ...] = Field(description="columns that are not logged; user_id is one, too")
    hash: tuple[str, ...] = Field(description="columns of which a keyed hash is logged; user_id is one, too")
    flush_seconds: float = Field(gt=0, description="what a killed worker can lose")
    roll_seconds: float = Field(gt=0, description="until a prediction is in a Parquet file")
    max_pending_bytes: int = Field(ge=1, description="in the memory of a worker; more is dropped, and counted")
    max_journal_bytes: int = Field(ge=1, description="on disk, not yet in Parquet; more is dropped, and counted")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if both := sorted(set(self.leave_out) & set(self.hash)):
            raise ValueError(f"a column is either left out or hashed: {', '.join(both)}")
        return self


class DriftWatchConfig(Composed):
    """How the request log is compared with what the models were trained on."""

    every_seconds: float | None = Field(gt=0, description="between two checks; null: none")
    hours: int = Field(ge=1, description="of the log that are looked at: whole ones, and the one that runs")


class ServeConfig(CommandConfig):
    """The service."""

    name: str = Field(min_length=1, description="registered model")
    experiment: str = Field(min_length=1, description="of the A/B test: another name, other users in each arm")
    variants: dict[str, VariantConfig] = Field(min_length=1, description="arms by name, in the order they came")
    earlier: tuple[dict[str, float], ...] = Field(description="weights that were in force before, oldest first")
    testers: dict[str, str] = Field(description="user_id: arm, whatever the weights say")
    kill_switch: bool = Field(description="all users to control")
    host: str = Field(min_length=1, description="address to listen at")
    port: int = Field(ge=0, le=65535, description="0: a free one")
    allow_public: bool = Field(description="listen at a public address without a key")
    api_key: str | None = Field(min_length=16, repr=False, description="that clients must send; null: none")
    docs: bool = Field(description="/docs and /openapi.json, without a key")
    workers: int = Field(ge=1, le=256, description="processes that predict")
    num_threads: int = Field(ge=1, description="of a prediction")
    shutdown_seconds: float = Field(gt=0, description="for what was accepted, before a stop")
    limits: LimitsConfig
    follow: FollowConfig
    log: LogConfig
    drift: DriftWatchConfig
    monitoring: MonitoringConfig

    @property
    def watches_drift(self) -> bool:
        """Whether there is a log, and it is looked at."""
        return self.log.sample > 0 and self.drift.every_seconds is not None

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can connect."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def weights(self) -> dict[str, float]:
        """Of the arms."""
        return {arm: variant.weight for arm, variant in self.variants.items()}
