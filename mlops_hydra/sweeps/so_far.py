"""What is known of a study while it runs: counts, the best, the time left, and a line about each trial.

Not here: where and when it is shown (`display.py`, `live_table.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from optuna.trial import FrozenTrial, TrialState

from mlops_hydra.config.objective import Objective
from mlops_hydra.sweeps.trial_text import STATES, assignments, error_line, seconds_of, shown_number, values_text

FINISHED: Final = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
UNFINISHED: Final = (TrialState.RUNNING, TrialState.WAITING)


class StudySoFar:
    """What was seen of a study: counts, the best, when trials began; grows by what is new at each `take`."""

    def __init__(self, objectives: tuple[Objective, ...], total: int) -> None:
        self.objectives, self.total = objectives, total
        self.counts: Counter[TrialState] = Counter()
        self.front: list[FrozenTrial] = []  # the best one, or those that no other is better than in everything
        self.recent: list[FrozenTrial] = []  # finished, the latest last
        self.unfinished: list[FrozenTrial] = []
        self._finished: set[int] = set()
        self._since: dict[int, float] = {}
        self._num_earlier: int | None = None
        self._seconds, self._most_running = 0.0, 1

    def take(self, trials: Sequence[FrozenTrial], now: float) -> list[FrozenTrial]:
        """Those of `trials` that finished since the last time.

        1,000 trials of which all but a few were seen take 0.1 ms.
        """
        seen = self._finished
        fresh = [trial for trial in trials if trial.number not in seen]
        finished = [trial for trial in fresh if trial.state.is_finished()]
        self.unfinished = [trial for trial in fresh if not trial.state.is_finished()]
        for trial in finished:
            self._add(trial)
        self.recent = [*self.recent, *finished][-50:]
        self.total = max(self.total, len(trials))
        self._note_running(now)
        if self._num_earlier is None:
            self._num_earlier, self._seconds = len(finished), 0.0
        return finished

    def _add(self, trial: FrozenTrial) -> None:
        self._finished.add(trial.number)
        self._since.pop(trial.number, None)
        self.counts[trial.state] += 1
        self._seconds += _seconds_here(trial)
        if trial.state == TrialState.COMPLETE and not any(self._is_covered(trial, other) for other in self.front):
            self.front = [other for other in self.front if not self._is_covered(other, trial)]
            self.front.append(trial)

    def _is_covered(self, trial: FrozenTrial, other: FrozenTrial) -> bool:
        """Whether `other` is at least as good in everything."""
        rows = zip(self.objectives, trial.values, other.values, strict=False)
        return all(objective.sign * theirs <= objective.sign * own for objective, own, theirs in rows)

    def _note_running(self, now: float) -> None:
        running = [trial for trial in self.unfinished if trial.state == TrialState.RUNNING]
        for trial in running:
            self._since.setdefault(trial.number, now)
        self.counts.update({state: -self.counts[state] for state in UNFINISHED})
        self.counts.update(trial.state for trial in self.unfinished)
        self._most_running = len(running) or self._most_running

    def seconds(self, trial: FrozenTrial, now: float) -> float | None:
        """How long a trial took, or a running one has been seen running."""
        if trial.state.is_finished():
            return seconds_of(trial)
        began = self._since.get(trial.number)
        return None if began is None else now - began

    def seconds_left(self, now: float) -> float | None:
        """From the mean time of this session's trials and how many run at once; None until one is finished."""
        num_finished = len(self._finished) - (self._num_earlier or 0)
        if not num_finished:
            return None
        each = self._seconds / num_finished
        begun = sum(min(now - since, each) for since in self._since.values())
        return max((self.total - len(self._finished)) * each - begun, 0.0) / self._most_running

    def best(self) -> str:
        """`0.0498, trial 3`, or how many trials the Pareto front has; empty until a trial is complete."""
        if len(self.objectives) > 1:
            return f"{len(self.front)} on the Pareto front" if self.front else ""
        return f"{shown_number(self.front[0].value)}, trial {self.front[0].number}" if self.front else ""

    def earlier(self) -> str:
        """The line about what was finished before."""
        counts = ", ".join(f"{self.counts[state]} {STATES[state]}" for state in FINISHED if self.counts[state])
        best = self.best()
        return f"from earlier: {counts}" + (f"; best {best}" if len(self.objectives) == 1 and best else "")

    def line(self, trial: FrozenTrial) -> str:
        """The line about a trial that has finished."""
        seconds, status = seconds_of(trial), str(trial.user_attrs.get("status") or "new")
        best = self.best()
        if best and len(self.objectives) == 1:
            best = f"best {best}"
        parts = [f"trial {trial.number} {self._outcome(trial)}", f"({best})" if best else "", assignments(trial.params)]
        parts += ["" if seconds is None else f"{seconds:.1f} s", "" if status == "new" else status]
        return " ".join(filter(None, parts))

    def _outcome(self, trial: FrozenTrial) -> str:
        if trial.state == TrialState.COMPLETE:
            return f"complete {values_text(trial, self.objectives)}"
        if trial.state == TrialState.FAIL:
            return f"failed {error_line(trial)}".strip()
        if trial.last_step is None:
            return "pruned"
        last = shown_number(trial.intermediate_values[trial.last_step])
        return f"pruned at epoch {trial.last_step} {self.objectives[0].metric} {last}"


def _seconds_here(trial: FrozenTrial) -> float:
    """What a trial cost: a reused one may tell how long it once took, and one that was left has waited meanwhile."""
    measured = [] if trial.duration is None else [trial.duration.total_seconds()]
    return min([*measured, *filter(None, [seconds_of(trial)])], default=0.0)
