"""A service under load for 10 minutes while all that can change changes: no answer fails, mixes versions or is lost.

Every 10 s a version is promoted, rolled back, damaged or taken away, the kill switch turned, or the registry is gone.
Each answer has to be what the version that it names says of those rows, in the arm that is the user's; no process may
grow; in the end the request log has each row once. A second test kills processes, and takes a minute. The variable
SOAK_SECONDS makes both shorter, and the first one less strict about memory.
"""

import itertools
import os
import re
import signal
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from mlops_hydra.serving.request_log.reader import read_requests
from tests.serving.conftest import Service, Shop
from tests.serving.expected import TOLERANCE, Answered, Known
from tests.serving.sizes import Sizes
from tests.serving.stage import Stage

pytestmark = pytest.mark.slow

SECONDS = float(os.environ.get("SOAK_SECONDS", "600"))
KILL_SECONDS = min(max(SECONDS / 10, 20.0), 60.0)
IS_LONG = SECONDS >= 300  # else memory is not warm
FLUSH_SECONDS = 1.0  # of the request log: what a killed worker may lose
COLUMNS = ("request_id", "row", "user_id", "variant", "assigned_by", "model_version", "fingerprint", "lineage")
VALUES = ("prediction", "confidence", "features.age", "features.city")

Log = dict[str, list[dict[str, Any]]]


@pytest.fixture
def stage(here: Shop, service: Callable[..., Service], trained_bundle: Callable[[int], Path]) -> Stage:
    return Stage(here, service, trained_bundle)


def test_ten_minutes_of_load_and_changes_fail_mix_and_lose_nothing(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    with ExitStack() as stack:
        stage.start(stack)
        happened = play(stage, stage.events, SECONDS)
        metrics = stage.metrics()
        stage.service.until(lambda: stage.swaps() == stage.num_swaps)
        num_copies, num_counts = len(stage.shop.copies()), len(list((stage.service.folder / "counts").glob("*.json")))
        stop_under_load(stage)
    with capsys.disabled():
        print(summary(stage, happened, metrics))
    check_log(stage)
    check_sizes(stage)
    assert num_counts == 2 and num_copies <= len(stage.served)
    assert {name.partition("-")[0] for name in stage.shop.copies()} <= stage.served, "no scratch, and no copy twice"


def test_processes_that_are_killed_cost_what_they_were_at_and_no_more(
    stage: Stage, capsys: pytest.CaptureFixture[str]
) -> None:
    with ExitStack() as stack:
        stage.start(stack, is_forgiving=True)
        happened = play(stage, stage.kills, KILL_SECONDS)
        metrics = stage.metrics()
        stop_under_load(stage)
    with capsys.disabled():
        print(summary(stage, happened, metrics))
        print(check_log_of_killed(stage))
    num_kills = happened["kill_a_worker"]
    assert len(stage.killed) == num_kills and stage.load.num_broken <= num_kills * stage.load.num_clients


def play(stage: Stage, events: list[Callable[[], None]], seconds: float) -> Counter[str]:
    """The events in turn, every ten seconds, or as often as each of them happens once."""
    pause, deadline = min(10.0, seconds / len(events)), time.monotonic() + seconds
    happened = Counter[str]()
    for event in itertools.cycle(events):
        due = time.monotonic() + pause
        event()
        happened[event.__name__] += 1
        assert not stage.load.troubles, f"after {event.__name__}: {stage.load.troubles[:3]}\n{stage.service.said}"
        time.sleep(max(0.0, min(due, deadline) - time.monotonic()))
        if time.monotonic() >= deadline and len(happened) == len({each.__name__ for each in events}):
            return happened
    raise AssertionError("no events")


def stop_under_load(stage: Stage) -> None:
    """Clients go on until their connections are closed."""
    stage.sizes.stop()
    stage.load.is_stopping = True
    assert stage.service.end(signal.SIGTERM) == 0
    for client in stage.load.clients:
        client.join(30)
        assert not client.is_alive()
    assert not stage.load.troubles and "Traceback" not in stage.service.said


def logged(stage: Stage) -> Log:
    """The rows of each request."""
    found: Log = defaultdict(list)
    for table in read_requests(stage.shop.folder.requests, columns=[*COLUMNS, *VALUES]):
        for row in table.to_pylist():
            found[row["request_id"]].append(row)
    return found


def check_log(stage: Stage) -> None:
    """Exactly what was answered, with what was answered."""
    log, answers = logged(stage), stage.load.answers
    assert log.keys() == answers.keys(), "each answer is logged, and what is logged was answered"
    for request_id, answered in answers.items():
        assert is_logged(stage.known, answered, log[request_id]), (answered, log[request_id])
    assert not [path for path in stage.shop.folder.journal.rglob("*") if path.is_file()]


def check_log_of_killed(stage: Stage) -> str:
    """A killed worker loses what it had not flushed, and what was on its way to clients."""
    log, answers, num_broken = logged(stage), stage.load.answers, stage.load.num_broken
    unknown, lost = log.keys() - answers.keys(), answers.keys() - log.keys()
    last = defaultdict[str, float](float)
    for request_id, answered in answers.items():
        last[worker_of(request_id)] = max(last[worker_of(request_id)], answered.at)
    assert len(unknown) <= num_broken and {worker_of(request_id) for request_id in unknown | lost} <= stage.killed
    ages = [last[worker_of(request_id)] - answers[request_id].at for request_id in lost]
    assert max(ages, default=0.0) <= FLUSH_SECONDS + 0.5
    for request_id in answers.keys() & log.keys():
        assert is_logged(stage.known, answers[request_id], log[request_id]), (answers[request_id], log[request_id])
    return (
        f"{len(stage.killed)} workers killed: {num_broken} connections broke, {len(unknown)} answers were logged and "
        f"did not arrive, {len(lost)} that arrived were not logged, of the last {max(ages, default=0.0):.2f} s"
    )


def worker_of(request_id: str) -> str:
    return request_id.partition("-")[0]


def is_logged(known: Known, answered: Answered, rows: list[dict[str, Any]]) -> bool:
    """Whether these are its rows, each once, as they were sent and answered."""
    rows = sorted(rows, key=lambda row: int(row["row"]))
    if [row["row"] for row in rows] != list(range(len(answered.rows))):
        return False
    about = (answered.user, answered.variant, answered.assigned_by, answered.version)
    for row, place in zip(rows, answered.rows, strict=True):
        label, confidence = known.said(answered.version, place)
        sent = known.rows[place]
        given = (str(label), known.fingerprints[answered.version], sent["age"], sent["city"])
        if tuple(row[name] for name in COLUMNS[2:6]) != about or abs(row["confidence"] - confidence) > TOLERANCE:
            return False
        if (row["prediction"], row["fingerprint"], row["features.age"], row["features.city"]) != given:
            return False
    return True


def check_sizes(stage: Stage) -> None:
    """Of workers within 5 %; of the others loosely: MLflow and pyarrow fill caches."""
    for name in stage.sizes.samples:
        first, last = stage.sizes.ends(name)
        allowed = 1.05 if name.startswith("worker") and IS_LONG else 1.15 if IS_LONG else 1.5
        assert last.resident_mb <= first.resident_mb * allowed, f"{name}: {first} -> {last}"
        assert last.num_files <= first.num_files + 2, f"{name}: {first} -> {last}"


def summary(stage: Stage, happened: Counter[str], metrics: str) -> str:
    """What there was, for people."""
    load, answers = stage.load, list(stage.load.answers.values())
    p50, p99, most = load.milliseconds(50, 99, 100)
    seconds = max(each.at for each in answers) - min(each.at for each in answers)
    arms = Counter(f"{each.variant} by {each.assigned_by}" for each in answers)
    return "\n".join(
        [
            "",
            f"{load.num_requests:,} requests of {sum(len(each.rows) for each in answers):,} rows in {seconds:.0f} s, "
            f"{load.num_requests / seconds:.0f} a second; {sum(client.num_refused for client in load.clients):,} that "
            f"had to be refused were; {len(load.troubles)} troubles, {load.num_broken} broken connections",
            f"{len({each.version for each in answers})} versions answered; {dict(arms)}",
            f"{sum(happened.values())} events, {stage.num_swaps} swaps: {dict(happened)}",
            f"client's milliseconds: p50 {p50:.2f}, p99 {p99:.2f}, longest {most:.0f}; service's: p99 below "
            f"{percentile_bound(metrics, 0.99) * 1e3:.1f}",
            *(size_line(stage.sizes, name) for name in sorted(stage.sizes.samples)),
        ]
    )


def size_line(sizes: Sizes, name: str) -> str:
    first, last = sizes.ends(name)
    growth = last.resident_mb / first.resident_mb - 1
    return (
        f"{name:10}  resident {first.resident_mb:.1f} -> {last.resident_mb:.1f} MB ({growth:+.1%}), "
        f"anonymous {first.anonymous_mb:.1f} -> {last.anonymous_mb:.1f}, shared out {first.shared_out_mb:.1f} -> "
        f"{last.shared_out_mb:.1f}, files {first.num_files:.0f} -> {last.num_files:.0f}"
    )


def percentile_bound(metrics: str, share: float) -> float:
    """Of the service's own histogram, in seconds."""
    counts = defaultdict[float, float](float)
    for bound, number in re.findall(r'request_seconds_bucket\{le="(.*?)",.*\} (.*)', metrics):
        counts[float(bound)] += float(number)
    return next(bound for bound in sorted(counts) if counts[bound] >= share * max(counts.values()))
