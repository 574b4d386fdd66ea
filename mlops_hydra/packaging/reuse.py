"""A result that is there already: its gates are judged again, from its predictions and what was recorded.

Nothing is trained, and no model is loaded. What MLflow has not heard of the run is delivered.
"""

import logging
import math
from dataclasses import replace
from pathlib import Path

from mlops_hydra.atomic import read_json, write_json_atomic
from mlops_hydra.config.objective import check_gate_metrics
from mlops_hydra.config.schema import ExperimentConfig
from mlops_hydra.errors import TrackingError, UsageError
from mlops_hydra.evaluation.gates import Verdict, judge, overall
from mlops_hydra.evaluation.metrics import score
from mlops_hydra.packaging import files
from mlops_hydra.packaging.result import Result
from mlops_hydra.tracking.claim import Claim
from mlops_hydra.tracking.delivery import delivered_to, is_waiting
from mlops_hydra.tracking.fetch import fetch_run
from mlops_hydra.tracking.folders import RESULT, publish_result
from mlops_hydra.tracking.recorded import RecordedRun
from mlops_hydra.tracking.spool import SPOOL, Spool
from mlops_hydra.tracking.store import anchored, tracking_uri
from mlops_hydra.tracking.sync import Store, deliver_rest

logger = logging.getLogger(__name__)


def reused(config: ExperimentConfig, claim: Claim) -> Result:
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
    metrics = {**before.metrics, **_measured_again(before)}
    verdicts = judge(config.gates, metrics, task=before.task, objective=before.objective)
    result = replace(
        before,
        status="reused",
        reason=claim.decision.reason,
        run_id=before.run_id or run.run_id,
        metrics=metrics,
        gates=verdicts,
        verdict=overall(verdicts),
    )
    for warning in result.warnings:
        logger.warning("%s", warning)
    write_json_atomic(run.folder / RESULT, result.as_json())
    publish_result(run.folder)
    if verdicts != before.gates:
        _record_verdicts(run.folder, verdicts)
    result = replace(result, run_id=_deliver(config, run, run.folder) or result.run_id)
    return replace(result, store=delivered_to(run.folder).uri)


def _measured_again(result: Result) -> dict[str, float]:
    """What the predictions on the test split give; those on validation were measured while it trained.

    Raises:
        TrackingError: it is not what was recorded.
    """
    test = files.read_predictions(result.folder).get("test")
    if test is None:
        raise TrackingError(f"{result.folder / files.PREDICTIONS} has no test split; reuse=never trains again")
    try:
        values = score(result.task, test.targets, test.predictions)
    except UsageError as error:
        text = f"{result.folder / files.PREDICTIONS} holds no predictions ({error.faults[0]})"
        raise TrackingError(f"{text}: the folder was changed; reuse=never trains again") from error
    again = {f"test/{name}": value for name, value in values.items()}
    for name, value in again.items():
        recorded = result.metrics.get(name, math.nan)
        if not (
            math.isclose(value, recorded, rel_tol=1e-9, abs_tol=1e-12) or (math.isnan(value) and math.isnan(recorded))
        ):
            text = f"{result.folder}: its predictions give {name} {value!r}, recorded is {recorded!r}"
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
