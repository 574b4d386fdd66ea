"""Judging a result now: its gates, on its rows, against today's champion, and how sure that is.

A run that was just trained, one that is reused, and one that is to be promoted are judged alike. Nothing is trained,
and no model is built: the champion is its bundle.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from mlops_hydra.config.objective import Objective
from mlops_hydra.config.schema import ExperimentConfig
from mlops_hydra.config.section import Task
from mlops_hydra.config.seeds import derive_seed
from mlops_hydra.config.targets import as_function
from mlops_hydra.data.splits import Splits, Table
from mlops_hydra.errors import DataError, Fault, MlopsHydraError
from mlops_hydra.evaluation.evaluate import Predicted
from mlops_hydra.evaluation.evidence import Champion, Evidence
from mlops_hydra.evaluation.gates import judge
from mlops_hydra.evaluation.intervals import Interval, bootstrap_intervals
from mlops_hydra.evaluation.verdicts import Decision, Verdict, overall
from mlops_hydra.packaging.bundle import Bundle, load_bundle
from mlops_hydra.packaging.predictions import bundle_outputs
from mlops_hydra.tracking.lineage import Lineage
from mlops_hydra.tracking.registry import CHAMPION, ModelVersion, Registry
from mlops_hydra.tracking.store import anchored, tracking_uri
from mlops_hydra.tracking.test_sets import TestSet, count_candidate, test_set_digest

ASKED_TOO_OFTEN: Final = "test set"
"""How the warning begins."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """What is judged: a run's numbers, and its predictions by split with the numbers [n] of their rows.

    `splits` gives the rows themselves, and is only asked when a gate needs them.
    """

    lineage: Lineage
    task: Task
    objective: Objective
    classes: tuple[str, ...]
    metrics: Mapping[str, float]
    predicted: Mapping[str, Predicted]
    rows: Mapping[str, NDArray[Any]]
    splits: Callable[[], Splits]


@dataclass(frozen=True, slots=True)
class Judgement:
    """What came out: `has_compared` says that a gate asked for the champion, `champion` which version that was."""

    verdicts: tuple[Verdict, ...]
    intervals: Mapping[str, Interval] = field(default_factory=dict)
    test_set: TestSet | None = None
    champion: int | None = None
    has_compared: bool = False
    warnings: tuple[str, ...] = ()

    @property
    def verdict(self) -> Decision:
        """The worst of all."""
        return overall(self.verdicts)


def judged(config: ExperimentConfig, candidate: Candidate) -> Judgement:
    """The verdicts of the gates of `config`.

    Raises:
        TrackingError: `output_dir` cannot be written to.
    """
    test, settings = candidate.predicted["test"], config.judging
    seed = derive_seed(config.seed, "judging")
    found = bootstrap_intervals(
        candidate.task,
        test.targets,
        test.predictions,
        resamples=settings.resamples,
        confidence=settings.confidence,
        seed=seed,
    )
    rows = _Rows(candidate)
    compares = any(gate.needs_champion for gate in config.gates.values())
    version, why_none = _champion(config) if compares else (None, "")
    evidence = Evidence(
        predicted=candidate.predicted,
        column=rows.column,
        champion=_as_champion(config, version, candidate, rows) if version else None,
        no_champion=why_none,
        functions={name: as_function(target) for name, target in config.metrics.items()},
        resamples=settings.resamples,
        confidence=settings.confidence,
        seed=seed,
    )
    verdicts = judge(
        config.gates, candidate.metrics, task=candidate.task, objective=candidate.objective, evidence=evidence
    )
    digest = test_set_digest(candidate.lineage.data, candidate.rows["test"])
    test_set = count_candidate(config.output_dir, digest, candidate.lineage.digest)
    return Judgement(
        verdicts,
        {f"test/{name}": interval for name, interval in found.items()},
        test_set,
        version.version if version else None,
        compares,
        _warnings(test_set, settings.max_candidates) if config.gates else (),
    )


def registry_of(config: ExperimentConfig) -> Registry:
    """Where versions of the experiment's model are."""
    seconds = config.tracking.timeout_seconds
    return Registry(anchored(tracking_uri(config)[0]), config.output_dir, timeout_seconds=seconds)


def _champion(config: ExperimentConfig) -> tuple[ModelVersion | None, str]:
    """The version in use; or None, and why if that is worse than that there is none yet."""
    try:
        return registry_of(config).version_of(config.name, CHAMPION), ""
    except MlopsHydraError as error:
        return None, str(error)


def _as_champion(config: ExperimentConfig, version: ModelVersion, candidate: Candidate, rows: "_Rows") -> Champion:
    @cache
    def bundle() -> Bundle:
        return load_bundle(registry_of(config).fetch(version))

    def predict(split: str) -> NDArray[np.float64]:
        outputs = bundle_outputs(bundle(), rows[split], config.data.target)
        if candidate.task == "regression":
            return outputs
        return outputs[:, _places(candidate.classes, [str(label) for label in bundle().classes])]

    name = f"{version.name}@{CHAMPION}, version {version.version} ({version.fingerprint})"
    return Champion(name, predict, is_candidate=version.lineage == candidate.lineage.digest)


def _places(classes: tuple[str, ...], others: list[str]) -> list[int]:
    """Where each class stands among the champion's.

    Raises:
        DataError: they do not know the same classes.
    """
    if sorted(classes) != sorted(others):
        raise DataError(Fault("champion", f"it knows the classes {', '.join(others)}, here are {', '.join(classes)}"))
    return [others.index(name) for name in classes]


@dataclass(slots=True)
class _Rows:
    """The raw rows of the splits, read when they are first asked for, and held against what was predicted."""

    candidate: Candidate
    _splits: Splits | None = None

    def __getitem__(self, name: str) -> Any:
        """One split.

        Raises:
            DataError: it is not what the candidate predicted.
        """
        if self._splits is None:
            self._splits = self.candidate.splits()
        split, predicted = self._splits[name], self.candidate.predicted[name]
        known = self._splits.targets(name)
        numbers = split.rows if isinstance(split, Table) else None
        same_rows = numbers is None or np.array_equal(numbers, self.candidate.rows[name])
        if not same_rows or (known is not None and not np.array_equal(known, predicted.targets)):
            raise DataError(Fault(f"the {name} split", "is not the one that was predicted: the data has changed"))
        return split

    def column(self, split: str, name: str) -> NDArray[np.object_]:
        """A raw column as text [n]; None where a value is missing."""
        table = self[split]
        if not isinstance(table, Table):
            raise DataError(Fault(f"column {name!r}", "a torch Dataset has no columns to slice by"))
        return table.texts(name)


def _warnings(test_set: TestSet, most: int | None) -> tuple[str, ...]:
    if most is None or test_set.num_candidates <= most:
        return ()
    return (
        f"{ASKED_TOO_OFTEN} {test_set.digest} has judged {test_set.num_candidates} models, more than "
        f"judging.max_candidates={most}: the best of so many is partly luck; judge on rows that none of them has seen",
    )
