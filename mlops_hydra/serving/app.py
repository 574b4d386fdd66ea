"""The service of one worker: POST /predict goes to `endpoint.py`, everything else to FastAPI (`api.py`).

That is imported in a thread, after the first prediction could be made.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from mlops_hydra.config.serving import ServeConfig
from mlops_hydra.errors import BundleError
from mlops_hydra.packaging.graph import one_line
from mlops_hydra.serving.arms import Watch
from mlops_hydra.serving.batching import Batcher
from mlops_hydra.serving.counts import Counts, CountsFolder, exposition, gauge
from mlops_hydra.serving.drift.latest import LatestDrift
from mlops_hydra.serving.endpoint import PATH, Endpoint, Key, Receive, Scope, Send
from mlops_hydra.serving.folder import ServiceFolder
from mlops_hydra.serving.logged import RequestLog
from mlops_hydra.serving.model import ServedModel
from mlops_hydra.serving.rows import Arrays
from mlops_hydra.serving.unusual import UnusualValues

if TYPE_CHECKING:
    from fastapi import FastAPI

WRITE_SECONDS: Final = 1.0


class Service:
    """An ASGI application; its lifespan watches what is to be served."""

    def __init__(self, config: ServeConfig, *, worker: str = "0") -> None:
        self.config = config
        self.counts = Counts()
        self._unusual = UnusualValues(self.counts.unusual)
        self.watch = Watch(config, self.counts)
        folder, limits = ServiceFolder.for_config(config), config.limits
        self.log = RequestLog(config.log, folder) if config.log.sample > 0 else None
        self.drift = LatestDrift(config, folder.drift)
        self._key = Key(config.api_key)
        self._batcher = Batcher(
            limits.max_batch_rows, limits.max_queued_rows, limits.timeout_seconds, on_batch=self._on_batch
        )
        self._endpoint = Endpoint(self.watch, self._batcher, self.counts, limits, key=self._key, heard=self.log)
        self._folder = CountsFolder(folder.counts, worker)
        self._api: asyncio.Task[FastAPI] | None = None

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """One connection of whatever kind. No coroutine of its own: predictions pass through one less."""
        if scope["type"] == "http" and scope["path"] == PATH:
            return self._endpoint(scope, receive, send)
        return self._live(receive, send) if scope["type"] == "lifespan" else self._other(scope, receive, send)

    async def _other(self, scope: Scope, receive: Receive, send: Send) -> None:
        api = await self._built()
        await api(scope, receive, send)

    def _built(self) -> "asyncio.Task[FastAPI]":
        """The other routes."""
        if self._api is None:
            self._api = asyncio.create_task(asyncio.to_thread(self._build))
        return self._api

    def _build(self) -> "FastAPI":
        from mlops_hydra.serving.api import build_api

        return build_api(self)

    def check_key(self, headers: Any) -> None:
        """Raises Refusal."""
        self._key.check(headers)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        await self.watch.look()
        await send({"type": "lifespan.startup.complete"})
        self._built()
        async with _background(self.watch.run(), self._write_counts()):
            await receive()
        self._batcher.close()
        if self.log is not None:
            await asyncio.to_thread(self.log.journal.close)
        await send({"type": "lifespan.shutdown.complete"})

    async def _write_counts(self) -> None:
        while True:
            self._note()
            with contextlib.suppress(OSError):  # a full disk stops no prediction; the next try may succeed
                self._folder.write(self.counts)
            await asyncio.sleep(WRITE_SECONDS)

    def _note(self) -> None:
        """What others count, too."""
        self._unusual.count()
        self.counts.gauges["queued_rows"] = self._batcher.queued_rows
        if self.log is not None:
            journal = self.log.journal
            self.counts.totals = {"log_rows": journal.rows_recorded, "log_rows_dropped": journal.rows_dropped}
            self.log.forget(list(self.watch.arms.models.values()))

    def _on_batch(self, model: ServedModel, num_rows: int, batches: Sequence[Arrays]) -> None:
        self.counts.batch_rows.observe(num_rows)
        for arrays in batches:
            self._unusual.add(model.reader, arrays)

    def ready(self) -> tuple[bool, dict[str, Any]]:
        """Whether control has a model whose golden rows come out right, and what is known beside."""
        watch = self.watch
        arms = watch.arms
        problems = {}
        for arm, model in arms.models.items():
            try:
                model.check()
            except BundleError as error:
                problems[arm] = one_line(error)
        if arms.router.control not in arms.models:
            problems[arms.router.control] = "has no model yet"
        targets = watch.targets
        registry = None
        if targets is not None and targets.checked_at is not None:
            registry = {"error": targets.registry_error, "checked_at": targets.checked_at}
        elif targets is not None and targets.registry_error:
            registry = {"error": targets.registry_error, "checked_at": None}
        about = {
            "ready": arms.router.control not in problems,
            "problems": problems,
            "variants": {
                arm: {"model_version": arms.models[arm].version} if arm in arms.models else None
                for arm in self.config.variants
            },
            "refused": {arm: {"version": r.version, "reason": r.reason} for arm, r in watch.refused.items()},
            "registry": registry,
            "kill_switch": arms.router.kill_switch,
            "request_log": None if self.log is None else {"error": self.log.journal.error},
        }
        return bool(about["ready"]), about

    def about_models(self) -> dict[str, Any]:
        """What each arm serves."""
        models = self.watch.arms.models
        return {
            "name": self.config.name,
            "experiment": self.config.experiment,
            "kill_switch": self.watch.arms.router.kill_switch,
            "variants": {
                arm: {"weight": asked.weight, **about(models[arm])} if arm in models else None
                for arm, asked in self.config.variants.items()
            },
        }

    def exposition(self) -> bytes:
        """For Prometheus."""
        return self.told()()

    def told(self) -> Callable[[], bytes]:
        """The same, of this moment: for the event loop, which counts; what is returned may be called elsewhere."""
        self._note()
        arms, targets = self.watch.arms, self.watch.targets
        served = [(arm, model.version, model.bundle.fingerprint) for arm, model in arms.models.items()]
        refused = [(arm, each.version) for arm, each in self.watch.refused.items()]
        is_up = float(targets is not None and targets.registry_error is None)
        own = [
            gauge(
                "model_info", "what each arm serves", dict.fromkeys(served, 1.0), ("variant", "version", "fingerprint")
            ),
            gauge("refused_info", "versions that are not served", dict.fromkeys(refused, 1.0), ("variant", "version")),
            gauge("registry_up", "whether the registry answered the last time", {(): is_up}),
            gauge("kill_switch", "whether all users are sent to control", {(): float(arms.router.kill_switch)}),
        ]
        counts = self.counts.as_json()
        return lambda: exposition([counts, *self._folder.others()], [*own, *self.drift.gauges()])


def about(model: ServedModel) -> dict[str, Any]:
    """What is known of a model; `schema` is null for a model of arrays."""
    bundle = model.bundle
    schema = bundle.schema
    columns = None if schema is None else [_column(feature) for feature in schema.features]
    return {
        "model_version": model.version,
        "fingerprint": bundle.fingerprint,
        "lineage": bundle.lineage,
        "run_id": bundle.run_id,
        "task": bundle.task,
        "classes": list(bundle.classes),
        "verdict": bundle.verdict,
        "metrics": dict(bundle.metrics),
        "schema": columns,
        "inputs": None if schema is not None else [{"name": n, "kind": kind} for n, kind in model.reader.columns],
    }


def _column(feature: Any) -> Mapping[str, Any]:
    return {
        "name": feature.name,
        "kind": feature.kind,
        "categories": list(feature.categories),
        "minimum": feature.minimum,
        "maximum": feature.maximum,
        "missing_rate": feature.missing_rate,
    }


@contextlib.asynccontextmanager
async def _background(*coroutines: Any) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
