"""How trials read wherever they are shown: states, numbers, parameters, errors, the names of the objectives."""

import math
from collections.abc import Mapping
from typing import Any, Final

import optuna
from optuna.trial import FrozenTrial, TrialState

from mlops_hydra.config.objective import Objective

STATES: Final[dict[TrialState, str]] = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running",
    TrialState.WAITING: "waiting",
}


def objectives_of(study: optuna.Study) -> tuple[Objective, ...]:
    """The metrics named in the study's attribute "objectives", each with its direction; `value` where none is named."""
    directions = [direction.name.lower() for direction in study.directions]
    names = study.user_attrs.get("objectives") or []
    if len(names) != len(directions):
        names = ["value"] if len(directions) == 1 else [f"value_{index}" for index in range(len(directions))]
    return tuple(
        Objective(str(name) or "value", "maximize" if direction == "maximize" else "minimize")
        for name, direction in zip(names, directions, strict=True)
    )


def shown_number(value: float | None) -> str:
    """Four decimals, or four digits where those would show nothing."""
    if value is None or math.isnan(value):
        return "-"
    return f"{value:.4f}" if value == 0 or 1e-3 <= abs(value) < 1e5 else f"{value:.4g}"


def override_text(value: Any) -> str:
    """A parameter's value as Hydra writes it: `null`, `true`, `0.003`."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def short_value(value: Any) -> str:
    """As `override_text`, with four digits of a fraction."""
    return f"{value:.4g}" if isinstance(value, float) else override_text(value)


def assignments(params: Mapping[str, Any], names: Mapping[str, str] | None = None) -> str:
    """`optimizer.lr=0.003 model=mlp`; `names` has shorter names for some."""
    short = names or {}
    return " ".join(f"{short.get(name, name)}={short_value(value)}" for name, value in params.items())


def short_names(names: list[str]) -> dict[str, str]:
    """The last part of each dotted name; the whole name where that part would be said twice."""
    lasts = [name.rpartition(".")[2].lstrip("+") for name in names]
    return {name: last if lasts.count(last) == 1 else name for name, last in zip(names, lasts, strict=True)}


def values_text(trial: FrozenTrial, objectives: tuple[Objective, ...]) -> str:
    """`val/log_loss 0.0512 val/accuracy 0.9833`."""
    return " ".join(
        f"{objective.metric} {shown_number(value)}"
        for objective, value in zip(objectives, trial.values or (), strict=False)
    )


def error_line(trial: FrozenTrial) -> str:
    """The first line of what stopped a trial; empty where that is not known."""
    lines = str(trial.user_attrs.get("error") or "").strip().splitlines()
    return lines[0].strip() if lines else ""


def seconds_of(trial: FrozenTrial) -> float | None:
    """How long a finished trial took: its own measurement, else Optuna's."""
    own = trial.user_attrs.get("seconds")
    if isinstance(own, int | float):
        return float(own)
    return None if trial.duration is None else trial.duration.total_seconds()
