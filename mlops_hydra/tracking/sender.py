"""From spool records to MLflow's calls, within MLflow's limits. Sending a record again changes nothing.

Does not decide when to send or whether to try again; see `delivery.py`.
"""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from mlops_hydra.tracking.spool import Record

if TYPE_CHECKING:
    from mlflow import MlflowClient

T = TypeVar("T")

MAX_METRICS: Final = 1000  # in one call
MAX_PARAMS: Final = 100  # in one call; tags too
MAX_PARAM_LENGTH: Final = 6000
MAX_TAG_LENGTH: Final = 8000
MAX_NAME_LENGTH: Final = 250
SPOOL_TAG: Final = "mlops_hydra.spool"
_TRY_AGAIN: Final = frozenset({401, 403, 408, 429})  # an expired token, too, is the moment's fault


class Sender:
    """Sends the records of one run; `run_id` is None until MLflow has made the run."""

    def __init__(self, client: "MlflowClient", folder: Path, *, artifact_location: str | None) -> None:
        self.run_id: str | None = None
        self.refused: list[str] = []
        """What MLflow will never take, in its own words."""
        self._client = client
        self._folder = folder
        self._artifact_location = artifact_location
        self._known: frozenset[tuple[str, int]] = frozenset()

    def adopt(self, run_id: str | None) -> bool:
        """Go on with this run of an earlier process; False if MLflow has it no more."""
        from mlflow.exceptions import MlflowException

        try:
            known = run_id is not None and self._client.get_run(run_id).info.lifecycle_stage == "active"
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            known = False
        self.run_id = run_id if known else None
        return known

    def send(self, pending: list[Record]) -> None:
        """Send `pending` in order, removing what was taken or refused.

        Raises:
            Exception: whatever MLflow raised; `pending` begins with the record that was not taken.
        """
        from mlflow.exceptions import MlflowException

        while pending:
            group = _group(pending)
            try:
                self._send_group(group)
            except MlflowException as error:
                if self.run_id is None or not _is_refusal(error):
                    raise
                self.refused.append(str(error.message).partition("\n")[0])
            del pending[: len(group)]

    def _send_group(self, group: Sequence[Record]) -> None:
        """One record, or several of metrics in a row."""
        record = group[0]
        if record["kind"] == "start":
            self.run_id = self._start(record)
            return
        assert self.run_id is not None, "the first record of a spool is its start"
        handlers: Mapping[str, Callable[[str, Record], None]] = {
            "params": self._params,
            "tags": self._tags,
            "artifact": self._artifact,
            "end": self._end,
            "resume": self._resume,
        }
        if record["kind"] == "metrics":
            self._metrics(self.run_id, group)
        else:
            handlers[record["kind"]](self.run_id, record)

    def _start(self, record: Record) -> str:
        experiment_id = self._experiment_id(record["experiment"])
        if made := self._find_run(experiment_id, record["id"]):
            self._known = self._points_of(made)
            return made
        note = {"mlflow.note.content": record["description"]} if record["description"] else {}
        tags = _legal({**record["tags"], **note, SPOOL_TAG: record["id"]}, MAX_TAG_LENGTH)
        run = self._client.create_run(experiment_id, record["time"], tags, run_name=record["run_name"])
        return str(run.info.run_id)

    def _find_run(self, experiment_id: str, spool_id: str) -> str | None:
        """The run of an earlier call whose answer was lost, or of an earlier process."""
        runs = self._client.search_runs([experiment_id], f"tags.`{SPOOL_TAG}` = '{spool_id}'", max_results=1)
        return str(runs[0].info.run_id) if runs else None

    def _points_of(self, run_id: str) -> frozenset[tuple[str, int]]:
        """Name and step of what MLflow has: a record that lost its end in a power failure is measured again, later."""
        names = self._client.get_run(run_id).data.metrics
        return frozenset(
            (name, point.step) for name in names for point in self._client.get_metric_history(run_id, name)
        )

    def _experiment_id(self, name: str) -> str:
        from mlflow.exceptions import MlflowException

        found = self._client.get_experiment_by_name(name)
        if found is None:
            try:
                return str(self._client.create_experiment(name, artifact_location=self._artifact_location))
            except MlflowException:
                found = self._client.get_experiment_by_name(name)  # another process was faster
                if found is None:
                    raise
        return str(found.experiment_id)

    def _metrics(self, run_id: str, records: Sequence[Record]) -> None:
        from mlflow.entities import Metric

        points = [
            Metric(_legal_name(name), float(value), record["time"], record["step"])
            for record in records
            for name, value in record["values"].items()
            if (_legal_name(name), record["step"]) not in self._known
        ]
        for chunk in _chunks(points, MAX_METRICS):
            self._client.log_batch(run_id, metrics=chunk, synchronous=True)

    def _params(self, run_id: str, record: Record) -> None:
        from mlflow.entities import Param

        params = [Param(name, value) for name, value in _legal(record["values"], MAX_PARAM_LENGTH).items()]
        for chunk in _chunks(params, MAX_PARAMS):
            self._client.log_batch(run_id, params=chunk, synchronous=True)

    def _tags(self, run_id: str, record: Record) -> None:
        from mlflow.entities import RunTag

        tags = [RunTag(name, value) for name, value in _legal(record["values"], MAX_TAG_LENGTH).items()]
        for chunk in _chunks(tags, MAX_PARAMS):
            self._client.log_batch(run_id, tags=chunk, synchronous=True)

    def _artifact(self, run_id: str, record: Record) -> None:
        path = self._folder / record["path"]
        if path.is_dir():
            self._client.log_artifacts(run_id, str(path), "/".join(filter(None, (record["to"], path.name))))
        elif path.exists():
            self._client.log_artifact(run_id, str(path), record["to"] or None)
        else:
            self.refused.append(f"the artifact {path} is gone")

    def _resume(self, run_id: str, _: Record) -> None:
        self._client.update_run(run_id, status="RUNNING")

    def _end(self, run_id: str, record: Record) -> None:
        self._client.set_terminated(run_id, record["status"], record["time"])


def _group(pending: Sequence[Record]) -> Sequence[Record]:
    """The records at the front that make one call: a row of metrics, up to one batch, or a single other record."""
    count, points = 0, 0
    for record in pending:
        points += len(record["values"]) if record["kind"] == "metrics" else 0
        if count and (record["kind"] != "metrics" or points > MAX_METRICS):
            break
        count += 1
        if record["kind"] != "metrics":
            break
    return pending[:count]


def _is_refusal(error: Any) -> bool:
    """Whether trying again is useless: the request itself is wrong, not the moment."""
    status = error.get_http_status_code()
    is_proxy = error.error_code == "ENDPOINT_NOT_FOUND"  # a page that says 404 while the server behind it starts
    return 400 <= status < 500 and status not in _TRY_AGAIN and not is_proxy


def _chunks(items: Sequence[T], size: int) -> list[list[T]]:
    rest = iter(items)
    return [chunk for _ in range(0, len(items), size) if (chunk := list(islice(rest, size)))]


def _legal(values: Mapping[str, str], limit: int) -> dict[str, str]:
    return {_legal_name(name): _shortened(text, limit) for name, text in values.items()}


def _shortened(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    note = f"... ({len(text)} characters)"
    return text[: limit - len(note)] + note


def _legal_name(name: str) -> str:
    """`name` as it is where MLflow allows it; else what is allowed of it and six digits that keep it distinct."""
    cleaned = re.sub(r"[^\w.\- /]", "_", name)
    parts = [part for part in cleaned.split("/") if part not in ("", ".", "..")]
    cleaned = "/".join(parts)
    if cleaned == name and 0 < len(name) <= MAX_NAME_LENGTH:
        return name
    return f"{cleaned[: MAX_NAME_LENGTH - 7]}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"
