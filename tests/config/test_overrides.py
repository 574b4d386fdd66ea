"""What a person types arrives as what they meant: names of runs are text, however much they look like numbers."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from mlops_hydra.config.commands import RunsConfig
from mlops_hydra.config.compose import compose, compose_command
from mlops_hydra.config.fingerprint import family_digest
from mlops_hydra.config.overrides import quoted
from mlops_hydra.config.roots import Roots


@pytest.mark.parametrize("name", ["1234567e8901", "012345678901", "123456789012", "3f2a00000000", "a" * 32])
def test_a_name_of_a_run_stays_text(name: str) -> None:
    assert compose([f"init_from={name}"]).init_from == name


def test_several_names_of_a_sweep_stay_text() -> None:
    assert quoted("init_from=1234567e8901,012345678901") == "init_from='1234567e8901','012345678901'"


@pytest.mark.parametrize("override", ["init_from=null", "init_from='1234567e8901'", "seed=123456789012", "model=mlp"])
def test_everything_else_is_left_as_it_is(override: str) -> None:
    assert quoted(override) == override


def test_the_overrides_to_look_for_need_no_quotes() -> None:
    assert compose_command(RunsConfig, ["overrides=model=mlp"], Roots(config_name="runs")).overrides == "model=mlp"


def test_two_threads_can_compose_at_once() -> None:
    with ThreadPoolExecutor(4) as pool:
        configs = list(pool.map(lambda seed: compose([f"seed={seed}"]), range(8)))
    assert [config.seed for config in configs] == list(range(8))


def test_a_family_differs_in_the_length_of_the_training_and_its_start_alone() -> None:
    family = family_digest(compose())
    assert family_digest(compose(["trainer.epochs=7"])) == family
    assert family_digest(compose(["trainer.epochs=null", "trainer.steps=7"])) == family
    assert family_digest(compose(["init_from=1234567e8901"])) == family
    assert family_digest(compose(["trainer.batch_size=7"])) != family
    assert compose(["init_from=1234567e8901"]).fingerprint != compose().fingerprint
