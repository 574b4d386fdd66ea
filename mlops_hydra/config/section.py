"""What all sections of the configuration are made of, and the words they share."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer

from mlops_hydra.config.frozen import FrozenMap, Target, freeze, thaw

Task = Literal["binary", "multiclass", "regression"]
Kind = Literal["numeric", "boolean", "categorical", "date"]
Direction = Literal["minimize", "maximize"]


def neutral(description: str, **bounds: Any) -> Any:
    """A field that cannot change the result: not part of the fingerprint."""
    return Field(description=description, json_schema_extra={"neutral": True}, **bounds)


def later(description: str, *, absent: Any = None, **bounds: Any) -> Any:
    """A field that was added when runs had names already: part of them only where it is not `absent`."""
    return Field(description=description, json_schema_extra={"later": True, "absent": absent}, **bounds)


def _parse_target(value: object) -> Target:
    if isinstance(value, Target):
        return value
    frozen = freeze(value)
    if not isinstance(frozen, Target):
        raise ValueError("needs a `_target_`: the dotted path of a class or function")
    if not isinstance(frozen.path, str) or not frozen.path:
        raise ValueError(f"`_target_` is a dotted path, got {frozen.path!r}")
    return frozen


def _parse_args(value: object) -> object:
    return freeze(value) if isinstance(value, dict) else value


AnyTarget = Annotated[Target, BeforeValidator(_parse_target), PlainSerializer(thaw)]
Tags = Annotated[FrozenMap, BeforeValidator(_parse_args), PlainSerializer(thaw)]


class Section(BaseModel):
    """A part of the configuration: frozen, and unknown keys are faults."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, arbitrary_types_allowed=True
    )
