"""Whether the best is better or was lucky: the statistics against SciPy, and the study that gathers the numbers."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial
from scipy import stats

from mlops_hydra.config.frozen import FrozenMap, Target
from mlops_hydra.config.search import ConfirmConfig
from mlops_hydra.config.section import Direction
from mlops_hydra.sweeps.confirmation import (
    LEVEL,
    Candidate,
    _holm,
    candidates_of,
    compared,
    confirmation_plan,
    rows,
)
from mlops_hydra.sweeps.plan import GRID, Plan
from mlops_hydra.sweeps.space import Space

LR = FloatDistribution(0.0, 1.0)
PLAN = Plan(
    name="study",
    storage="sqlite:///studies.db",
    total=20,
    space=Space({"lr": LR}, ("trainer.epochs=3",)),
    objectives=(("accuracy", "maximize"),),
    sampler=Target("optuna.samplers.TPESampler", FrozenMap({})),
    pruner=Target("optuna.pruners.HyperbandPruner", FrozenMap({})),
    seed=7,
    identity={"experiment": {"seed": 7}},
    max_failure_rate=0.2,
)
ASKED = ConfirmConfig(top_k=3, seeds=5)
A, B, C = [0.91, 0.95, 0.93, 0.96, 0.92], [0.90, 0.93, 0.92, 0.93, 0.91], [0.70, 0.74, 0.69, 0.75, 0.70]


def trial_of(number: int, lr: float, value: float = 0.5) -> FrozenTrial:
    trial = create_trial(params={"lr": lr}, distributions={"lr": LR}, value=value)
    trial.number = number
    return trial


def runs_of(*values: Sequence[float | None]) -> list[FrozenTrial]:
    """The trials of a confirmation; None is a run that failed."""
    grid = {
        "candidate": CategoricalDistribution(list(range(len(values)))),
        "seed": CategoricalDistribution(list(range(8, 8 + max(map(len, values))))),
    }
    return [
        create_trial(
            params={"candidate": index, "seed": 8 + place},
            distributions=grid,
            value=value,
            state=TrialState.FAIL if value is None else TrialState.COMPLETE,
        )
        for index, row in enumerate(values)
        for place, value in enumerate(row)
    ]


def judged(*values: Sequence[float | None], direction: Direction = "maximize") -> list[Candidate]:
    """Candidates 0, 1, ... with these values over the seeds."""
    chosen = [trial_of(index, index / 10) for index in range(len(values))]
    return compared(chosen, runs_of(*values), direction)


def test_candidates_are_distinct_points_best_first() -> None:
    ranked = [trial_of(4, 0.1), trial_of(9, 0.1), trial_of(2, 0.3), trial_of(0, 0.2)]
    assert [trial.number for trial in candidates_of(ranked, 2)] == [4, 2]
    assert [trial.number for trial in candidates_of(ranked, 10)] == [4, 2, 0]
    assert candidates_of([], 3) == []
    assert candidates_of(ranked, 0) == []


def test_the_confirmation_is_a_grid_of_candidates_by_new_seeds() -> None:
    plan = confirmation_plan(PLAN, [trial_of(1, 0.1), trial_of(2, 0.2), trial_of(3, 0.3)], ASKED)
    assert plan.space.grid() == {"candidate": [0, 1, 2], "seed": [8, 9, 10, 11, 12]}
    assert plan.total == plan.space.grid_size() == 15
    assert plan.sampler.path == GRID
    assert PLAN.seed not in plan.space.grid()["seed"], "the seed of the study is the one that may have been lucky"


def test_a_confirmation_is_of_the_same_objective_unpruned_and_bears_failures() -> None:
    plan = confirmation_plan(PLAN, [trial_of(1, 0.1), trial_of(2, 0.2)], ASKED)
    assert (plan.objectives, plan.storage, plan.pruner) == (PLAN.objectives, PLAN.storage, None)
    assert plan.most_failures == plan.total
    assert plan.name.startswith("study-confirm-")


def test_the_name_of_a_confirmation_changes_with_its_candidates_and_seeds() -> None:
    first, second, third = trial_of(1, 0.1), trial_of(2, 0.2), trial_of(3, 0.3)
    name = confirmation_plan(PLAN, [first, second], ASKED).name
    assert confirmation_plan(PLAN, [first, second], ASKED).name == name
    others = [
        confirmation_plan(PLAN, [first, third], ASKED),
        confirmation_plan(PLAN, [first, second, third], ASKED),
        confirmation_plan(PLAN, [first, second], ConfirmConfig(top_k=2, seeds=6)),
    ]
    assert len({name, *(plan.name for plan in others)}) == 4


def test_a_confirmation_asked_for_with_more_candidates_than_points_takes_what_there_is() -> None:
    chosen = candidates_of([trial_of(1, 0.1), trial_of(2, 0.2)], 5)
    assert confirmation_plan(PLAN, chosen, ConfirmConfig(top_k=5, seeds=5)).total == 10


@pytest.mark.parametrize(("direction", "order"), [("maximize", [0, 1, 2]), ("minimize", [2, 1, 0])])
def test_the_winner_has_the_best_mean_in_the_direction_of_the_objective(direction: Direction, order: list[int]) -> None:
    found = judged(A, B, C, direction=direction)
    assert [one.number for one in found] == order
    assert found[0].behind == 0
    assert all(one.behind > 0 for one in found[1:])


def test_p_values_are_those_of_a_paired_t_test_corrected_by_holm() -> None:
    _, b, c = judged(A, B, C)
    ab, ac, bc = (stats.ttest_rel(*pair).pvalue for pair in ((A, B), (A, C), (B, C)))
    corrected = stats_holm([ab, ac, bc])
    assert (b.p_value, c.p_value) == (pytest.approx(corrected[0]), pytest.approx(corrected[1]))
    assert (b.behind, c.behind) == (pytest.approx(np.mean(A) - np.mean(B)), pytest.approx(np.mean(A) - np.mean(C)))


def stats_holm(p_values: Sequence[float]) -> list[float]:
    """Holm's correction by its definition: the k-th smallest counts as often as there are others not smaller."""
    ranked = sorted(p_values)
    steps = [min(1.0, (len(ranked) - rank) * p) for rank, p in enumerate(ranked)]
    return [max(steps[: ranked.index(p) + 1]) for p in p_values]


def test_two_candidates_need_no_correction() -> None:
    _, other = judged(A, B)
    assert other.p_value == pytest.approx(stats.ttest_rel(A, B).pvalue)


def test_a_difference_is_called_by_its_p_value() -> None:
    _, close, far = judged(A, [0.92, 0.93, 0.94, 0.93, 0.93], C)
    assert close.p_value >= LEVEL
    assert close.verdict == "may be as good as the winner"
    assert far.p_value < LEVEL
    assert far.verdict == "worse than the winner"


def test_differences_are_taken_seed_by_seed() -> None:
    luck = [0.5, 0.6, 0.7, 0.8, 0.9]
    better = [one + 0.01 + 0.001 * (index % 2) for index, one in enumerate(luck)]
    _, other = judged(better, luck)
    assert other.p_value < LEVEL, "the seeds differ by far more than the candidates"
    assert stats.ttest_ind(better, luck).pvalue > LEVEL


def test_equal_candidates_are_ranked_as_before_and_no_difference_is_seen() -> None:
    first, second = judged(A, A)
    assert (first.number, second.number) == (0, 1)
    assert (second.behind, second.p_value) == (0, 1.0)
    assert second.verdict == "may be as good as the winner"


@pytest.mark.parametrize(("num_seeds", "p_value"), [(2, 0.5), (5, 0.0625), (6, 0.03125)])
def test_the_same_difference_each_time_is_judged_by_its_sign(num_seeds: int, p_value: float) -> None:
    """Shares of a small split come in steps: twice the same step is no proof."""
    better = [0.1 * number + 0.02 for number in range(num_seeds)]  # equal but for rounding
    worse = [0.1 * number for number in range(num_seeds)]
    _, other = judged(better, worse)
    assert other.p_value == pytest.approx(p_value) == stats.binomtest(0, num_seeds).pvalue
    assert other.behind == pytest.approx(0.02)


def test_a_candidate_with_failed_runs_stands_behind_those_without() -> None:
    found = judged([None, 0.99, 0.99], [0.5, 0.5, 0.6])
    assert [one.number for one in found] == [1, 0]
    assert found[1].mean == 0.99
    assert found[1].as_row()["runs"] == 2


def test_failed_runs_leave_the_other_seeds_to_compare() -> None:
    _, other = judged(A, [None, *B[1:]])
    assert other.p_value == pytest.approx(stats.ttest_rel(A[1:], B[1:]).pvalue)


@pytest.mark.parametrize("others", [[None, None, None], [0.1, None, None], [None, 0.2, None]], ids=str)
def test_fewer_than_two_seeds_in_common_decide_nothing(others: list[float | None]) -> None:
    _, other = judged([0.9, 0.8, 0.7], others)
    assert math.isnan(other.p_value)
    assert other.verdict == ""


def test_what_cannot_be_compared_does_not_count_in_the_correction() -> None:
    _, b, c = judged(A, B, [0.1, None, None, None, None])  # of three pairs only one can be tested
    assert b.p_value == pytest.approx(stats.ttest_rel(A, B).pvalue)
    assert math.isnan(c.p_value)


def test_candidates_that_all_failed_are_told_apart_from_none() -> None:
    found = judged([None, None], [None, None])
    assert [one.number for one in found] == [0, 1]
    assert all(math.isnan(one.mean) and math.isnan(one.deviation) for one in found)


def test_a_confirmation_of_which_nothing_has_run_says_nothing() -> None:
    found = compared([trial_of(3, 0.1), trial_of(5, 0.2)], [], "minimize")
    assert [one.number for one in found] == [3, 5]
    assert all(one.values == () and one.verdict == "" for one in found)


def test_trials_that_were_not_asked_for_their_end_do_not_count() -> None:
    trials = runs_of(A, B)
    waiting = create_trial(state=TrialState.WAITING)
    _, other = compared([trial_of(0, 0.1), trial_of(1, 0.2)], [waiting, *trials], "maximize")
    assert other.p_value == pytest.approx(stats.ttest_rel(A, B).pvalue)


def test_mean_and_deviation_are_of_a_single_run() -> None:
    candidate = Candidate(0, (), (1.0, 2.0, math.nan, 4.0))
    assert candidate.mean == pytest.approx(7 / 3)
    assert candidate.deviation == pytest.approx(np.std([1, 2, 4], ddof=1))
    assert math.isnan(Candidate(0, (), (1.0,)).deviation)


def test_rows_say_what_a_candidate_was_and_how_it_did() -> None:
    first, second = rows(judged(A, C))
    assert first["trial"] == 0
    assert first["verdict"] == ""
    assert (second["overrides"], second["runs"], second["verdict"]) == ("lr=0.1", 5, "worse than the winner")


def test_holm_gives_the_numbers_of_the_textbook() -> None:
    assert _holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert _holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
@settings(deadline=None)
def test_holm_only_raises_p_values_keeps_their_order_and_stays_below_bonferroni(p_values: list[float]) -> None:
    corrected = _holm(p_values)
    assert all(p <= c <= min(1.0, p * len(p_values)) + 1e-12 for p, c in zip(p_values, corrected, strict=True))
    by_raw = sorted(zip(p_values, corrected, strict=True))
    assert [c for _, c in by_raw] == sorted(corrected)
    assert min(corrected) == pytest.approx(min(1.0, min(p_values) * len(p_values)))


def test_a_winner_that_was_only_lucky_is_seldom_called_better() -> None:
    """Of equal candidates, one is called worse no more often than the level says, though the luckiest is the winner."""
    rng = np.random.default_rng(0)
    samples = [judged(*rng.normal(size=(4, 5)).tolist()) for _ in range(150)]
    wrong = sum(any(one.verdict.startswith("worse") for one in found) for found in samples)
    assert stats.binomtest(wrong, len(samples), LEVEL, alternative="greater").pvalue > 0.01
