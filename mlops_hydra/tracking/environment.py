"""Where a run took place: interpreter, machine, package versions, threads, device.

Recorded and compared, never hashed. Imports nothing heavy: torch is asked only if the run has loaded it.
"""

import importlib.metadata
import os
import platform
import sys
from typing import Any, Final

PACKAGES: Final = (
    "mlops-hydra",
    "hydra-core",
    "mlflow",
    "numpy",
    "omegaconf",
    "onnxruntime",
    "optuna",
    "pandas",
    "pyarrow",
    "pydantic",
    "scikit-learn",
    "scipy",
    "torch",
)


def environment() -> dict[str, Any]:
    """Plain JSON values. `threads`, `device` and `kernels` (the CPU's vector instructions) are null without torch."""
    return {
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
        "packages": {name: _version(name) for name in PACKAGES},
        **_torch_state(),
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _torch_state() -> dict[str, Any]:
    torch: Any = sys.modules.get("torch")
    if torch is None:
        return {"threads": None, "device": None, "kernels": None}
    cuda = torch.cuda.is_initialized()
    return {
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "kernels": torch.backends.cpu.get_cpu_capability(),
    }
