"""What the companion finds in the log, and what a worker tells of it."""

import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mlops_hydra.config.serving import ServeConfig
from mlops_hydra.packaging.seal import seal
from mlops_hydra.serving.counts import exposition
from mlops_hydra.serving.drift.latest import LatestDrift
from mlops_hydra.serving.drift.watched import MOST_RESULTS
from mlops_hydra.serving.drift.watcher import DriftWatcher
from mlops_hydra.serving.folder import ServiceFolder
from mlops_hydra.serving.processes.children import command_of
from mlops_hydra.serving.reports import Drift
from mlops_hydra.serving.targets import Target, Targets, write_targets
from tests.serving.drift.test_counting import NOON, make_profile, rows, write_part

MakeConfig = Callable[..., ServeConfig]
HOUR = 3600.0


class Place:
    """A service's folder with some bundles, a clock, and a watcher."""

    def __init__(self, serve_config: MakeConfig, make_bundle: Callable[..., Path]) -> None:
        self._make_config, self._make_bundle = serve_config, make_bundle
        self.now = NOON.timestamp() + 600
        self.said: list[str] = []
        self.use()

    def use(self, *overrides: str) -> None:
        """A watcher from the beginning."""
        self.config = self._make_config("log.sample=1", *overrides)
        self.folder = ServiceFolder.for_config(self.config)
        self.watcher = DriftWatcher(self.config, self.folder, now=lambda: self.now, warn=self.said.append)

    def bundle(self) -> tuple[Path, str]:
        """With a profile; and its lineage."""
        made = self._make_bundle()
        (made / "profile.json").write_text(make_profile().to_json())
        seal(made)
        return made, json.loads((made / "bundle.json").read_text())["lineage"]

    def serve(self, **arms: Path) -> None:
        write_targets(self.folder.targets, Targets({arm: Target("1", str(path)) for arm, path in arms.items()}))

    def log(self, lineage: str, size: int, *, hours: int = 0, shift: float = 0.0, name: str = "") -> Path:
        name = name or f"{time.monotonic_ns()}"
        return write_part(self.folder.requests, hours, name, rows(size, seed=1, shift=shift), lineage)

    def step(self) -> dict[str, Any]:
        """What a worker says after one."""
        self.watcher.step()
        about = LatestDrift(self.config, self.folder.drift).about()
        Drift.model_validate(about)
        return about

    def arm(self) -> dict[str, Any]:
        """The same of control."""
        return dict(self.step()["variants"]["control"])


@pytest.fixture
def place(serve_config: MakeConfig, make_bundle: Callable[..., Path]) -> Place:
    return Place(serve_config, make_bundle)


@pytest.fixture
def served(place: Place) -> tuple[Place, str]:
    """Whose control has a model with a profile, and its lineage."""
    bundle, lineage = place.bundle()
    place.serve(control=bundle)
    return place, lineage


def test_what_looks_like_training_is_stable_and_a_shift_is_told_with_its_column(served: tuple[Place, str]) -> None:
    place, lineage = served
    place.log(lineage, 2_000)
    place.log("000000000000", 2_000, shift=3)
    found = place.step()
    assert found["status"] == "stable"
    assert (found["since"], found["until"]) == ("2025-11-24T12:00:00Z", "2025-11-25T12:10:00Z")
    assert found["checked_at"] == place.now
    arm = found["variants"]["control"]
    assert (arm["rows"], arm["drifted"], arm["results"], arm["lineage"]) == (2_000, [], [], lineage)
    assert found["variants"]["treatment"] is None

    place.log(lineage, 2_000, shift=1)
    place.now += 60
    found = place.step()
    arm = found["variants"]["control"]
    assert (found["status"], arm["verdict"], arm["drifted"], arm["rows"]) == ("drifted", "drifted", ["age"], 4_000)
    assert {result["feature"] for result in arm["results"]} == {"age"} and arm["results"][0]["reason"]


def test_few_rows_are_undecided(served: tuple[Place, str]) -> None:
    place, lineage = served
    assert (place.arm()["verdict"], place.arm()["rows"]) == ("undecided", 0)
    place.log(lineage, 5)
    assert (place.arm()["verdict"], place.arm()["rows"]) == ("undecided", 5)


def test_the_window_moves_on_with_the_clock(served: tuple[Place, str]) -> None:
    place, lineage = served
    place.use("drift.hours=2")
    place.log(lineage, 2_000, shift=1)
    place.log(lineage, 2_000, hours=1)
    assert place.arm()["verdict"] == "drifted"
    place.now += 2 * HOUR
    assert place.arm()["verdict"] == "drifted", "so long it is a whole hour of the last two"
    place.now += HOUR
    assert (place.arm()["verdict"], place.arm()["rows"]) == ("stable", 2_000)


def test_arms_are_looked_at_apart_and_the_worst_counts(place: Place) -> None:
    (one, its_lineage), (two, other_lineage) = place.bundle(), place.bundle()
    place.serve(control=one, treatment=two)
    place.log(its_lineage, 2_000)
    place.log(other_lineage, 2_000, shift=1)
    found = place.step()
    assert found["status"] == "drifted"
    assert {arm: each["verdict"] for arm, each in found["variants"].items()} == {
        "control": "stable",
        "treatment": "drifted",
    }
    place.serve(control=one)
    found = place.step()
    assert found["status"] == "stable" and found["variants"]["treatment"] is None


def test_a_new_version_is_compared_with_its_own_profile(served: tuple[Place, str]) -> None:
    place, lineage = served
    place.log(lineage, 2_000, shift=1)
    assert place.arm()["verdict"] == "drifted"
    bundle, new = place.bundle()
    place.serve(control=bundle)
    assert (place.arm()["lineage"], place.arm()["verdict"], place.arm()["rows"]) == (new, "undecided", 0)


@pytest.mark.parametrize("trouble", ["changed", "no profile", "gone"])
def test_a_bundle_that_cannot_be_compared_is_told_once_and_the_other_arm_is_looked_at(
    place: Place, make_bundle: Callable[..., Path], trouble: str
) -> None:
    (one, lineage), (two, _) = place.bundle(), place.bundle()
    if trouble == "gone":
        shutil.rmtree(two)
    else:
        (two / "profile.json").write_text("{}")
        if trouble == "no profile":
            seal(two)
    place.serve(treatment=two, control=one)
    place.log(lineage, 2_000)
    for _ in range(2):
        found = place.step()
    treatment = found["variants"]["treatment"]
    assert (found["status"], treatment["verdict"], treatment["rows"]) == ("undecided", "undecided", None)
    said = {"changed": "was changed", "no profile": "without a profile", "gone": "is no bundle"}[trouble]
    assert said in treatment["error"]
    assert found["variants"]["control"]["verdict"] == "stable"
    assert len(place.said) == 1 and said in place.said[0]


def test_a_damaged_file_of_the_log_is_noted_and_the_rest_says_what_it_says(served: tuple[Place, str]) -> None:
    place, lineage = served
    place.log(lineage, 2_000)
    torn = place.log(lineage, 100)
    torn.write_bytes(b"PAR1")
    arm = place.arm()
    assert (arm["verdict"], arm["rows"], arm["error"]) == ("stable", 2_000, None)
    assert any(note.startswith("left out: ") and str(torn) in note for note in arm["notes"])


def test_columns_that_the_log_does_not_tell_are_noted(served: tuple[Place, str]) -> None:
    place, lineage = served
    write_part(place.folder.requests, 0, "one", {"city": rows(2_000, seed=1)["city"]}, lineage)
    arm = place.arm()
    assert arm["verdict"] == "stable" and "not in the request log, or hashed: age" in arm["notes"]


def test_rules_are_those_of_the_configuration(served: tuple[Place, str]) -> None:
    place, lineage = served
    place.log(lineage, 2_000, shift=1)
    place.use("monitoring.ignore=[age]")
    assert place.arm()["verdict"] == "stable"
    place.use("monitoring.ignore=[agee]")
    assert "no such feature, got 'agee'. Did you mean age?" in place.arm()["error"]


def test_what_cannot_be_written_is_told_once_and_tried_again(served: tuple[Place, str]) -> None:
    place, lineage = served
    place.log(lineage, 2_000)
    (place.folder.drift / "in the way").mkdir(parents=True)
    place.watcher.step()
    place.watcher.step()
    assert len(place.said) == 1 and "drift.json: cannot be written" in place.said[0]
    shutil.rmtree(place.folder.drift)
    assert place.step()["status"] == "stable"


def test_results_are_bounded(served: tuple[Place, str], monkeypatch: pytest.MonkeyPatch) -> None:
    place, lineage = served
    place.log(lineage, 5)
    num_results = len(place.arm()["results"])
    assert 1 < num_results <= MOST_RESULTS
    monkeypatch.setattr("mlops_hydra.serving.drift.watched.MOST_RESULTS", 1)
    place.use()
    arm = place.arm()
    assert len(arm["results"]) == 1 and f"{num_results - 1} more results are not stable" in arm["notes"]


# What a worker tells


def told(config: ServeConfig, path: Path) -> tuple[str, str]:
    """The status, and the samples for Prometheus."""
    latest = LatestDrift(config, path)
    about = latest.about()
    Drift.model_validate_json(latest.body())
    text = exposition([], latest.gauges()).decode()
    return about["status"], "\n".join(line for line in text.splitlines() if "drift" in line and line[0] != "#")


def test_before_the_first_check_and_without_any_that_is_said(serve_config: MakeConfig, tmp_path: Path) -> None:
    assert told(serve_config("log.sample=1"), tmp_path / "none.json") == ("not_yet", "")
    (tmp_path / "torn.json").write_text('{"status": "dri')
    assert told(serve_config("log.sample=1"), tmp_path / "torn.json") == ("not_yet", "")
    assert told(serve_config("log.sample=0"), tmp_path / "none.json") == ("off", "")
    assert told(serve_config("log.sample=1", "drift.every_seconds=null"), tmp_path / "none.json") == ("off", "")


def test_prometheus_hears_of_each_arm(place: Place) -> None:
    (one, lineage), (two, _) = place.bundle(), place.bundle()
    (two / "profile.json").unlink()
    place.serve(control=one, treatment=two)
    place.log(lineage, 2_000, shift=1)
    place.step()
    _, samples = told(place.config, place.folder.drift)
    *rest, checked = samples.replace("mlops_hydra_serving_", "").splitlines()
    assert rest == [
        'drift{variant="control",verdict="drifted"} 1.0',
        'drift{variant="treatment",verdict="undecided"} 1.0',
        'drifted_columns{variant="control"} 1.0',
        'drift_rows{variant="control"} 2000.0',
    ]
    name, _, value = checked.partition(" ")
    assert (name, float(value)) == ("drift_checked_timestamp_seconds", place.now)


def test_a_file_is_read_once(served: tuple[Place, str]) -> None:
    place, lineage = served
    place.log(lineage, 2_000)
    place.step()
    latest = LatestDrift(place.config, place.folder.drift)
    found = latest.about()["variants"]["control"]
    assert latest.about()["variants"]["control"] is found
    place.watcher.step()
    assert latest.about()["variants"]["control"] is not found


# The process


def test_it_needs_none_of_the_heavy_libraries(served: tuple[Place, str]) -> None:
    place, lineage = served
    place.log(lineage, 2_000, shift=1)
    code = """
import sys, json
from mlops_hydra.serving.request_log.without_pandas import refuse_pandas
refuse_pandas()
from mlops_hydra.config.serving import ServeConfig
from mlops_hydra.serving.drift.watcher import DriftWatcher
from mlops_hydra.serving.folder import ServiceFolder
config = ServeConfig.model_validate_json(sys.argv[1])
DriftWatcher(config, ServiceFolder.for_config(config), now=lambda: float(sys.argv[2])).step()
heavy = {"torch", "mlflow", "pandas", "onnxruntime", "matplotlib", "sklearn", "hydra", "fastapi", "scipy.stats"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""
    config = json.dumps(place.config.model_dump(mode="json"))
    subprocess.run([sys.executable, "-c", code, config, str(place.now)], check=True)
    assert json.loads(place.folder.drift.read_text())["status"] == "drifted"


@pytest.fixture
def process(served: tuple[Place, str], tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Once it has checked."""
    place, _ = served
    config = place.config.model_dump(mode="json")
    with (tmp_path / "said").open("wb") as said:
        started = subprocess.Popen(
            command_of("mlops_hydra.serving.processes.drift_watcher"), stdin=subprocess.PIPE, stderr=said
        )
    assert started.stdin is not None
    started.stdin.write(json.dumps({"config": config}).encode() + b"\n")
    started.stdin.flush()
    deadline = time.monotonic() + 30
    while not place.folder.drift.exists():
        assert started.poll() is None and time.monotonic() < deadline, (tmp_path / "said").read_text()
        time.sleep(0.02)
    yield started
    started.kill()
    started.wait()
    started.stdin.close()
    assert not (tmp_path / "said").read_text()


@pytest.mark.parametrize("how", ["told", "left alone"])
def test_the_process_leaves_at_once(process: subprocess.Popen[bytes], how: str) -> None:
    if how == "told":
        process.send_signal(signal.SIGTERM)
    else:
        assert process.stdin is not None
        process.stdin.close()
    assert process.wait(10) == 0
