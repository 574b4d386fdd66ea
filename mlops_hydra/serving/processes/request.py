"""Whether what `mlops-hydra serve` is asked for makes sense: everything that can be told before anything starts."""

import importlib.util
from dataclasses import replace
from typing import Final

from mlops_hydra.config.serving import ServeConfig
from mlops_hydra.errors import ConfigError, Fault, UsageError
from mlops_hydra.serving.router import Router
from mlops_hydra.tracking.store import anchored, tracking_uri
from mlops_hydra.tracking.versions import check_model_name

_EXTRA: Final = ("fastapi", "fastapi_offline", "httptools", "msgspec", "prometheus_client", "uvicorn", "uvloop")
_PATHS: Final = {"weights": "variants", "overrides": "testers"}


def check_extra() -> None:
    """Raises ConfigError where what a worker imports is not installed."""
    missing = [name for name in _EXTRA if importlib.util.find_spec(name) is None]
    if missing:
        rule = f"needs {', '.join(missing)}, which the extra `serve` brings: pip install 'mlops-hydra[serve]'"
        raise ConfigError(Fault("serve", rule))


def checked(config: ServeConfig) -> ServeConfig:
    """The same, with the registry that it follows in `tracking.uri`, wherever that was named.

    Raises:
        RequestError: with every fault that was found.
    """
    check_model_name(config.name)
    if not config.is_loopback and config.api_key is None and not config.allow_public:
        rule = "is not for this machine alone: it needs a key (variable MLOPS_HYDRA_API_KEY), or allow_public=true"
        raise ConfigError(Fault("host", rule, config.host))
    uri = anchored(tracking_uri(config)[0])
    try:
        testers: dict[str | int, str] = dict(config.testers.items())
        Router(config.experiment, config.weights, earlier=config.earlier, overrides=testers)
    except UsageError as error:
        raise UsageError([_as_written(fault) for fault in error.faults]) from None
    return config.model_copy(update={"tracking": config.tracking.model_copy(update={"uri": uri})})


def _as_written(fault: Fault) -> Fault:
    """The router's word for a setting, as the configuration has it."""
    first, dot, rest = fault.path.partition(".")
    path = f"{_PATHS.get(first, first)}{dot}{rest}"
    return replace(fault, path=f"{path}.weight" if first == "weights" and rest else path)
