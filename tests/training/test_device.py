"""Which device trains, and that only one process does."""

import pytest
import torch

from mlops_hydra import compose, run
from mlops_hydra.errors import ConfigError
from mlops_hydra.training.device import refuse_distributed, resolve_device


def test_auto_is_something_this_machine_has() -> None:
    assert torch.zeros(1, device=resolve_device("auto")).sum() == 0


def test_a_device_that_does_not_exist_is_refused_with_what_to_do() -> None:
    for name in (f"cuda:{torch.cuda.device_count()}", *([] if torch.backends.mps.is_available() else ["mps"])):
        with pytest.raises(ConfigError, match=r"trainer\.device: .*use trainer\.device=cpu or auto"):
            resolve_device(name)


@pytest.mark.parametrize("world_size", ["2", "8"])
def test_a_distributed_launcher_is_refused_before_anything_is_read(
    world_size: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = compose(["data=csv", "data.path=missing.csv", "data.target=y"])
    monkeypatch.setenv("WORLD_SIZE", world_size)
    with pytest.raises(ConfigError, match="without a distributed launcher"):
        run(config)


@pytest.mark.parametrize("world_size", ["1", "", "many"])
def test_a_lone_process_may_train_whatever_its_environment_says(
    world_size: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", world_size)
    refuse_distributed()
