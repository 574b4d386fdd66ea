"""What a result comes from: the digests of its config, data and code.

Reads source files and nothing else; no module is imported to be hashed. What is recorded but does not name a result
stands beside it: the commit in `git.py`, the machine in `environment.py`.
"""

import hashlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from mlops_hydra.config.fingerprint import canonical_json, config_digest
from mlops_hydra.config.schema import ExperimentConfig
from mlops_hydra.config.section import Section
from mlops_hydra.config.targets import walk
from mlops_hydra.errors import ConfigError, Fault

if TYPE_CHECKING:
    from mlops_hydra.data.sources import Source

LINEAGE_DIGITS: Final = 12
_INSTALLED: Final = frozenset({"site-packages", "dist-packages"})


@dataclass(frozen=True, slots=True)
class Lineage:
    """SHA-256 digests, 64 hex digits each. Equal lineages give equal results."""

    config: str
    data: str
    code: str

    @property
    def digest(self) -> str:
        """12 hex digits over the three: the name of a run's folder."""
        text = canonical_json([self.config, self.data, self.code])
        return hashlib.sha256(text.encode()).hexdigest()[:LINEAGE_DIGITS]


def identify(config: ExperimentConfig, source: "Source | None" = None) -> Lineage:
    """The lineage of `config` as data and code are now; reads all of the data, from `source` if it is open already."""
    if source is None:
        from mlops_hydra.data.sources import open_source

        source = open_source(config.data)
    return Lineage(config_digest(config), source.digest(), code_digest(config))


def target_paths(config: ExperimentConfig) -> tuple[str, ...]:
    """Every `_target_` in `config`, at every depth, sorted and each once."""
    return tuple(sorted(set(_paths(config))))


def _paths(section: Section) -> Iterator[str]:
    for _, value in section:
        if isinstance(value, Section):
            yield from _paths(value)
        else:
            yield from (target.path for _, target in walk(value))


def code_digest(config: ExperimentConfig) -> str:
    """SHA-256 over `code_entries`, 64 hex digits."""
    return hashlib.sha256(canonical_json(code_entries(config)).encode()).hexdigest()


def code_entries(config: ExperimentConfig) -> dict[str, str]:
    """What the code is: of this package, and of every package or module that a `_target_` names.

    A digest for each file, or for an installed package its version in the place of files.
    Local code counts with the bytes of each `.py`, installed code with its version, the standard library not at all.

    Raises:
        ConfigError: a target's package has no source that could be read.
    """
    this = __name__.partition(".")[0]
    entries = _hash_folder(this, Path(__file__).resolve().parents[1])
    tops = {path.partition(".")[0]: path for path in target_paths(config)}
    tops.pop(this, None)
    for top, path in sorted(tops.items()):
        entries |= _entries(top, path)
    return entries


def _entries(top: str, target: str) -> dict[str, str]:
    """What stands for the top-level package or module `top`: a digest for each file, or one version."""
    if top in sys.stdlib_module_names:
        return {}
    files, folders = _locate(top, target)
    installed = any(_INSTALLED & set(path.parts) for path in files + folders)
    if installed and (version := _version(top)):
        return {top: version}
    entries = {path.name: _hash_file(path) for path in files}
    for folder in folders:
        entries |= _hash_folder(top, folder)
    return entries


def _locate(top: str, target: str) -> tuple[list[Path], list[Path]]:
    """The single file of a module, or the folders of a package, without importing it."""
    if top == "__main__":
        main = getattr(sys.modules["__main__"], "__file__", None)
        if main is None:
            rule = "defined in an interactive session, whose code cannot be named; move it to a .py file and import it"
            raise ConfigError(Fault("_target_", rule, target))
        return [Path(main).resolve()], []
    try:
        spec = importlib.util.find_spec(top)
    except ValueError:  # a module that was put into sys.modules by hand
        spec = None
    if spec is None:
        raise ConfigError(Fault("_target_", f"no module named {top!r}", target))
    if spec.submodule_search_locations is not None:
        return [], [Path(folder).resolve() for folder in spec.submodule_search_locations]
    if spec.origin is None or not Path(spec.origin).is_file():
        raise ConfigError(Fault("_target_", f"the module {top!r} has no file that could be hashed", target))
    return [Path(spec.origin).resolve()], []


def _version(top: str) -> str | None:
    """`name==version` of the distribution that installed `top`; None if it was copied there by hand."""
    try:
        return f"{top}=={importlib.metadata.version(top)}"
    except importlib.metadata.PackageNotFoundError:
        names = importlib.metadata.packages_distributions().get(top, [])  # 0.3 s: reads every distribution's record
        return ", ".join(f"{name}=={importlib.metadata.version(name)}" for name in sorted(set(names))) or None


def _hash_folder(top: str, folder: Path) -> dict[str, str]:
    """Digests of the `.py` files below `folder` by their path from `top`; hidden files and folders are left out."""
    paths = {path.relative_to(folder): path for path in folder.rglob("*.py") if path.is_file()}
    return {
        f"{top}/{name.as_posix()}": _hash_file(path)
        for name, path in paths.items()
        if not any(part.startswith(".") for part in name.parts)
    }


def _hash_file(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
