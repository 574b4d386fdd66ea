"""Where YAML is looked for. Light: Hydra imports it at every start."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

CONFIG_NAME: Final = "config"
_offers: Final[list[None]] = []


def packaged_conf() -> Path:
    """The folder with this package's YAML: beside the code in a wheel, beside the package in a checkout."""
    package = Path(__file__).resolve().parent.parent
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"


@contextmanager
def offering() -> Iterator[None]:
    """Within the block the packaged options are beside every primary config; elsewhere other applications of Hydra,
    which have this package installed, would find groups called `model` and `data` that are not theirs."""
    _offers.append(None)
    try:
        yield
    finally:
        _offers.pop()


def is_offered() -> bool:
    """Whether this is within `offering`."""
    return bool(_offers)


@dataclass(frozen=True, slots=True)
class Roots:
    """A primary folder, one beside it, and the name of the primary file; None is the packaged one, or none."""

    config_path: str | None = None
    config_dir: str | None = None
    config_name: str | None = None

    @property
    def primary(self) -> Path:
        """The folder that holds the primary config, absolute."""
        return Path(self.config_path).resolve() if self.config_path else packaged_conf()

    @property
    def name(self) -> str:
        """The primary config's name."""
        return self.config_name or CONFIG_NAME

    @property
    def sources(self) -> list[str]:
        """The folders as URIs, in order of precedence."""
        beside = [Path(self.config_dir).resolve()] if self.config_dir else []
        return [f"file://{folder}" for folder in (self.primary, *beside)]
