"""Versions of models as MLflow has them: found, made of a run, tagged. Who asks for which is `registry.py`."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from mlops_hydra.config.schema import ExperimentConfig
from mlops_hydra.errors import ConfigError, Fault, TrackingError
from mlops_hydra.tracking.alias import ABSENT, State
from mlops_hydra.tracking.audit import trail

if TYPE_CHECKING:
    from mlflow import MlflowClient

ARTIFACT: Final = "model"  # of the run
MAX_NAME_LENGTH: Final = 250  # MLflow takes 256; a file system takes 255 bytes
_MAX_VERSION: Final = 2**31


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """A version as MLflow has it; of one that somebody else registered, what `tags` lack is empty."""

    name: str
    version: int
    run_id: str
    fingerprint: str
    lineage: str
    verdict: str
    source: str
    tags: Mapping[str, str]


def check_model_name(name: str) -> None:
    """Raises ConfigError where MLflow has no model of this name, though an experiment may be called so."""
    rules = {
        "must be more than spaces for a model": not name.strip(),
        "must hold neither / nor : for a model": "/" in name or ":" in name,
        "must not be a dot, or begin with two, for a model": name == "." or name.startswith(".."),
        f"must have at most {MAX_NAME_LENGTH} bytes for a model": len(os.fsencode(name)) > MAX_NAME_LENGTH,
    }
    broken = [rule for rule, is_broken in rules.items() if is_broken]
    if broken:
        raise ConfigError(Fault("name", f"{broken[0]}; choose another with name=...", name))


def check_registration(config: ExperimentConfig) -> None:
    """Raises ConfigError where MLflow would refuse the model's name after all the work."""
    if config.register != "never":
        check_model_name(config.name)


def as_version(found: Any) -> ModelVersion:
    """From MLflow's entity."""
    tags = dict(found.tags)
    return ModelVersion(
        name=found.name,
        version=int(found.version),
        run_id=found.run_id or "",
        fingerprint=tags.get("fingerprint", ""),
        lineage=tags.get("lineage", ""),
        verdict=tags.get("verdict", ""),
        source=found.source or "",
        tags=tags,
    )


def read_version(client: "MlflowClient", name: str, number: int) -> ModelVersion | None:
    """None if it is not there, or not any more."""
    from mlflow.exceptions import MlflowException

    if number >= _MAX_VERSION:
        return None
    try:
        return as_version(client.get_model_version(name, str(number)))
    except MlflowException as error:
        if error.error_code not in ABSENT:
            raise
        return None


def version_before(client: "MlflowClient", name: str, alias: str, state: State) -> ModelVersion | None:
    """The version that had the alias before the one that has it, of those that still exist."""
    now = state.aliases.get(alias)
    numbers = [number for number in trail(state.history, alias, now) if number != now]
    versions = (read_version(client, name, number) for number in reversed(numbers))
    return next((version for version in versions if version is not None), None)


def source_of(client: "MlflowClient", run_id: str) -> str:
    """Where the run's model is.

    Raises:
        TrackingError: nowhere.
    """
    from mlflow.utils.uri import append_to_uri_path

    run = client.get_run(run_id)
    if run.info.lifecycle_stage != "active":
        raise TrackingError(f"run {run_id} was deleted from MLflow")
    if not client.list_artifacts(run_id, ARTIFACT):
        raise TrackingError(f"run {run_id} has no model in MLflow (yet? `mlops-hydra sync` sends what waits)")
    return str(append_to_uri_path(run.info.artifact_uri, ARTIFACT))  # type: ignore[no-untyped-call]


def versions_of(client: "MlflowClient", name: str, run_id: str, source: str, lineage: str) -> list[ModelVersion]:
    """Those of the run or its lineage, the oldest first: which is the one that counts, for everybody who looks."""
    found = [as_version(each) for each in client.search_model_versions(f"run_id = '{run_id}'")]
    found = [each for each in found if each.source == source]
    if lineage.isalnum():
        found += [as_version(each) for each in client.search_model_versions(f"tags.lineage = '{lineage}'")]
    return sorted((each for each in found if each.name == name), key=lambda each: each.version)


def create_model(client: "MlflowClient", name: str) -> None:
    """Make sure that there is one. Raises ConfigError where MLflow refuses the name."""
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code == "INVALID_PARAMETER_VALUE":
            rule = f"is no name for a model: {str(error.message).partition(chr(10))[0]}; choose another with name=..."
            raise ConfigError(Fault("name", rule, name)) from None
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def tagged(client: "MlflowClient", version: ModelVersion, tags: Mapping[str, str]) -> ModelVersion:
    """The version with these tags; others that it has stay."""
    changed = {key: text for key, text in tags.items() if version.tags.get(key) != text}
    for key, text in changed.items():
        client.set_model_version_tag(version.name, str(version.version), key, text)
    if not changed:
        return version
    found = read_version(client, version.name, version.version)
    assert found is not None, "it has just been tagged"
    return found
