"""Which device trains, and whether it can do what is asked."""

import os

import torch

from mlops_hydra.errors import ConfigError, Fault


def resolve_device(name: str) -> torch.device:
    """The device that `trainer.device` names; `auto` is CUDA, else Apple's MPS, else the CPU.

    Raises:
        ConfigError: this machine does not have it.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and (not torch.cuda.is_available() or (device.index or 0) >= torch.cuda.device_count()):
        rule = f"this machine has {torch.cuda.device_count()} CUDA devices; use trainer.device=cpu or auto"
        raise ConfigError(Fault("trainer.device", rule, name))
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigError(Fault("trainer.device", "this machine has no MPS; use trainer.device=cpu or auto", name))
    return device


def refuse_distributed() -> None:
    """Raises ConfigError under a distributed launcher: each process would train, and record, the same thing."""
    world_size = os.environ.get("WORLD_SIZE", "")
    if world_size.isdecimal() and int(world_size) > 1:
        rule = "one experiment trains on one device in one process; start it without a distributed launcher"
        raise ConfigError(Fault("WORLD_SIZE", rule, world_size))
