"""What moves the weights: the optimizer, fused where that is safe, and the scheduler of its learning rate.

Optimizers get `params`; schedulers `optimizer`, and `total_steps` if they name it.
"""

import math
from typing import Any, Final

import torch
from torch import Tensor, nn

from mlops_hydra.config.check import PLATEAU
from mlops_hydra.config.frozen import Target
from mlops_hydra.config.objective import Objective
from mlops_hydra.config.schema import ExperimentConfig
from mlops_hydra.config.targets import build, names_parameter
from mlops_hydra.errors import ConfigError, Fault
from mlops_hydra.training.batches import Batches

_FUSED_ON: Final = frozenset({"cpu", "cuda", "mps"})


def build_optimizer(target: Target, model: nn.Module, device: torch.device) -> torch.optim.Optimizer:
    """torch's own optimizers run fused where they can: twice as fast on small models, and the same result."""
    offers: dict[str, Any] = {"params": list(model.parameters())}
    chosen = {"fused", "foreach", "differentiable"} & set(target.args)
    if target.path.startswith("torch.optim.") and not chosen and device.type in _FUSED_ON and _can_be_fused(model):
        offers["fused"] = True
    built = build(target, offers, where="optimizer")
    if not isinstance(built, torch.optim.Optimizer):
        raise ConfigError(Fault("optimizer", f"{target.path} gives no torch.optim.Optimizer", type(built).__name__))
    return built


def _can_be_fused(model: nn.Module) -> bool:
    """Fused kernels take no sparse gradients, and on the CPU walk through memory without a look at strides.

    `backward` lays gradients out like their weights as long as those are dense; so only weights in a standard layout.
    """
    standard = all(
        p.is_floating_point() and (p.is_contiguous() or p.is_contiguous(memory_format=_memory_format(p)))
        for p in model.parameters()
    )
    return standard and not any(getattr(module, "sparse", False) for module in model.modules())


def _memory_format(parameter: Tensor) -> torch.memory_format:
    formats = {4: torch.channels_last, 5: torch.channels_last_3d}
    return formats.get(parameter.dim(), torch.contiguous_format)


def build_scheduler(
    config: ExperimentConfig, optimizer: torch.optim.Optimizer, objective: Objective, train: Batches
) -> tuple[Any, bool]:
    """The scheduler, and whether it moves each step rather than each epoch."""
    target, settings = config.scheduler, config.trainer
    if target is None:
        return None, False
    counts_steps = names_parameter(target, "total_steps")
    each_step = counts_steps if settings.scheduler_interval == "auto" else settings.scheduler_interval == "step"
    if each_step and target.path == PLATEAU:
        rule = "follows the objective, which is measured once an epoch: use epoch"
        raise ConfigError(Fault("trainer.scheduler_interval", f"{target.path} {rule}", settings.scheduler_interval))
    offers: dict[str, Any] = {"optimizer": optimizer}
    if target.path == PLATEAU:
        offers["mode"] = "min" if objective.direction == "minimize" else "max"
    if counts_steps:
        offers["total_steps"] = _total(config, train, each_step)
    return build(target, offers, where="scheduler"), each_step


def _total(config: ExperimentConfig, train: Batches, each_step: bool) -> int:
    """How often the scheduler will move."""
    settings = config.trainer
    if settings.steps is not None and each_step:
        return settings.steps
    if settings.epochs is not None and not each_step:
        return settings.epochs
    if train.num_batches is None:
        rule = "the length of a stream is not known before it is read: give trainer.steps and trainer.epochs=null"
        raise ConfigError(Fault("trainer.epochs", f"needed for the scheduler's total_steps; {rule}"))
    steps_an_epoch = math.ceil(train.num_batches / settings.accumulate)
    if settings.epochs is not None:
        return settings.epochs * steps_an_epoch
    return math.ceil((settings.steps or 0) / steps_an_epoch)
