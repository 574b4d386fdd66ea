"""What an experiment is: one tree of frozen models, schema and value at once.

Values live in YAML (`conf/`); here are their types, bounds and units. A field declared with `neutral(...)` cannot
change the result, so it is left out of the fingerprint; every other field is part of it.
"""

import re
import warnings
from dataclasses import dataclass, field
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, PrivateAttr, model_validator

from mlops_hydra.config.gate import GateConfig, JudgingConfig
from mlops_hydra.config.roots import Roots
from mlops_hydra.config.search import SweepsConfig
from mlops_hydra.config.section import AnyTarget, Direction, Kind, Section, Tags, later, neutral


def _check_device(value: str) -> str:
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", value):
        raise ValueError("must be auto, cpu, mps, cuda or cuda:N")
    return value


def _version_text(value: object) -> object:
    """YAML reads `version: 3` as a number."""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _check_folder(value: str) -> str:
    if "?" in value:
        raise ValueError("must not contain '?': the address of the SQLite store ends there")
    return value


Folder = Annotated[str, AfterValidator(_check_folder)]
Version = Annotated[str, BeforeValidator(_version_text)]
Device = Annotated[str, AfterValidator(_check_device)]


class ObjectiveConfig(Section):
    """The one metric that early stopping, best weights, plateau, sweeps and the default gate follow."""

    metric: str | None = Field(description="on validation; null: log_loss, or rmse for regression")
    direction: Direction | None = Field(description="null: known from the metric")
    others: tuple[str, ...] = neutral(
        "what a sweep looks at besides: metrics on validation, or num_parameters",
        default=(),  # records of earlier versions have none
    )


class SplitConfig(Section):
    """How rows become train, validation and test."""

    by: Literal["auto", "random", "stratified", "group", "time", "column"] = Field(
        description="auto: stratified for classes, random for regression"
    )
    column: str | None = Field(description="of the group, the time, or the words train, val and test")
    val: float = Field(gt=0, lt=1, description="share of all rows (with folds: of the rows outside the test fold)")
    test: float = Field(gt=0, lt=1, description="share of all rows")
    num_folds: int | None = Field(ge=2, description="cross-validation: the test split is one fold of this many")
    fold: int | None = Field(ge=0, description="which fold, from 0")
    seed: int = Field(ge=0, lt=2**63, description="of the shuffling")
    duplicates: Literal["together", "count"] = Field(
        description="exact copies of a row: kept in one split, or only counted in a warning"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.num_folds is None and self.val + self.test >= 1:
            raise ValueError(f"val + test must leave rows to train on, got {self.val} + {self.test}")
        if (self.num_folds is None) != (self.fold is None):
            raise ValueError("num_folds and fold are given together")
        if self.num_folds is not None and self.fold is not None and self.fold >= self.num_folds:
            raise ValueError(f"fold counts from 0 and must be below num_folds={self.num_folds}, got {self.fold}")
        by_column = self.by in ("group", "time", "column")
        if by_column and self.column is None:
            raise ValueError(f"by={self.by} needs the name of a column in data.split.column")
        if self.column is not None and not by_column:
            raise ValueError(f"column={self.column} is only read with by=group, by=time or by=column, got by={self.by}")
        if self.num_folds is not None and self.by in ("time", "column"):
            raise ValueError(f"by={self.by} decides the splits itself; folds need random, stratified or group")
        return self


class EncodingConfig(Section):
    """How raw columns become numbers (fitted on the training split alone)."""

    impute: Literal["mean", "median"] = Field(description="what stands in for a missing number")
    max_one_hot: int = Field(ge=0, le=1000, description="columns with more categories than this are embedded")
    max_categories: int = Field(ge=1, description="the most frequent ones are kept; the rest are unknown")


class DataConfig(Section):
    """What is learnt from."""

    source: AnyTarget = Field(description="a table, a function that returns one, a torch Dataset or three of them")
    path: str | None = neutral("file of the source, if it reads one; the data digest stands for it")
    target: str | None = Field(description="column to predict (a torch Dataset gives the target itself)")
    task: Literal["auto", "binary", "multiclass", "regression"] = Field(description="auto: from the target's values")
    classes: tuple[str | int | bool, ...] | None = Field(description="order of the classes; the last is the positive")
    keep: tuple[str, ...] | None = Field(description="feature columns; null: all but the target")
    drop: tuple[str, ...] = Field(description="columns that are no features")
    kinds: dict[str, Kind] = Field(
        description="column: numeric, boolean, categorical or date, where the guess is wrong"
    )
    id: str | None = Field(description="column that names a thing: not a feature, and never in two splits")
    image_shape: tuple[Annotated[int, Field(ge=1)], ...] | None = Field(
        min_length=3, max_length=3, description="[channels, height, width] if the features are pixels in that order"
    )
    split: SplitConfig
    encoding: EncodingConfig
    version: Version | None = Field(description="names the content of a stream that cannot be hashed")
    num_workers: int = neutral("processes that load a torch Dataset", ge=0, le=256)

    @model_validator(mode="after")
    def _classes_make_sense(self) -> Self:
        if self.classes is not None and self.task == "regression":
            raise ValueError("a regression has no classes: data.classes=null")
        if self.classes is not None and len(set(map(str, self.classes))) < len(self.classes):
            raise ValueError(f"classes names a class twice, got {list(self.classes)}")
        return self


class EarlyStoppingConfig(Section):
    """When to stop: the objective has not improved by `min_delta` for `patience` epochs."""

    patience: int | None = Field(ge=1, description="epochs; null: never stop early")
    min_delta: float = Field(ge=0, description="smallest change that counts, in units of the objective")


class CheckpointConfig(Section):
    """When the state of the training is written, to go on from: whichever comes first; all null: only at a signal."""

    every_epochs: int | None = Field(ge=1, description="epochs")
    every_steps: int | None = Field(ge=1, description="optimizer updates")
    every_seconds: float | None = Field(gt=0, description="seconds, or longer where writing takes over 2 % of the time")


class TrainerConfig(Section):
    """How it learns."""

    epochs: int | None = Field(ge=1, description="passes over the training split; or give steps")
    steps: int | None = Field(ge=1, description="optimizer updates; or give epochs")
    batch_size: int = Field(ge=1, description="rows")
    accumulate: int = Field(ge=1, description="batches an optimizer update")
    clip_norm: float | None = Field(gt=0, description="largest gradient norm; null: no clipping")
    early_stopping: EarlyStoppingConfig
    scheduler_interval: Literal["auto", "step", "epoch"] = Field(
        description="auto: step if the scheduler counts total_steps, else epoch"
    )
    loss: AnyTarget | None = Field(description="(outputs, targets) -> scalar; null: by task")
    step: AnyTarget | None = Field(description="(model, batch) -> loss, for batches that are not (x, y)")
    precision: Literal["fp32", "bf16"] = Field(description="of the forward pass")
    compile: bool = Field(description="torch.compile")
    checkpoint: CheckpointConfig = neutral("when the state is written, to go on from after a crash")
    deterministic: bool = Field(description="only algorithms that give the same bits each time")
    device: Device = neutral("auto, cpu, cuda, cuda:1 or mps")
    calibrate: Literal["none", "temperature"] = later(
        "of probabilities, fitted on validation after training", absent="none"
    )
    num_threads: int | None = neutral("CPU threads inside an operation; null: torch decides", ge=1)

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("give either epochs or steps, and null for the other")
        return self


class TrackingConfig(Section):
    """Where runs are recorded."""

    uri: str = neutral("MLflow tracking URI")
    timeout_seconds: float = neutral("longest wait for the tracking server at the end of a run", gt=0)


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a composed config came from: the overrides as typed, the option chosen in each group, where YAML was."""

    overrides: tuple[str, ...] = ()
    choices: tuple[tuple[str, str], ...] = ()
    roots: Roots = field(default_factory=Roots)


class Composed(Section):
    """What is composed from YAML and overrides, and remembers them."""

    _origin: Origin = PrivateAttr(default_factory=Origin)

    @property
    def origin(self) -> Origin:
        """The overrides and choices it was composed from; empty when it was built by hand."""
        return self._origin


warnings.filterwarnings("ignore", 'Field name "register"', UserWarning)  # a method of its metaclass, which none calls


class ExperimentConfig(Composed):
    """One experiment, complete. Equal configs give equal fingerprints, on every machine."""

    name: str = neutral("MLflow experiment", min_length=1)
    seed: int = Field(ge=0, lt=2**63, description="of everything random")
    init_from: str | None = later("run whose weights it starts from; null: fresh ones")
    objective: ObjectiveConfig
    model: AnyTarget = Field(description="(in_features or in_shape, out_features, ...) -> torch.nn.Module")
    optimizer: AnyTarget = Field(description="(params, ...) -> torch.optim.Optimizer")
    scheduler: AnyTarget | None = Field(description="(optimizer, ...) -> learning-rate scheduler; null: constant")
    data: DataConfig
    trainer: TrainerConfig
    metrics: dict[str, AnyTarget] = Field(
        description="name: (targets, predictions) -> float, besides the built-in ones"
    )
    callbacks: dict[str, AnyTarget] = Field(description="name: observer of the training")
    gates: dict[str, GateConfig] = neutral("name: what the result must reach")
    judging: JudgingConfig = neutral("how sure a verdict has to be")
    packaging: Literal["bundle", "none"] = neutral("what leaves the run: a bundle that predicts, or nothing")
    profile_bins: int = neutral("cells of each numeric column in the profile that drift is told by", ge=2, le=10_000)
    register: Literal["never", "passed", "promote"] = neutral("whether a passed run becomes a version, or the champion")
    sweeps: SweepsConfig | None = neutral("how a study searches; null: one run")
    reuse: Literal["auto", "config", "never"] = neutral("when a finished run stands for this one")
    on_busy: Literal["exit", "wait"] = neutral("what to do while another process trains the same")
    tracking: TrackingConfig = neutral("where runs are recorded")
    output_dir: Folder = neutral("folder of everything local", min_length=1)
    tags: Tags = neutral("name: text, shown in MLflow")
    progress: Literal["auto", "bar", "plain", "off"] = neutral("auto: a bar on a terminal, else a line an epoch")
    trust: tuple[str, ...] = neutral("packages that a recorded configuration may name")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ExperimentConfig) and dict(self) == dict(other)  # where it came from does not count

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    @property
    def fingerprint(self) -> str:
        """12 hex digits that name what was asked."""
        from mlops_hydra.config.fingerprint import fingerprint

        return fingerprint(self)
