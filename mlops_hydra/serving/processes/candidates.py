"""Versions of a registered model that an alias names: fetched, checked, and copied where the workers find them.

Not here: which arm serves what (`follower.py`).
"""

import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from mlops_hydra.config.serving import ServeConfig
from mlops_hydra.errors import EXIT_CODES, BundleError, TrackingError, nearest
from mlops_hydra.packaging.bundle import Bundle, load_bundle
from mlops_hydra.serving.columns import Columns, columns_of, difference
from mlops_hydra.serving.processes.bundle_cache import BundleCache
from mlops_hydra.tracking.registry import MODELS, ModelVersion, Registry
from mlops_hydra.tracking.store import redacted, sqlite_path

PROMOTE: Final = "`mlops-hydra promote RUN` gives it to a run that passes its gates"


class Candidates:
    """Of the model that a service is named for.

    Args:
        config: with the URI of the registry in `tracking.uri`.
    """

    def __init__(self, config: ServeConfig, cache: BundleCache) -> None:
        self._config = config
        self._cache = cache
        seconds = config.tracking.timeout_seconds
        self._registry = Registry(config.tracking.uri, config.output_dir, timeout_seconds=seconds)

    def named(self, aliases: Iterable[str], *, is_known: bool) -> dict[str, ModelVersion | None]:
        """The version that has each alias, or this number; None if none has.

        Args:
            is_known: something came from this store before, so that an empty one is gone: moved, or its disk is.

        Raises:
            TrackingError: the store does not answer, or is gone.
        """
        found = {alias: self._registry.version_of(self._config.name, alias) for alias in dict.fromkeys(aliases)}
        path = sqlite_path(self._config.tracking.uri)
        if is_known and None in found.values() and path is not None and not (path.exists() and path.stat().st_size):
            raise TrackingError(f"{path} is not there")
        return found

    def take(self, version: ModelVersion, served: Mapping[str, Columns]) -> Bundle:
        """The copy of a version that may be served.

        Args:
            served: the columns that it has to take, by a word for whose they are.

        Raises:
            BundleError: it may not be served.
            TrackingError, OSError: it cannot be fetched, or copied.
        """
        number = str(version.version)
        if version.lineage and (kept := self._cache.find(number, version.lineage)):
            self._check(version, kept, served)
            return kept
        bundle = self._fetched(version)
        self._check(version, bundle, served)
        return self._cache.add(bundle, number)

    def _fetched(self, version: ModelVersion) -> Bundle:
        folder = self._registry.fetch(version)
        try:
            return load_bundle(folder)
        except BundleError:
            if folder.is_relative_to(Path(self._config.output_dir).absolute() / MODELS):
                shutil.rmtree(folder, ignore_errors=True)  # what is damaged may be only what was downloaded
            raise

    def _check(self, version: ModelVersion, bundle: Bundle, served: Mapping[str, Columns]) -> None:
        if bundle.verdict not in EXIT_CODES:
            raise BundleError(f"it has no verdict, but {bundle.verdict!r}; to promote it again judges it")
        if version.lineage not in ("", bundle.lineage):
            raise BundleError(f"it is registered as {version.lineage}, but its bundle is {bundle.lineage}")
        if self._config.follow.allow_schema_change:
            return
        for whose, columns in served.items():
            if change := difference(columns, columns_of(bundle)):
                rule = "follow.allow_schema_change=true serves it nevertheless"
                raise BundleError(f"it does not take the columns of {whose}: {change}; {rule}")

    def absence(self, alias: str) -> str:
        """Why no version has the alias, and what to do. Raises TrackingError."""
        name, uri = self._config.name, self._config.tracking.uri
        aliases = self._registry.aliases()
        where = f"the registry of models at {redacted(uri)}"
        if name not in aliases:
            meant = nearest(name, aliases)
            hint = f"; did you mean name={' or name='.join(meant)}?" if meant else f"; {PROMOTE}"
            return f"there is no model {name} in {where}{hint}"
        if alias.isdecimal():
            return f"there is no version {alias} of {name} in {where}"
        has = ", ".join(aliases[name]) or "none"
        return f"no version of {name} has the alias {alias} (aliases that are there: {has}); {PROMOTE}"
