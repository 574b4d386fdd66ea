"""Where randomness comes from, and what a process looks like afterwards."""

import os
import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mlops_hydra import set_all_seeds
from mlops_hydra.config.seeds import derive_seed
from mlops_hydra.training.seeding import RandomState, reproducible


def draws() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))


@pytest.mark.parametrize("seed", [0, 1, 2**32, 2**63 - 1])
def test_a_seed_fixes_what_all_three_libraries_draw(seed: int) -> None:
    set_all_seeds(seed)
    first = draws()
    draws()
    set_all_seeds(seed)
    assert draws() == first
    set_all_seeds(seed ^ 1)
    assert draws() != first


@given(st.lists(st.tuples(st.integers(0, 2**63 - 1), st.integers(0, 10**6), st.integers(0, 10**6)), unique=True))
def test_every_consumer_has_a_seed_of_its_own(keys: list[tuple[int, int, int]]) -> None:
    seeds = [derive_seed(seed, "item", epoch, row) for seed, epoch, row in keys]
    assert len(set(seeds)) == len(keys)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_names_and_numbers_do_not_run_together() -> None:
    variants = [(0, "order", 1), (0, "item", 1), (0, "item", 1, 1), (0, "item", 11), (1, "item", 1), (0, "item", 1, 11)]
    assert len({derive_seed(*variant) for variant in variants}) == len(variants)


def test_a_derived_seed_is_the_same_on_every_machine() -> None:
    assert derive_seed(0, "order", 1) == 4672741961019256271


def test_a_random_state_continues_where_it_was_taken() -> None:
    set_all_seeds(3)
    draws()
    state = RandomState()
    expected = draws()
    set_all_seeds(99)
    draws()
    for _ in range(2):
        state.restore()
        assert draws() == expected


def settings() -> dict[str, object]:
    return {
        "threads": torch.get_num_threads(),
        "mode": torch.get_deterministic_debug_mode(),
        "benchmark": torch.backends.cudnn.benchmark,
        "fill": torch.utils.deterministic.fill_uninitialized_memory,  # type: ignore[attr-defined]
        "workspace": os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
    }


@pytest.mark.parametrize("mode", ["default", "warn", "error"])
def test_everything_is_as_it_was_after_the_block_and_after_an_error_in_it(mode: str) -> None:
    original = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode(mode)
    torch.backends.cudnn.benchmark = True
    before = settings()
    try:
        with reproducible(deterministic=True, num_threads=torch.get_num_threads() + 1):
            assert all(settings()[name] != value for name, value in before.items() if name != "mode")
            assert torch.are_deterministic_algorithms_enabled()
            assert not torch.is_deterministic_algorithms_warn_only_enabled()
        assert settings() == before
        with pytest.raises(ZeroDivisionError), reproducible(deterministic=True, num_threads=1):
            1 / 0  # noqa: B018
        assert settings() == before
    finally:
        torch.set_deterministic_debug_mode(original)
        torch.backends.cudnn.benchmark = False


def test_a_workspace_that_a_person_chose_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    with reproducible(deterministic=True, num_threads=None):
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


def test_without_deterministic_only_the_threads_change() -> None:
    before = settings()
    with reproducible(deterministic=False, num_threads=3):
        assert settings() == before | {"threads": 3}
    assert settings() == before


def test_an_operation_without_a_deterministic_form_is_refused_inside() -> None:
    with reproducible(deterministic=True, num_threads=1), pytest.raises(RuntimeError, match="deterministic"):
        torch.zeros(3).put_(torch.tensor([0, 0]), torch.ones(2), accumulate=False)
