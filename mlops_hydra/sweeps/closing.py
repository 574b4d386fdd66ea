"""What a person reads when a study has ended: what came of it, where it is, and how to run the best.

Not here: the files (`leftovers.py`, `study_plots.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import optuna
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mlops_hydra.config.objective import Objective
from mlops_hydra.sweeps.leftovers import best_trial
from mlops_hydra.sweeps.trial_text import STATES, assignments, error_line, objectives_of, override_text, shown_number

_MOST_SOLUTIONS: Final = 10
_MOST_ERRORS: Final = 3


def print_study(
    console: Console,
    study: optuna.Study,
    folder: Path,
    command: str | None,
    confirmation_rows: Sequence[Mapping[str, Any]] | None = None,
    winner: FrozenTrial | None = None,
) -> None:
    """Print what came of the study, with a table of `confirmation_rows`: a mapping a line, columns by their keys.

    Args:
        winner: where the confirmation decided for another trial than the one with the best value.
    """
    trials = study.get_trials(deepcopy=False)
    console.print(_head(study.study_name, trials), highlight=False, soft_wrap=True)
    objectives = objectives_of(study)
    if len(objectives) == 1:
        _print_best(console, winner or best_trial(study), objectives[0])
    else:
        _print_front(console, study.best_trials, objectives)
    _print_failures(console, trials)
    if confirmation_rows:
        console.print(_table_of(confirmation_rows))
    _print_line(console, "files ", _shortest(folder))
    if command:
        _print_line(console, "run it", command)


def _head(name: str, trials: Sequence[FrozenTrial]) -> Text:
    counts = Counter(trial.state for trial in trials)
    states = ", ".join(f"{counts[state]} {word}" for state, word in STATES.items() if counts[state])
    noun = "trial" if len(trials) == 1 else "trials"
    return Text.assemble("\n", (name, "bold"), f"  {len(trials)} {noun}" + (f": {states}" if states else ""))


def _print_line(console: Console, word: str, text: str | Text) -> None:
    console.print(Text.assemble(f"{word}  ", text), highlight=False, soft_wrap=True)


def _print_best(console: Console, best: FrozenTrial | None, objective: Objective) -> None:
    if best is None:
        _print_line(console, "best  ", "none: no trial is complete")
        return
    value = Text.assemble(f"{objective.metric} ", (shown_number(best.value), "bold"), f"  trial {best.number}")
    _print_line(console, "best  ", value)
    for name, param in best.params.items():
        _print_line(console, "      ", f"{name}={override_text(param)}")


def _print_front(console: Console, front: Sequence[FrozenTrial], objectives: Sequence[Objective]) -> None:
    """Evenly chosen along the first objective, both ends included, where there are more than fit."""
    if not front:
        _print_line(console, "best  ", "none: no trial is complete")
        return
    ordered = sorted(front, key=lambda trial: objectives[0].sign * trial.values[0])
    last = len(ordered) - 1
    chosen = sorted({round(at * last / (_MOST_SOLUTIONS - 1)) for at in range(_MOST_SOLUTIONS)})
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("trial", justify="right")
    for objective in objectives:
        table.add_column(Text(objective.metric), justify="right")
    table.add_column("parameters", overflow="fold")
    for trial in (ordered[at] for at in chosen):
        table.add_row(str(trial.number), *map(shown_number, trial.values), Text(assignments(trial.params)))
    more = f", {len(chosen)} of them" if len(chosen) < len(ordered) else ""
    _print_line(console, "Pareto front:", f"{len(ordered)} {'trial' if not last else 'trials'}{more}")
    console.print(table)


def _print_failures(console: Console, trials: Sequence[FrozenTrial]) -> None:
    """The most frequent errors."""
    failed = [trial for trial in trials if trial.state == TrialState.FAIL]
    errors = Counter(error_line(trial) or "no reason recorded" for trial in failed)
    for text, number in errors.most_common(_MOST_ERRORS):
        _print_line(console, "failed", Text(f"{number} times: {text}" if number > 1 else f"once: {text}", style="red"))
    if len(errors) > _MOST_ERRORS:
        others = sum(errors.values()) - sum(number for _, number in errors.most_common(_MOST_ERRORS))
        _print_line(console, "failed", f"{others} for other reasons; see trials.parquet")


def _table_of(rows: Sequence[Mapping[str, Any]]) -> Table:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in columns:
        is_number = all(isinstance(row.get(name), int | float | None) for row in rows)
        table.add_column(Text(name), justify="right" if is_number else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(_cell(row.get(name))) for name in columns))
    return table


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return shown_number(value) if isinstance(value, float) else str(value)


def _shortest(path: Path) -> str:
    """From the current directory, if it lies below it."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
