"""How a study searches."""

import json
import re
from typing import Annotated, Final, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from mlops_hydra.config.section import AnyTarget, Section


def _as_space(value: object) -> object:
    """Values of a space as text: YAML reads `model: 3` as a number, and nests what has dots."""
    if not isinstance(value, dict):
        return value
    flat: dict[str, object] = {}
    for key, inner in value.items():
        nested = _as_space(inner) if isinstance(inner, dict) and inner else {"": inner}
        flat |= {f"{key}.{name}".rstrip("."): leaf for name, leaf in nested.items()}  # type: ignore[attr-defined]
    return {key: _as_grammar(leaf) for key, leaf in flat.items()}


def _as_grammar(value: object) -> object:
    """A value as Hydra's grammar writes it; a list in YAML is a choice."""
    if isinstance(value, list | tuple) and value:
        return ",".join(map(_as_choice, value))
    return value if isinstance(value, str) or not _is_scalar(value) else _as_choice(value)


def _as_choice(value: object) -> str:
    """One of several: text in quotes where it could be taken for something else; grammar stays as it is."""
    from hydra.core.override_parser.types import Quote, QuotedString

    if isinstance(value, list | tuple):
        return f"[{','.join(map(_as_choice, value))}]"
    if not isinstance(value, str):
        return json.dumps(value) if value is None or isinstance(value, bool) else str(value)
    if value.startswith(("[", "{", "'", '"')) or (_WORD.fullmatch(value) and value.lower() not in _NO_WORDS):
        return value
    return QuotedString(value, Quote.single).with_quotes()


def _is_scalar(value: object) -> bool:
    return value is None or isinstance(value, bool | int | float)


_WORD: Final = re.compile(r"[A-Za-z_][\w./%-]*")
_NO_WORDS: Final = ("null", "true", "false", "nan", "inf")


Space = Annotated[dict[str, str], BeforeValidator(_as_space)]


def _check_top_k(value: int) -> int:
    if value == 1:
        raise ValueError("must be 0, or at least 2 to be compared")
    return value


class ConfirmConfig(Section):
    """Whether the best of a study are run again over new seeds before one of them is the winner."""

    top_k: Annotated[int, AfterValidator(_check_top_k)] = Field(
        ge=0, le=100, description="how many; 0: the best value wins"
    )
    seeds: int = Field(ge=2, le=100, description="runs of each, with the seeds that follow the experiment's")


class SweepsConfig(Section):
    """How a study searches: what is tried, how it is chosen, how many trials, and what may go wrong."""

    n_trials: int = Field(ge=1, description="trials in all, those of earlier commands counted")
    params: Space = Field(description="config path or group: values in Hydra's override grammar")
    sampler: AnyTarget = Field(description="an Optuna sampler; its seed comes from the experiment's")
    pruner: AnyTarget | None = Field(description="an Optuna pruner; null: every trial is trained to its end")
    storage: str | None = Field(description="sqlite:///FILE, postgresql://... or journal:///FILE; null: in output_dir")
    study_name: str | None = Field(min_length=1, max_length=100, description="null: named by what it is of")
    workers: int = Field(ge=1, le=256, description="trials at a time")
    max_failure_rate: float = Field(ge=0, le=1, description="share of n_trials that may fail before the study stops")
    custom_search_space: str | None = Field(description="dotted path of (cfg, trial) -> None that suggests more")
    keep_checkpoints: bool = Field(description="of trials that came to their end")
    confirm: ConfirmConfig

    @model_validator(mode="after")
    def _name_is_a_folder(self) -> Self:
        if self.study_name is not None and not re.fullmatch(r"[\w][\w.-]*", self.study_name):
            raise ValueError(f"study_name names a folder: letters, digits, '.', '_' and '-', got {self.study_name!r}")
        return self
