"""A result that is there already: its gates are judged again, from its predictions and what was recorded.

Nothing is trained. The data is read only where a gate looks at rows. What MLflow has not heard of the run is delivered.
"""

import logging
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from mlops_hydra.atomic import read_json, write_json_atomic
from mlops_hydra.config.objective import check_gate_metrics
from mlops_hydra.config.schema import ExperimentConfig
from mlops_hydra.data.sources import Source
from mlops_hydra.data.splits import Splits
from mlops_hydra.errors import DataError, Fault, TrackingError, UsageError
from mlops_hydra.evaluation.metrics import score
from mlops_hydra.evaluation.verdicts import Verdict, overall
from mlops_hydra.judgement import ASKED_TOO_OFTEN, Candidate, Judgement, judged
from mlops_hydra.packaging import files
from mlops_hydra.packaging.result import UNASKED, Result
from mlops_hydra.tracking.claim import Claim
from mlops_hydra.tracking.delivery import delivered_to, is_waiting
from mlops_hydra.tracking.fetch import fetch_run
from mlops_hydra.tracking.folders import RESULT, publish_result
from mlops_hydra.tracking.recorded import RecordedRun
from mlops_hydra.tracking.spool import SPOOL, Spool
from mlops_hydra.tracking.store import anchored, tracking_uri
from mlops_hydra.tracking.sync import Store, deliver_rest

logger = logging.getLogger(__name__)


def reused(config: ExperimentConfig, claim: Claim, source: Source) -> tuple[Result, Judgement]:
    """The result of the run that was decided for, judged by the gates of `config`.

    Raises:
        TrackingError: its files are damaged, or cannot be fetched.
        ConfigError: a gate asks for what is not measured for this task.
    """
    run = claim.decision.run
    assert run is not None, "a result that is taken is some run's"
    if run.folder is None:
        uri, seconds = anchored(tracking_uri(config)[0]), config.tracking.timeout_seconds
        run = fetch_run(run, uri, config.output_dir, timeout_seconds=seconds)
    assert run.folder is not None, "it was fetched"
    before = Result.from_json(read_json(run.folder / RESULT) or {}, run.folder.absolute())
    check_gate_metrics(config.gates, before.task)
    recorded = files.read_predictions(before.folder)
    metrics = {**before.metrics, **_measured_again(before, recorded)}
    judgement = judged(config, _candidate(before, metrics, recorded, source))
    result = replace(
        before,
        status="reused",
        reason=claim.decision.reason,
        run_id=before.run_id or run.run_id,
        metrics=metrics,
        gates=judgement.verdicts,
        verdict=judgement.verdict,
        intervals=judgement.intervals,
        test_set=judgement.test_set,
        warnings=(*_of_the_data(before), *judgement.warnings),
    )
    for warning in result.warnings:
        logger.warning("%s", warning)
    if result.unpackaged == UNASKED and config.packaging == "bundle":
        logger.warning("The run was made with packaging=none: reuse=never trains it again, with a bundle")
    write_json_atomic(run.folder / RESULT, result.as_json())
    publish_result(run.folder)
    if judgement.verdicts != before.gates:
        _record_verdicts(run.folder, judgement.verdicts)
    result = replace(result, run_id=_deliver(config, run, run.folder) or result.run_id)
    return replace(result, store=delivered_to(run.folder).uri), judgement


def _of_the_data(result: Result) -> tuple[str, ...]:
    """The warnings of the training, without those of an earlier judgement."""
    return tuple(text for text in result.warnings if not text.startswith(ASKED_TOO_OFTEN))


def _candidate(
    result: Result, metrics: Mapping[str, float], recorded: files.RecordedPredictions, source: Source
) -> Candidate:
    return Candidate(
        lineage=result.lineage,
        task=result.task,
        objective=result.objective,
        classes=recorded.classes,
        metrics=metrics,
        predicted=recorded.splits,
        rows=recorded.rows,
        splits=lambda: _as_predicted(source, result.lineage.data),
    )


def _as_predicted(source: Source, digest: str) -> Splits:
    """The rows that the run predicted, and no others: changed features would leave numbers and targets as they were.

    Raises:
        DataError: the data is not what it was.
    """
    now = source.digest()
    if now != digest:
        raise DataError(Fault("data", f"has changed since the run was trained ({digest[:12]}, now {now[:12]})"))
    return source.load()


def _measured_again(result: Result, recorded: files.RecordedPredictions) -> dict[str, float]:
    """What the predictions on the test split give; those on validation were measured while it trained.

    Raises:
        TrackingError: it is not what was recorded.
    """
    test = recorded.splits.get("test")
    if test is None:
        raise TrackingError(f"{result.folder / files.PREDICTIONS} has no test split; reuse=never trains again")
    try:
        values = score(result.task, test.targets, test.predictions)
    except UsageError as error:
        text = f"{result.folder / files.PREDICTIONS} holds no predictions ({error.faults[0]})"
        raise TrackingError(f"{text}: the folder was changed; reuse=never trains again") from error
    again = {f"test/{name}": value for name, value in values.items()}
    for name, value in again.items():
        known = result.metrics.get(name, math.nan)
        if not (math.isclose(value, known, rel_tol=1e-9, abs_tol=1e-12) or (math.isnan(value) and math.isnan(known))):
            text = f"{result.folder}: its predictions give {name} {value!r}, recorded is {known!r}"
            raise TrackingError(f"{text}: the folder was changed; reuse=never trains again")
    return again


def _record_verdicts(folder: Path, verdicts: tuple[Verdict, ...]) -> None:
    files.write_verdicts(folder, verdicts)
    spool = Spool(folder / SPOOL)
    spool.append("tags", values={"verdict": overall(verdicts)})
    for name in (files.VERDICTS, RESULT):
        spool.append("artifact", path=name, to="")
    spool.close()


def _deliver(config: ExperimentConfig, run: RecordedRun, folder: Path) -> str | None:
    """Send what MLflow has not heard of the run; its id."""
    if is_waiting(folder):
        store = Store(anchored(tracking_uri(config)[0]), False, config.tracking.timeout_seconds)
        deliver_rest(run, folder, config.output_dir, store)
    return delivered_to(folder).run_id
