"""The story of one study: plan, open, search, confirm, judge the winner, leave behind what a person needs.

Everything before `Study` is opened only reads; side effects begin there.
"""

import logging
import os
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from optuna.trial import FrozenTrial
from rich.console import Console

from mlops_hydra.atomic import write_json_atomic
from mlops_hydra.config.overlay import write_overlay
from mlops_hydra.config.schema import ExperimentConfig
from mlops_hydra.config.search import SweepsConfig
from mlops_hydra.errors import EXIT_CODES
from mlops_hydra.packaging.result import Result
from mlops_hydra.sweeps import confirmation
from mlops_hydra.sweeps.closing import print_study
from mlops_hydra.sweeps.confirmation import Candidate
from mlops_hydra.sweeps.display import Display
from mlops_hydra.sweeps.experiments import chosen_overrides, work_on
from mlops_hydra.sweeps.leftovers import write_results, write_trials
from mlops_hydra.sweeps.plan import Plan
from mlops_hydra.sweeps.planning import Request, planned
from mlops_hydra.sweeps.pool import Pool
from mlops_hydra.sweeps.record import StudyRecord, counted, parent_id
from mlops_hydra.sweeps.study import Study, best_first, check_buildable, trials_in
from mlops_hydra.sweeps.study_plots import write_plots
from mlops_hydra.sweeps.worker import Job
from mlops_hydra.sweeps.workplace import check_builds, open_shared
from mlops_hydra.tracking.folders import RESULT, STUDIES
from mlops_hydra.tracking.post import Shared

logger = logging.getLogger(__name__)

BEST: Final = "best"
Launch = Callable[[Job, Callable[[], None]], None]
"""Has workers carry out a job, and calls its second argument now and then to show how it goes."""


@dataclass(frozen=True, slots=True)
class StudyResult:
    """What came of a study.

    `best` is the winner: its trial's number, its value and overrides; empty for several objectives, whose front is in
    `optimization_results.yaml`, and where no trial came to its end. `result` is the winner's run.
    """

    name: str
    folder: Path
    counts: Mapping[str, int]
    best: Mapping[str, Any]
    confirmation: tuple[Candidate, ...]
    result: Result | None
    problem: str = ""

    @property
    def verdict(self) -> Literal["passed", "failed", "undecided"] | None:
        """The winner's; None if there is no one winner."""
        return self.result.verdict if self.result else None

    @property
    def exit_code(self) -> int:
        """1 if too many trials failed, else the winner's."""
        if self.problem:
            return 1
        return EXIT_CODES[self.verdict] if self.verdict else 0

    def as_json(self) -> dict[str, Any]:
        """What `result.json` holds."""
        run = self.result
        return {
            "study": self.name,
            "trials": dict(self.counts),
            "best": dict(self.best),
            "confirmation": [candidate.as_row() for candidate in self.confirmation],
            "problem": self.problem,
            "fingerprint": run.fingerprint if run else None,
            "run_id": run.run_id if run else None,
            "metrics": dict(run.metrics) if run else {},
            "verdict": self.verdict,
        }


def sweep(
    config: ExperimentConfig,
    *,
    overrides: Sequence[str] = (),
    console: Console | None = None,
    launch: Launch | None = None,
) -> StudyResult:
    """Search for the best of the variations of `config` that `config.sweeps` describes; go on where it stood.

    Args:
        overrides: more of the space, as on the command line: `["optimizer.lr=tag(log, interval(1e-4, 1e-1))"]`.
        launch: what carries out the trials; None: this process, or `sweeps.workers` processes of its own.

    Raises:
        RequestError: the request is wrong, or a study of this name is of something else; no trial has run.
        TrackingError: the store, or `output_dir`, cannot be used.
    """
    console = console or Console()
    request = planned(config, overrides)
    check_buildable(request.plan)
    if not trials_in(request.plan):
        check_builds(request.probes)
    with _opened(request, console, launch) as session:  # side effects begin
        session.search()
        candidates = session.confirm()
        return session.conclude(candidates)


@contextmanager
def _opened(request: Request, console: Console, launch: Launch | None) -> Iterator["_Session"]:
    plan = request.plan
    folder = Path(request.config.output_dir, STUDIES, plan.name).absolute()
    with ExitStack() as stack:
        study = Study(plan)
        stack.callback(study.close)
        folder.mkdir(parents=True, exist_ok=True)
        if launch is None and request.settings.workers > 1:
            launch = stack.enter_context(Pool(request.settings.workers, folder / "workers")).run
        shared = open_shared(request.config, parent_id(plan))
        stack.callback(shared.post.finish)
        record = StudyRecord(plan, folder, shared.post)
        session = _Session(request, console, folder, study, shared, record, launch)
        session.begin()
        try:
            yield session
        except BaseException as error:
            record.abandon("FAILED" if isinstance(error, Exception) else "KILLED")
            raise


@dataclass(slots=True)
class _Session:
    """One command's part in a study."""

    request: Request
    console: Console
    folder: Path
    study: Study
    shared: Shared
    record: StudyRecord
    launch: Launch | None

    @property
    def settings(self) -> SweepsConfig:
        return self.request.settings

    def begin(self) -> None:
        plan, trials = self.study.plan, self.study.trials()
        git = self.shared.git
        self.record.begin(self.request.config, {"mlflow.source.git.commit": git.commit, "git.branch": git.branch})
        ended = sum(trial.state.is_finished() for trial in trials)
        what = f"{plan.total} trials over {', '.join(plan.space.distributions)}"
        text = f"New study {plan.name}: {what}" if not trials else f"Study {plan.name} goes on: {ended} of {what}"
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)
        if self.study.is_new and (alike := self.study.most_alike()):
            text = f"  not study {alike[0]}, which differs in {'; '.join(alike[1])}"
            self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def search(self) -> None:
        """All trials there will be."""
        job = Job(self.study.plan, self.request.config, parent_id(self.study.plan), self.settings.workers)
        with self._display(self.study.plan) as display:

            def look(trials: Sequence[FrozenTrial]) -> None:
                display.update(trials)
                best = best_first(trials, job.plan.directions[0])[:1] if self._has_one_objective else []
                self.record.update(trials, best)

            self._run(job, self.study, look)

    def _run(self, job: Job, study: Study, look: Callable[[Sequence[FrozenTrial]], None]) -> None:
        look(study.trials())
        if study.is_over(study.seen):
            return
        if self.launch is None:
            work_on(job, self.shared, tick=lambda one: look(one.seen))
        else:
            self.launch(job, lambda: look(study.trials()))
        look(study.trials())

    def _display(self, plan: Plan) -> Display:
        mode = self.request.config.progress
        return Display(self.console, total=plan.total, objectives=plan.objectives, mode=mode)

    def confirm(self) -> tuple[Candidate, ...]:
        """The best few over new seeds; nothing where that was not asked for."""
        asked = self.settings.confirm
        chosen = confirmation.candidates_of(self.study.ranked(), asked.top_k) if self._has_one_objective else []
        if len(chosen) < 2 or self._problem():
            return ()
        plan = confirmation.confirmation_plan(self.study.plan, chosen, asked)
        candidates = tuple(tuple(chosen_overrides(self._job(self.study.plan), t.params)) for t in chosen)
        text = f"Confirming the best {len(chosen)} over {asked.seeds} new seeds"
        self.console.print(text, highlight=False, markup=False)
        study = Study(plan)
        try:
            with self._display(plan) as display:
                self._run(self._job(plan, candidates), study, display.update)
            direction = plan.objectives[0][1]
            return tuple(confirmation.compared(chosen, study.trials(), direction))
        finally:
            study.close()

    def _job(self, plan: Plan, candidates: tuple[tuple[str, ...], ...] = ()) -> Job:
        return Job(plan, self.request.config, parent_id(self.study.plan), self.settings.workers, candidates)

    @property
    def _has_one_objective(self) -> bool:
        return len(self.study.plan.objectives) == 1

    def _problem(self) -> str:
        """Why the study cannot be said to have succeeded."""
        trials = self.study.trials()
        failed, most = self.study.num_failed(trials), self.study.plan.most_failures
        if failed > most:
            rate, total = self.study.plan.max_failure_rate, self.study.plan.total
            return f"{failed} of {total} trials failed: sweeps.max_failure_rate={rate:g} allows {most}"
        return "" if self.study.best() else "no trial came to its end"

    def conclude(self, candidates: tuple[Candidate, ...]) -> StudyResult:
        """Judge the winner, and leave everything behind."""
        problem, winner = self._problem(), self._winner(candidates)
        best, result, command = {}, None, None
        if winner is not None:
            config = self.request.variations.with_overrides(chosen_overrides(self._job(self.study.plan), winner.params))
            best = {"trial": winner.number, "value": winner.value, "overrides": list(config.origin.overrides)}
            self._write_best(config)
            command = shlex.join(["mlops-hydra", "--config-dir", _relative(self.folder), f"experiment={BEST}"])
            result = None if problem else self._judged(config)
        outcome = StudyResult(
            self.study.plan.name, self.folder, counted(self.study.trials()), best, candidates, result, problem
        )
        self._leave(outcome, command, winner)
        return outcome

    def _winner(self, candidates: tuple[Candidate, ...]) -> FrozenTrial | None:
        if not self._has_one_objective:
            return None
        ranked = self.study.ranked()
        if candidates:
            return next(trial for trial in ranked if trial.number == candidates[0].number)
        return ranked[0] if ranked else None

    def _write_best(self, config: ExperimentConfig) -> None:
        command = f"# mlops-hydra --config-dir {_relative(self.folder)} experiment={BEST}"
        write_overlay(config, self.folder, BEST, f"# The best of study {self.study.plan.name}.\n{command}")

    def _judged(self, config: ExperimentConfig) -> Result:
        """The winner as a run of its own: what was trained is taken, and judged, exported and packaged."""
        from mlops_hydra.experiment import run

        waiting = config.model_copy(update={"on_busy": "wait"})
        waiting._origin = config.origin
        return run(waiting, console=self.console)

    def _leave(self, outcome: StudyResult, command: str | None, winner: FrozenTrial | None) -> None:
        write_results(self.study.optuna, self.folder)
        write_trials(self.study.optuna, self.folder)
        write_plots(self.study.optuna, self.folder)
        write_json_atomic(self.folder / RESULT, outcome.as_json())
        tags = {
            "verdict": outcome.verdict or "",
            "best.fingerprint": outcome.result.fingerprint if outcome.result else "",
        }
        counts = {f"trials.{name}": number for name, number in outcome.counts.items()}
        self.record.end("FAILED" if outcome.problem else "FINISHED", {**counts, **tags, "problem": outcome.problem})
        rows = confirmation.rows(outcome.confirmation) if outcome.confirmation else None
        print_study(self.console, self.study.optuna, self.folder, command, rows, winner)
        if outcome.problem:
            self.console.print(
                f"[red]The study did not succeed[/red]: {outcome.problem}", highlight=False, soft_wrap=True
            )


def _relative(path: Path) -> str:
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
