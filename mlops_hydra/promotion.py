"""From a judged run to the model in use: versions, the alias, and the way back.

`register` in an experiment's configuration, `mlops-hydra promote` and `mlops-hydra rollback` all end here. Only a run
that passed becomes a version, unless somebody forces it and says why, which is recorded.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from rich.console import Console

from mlops_hydra.config.commands import PromoteConfig, RollbackConfig
from mlops_hydra.config.compose import read_recorded
from mlops_hydra.config.schema import ExperimentConfig
from mlops_hydra.config.targets import as_function
from mlops_hydra.data.digests import remembering
from mlops_hydra.data.sources import open_source
from mlops_hydra.data.splits import Splits
from mlops_hydra.errors import EXIT_CODES, Fault, TrackingError, UsageError
from mlops_hydra.evaluation.evaluate import Predicted
from mlops_hydra.evaluation.metrics import score, user_metrics
from mlops_hydra.evaluation.verdicts import Verdict
from mlops_hydra.judgement import Candidate, Judgement, judged, registry_of
from mlops_hydra.packaging import files
from mlops_hydra.packaging.bundle import Bundle, load_bundle
from mlops_hydra.packaging.predictions import bundle_outputs, row_numbers
from mlops_hydra.packaging.result import Result
from mlops_hydra.tracking.folders import MODEL
from mlops_hydra.tracking.recorded import RecordedRun
from mlops_hydra.tracking.registry import CHAMPION, ModelVersion, Move, Registry
from mlops_hydra.tracking.store import anchored, tracking_uri


@dataclass(frozen=True, slots=True)
class Promotion:
    """What came of it: `move` is None where the alias stood there already, or was not moved."""

    version: ModelVersion | None
    judgement: Judgement | None
    move: Move | None
    problem: str = ""

    @property
    def exit_code(self) -> int:
        """0 where the version has the alias now, else that of the verdict."""
        return EXIT_CODES[self.judgement.verdict] if self.problem and self.judgement else 0

    def told(self, alias: str) -> str:
        """One line for people."""
        return _told(self.version, alias, self.move) if self.version else f"not promoted: {self.problem}"


def enlist(config: ExperimentConfig, result: Result, judgement: Judgement, console: Console) -> ModelVersion | None:
    """What `register` asks for, of a run that was just judged and recorded.

    Raises:
        TrackingError: the run has no bundle, or MLflow does not have it whole.
        BusyError: another became champion since the run was judged.
    """
    if config.register == "never":
        return None
    if result.verdict != "passed":
        _say(console, f"not registered (register={config.register}): {_why_not(result.gates)}")
        return None
    registry = registry_of(config)
    version = register(registry, config.name, result)
    _say(console, f"registered as version {version.version} of {version.name}")
    if config.register == "promote":
        with registry.lock(config.name):
            now = registry.version_of(config.name, CHAMPION)
            expected = judgement.champion if judgement.has_compared else (now.version if now else None)
            move = registry.move(
                config.name, CHAMPION, version, expected=expected, verdict=result.verdict, reason="register=promote"
            )
        _say(console, _told(version, CHAMPION, move))
    return version


def register(registry: Registry, name: str, result: Result, verdicts: Sequence[Verdict] | None = None) -> ModelVersion:
    """The version that is made of a run, or was.

    Raises:
        TrackingError: there is nothing that could be a version.
    """
    if not (result.folder / MODEL).is_dir():
        raise TrackingError(f"run {result.fingerprint} has no bundle: {result.unpackaged or 'packaging=none'}")
    if result.run_id is None:
        raise TrackingError(f"MLflow does not have run {result.fingerprint} yet: `mlops-hydra sync`, then promote it")
    gates = result.gates if verdicts is None else verdicts
    tags = {
        "fingerprint": result.fingerprint,
        "lineage": result.lineage.digest,
        "lineage.config": result.lineage.config,
        "lineage.data": result.lineage.data,
        "lineage.code": result.lineage.code,
        "verdict": result.verdict,
        **{f"gate.{gate.name}": f"{gate.verdict}: {gate.reason}" for gate in gates},
    }
    return registry.register(name, run_id=result.run_id, tags=tags)


def promote(run: RecordedRun, asked: PromoteConfig) -> Promotion:
    """Judge a run again against today's champion, and move the alias if it passes.

    Raises:
        RequestError: the record names what is not trusted, or the data changed.
        TrackingError: the record or its bundle is damaged, or MLflow cannot be reached.
        BusyError: somebody else moved the alias in the meantime.
    """
    if run.folder is None or run.result is None:
        raise TrackingError(f"run {run.label} has no result here")
    before = Result.from_json(run.result, run.folder.absolute())
    if before.unpackaged or not (before.folder / MODEL).is_dir():
        why = before.unpackaged or "it was packaged with packaging=none, or by an earlier version"
        raise UsageError(Fault("RUN", f"has no bundle to promote: {why}", f"{run.fingerprint}/{run.label}"))
    config = _recorded(before, asked)
    registry = registry_of(config)
    with registry.lock(config.name):
        now = registry.version_of(config.name, asked.to)
        if now is not None and now.lineage == before.lineage.digest:
            return Promotion(now, None, None)
        judgement = _judged_again(config, before)
        result = replace(before, gates=judgement.verdicts, verdict=judgement.verdict, intervals=judgement.intervals)
        if result.verdict != "passed" and asked.force is None:
            return Promotion(None, judgement, None, f"{_why_not(result.gates)}; force='reason' does it nevertheless")
        version = register(registry, config.name, replace(result, run_id=result.run_id or run.run_id))
        move = registry.move(
            config.name,
            asked.to,
            version,
            expected=now.version if now else None,
            verdict=result.verdict,
            reason=asked.force or asked.reason or "promote",
            forced=result.verdict != "passed",
        )
    return Promotion(version, judgement, move)


def rollback(name: str, asked: RollbackConfig, console: Console) -> Move:
    """Give the alias back to the version that had it before.

    Raises:
        UsageError: there is no such model, or nothing to go back to.
    """
    registry = Registry(
        anchored(tracking_uri(asked)[0]), asked.output_dir, timeout_seconds=asked.tracking.timeout_seconds
    )
    move = registry.rollback(name, asked.alias, reason=asked.reason or "rollback")
    _say(console, f"{name}@{move.alias} is version {move.after} again (was {move.before})")
    return move


def _recorded(result: Result, asked: PromoteConfig) -> ExperimentConfig:
    given = {"data.path": asked.data.path, "data.num_workers": asked.data.num_workers}
    changes: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    changes |= {"output_dir": asked.output_dir, "tracking": asked.tracking.model_dump()}
    if asked.gates is not None:
        changes["gates"] = {name: gate.model_dump(mode="json") for name, gate in asked.gates.items()}
    config = read_recorded(result.folder / files.CONFIG, changes, asked.trust)
    config._origin = asked.origin  # which store is meant depends on what was typed
    return config


def _judged_again(config: ExperimentConfig, result: Result) -> Judgement:
    """Predict with the bundle, measure, judge.

    Raises:
        UsageError: the data is not what the run was trained and tested on.
    """
    with remembering(config.output_dir):
        source = open_source(config.data)
        digest = source.digest()
    if digest != result.lineage.data:
        rule = (
            f"has changed since the run learnt from it (digest {result.lineage.data[:12]}, now {digest[:12]}), so its "
            "test rows are others: bring the old data back (data.path=...), or train on the new"
        )
        raise UsageError(Fault("data", rule))
    splits = source.load()
    bundle = load_bundle(result.folder / MODEL)
    predicted = {name: _predicted(bundle, splits, name, config.data.target) for name in ("val", "test")}
    functions = {name: as_function(target) for name, target in config.metrics.items()}
    metrics = dict(result.metrics)
    for name, split in predicted.items():
        values = score(splits.task, split.targets, split.predictions)
        values |= user_metrics(functions, split.targets, split.predictions, splits.task)
        metrics |= {f"{name}/{metric}": value for metric, value in values.items()}
    rows = {name: row_numbers(splits, name, len(split.targets)) for name, split in predicted.items()}
    classes = tuple(str(label) for label in splits.classes)
    candidate = Candidate(
        result.lineage, splits.task, result.objective, classes, metrics, predicted, rows, lambda: splits
    )
    return judged(config, candidate)


def _predicted(bundle: Bundle, splits: Splits, name: str, target: str | None) -> Predicted:
    targets = splits.targets(name)
    if targets is None:
        raise UsageError(Fault("data.source", "a stream cannot be judged again: run its experiment instead"))
    return Predicted(targets, bundle_outputs(bundle, splits[name], target))


def _why_not(gates: Sequence[Verdict]) -> str:
    words = {"failed": "failed", "undecided": "could not decide"}
    return "; ".join(
        f"{', '.join(names)} {word}"
        for verdict, word in words.items()
        if (names := [gate.name for gate in gates if gate.verdict == verdict])
    )


def _told(version: ModelVersion, alias: str, move: Move | None) -> str:
    if move is None:
        return f"version {version.version} of {version.name} is {alias} already"
    was = f"; before, it was version {move.before}" if move.before is not None else ""
    return f"{version.name}@{alias} is version {version.version} now{was}"


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)
