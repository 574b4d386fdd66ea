"""The files that a study leaves in its folder, for programs: its results and the table of its trials.

Not here: the pictures (`study_plots.py`) and what is printed (`closing.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import optuna
from omegaconf import OmegaConf
from optuna.trial import FrozenTrial, TrialState

from mlops_hydra.atomic import replacing
from mlops_hydra.sweeps.trial_text import STATES, objectives_of, override_text

if TYPE_CHECKING:
    import pandas as pd

RESULTS: Final = "optimization_results.yaml"
TRIALS: Final = "trials.parquet"

_TEXTS: Final = ("fingerprint", "status", "run", "error", "overrides")
_INT64: Final = range(-(2**63), 2**63)


def write_results(study: optuna.Study, folder: Path) -> Path:
    """Write what hydra-optuna-sweeper writes, for the programs that read it; nulls where no trial is complete.

    Raises:
        TrackingError: the disk does not take it.
    """
    path = folder / RESULTS
    with replacing(path) as file:
        file.write(OmegaConf.to_yaml(OmegaConf.create(_results(study))).encode("utf-8"))
    return path


def _results(study: optuna.Study) -> dict[str, Any]:
    if len(study.directions) > 1:
        solutions = [{"params": trial.params, "values": trial.values} for trial in study.best_trials]
        return {"name": "optuna", "solutions": solutions}
    best = best_trial(study)
    params, value = (best.params, best.value) if best else (None, None)
    return {"name": "optuna", "best_params": params, "best_value": value}


def best_trial(study: optuna.Study) -> FrozenTrial | None:
    """The best of a study with one objective; None where no trial is complete (and feasible)."""
    try:
        return study.best_trial
    except ValueError:  # what Optuna raises there
        return None


def write_trials(study: optuna.Study, folder: Path) -> Path:
    """Write `trials_table`.

    Raises:
        TrackingError: the disk does not take it.
    """
    path = folder / TRIALS
    frame = trials_table(study)
    with replacing(path) as file:
        frame.to_parquet(file, index=False)
    return path


def trials_table(study: optuna.Study) -> pd.DataFrame:
    """A line a trial, by number; what a trial lacks is null.

    Only complete trials have values: what a pruned one reported last is in `last_report`, at fewer epochs than a value.
    A parameter whose values are of several types is text, as Hydra writes it (`null` is then a value, not a gap).
    """
    import pandas as pd

    trials = study.get_trials(deepcopy=False)
    last = [trial.intermediate_values[trial.last_step] if trial.last_step is not None else None for trial in trials]
    columns = {
        "number": pd.Series([trial.number for trial in trials], dtype="int64"),
        "state": pd.Series([STATES[trial.state] for trial in trials], dtype="str"),
        **_values(study, trials),
        **{f"params.{name}": _column([_param(trial, name) for trial in trials]) for name in _param_names(trials)},
        **{name: _texts([_attr(trial, name) for trial in trials]) for name in _TEXTS},
        "seconds": _numbers([trial.user_attrs.get("seconds") for trial in trials]),
        "num_reports": pd.Series([len(trial.intermediate_values) for trial in trials], dtype="int64"),
        "last_report": _numbers(last),
    }
    return pd.DataFrame(columns)


def _attr(trial: FrozenTrial, name: str) -> Any:
    """What a trial says of itself; a run is named `<fingerprint>/<folder>`, and new unless it says otherwise."""
    run = trial.user_attrs.get("run")
    implied = {"fingerprint": run.partition("/")[0], "status": "new"} if run else {}
    return trial.user_attrs.get(name, implied.get(name))


_ABSENT: Final = object()  # None may be a parameter's value


def _param(trial: FrozenTrial, name: str) -> Any:
    return trial.params.get(name, _ABSENT)


def _param_names(trials: Sequence[FrozenTrial]) -> list[str]:
    return sorted({name for trial in trials for name in trial.params})


def _values(study: optuna.Study, trials: Sequence[FrozenTrial]) -> dict[str, pd.Series[Any]]:
    """A column an objective: `value`, or the metrics' names; `value.<metric>` where another column has that name."""
    names = [objective.metric for objective in objectives_of(study)]
    taken = {"number", "state", "seconds", "num_reports", "last_report", *_TEXTS}
    names = ["value"] if len(names) == 1 else [f"value.{name}" if name in taken else name for name in names]
    done = [trial.values if trial.state == TrialState.COMPLETE else None for trial in trials]
    return {name: _numbers([values and values[at] for values in done]) for at, name in enumerate(names)}


def _column(values: Sequence[Any]) -> pd.Series[Any]:
    """Numbers, truth values or text: the narrowest type that all of `values` but the absent have."""
    import pandas as pd

    types = {type(value) for value in values if value is not _ABSENT}
    plain = [None if value is _ABSENT else value for value in values]
    if types == {bool}:
        return pd.Series(plain, dtype="boolean")
    if types == {int} and all(value is None or value in _INT64 for value in plain):
        return pd.Series(plain, dtype="Int64")
    if types and types <= {int, float}:
        return _numbers(plain)
    return _texts([None if value is _ABSENT else override_text(value) for value in values])


def _numbers(values: Sequence[Any]) -> pd.Series[Any]:
    import pandas as pd

    numbers = [float(value) if isinstance(value, int | float) else None for value in values]
    return pd.Series(numbers, dtype="float64")


def _texts(values: Sequence[Any]) -> pd.Series[Any]:
    import pandas as pd

    return pd.Series([None if value is None else _text(value) for value in values], dtype="str")


def _text(value: Any) -> str:
    """Lists, such as overrides, side by side; half a character, which Arrow refuses, becomes a question mark."""
    text = " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    return text.encode("utf-8", "replace").decode("utf-8")
