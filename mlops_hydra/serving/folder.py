"""Where the processes of one service meet: a folder below `output_dir`. Standard library only.

The follower writes what is to be served, workers write journals and counts, the recorder makes Parquet
of journals, the drift watcher says what Parquet says.
"""

from dataclasses import dataclass
from pathlib import Path

from mlops_hydra.config.serving import ServeConfig


@dataclass(frozen=True, slots=True)
class ServiceFolder:
    """Of the service of one registered model."""

    path: Path

    @classmethod
    def of(cls, output_dir: str | Path, name: str) -> "ServiceFolder":
        """That of the model `name`."""
        return cls(Path(output_dir).absolute() / "serving" / name)

    @classmethod
    def for_config(cls, config: ServeConfig) -> "ServiceFolder":
        """That of a service."""
        return cls.of(config.output_dir, config.name)

    @property
    def lock(self) -> Path:
        """Held by the one service of this model and `output_dir`."""
        return self.path / "service.lock"

    @property
    def targets(self) -> Path:
        """What is to be served, by `targets.py`."""
        return self.path / "targets.json"

    @property
    def kill_switch(self) -> Path:
        """While this file is there, all users are sent to control."""
        return self.path / "kill_switch"

    @property
    def bundles(self) -> Path:
        """Copies of what was served last: the registry may be down at the next start."""
        return self.path / "bundles"

    @property
    def journal(self) -> Path:
        """What workers wrote of their predictions, not yet in Parquet."""
        return self.path / "journal"

    @property
    def requests(self) -> Path:
        """The request log: Parquet files by hour."""
        return self.path / "requests"

    @property
    def counts(self) -> Path:
        """What each worker has counted."""
        return self.path / "counts"

    @property
    def drift(self) -> Path:
        """What the last check for drift said."""
        return self.path / "drift.json"

    @property
    def hash_key(self) -> Path:
        """The key of hashed columns."""
        return self.path / "hash.key"
