"""From spool records to MLflow's calls, within MLflow's limits. Sending a record again changes nothing.

Does not decide when to send or whether to try again; see `delivery.py`.
"""

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import islice, zip_longest
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
PARENT_TAG: Final = "mlflow.parentRunId"
_BATCHED: Final = frozenset({"params", "tags", "metrics"})
_TRY_AGAIN: Final = frozenset({401, 403, 408, 429})  # an expired token, too, is the moment's fault


class Sender:
    """Sends the records of one run; `run_id` is None until MLflow has made the run.

    Args:
        ids: of experiments and of parent runs, as far as they are known; added to.
        is_new: nobody has sent anything of this run before.
    """

    def __init__(
        self,
        client: "MlflowClient",
        folder: Path,
        *,
        artifact_location: str | None,
        ids: dict[str, str] | None = None,
        is_new: bool = False,
    ) -> None:
        self.run_id: str | None = None
        self.refused: list[str] = []
        """What MLflow will never take, in its own words."""
        self._client = client
        self._folder = folder
        self._artifact_location = artifact_location
        self._known: frozenset[tuple[str, int]] = frozenset()
        self._ids = ids if ids is not None else {}
        self._is_new = is_new

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

        if pending and pending[0]["kind"] == "start":
            _put_tags_first(pending)
        while pending:
            group = _group(pending)
            try:
                self._send_group(group)
            except MlflowException as error:
                if self.run_id is None or not _is_refusal(error):
                    raise
                if len(group) > 1:
                    self._send_singly(group)
                else:
                    self.refused.append(_first_line(error))
            del pending[: len(group)]

    def _send_singly(self, group: Sequence[Record]) -> None:
        """What was refused together: only the record that is to blame is left out."""
        from mlflow.exceptions import MlflowException

        for record in group:
            try:
                self._send_group([record])
            except MlflowException as error:
                if not _is_refusal(error):
                    raise
                self.refused.append(_first_line(error))

    def _send_group(self, group: Sequence[Record]) -> None:
        """One record, or several in a row that make one call."""
        record = group[0]
        if record["kind"] == "start":
            self.run_id = self._start(record)
            return
        assert self.run_id is not None, "the first record of a spool is its start"
        if record["kind"] in _BATCHED:
            self._batch(self.run_id, group)
            return
        handlers: Mapping[str, Callable[[str, Record], None]] = {
            "artifact": self._artifact,
            "end": self._end,
            "resume": self._resume,
        }
        handlers[record["kind"]](self.run_id, record)

    def _start(self, record: Record) -> str:
        experiment_id = self._experiment_id(record["experiment"])
        if not self._is_new and (made := self._find_run(experiment_id, record["id"])):
            self._known = self._points_of(made)
            return made
        self._is_new = False  # the answer to what follows may be lost
        note = {"mlflow.note.content": record["description"]} if record["description"] else {}
        parent = self._parent(experiment_id, record)
        tags = legal_tags({**record["tags"], **note, **parent, SPOOL_TAG: record["id"]}, MAX_TAG_LENGTH)
        run = self._client.create_run(experiment_id, record["time"], tags, run_name=record["run_name"])
        return str(run.info.run_id)

    def _parent(self, experiment_id: str, record: Record) -> dict[str, str]:
        """The tag that puts the run below the one of its study, which MLflow may not have yet."""
        name = record.get("parent")
        if name is None:
            return {}
        if name not in self._ids and (run_id := self._find_run(experiment_id, name)):
            self._ids[name] = run_id
        return {PARENT_TAG: self._ids[name]} if name in self._ids else {}

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
        key = f"experiment {name}"
        if key not in self._ids:
            self._ids[key] = self._ask_experiment_id(name)
        return self._ids[key]

    def _ask_experiment_id(self, name: str) -> str:
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

    def _batch(self, run_id: str, records: Sequence[Record]) -> None:
        """Params, tags and metrics: as few calls as MLflow's limits allow."""
        from mlflow.entities import Metric, Param, RunTag

        points = [
            Metric(_legal_name(name), float(value), record["time"], record["step"])
            for record in records
            if record["kind"] == "metrics"
            for name, value in record["values"].items()
            if (_legal_name(name), record["step"]) not in self._known
        ]
        params = [Param(name, value) for name, value in _merged(records, "params", MAX_PARAM_LENGTH).items()]
        tags = [RunTag(name, value) for name, value in _merged(records, "tags", MAX_TAG_LENGTH).items()]
        chunks = (_chunks(points, MAX_METRICS - 2 * MAX_PARAMS), _chunks(params, MAX_PARAMS), _chunks(tags, MAX_PARAMS))
        for metrics, some_params, some_tags in zip_longest(*chunks, fillvalue=()):
            self._client.log_batch(run_id, metrics=metrics, params=some_params, tags=some_tags, synchronous=True)

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
    """The records at the front that make one call: those of params, tags and metrics in a row, or a single other."""
    count, values, has_params = 0, 0, False
    for record in pending:
        is_batched = record["kind"] in _BATCHED and (record["kind"] != "params" or not has_params)
        has_params = has_params or record["kind"] == "params"  # a second value is refused, not merged
        values += len(record["values"]) if is_batched else 0
        if count and (not is_batched or values > MAX_METRICS):
            break
        count += 1
        if record["kind"] not in _BATCHED:
            break
    return pending[:count]


def _put_tags_first(pending: list[Record]) -> None:
    """Tags that are known already go with the start of the run: a call, and a commit, less.

    The records stay, empty: how far was delivered is counted in records.
    """
    tags = {name: text for record in pending[1:] if record["kind"] == "tags" for name, text in record["values"].items()}
    if tags:
        pending[0] = {**pending[0], "tags": {**pending[0]["tags"], **tags}}
        pending[1:] = [{**r, "values": {}} if r["kind"] == "tags" else r for r in pending[1:]]


def _merged(records: Sequence[Record], kind: str, limit: int) -> dict[str, str]:
    """Names and texts of all records of a kind; a later value replaces an earlier one."""
    merged: dict[str, str] = {}
    for record in records:
        merged |= legal_tags(record["values"], limit) if record["kind"] == kind else {}
    return merged


def _first_line(error: Any) -> str:
    return str(error.message).partition("\n")[0]


def _is_refusal(error: Any) -> bool:
    """Whether trying again is useless: the request itself is wrong, not the moment."""
    status = error.get_http_status_code()
    is_proxy = error.error_code == "ENDPOINT_NOT_FOUND"  # a page that says 404 while the server behind it starts
    return 400 <= status < 500 and status not in _TRY_AGAIN and not is_proxy


def _chunks(items: Sequence[T], size: int) -> list[list[T]]:
    rest = iter(items)
    return [chunk for _ in range(0, len(items), size) if (chunk := list(islice(rest, size)))]


def legal_tags(values: Mapping[str, str], limit: int) -> dict[str, str]:
    """Tags or params as MLflow takes them: names without strange characters, texts of at most `limit`."""
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
