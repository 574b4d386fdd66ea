"""What a result must reach, and how sure a verdict has to be."""

from typing import Literal, Self

from pydantic import Field, model_validator

from mlops_hydra.config.section import Section, Task


class GateConfig(Section):
    """One quality gate: a threshold, a margin over the baseline, or a comparison with the champion on the same rows."""

    metric: str = Field(description="name without split, e.g. accuracy; `objective` means the objective's")
    threshold: float | None = Field(None, description="the value to reach")
    direction: Literal["higher", "lower"] | None = Field(None, description="which side of the threshold is good")
    better_than: Literal["baseline", "champion"] | None = Field(None, description="what to beat")
    by: float | str | None = Field(None, description="margin: 0.05 in units of the metric, or '10%' of the other's")
    no_worse_than: Literal["champion"] | None = Field(None, description="what it may fall short of by `tolerance`")
    tolerance: float | str | None = Field(None, description="0.01 in units of the metric, or '2%' of the champion's")
    on: Literal["test", "val"] = Field("test", description="the split that is judged")
    slice: str | None = Field(None, description="raw column: every value of it is judged by itself, the worst decides")
    min_rows: int = Field(30, ge=1, description="fewer in a slice or a comparison are undecided")
    if_no_champion: Literal["pass", "fail"] = Field("pass", description="what it says before there is a champion")
    if_undecided: Literal["pass", "fail"] | None = Field(None, description="null: undecided, exit code 4")
    tasks: tuple[Task, ...] | None = Field(None, description="only for these tasks; null: all")

    @property
    def needs_champion(self) -> bool:
        """Whether it compares with the champion."""
        return "champion" in (self.better_than, self.no_worse_than)

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        kinds = [self.threshold, self.better_than, self.no_worse_than]
        if sum(kind is not None for kind in kinds) != 1:
            raise ValueError("a gate has one of threshold, better_than and no_worse_than")
        if self.better_than is None and self.by is not None:
            raise ValueError("`by` is a margin over what better_than names")
        if (self.no_worse_than is None) != (self.tolerance is None):
            raise ValueError("no_worse_than and tolerance are given together")
        if self.better_than == "baseline" and (self.on != "test" or self.slice is not None):
            raise ValueError("the baseline is measured on test as a whole: leave out `on` and `slice`")
        if self.metric == "loss" and (self.on != "val" or self.slice is not None or self.needs_champion):
            raise ValueError("loss is measured on val as a whole: say on=val, and give a threshold")
        self._check_rows()
        _check_margin("by", self.by)
        _check_margin("tolerance", self.tolerance)
        return self

    def _check_rows(self) -> None:
        """Nothing is asked for that only a comparison with the champion, or a slice, can do."""
        if self.if_no_champion != "pass" and not self.needs_champion:
            raise ValueError("if_no_champion is for gates that compare with the champion")
        if self.slice is not None or self.needs_champion:
            return
        default = type(self).model_fields["min_rows"].default
        for name, is_given in (("min_rows", self.min_rows != default), ("if_undecided", self.if_undecided is not None)):
            if is_given:
                raise ValueError(f"{name} is for slices and for comparisons with the champion")


def _check_margin(name: str, value: float | str | None) -> None:
    if isinstance(value, float) and value < 0:
        raise ValueError(f"{name} is a margin of at least 0, got {value}")
    if isinstance(value, str):
        number = value.removesuffix("%")
        if not value.endswith("%") or not number.replace(".", "", 1).isdecimal():
            raise ValueError(f"{name} is a number or a percentage such as '10%', got {value!r}")


class JudgingConfig(Section):
    """How sure a verdict has to be, and how often a test set may be asked."""

    confidence: float = Field(gt=0.5, lt=1, description="of intervals, and of a comparison with the champion")
    resamples: int = Field(ge=100, le=100_000, description="bootstrap resamples of the test rows")
    max_candidates: int | None = Field(
        100, ge=1, description="models a test set judges before verdicts carry a warning"
    )
