"""`hydra/sweeper=mlops_hydra`: what Hydra must find. Imported at every start: it only says where the work is done."""

from dataclasses import dataclass
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from hydra_plugins.hydra_optuna_sweeper.config import OptunaSweeperConf
from omegaconf import DictConfig


@dataclass
class StudySweeperConf(OptunaSweeperConf):
    """The whole node of hydra-optuna-sweeper, and a pruner."""

    _target_: str = "hydra_plugins.mlops_hydra.sweeper.StudySweeper"
    pruner: Any = None


ConfigStore.instance().store(group="hydra/sweeper", name="mlops_hydra", node=StudySweeperConf, provider="mlops_hydra")


class StudySweeper(Sweeper):
    """Hands everything over to `mlops_hydra.sweeps.sweeper`."""

    def __init__(self, **node: Any) -> None:
        from mlops_hydra.sweeps.sweeper import StudySweeperImpl

        self._sweeper = StudySweeperImpl(**node)

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """As of a sweeper."""
        self._sweeper.setup(hydra_context=hydra_context, task_function=task_function, config=config)

    def sweep(self, arguments: list[str]) -> Any:
        """As of a sweeper."""
        return self._sweeper.sweep(arguments)
