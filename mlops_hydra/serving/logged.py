"""What of a prediction goes into the request log: whom it takes in, and without which columns.

A user is in the sample or not, whatever he asks and whoever answers. Where columns are left out or hashed, rows are
written anew before they touch the disk; else the bytes of the request are.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
from msgspec import Raw

from mlops_hydra.config.serving import LogConfig
from mlops_hydra.data.values import to_text
from mlops_hydra.serving.arms import Choice
from mlops_hydra.serving.body import Body
from mlops_hydra.serving.folder import ServiceFolder
from mlops_hydra.serving.model import Outcome, ServedModel
from mlops_hydra.serving.request_log.hashing import hashed, read_or_create_key
from mlops_hydra.serving.request_log.journal import Journal, ModelDescription, entry
from mlops_hydra.serving.router import Router
from mlops_hydra.serving.rows import Row

USER_ID: Final = "user_id"
_IN, _OUT = "in", "out"


class RequestLog:
    """Hears of each prediction, and has the journal keep it."""

    def __init__(self, config: LogConfig, folder: ServiceFolder, *, clock: Callable[[], float] = time.time) -> None:
        self.journal = Journal(
            folder.journal,
            flush_seconds=config.flush_seconds,
            roll_seconds=config.roll_seconds,
            max_pending_bytes=config.max_pending_bytes,
            max_journal_bytes=config.max_journal_bytes,
            clock=clock,
        )
        self._clock = clock
        self._leave_out = frozenset(config.leave_out)
        self._hash = frozenset(config.hash)
        self._key = read_or_create_key(folder.hash_key) if config.hash else b""
        self._sample = None
        if config.sample < 1:
            self._sample = Router("request log", {_IN: config.sample, _OUT: 1 - config.sample})
        self._forms: dict[ServedModel, _Form] = {}

    def __call__(self, choice: Choice, request_id: str, body: Body, rows: Sequence[Row], found: Outcome) -> None:
        """One request."""
        user_id = None if body.user_id is None else str(body.user_id)
        if self._sample is not None and self._sample.variant(user_id or request_id) == _OUT:
            return
        form = self._forms.get(choice.model) or self._form(choice.model)
        line = entry(
            model=form.number,
            time_us=int(self._clock() * 1e6),
            request_id=request_id,
            user_id=self._user(user_id),
            variant=choice.arm,
            assigned_by=choice.assigned_by,
            rows=form.written(body, rows),
            predictions=found.predictions,
            confidences=found.confidences,
        )
        self.journal.record(form.number, line, len(rows))

    def forget(self, served: Sequence[ServedModel]) -> None:
        """What is not served any more."""
        self._forms = {model: form for model, form in self._forms.items() if model in served}

    def _user(self, user_id: str | None) -> str | None:
        if user_id is None or USER_ID in self._leave_out:
            return None
        return hashed(user_id, self._key) if USER_ID in self._hash else user_id

    def _form(self, model: ServedModel) -> "_Form":
        form = _Form(model, self.journal, self._leave_out, self._hash, self._key)
        self._forms[model] = form
        return form


class _Form:
    """How rows of one model are logged."""

    def __init__(
        self, model: ServedModel, journal: Journal, leave_out: frozenset[str], hash_: frozenset[str], key: bytes
    ) -> None:
        self._key = key
        self._is_table = model.bundle.schema is not None
        columns = model.reader.columns if self._is_table else ()
        self._places = [(i, name in hash_) for i, (name, _) in enumerate(columns) if name not in leave_out]
        self._is_whole = self._is_table and len(self._places) == len(columns) and not any(h for _, h in self._places)
        kinds = [(columns[i][0], "hashed" if is_hashed else columns[i][1]) for i, is_hashed in self._places]
        bundle = model.bundle
        described = ModelDescription(model.version, bundle.fingerprint, bundle.lineage, bundle.task, tuple(kinds))
        self.number = journal.describe(described)

    def written(self, body: Body, rows: Sequence[Row]) -> bytes:
        """A JSON list of the rows."""
        if self._is_whole:
            if isinstance(body.features, Raw):
                return b"[%b]" % body.features
            return bytes(body.rows)  # type: ignore[arg-type]  # one of them is there
        if not self._is_table:
            return b"[%b]" % b",".join([b"[]"] * len(rows))
        return msgspec.json.encode([[self._value(row[i], is_hashed) for i, is_hashed in self._places] for row in rows])

    def _value(self, value: Any, is_hashed: bool) -> Any:
        if not is_hashed or value is None:
            return value
        return hashed(to_text(value) or "", self._key)
