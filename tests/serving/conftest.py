"""Bundles of one small model of every kind of column, the configuration of a service, and services that run."""

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from filelock import FileLock

from mlops_hydra.config.serving import ServeConfig
from mlops_hydra.packaging.bundle import load_bundle
from mlops_hydra.serving.folder import ServiceFolder
from mlops_hydra.serving.processes.follower import Follower
from mlops_hydra.tracking.registry import ModelVersion, Registry
from mlops_hydra.tracking.store import open_client

MakeBundle = Callable[..., Path]
MakeConfig = Callable[..., ServeConfig]

KINDS = ("worker", "follower", "recorder", "drift_watcher")
CREDIT_ROW = {"age": 41.0, "income": 52_000.0, "employed": True, "city": "Wien", "since": "2024-03-01"}


def credit_table(path: Path) -> None:
    """400 applicants, a twentieth of the values missing."""
    rng = np.random.default_rng(0)
    size = 400
    frame = pd.DataFrame(
        {
            "age": rng.integers(18, 90, size),
            "income": rng.normal(50_000, 15_000, size).round(2),
            "employed": rng.random(size) < 0.7,
            "city": rng.choice(["Köln", "Wien", "Zürich"], size),
            "since": (pd.Timestamp("2024-01-01") + pd.to_timedelta(rng.integers(0, 700, size), unit="D")).astype(str),
        }
    ).mask(rng.random((size, 5)) < 0.05)
    repaid = (frame["income"].fillna(0) + rng.normal(0, 10_000, size)) > 45_000
    frame.assign(repaid=np.where(repaid, "yes", "no")).to_csv(path, index=False)


@pytest.fixture(scope="session")
def trained_bundle(known_graphs: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """`trained_bundle(seed)`: a sealed bundle of a model with random weights, which predicts like no other seed's."""
    known: dict[int, Path] = {}

    def make(seed: int) -> Path:
        if seed not in known:
            place = tmp_path_factory.mktemp("credit")
            credit_table(place / "credit.csv")
            with FileLock(known_graphs / "credit.lock"):  # whoever comes later finds the architecture
                known[seed] = _packaged(place, seed, known_graphs)
        return known[seed]

    return make


def _packaged(place: Path, seed: int, known_graphs: Path) -> Path:
    import torch

    from mlops_hydra import compose
    from mlops_hydra.config.objective import resolve_objective
    from mlops_hydra.data.sources import open_source
    from mlops_hydra.fitting import export
    from mlops_hydra.packaging.bundle_writer import seal_bundle, write_graph
    from mlops_hydra.packaging.result import Result
    from mlops_hydra.tracking.lineage import Lineage
    from mlops_hydra.training.build import build_workbench

    config = compose(["data=csv", f"data.path={place / 'credit.csv'}", "data.target=repaid", "model=linear"])
    splits = open_source(config.data).load()
    objective = resolve_objective(config.objective, splits.task)
    torch.manual_seed(seed)
    bench = build_workbench(config, splits, objective, torch.device("cpu"))
    folder = place / "bundle"
    write_graph(folder, export(bench, splits).eval(), bench, splits, cache=known_graphs, key="credit")
    about: Any = {"warnings": (), "gates": (), "verdict": "passed", "objective": objective, "folder": folder}
    numbers: Any = {"best_epoch": 1, "num_epochs": 1}
    lineage = Lineage("a" * 64, "b" * 64, "c" * 64)
    result = Result("1234567e8901", "run", "new", "", splits.task, lineage, {"test/accuracy": 0.75}, **about, **numbers)
    seal_bundle(folder, result, name="credit", classes=splits.classes)
    return folder


@pytest.fixture
def make_bundle(trained_bundle: Callable[[int], Path], tmp_path: Path) -> MakeBundle:
    """`make_bundle(seed=0, folder=None, rename={}, **about)`: a bundle in a folder of its own.

    `rename` gives columns other names; `about` are fields of bundle.json, such as `lineage`, which is random else.
    """

    def make(
        seed: int = 0, *, folder: Path | None = None, rename: Mapping[str, str] | None = None, **about: Any
    ) -> Path:
        made = folder or tmp_path / "made" / secrets.token_hex(4)
        shutil.copytree(trained_bundle(seed), made)
        _change(made / "bundle.json", lambda data: data | {"lineage": secrets.token_hex(6)} | about)
        for old, new in (rename or {}).items():
            _change(made / "schema.json", lambda data, old=old, new=new: _renamed_feature(data, old, new))
            _change(made / "golden.json", lambda data, old=old, new=new: _renamed_column(data, old, new))
        from mlops_hydra.packaging.seal import seal

        seal(made)
        return made

    return make


def _change(path: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


def _renamed_feature(schema: dict[str, Any], old: str, new: str) -> dict[str, Any]:
    features = [each | ({"name": new} if each["name"] == old else {}) for each in schema["features"]]
    return schema | {"features": features}


def _renamed_column(golden: dict[str, Any], old: str, new: str) -> dict[str, Any]:
    return golden | {"columns": {new if name == old else name: v for name, v in golden["columns"].items()}}


@pytest.fixture
def serve_config(tmp_path: Path) -> MakeConfig:
    """`serve_config(*overrides)`: the service `credit` below `tmp_path`, on a free port, without a log."""
    from mlops_hydra.config.compose import compose_command
    from mlops_hydra.config.roots import Roots

    def make(*overrides: str) -> ServeConfig:
        own = ["name=credit", f"output_dir={tmp_path / 'outputs'}", "port=0", "log.sample=0"]
        return compose_command(ServeConfig, [*own, *overrides], Roots(config_name="serve"))

    return make


@dataclass
class Shop:
    """A registry, a model in it, and a service that follows it."""

    uri: str
    output_dir: Path
    make_bundle: MakeBundle
    make_config: Callable[..., Any]
    options: dict[str, str]
    name: str = field(default_factory=lambda: f"credit {secrets.token_hex(3)}")
    seconds: float = 1e6

    def __post_init__(self) -> None:
        self.client = open_client(self.uri)
        self.experiment_id = self.client.create_experiment(self.name, **self.options)
        self.registry = Registry(self.uri, self.output_dir, timeout_seconds=30)

    def register(self, bundle: Path | None = None, **about: Any) -> ModelVersion:
        """A version of a bundle that is made for it."""
        bundle = bundle or self.make_bundle(**about)
        run_id = self.client.create_run(self.experiment_id).info.run_id
        self.client.log_artifacts(run_id, str(bundle), "model/bundle")
        lineage = load_bundle(bundle).lineage if "verdict" not in about else ""
        tags = {"fingerprint": "1234567e8901", "lineage": lineage or secrets.token_hex(6), "verdict": "passed"}
        return self.registry.register(self.name, run_id=run_id, tags=tags)

    def give(self, version: ModelVersion, alias: str = "champion") -> None:
        self.client.set_registered_model_alias(self.name, alias, str(version.version))

    def take(self, alias: str) -> None:
        self.client.delete_registered_model_alias(self.name, alias)

    def follower(self, *overrides: str) -> Follower:
        config = self.make_config(f"name='{self.name}'", f"tracking.uri='{self.uri}'", *overrides)
        return Follower(config, self.folder, now=lambda: 100.0, clock=lambda: self.seconds)

    @property
    def folder(self) -> ServiceFolder:
        return ServiceFolder.of(self.output_dir, self.name)

    def copies(self) -> list[str]:
        return sorted(path.name for path in self.folder.bundles.iterdir())


@pytest.fixture
def here(empty_store: Path, tmp_path: Path, make_bundle: MakeBundle, serve_config: Callable[..., Any]) -> Shop:
    """With a SQLite store."""
    (tmp_path / "outputs").mkdir()
    shutil.copy(empty_store, tmp_path / "outputs" / "mlflow.db")
    uri, location = f"sqlite:///{tmp_path}/outputs/mlflow.db", (tmp_path / "outputs" / "artifacts").as_uri()
    return Shop(uri, tmp_path / "outputs", make_bundle, serve_config, {"artifact_location": location})


@pytest.fixture
def there(mlflow_server: str, tmp_path: Path, make_bundle: MakeBundle, serve_config: Callable[..., Any]) -> Shop:
    """With a server."""
    return Shop(mlflow_server, tmp_path / "outputs", make_bundle, serve_config, {})


class Service:
    """`mlops-hydra serve` in a process of its own, which runs within the block."""

    def __init__(
        self, place: Path, *overrides: str, name: str = "credit", command: list[str] | None = None, **variables: str
    ) -> None:
        self.folder = ServiceFolder.of(place / "outputs", name).path
        self.log = place / "serve.log"
        own = ["serve", f"name='{name}'", f"output_dir={place / 'outputs'}", "port=0", *overrides]
        self._command = command or [sys.executable, "-m", "mlops_hydra", *own]
        self._env = {**os.environ, **variables}
        self.key = variables.get("MLOPS_HYDRA_API_KEY")

    def __enter__(self) -> "Service":
        self.begin()
        return self

    def begin(self) -> None:
        """Start, and wait until it is ready."""
        (self.folder / "service.json").unlink(missing_ok=True)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self._command, stdout=log, stderr=log, env=self._env)
        self.until(lambda: (self.folder / "service.json").exists() or self.process.poll() is not None)
        assert self.process.poll() is None, self.said
        self.url = json.loads((self.folder / "service.json").read_text())["url"]

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Stop it; the exit code."""
        children = self.children()
        self.process.send_signal(number)
        code = self.process.wait(30)
        self.until(lambda: not any(map(is_alive, children)))
        return code

    @property
    def said(self) -> str:
        return self.log.read_text()

    def children(self) -> list[int]:
        """Process ids; none of zombies."""
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        with suppress(OSError):
            return [pid for pid in map(int, path.read_text().split()) if is_alive(pid)]
        return []

    def child(self, kind: str) -> int:
        """The id of the one process of a kind."""
        (pid,) = (pid for pid in self.children() if kind_of(pid) == kind)
        return pid

    def kinds(self) -> list[str]:
        return list(filter(None, map(kind_of, self.children())))

    def until(self, condition: Callable[[], Any], seconds: float = 30) -> None:
        """Wait until something is true."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, self.said
            time.sleep(0.02)

    def ask(self, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """Status and JSON (or text) of an answer; POST where there is a body."""
        data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", **headers}
        if self.key is not None:
            headers["X-API-Key"] = self.key
        request = urllib.request.Request(f"{self.url}{path}", data, headers)
        try:
            with urllib.request.urlopen(request, timeout=20) as answer:
                status, text = answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                status, text = error.code, error.read().decode()
        try:
            return status, json.loads(text)
        except ValueError:
            return status, text


def is_alive(pid: int) -> bool:
    """Whether a process is there, and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def kind_of(pid: int) -> str:
    """Of a child of a service; empty where it is not what it will be yet."""
    with suppress(OSError):
        words = [word.rpartition(".")[2] for word in Path(f"/proc/{pid}/cmdline").read_text().split("\0")]
        return next((word for word in words if word in KINDS), "")
    return ""


@pytest.fixture
def service(tmp_path: Path) -> Callable[..., Service]:
    """`service(*overrides, **variables)`: one of its own, for `with`."""

    def make(*overrides: str, **variables: Any) -> Service:
        return Service(tmp_path, *overrides, **variables)

    return make


@pytest.fixture(scope="session")
def running(trained_bundle: Callable[[int], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """One for all tests that only ask it: control has seed 0, treatment seed 1, half of the users each."""
    arms = [f"variants.{arm}.bundle={trained_bundle(seed)}" for seed, arm in enumerate(("control", "treatment"))]
    weights = ["variants.control.weight=50", "variants.treatment.weight=50"]
    with Service(tmp_path_factory.mktemp("running"), *arms, *weights) as made:
        yield made
