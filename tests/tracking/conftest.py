"""Configs built by hand, and a copy of the empty MLflow store where they record."""

import dataclasses
import logging
import secrets
import shutil
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest

from mlops_hydra.atomic import write_json_atomic
from mlops_hydra.config.fingerprint import family_digest
from mlops_hydra.config.schema import ExperimentConfig, Origin
from mlops_hydra.tracking.claim import claimed
from mlops_hydra.tracking.folders import create_run_folder
from mlops_hydra.tracking.lineage import Lineage
from mlops_hydra.tracking.run import tracked_experiment
from mlops_hydra.tracking.spool import SPOOL, Spool
from mlops_hydra.tracking.store import URI_VARIABLE

MakeConfig = Callable[..., ExperimentConfig]


def _tree(output_dir: Path) -> dict[str, Any]:
    split = {"by": "auto", "column": None, "val": 0.2, "test": 0.2, "num_folds": None, "fold": None, "seed": 0}
    data = {"source": {"_target_": "collections.OrderedDict"}, "path": None, "target": "y", "task": "auto"}
    data |= {"classes": None, "keep": None, "drop": (), "kinds": {}, "id": None, "image_shape": None, "version": None}
    data |= {"split": split | {"duplicates": "together"}, "num_workers": 0}
    data |= {"encoding": {"impute": "mean", "max_one_hot": 20, "max_categories": 1000}}
    trainer = {"epochs": 3, "steps": None, "batch_size": 64, "accumulate": 1, "clip_norm": None, "loss": None}
    trainer |= {"early_stopping": {"patience": None, "min_delta": 0.0}, "scheduler_interval": "auto", "step": None}
    trainer |= {"checkpoint": {"every_epochs": None, "every_steps": None, "every_seconds": None}}
    trainer |= {
        "precision": "fp32",
        "compile": False,
        "deterministic": True,
        "device": "cpu",
        "num_threads": None,
        "calibrate": "none",
    }
    return {
        "name": "tests",
        "seed": 0,
        "objective": {"metric": None, "direction": None},
        "model": {"_target_": "mlops_hydra.models.Linear"},
        "optimizer": {"_target_": "torch.optim.SGD", "lr": 0.1},
        "scheduler": None,
        "data": data,
        "trainer": trainer,
        "metrics": {},
        "callbacks": {},
        "gates": {},
        "sweeps": None,
        "tracking": {"uri": f"sqlite:///{output_dir / 'mlflow.db'}", "timeout_seconds": 30.0},
        "output_dir": str(output_dir),
        "tags": {},
        "progress": "off",
        "trust": (),
        "judging": {"confidence": 0.95, "resamples": 2000, "max_candidates": None},
        "packaging": "bundle",
        "profile_bins": 128,
        "register": "never",
        "init_from": None,
        "reuse": "auto",
        "on_busy": "exit",
    }


@pytest.fixture
def make_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeConfig:
    """`make_config(overrides=(), choices=(), **top_level_fields)`: an experiment that records below `tmp_path`."""
    monkeypatch.delenv(URI_VARIABLE, raising=False)

    def make(
        overrides: tuple[str, ...] = (), choices: tuple[tuple[str, str], ...] = (), **fields: Any
    ) -> ExperimentConfig:
        config = ExperimentConfig.model_validate({**_tree(tmp_path / "outputs"), **fields})
        config._origin = Origin(overrides, choices)
        return config

    return make


@pytest.fixture
def lineage() -> Lineage:
    return Lineage("a" * 64, "b" * 64, "c" * 64)


@pytest.fixture
def local_store(empty_store: Path, tmp_path: Path) -> str:
    """The URI of a copy of the empty store, where `make_config` records."""
    (tmp_path / "outputs").mkdir()
    shutil.copy(empty_store, tmp_path / "outputs" / "mlflow.db")
    return f"sqlite:///{tmp_path / 'outputs' / 'mlflow.db'}"


@pytest.fixture
def dead_server() -> dict[str, Any]:
    """A `tracking` section whose server refuses connections: nothing listens on port 9 (discard) of loopback."""
    return {"uri": "http://127.0.0.1:9", "timeout_seconds": 5.0}


RESULT = {
    "fingerprint": "",
    "run_id": None,
    "status": "new",
    "reason": "New run",
    "task": "binary",
    "lineage": {},
    "metrics": {"test/accuracy": 0.9, "val/log_loss": 0.3},
    "gates": [],
    "verdict": "passed",
    "objective": {"metric": "log_loss", "direction": "minimize", "value": 0.3},
    "best_epoch": 1,
    "num_epochs": 1,
    "warnings": [],
}
MakeFolder = Callable[..., Path]


@pytest.fixture
def whole_result() -> dict[str, Any]:
    """What the `result.json` of a finished run holds, at the least."""
    return dict(RESULT)


@pytest.fixture
def make_folder(tmp_path: Path, lineage: Lineage) -> MakeFolder:
    """`make_folder(config, state)`: the folder of a run as its process left it, `seconds` ago.

    Running: without an end, for the test to take its lease; dead: the same, and nobody will.
    """

    def make(config: ExperimentConfig, state: str, *, of: Lineage = lineage, seconds: float = 0) -> Path:
        folder = create_run_folder(config.output_dir, config.fingerprint, of.digest)
        when = int((time.time() - seconds) * 1000)
        tags = {"fingerprint": config.fingerprint, "family": family_digest(config), "lineage": of.digest}
        tags |= {"lineage.config": of.config, "lineage.data": of.data, "lineage.code": of.code}
        spool, names = Spool(folder / SPOOL), {"experiment": config.name, "run_name": config.fingerprint}
        spool.append("start", id=secrets.token_hex(8), time=when, tags=tags, description="seed=0", **names)
        spool.append("params", values={"seed": "0"})
        spool.append("metrics", step=1, time=when, values={"val/log_loss": 0.3})
        if state in ("finished", "failed", "killed"):
            spool.append("end", status=state.upper(), time=when)
        spool.close()
        if state == "finished":
            named = {"fingerprint": config.fingerprint, "lineage": dataclasses.asdict(of)}
            write_json_atomic(folder / "result.json", RESULT | named)
        return folder

    return make


FinishedRun = Callable[..., Path]


@pytest.fixture
def finish_run(lineage: Lineage) -> FinishedRun:
    """`finish_run(config)`: a run, recorded, delivered and finished as an experiment's is, but for the training."""

    def finish(config: ExperimentConfig, of: Lineage = lineage) -> Path:
        with claimed(config, of) as claim, tracked_experiment(config, of, claim=claim) as run:
            run.log_metrics({"val/log_loss": 0.3}, step=1)
            run.set_tags({"verdict": "passed"})
            named = {"fingerprint": config.fingerprint, "lineage": dataclasses.asdict(of)}
            write_json_atomic(run.folder / "result.json", RESULT | named)
            run.log_artifact(run.folder / "result.json")
        return run.folder

    return finish


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """What the package has logged so far, announcements too."""
    caplog.set_level(logging.INFO, logger="mlops_hydra")
    return lambda: [record.getMessage() for record in caplog.records if record.name.startswith("mlops_hydra")]


class Moody:
    """A real MLflow server on loopback, within this process, whose `mood` decides how it answers."""

    MOODS: Final = {"500": "500 Internal Server Error", "401": "401 Unauthorized", "404": "404 Not Found"}

    def __init__(self, app: Any) -> None:
        self.app, self.mood, self.asked = app, "well", list[str]()
        self.server: Any = None
        self.thread: threading.Thread | None = None
        self.port = 0

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __call__(self, environ: Any, start_response: Any) -> Any:
        self.asked.append(environ["PATH_INFO"].rpartition("/")[2])
        if self.mood in self.MOODS:
            start_response(self.MOODS[self.mood], [("Content-Type", "text/html")])
            return [b"<html>"]
        if self.mood == "forgetful":  # it does what it is asked, and its answer gets lost
            list(self.app(environ, lambda *_: None))
            start_response(self.MOODS["500"], [])
            return [b""]
        if self.mood == "slow":
            time.sleep(0.05)
        return self.app(environ, start_response)

    def start(self) -> None:
        from werkzeug.serving import WSGIRequestHandler, make_server

        class Quiet(WSGIRequestHandler):
            def log(self, *_: Any) -> None:
                pass

        self.server = make_server("127.0.0.1", self.port, self, threaded=True, request_handler=Quiet)
        self.port = self.server.server_port
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01})
        self.thread.start()

    def stop(self) -> None:
        if self.server is not None:
            self.server.shutdown()
            self.server.server_close()
            self.thread.join()
            self.server = None


@pytest.fixture
def moody(empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Moody]:
    """Records in `moody.db`; artifacts go straight to a folder."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow uses what starlette deprecates
        from mlflow.server import app, fastapi_app, handlers  # noqa: F401
        from mlflow.tracking import _tracking_service

    shutil.copy(empty_store, tmp_path / "moody.db")
    monkeypatch.setattr(handlers, "_tracking_store", None)  # one for the time of a process, else
    # what the server means by its own store is not the client's business: no variable in the environment
    make_known = partial(monkeypatch.setattr, _tracking_service.utils, "_tracking_uri")
    monkeypatch.setattr(handlers.utils, "set_tracking_uri", make_known)
    handlers.initialize_backend_stores(f"sqlite:///{tmp_path}/moody.db", default_artifact_root=f"{tmp_path}/moody")
    server = Moody(app)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Delivery looks and tries again after hundredths of a second."""
    for name in ("START_SECONDS", "SEND_SECONDS", "RETRY_SECONDS"):
        monkeypatch.setattr(f"mlops_hydra.tracking.delivery.{name}", 0.02)
