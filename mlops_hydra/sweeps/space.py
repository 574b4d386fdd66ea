"""What a study tries: from Hydra's override grammar to Optuna's distributions, and from chosen values to overrides.

The grammar is read by hydra-optuna-sweeper's own functions, so that one YAML means the same to both.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from hydra.core.override_parser.types import Quote, QuotedString
from optuna.distributions import BaseDistribution, distribution_to_json

from mlops_hydra.config.compose import parse_overrides
from mlops_hydra.config.overrides import quoted
from mlops_hydra.errors import ConfigError, Fault

_HINT: Final = "'optimizer.lr=tag(log, interval(1e-4, 1e-1))' or model=linear,mlp"


@dataclass(frozen=True, slots=True)
class Space:
    """Distributions by override key, and the overrides that all trials share."""

    distributions: Mapping[str, BaseDistribution]
    fixed: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """What names the space: each distribution as Optuna writes it."""
        return {name: json.loads(distribution_to_json(one)) for name, one in sorted(self.distributions.items())}

    def grid(self) -> dict[str, list[Any]]:
        """Every value of each parameter, in order.

        Raises:
            ConfigError: a parameter has no end of values.
        """
        from hydra_plugins.hydra_optuna_sweeper._impl import OptunaSweeperImpl

        choices, faults = {}, []
        for name, distribution in self.distributions.items():
            try:
                choices[name] = list(OptunaSweeperImpl._to_grid_sampler_choices(distribution))
            except ValueError:
                rule = "a grid needs values one can list: a choice a,b,c or range(start, stop, step)"
                faults.append(Fault(f"sweeps.params.{name}", rule))
        if faults:
            raise ConfigError(faults)
        return choices

    def grid_size(self) -> int:
        """How many points the grid has."""
        return math.prod(map(len, self.grid().values()))

    def probes(self) -> Iterator[list[str]]:
        """Overrides that try each choice and both ends of each range, one parameter at a time."""
        ends = {name: _ends(distribution) for name, distribution in self.distributions.items()}
        first = {name: values[0] for name, values in ends.items()}
        yield as_overrides(first)
        for name, values in ends.items():
            for value in values[1:]:
                yield as_overrides({**first, name: value})


def _ends(distribution: BaseDistribution) -> list[Any]:
    choices = getattr(distribution, "choices", None)
    return list(choices) if choices is not None else [distribution.low, distribution.high]  # type: ignore[attr-defined]


def as_overrides(params: Mapping[str, Any]) -> list[str]:
    """Chosen values as overrides, in the form in which hydra-optuna-sweeper hands them to a job.

    But for what would not be the same value again: null, and text that the grammar reads as something else.
    """
    return [f"{name}={_as_element(value)}" for name, value in params.items()]


def _as_element(value: Any) -> str:
    if value is None:
        return "null"
    if not isinstance(value, str) or value == "null":
        return str(value)
    parsed, faults = parse_overrides([f"key={value}"])
    is_text = not faults and not parsed[0].is_sweep_override()
    if is_text and not isinstance(parsed[0].value(), int | float):
        return value
    return QuotedString(value, Quote.single).with_quotes()


def parse_space(params: Mapping[str, str], overrides: Sequence[str]) -> Space:
    """The space that `sweeps.params` and the command line make together; the command line wins.

    Raises:
        ConfigError: values that cannot be searched, or none at all.
    """
    arguments = [*(f"{name}={values}" for name, values in params.items()), *overrides]
    distributions: dict[str, BaseDistribution] = {}
    fixed: dict[str, str] = {}
    faults: list[Fault] = []
    for text in arguments:
        key, _, values = text.partition("=")
        try:
            found, is_fixed = _parse(quoted(text))
        except Exception as error:  # Hydra's, Optuna's and the plug-in's own assertions
            faults.append(Fault(f"sweeps.params.{key}", _one_line(error), values))
            continue
        for earlier in [name for name in (*distributions, *fixed) if name.lstrip("+~") == key.lstrip("+~")]:
            distributions.pop(earlier, None)
            fixed.pop(earlier, None)
        distributions |= found
        fixed |= {key: text} if is_fixed else {}
    if faults:
        raise ConfigError(faults)
    if not distributions:
        raise ConfigError(Fault("sweeps.params", f"a study needs something to try: give values such as {_HINT}"))
    return Space(distributions, tuple(fixed.values()))


def _parse(text: str) -> tuple[dict[str, BaseDistribution], bool]:
    """What is searched, and whether it is one value, or a deletion, instead."""
    from hydra_plugins.hydra_optuna_sweeper._impl import create_params_from_overrides

    found, constants, deleted = create_params_from_overrides([text])
    for distribution in found.values():
        if not all(math.isfinite(end) for end in _ends(distribution) if isinstance(end, float)):
            raise ValueError("its values must be finite")
    return dict(found), bool(constants or deleted)


def _one_line(error: Exception) -> str:
    """What is wrong, without Hydra's account of where in its list, and the address of its manual."""
    lines = [line for line in str(error).splitlines() if not line.startswith(("Error when parsing", "See http"))]
    text = " ".join(" ".join(lines).split()).rstrip(".") or "its values are not listed, nor a range"
    return f"cannot be searched: {text}. Write a,b,c or interval(low, high), tag(log, interval(low, high)), range(...)"
