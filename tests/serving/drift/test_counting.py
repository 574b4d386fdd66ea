"""Counting the request log hour by hour: as if all of it were read at once, and each file once."""

import os
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mlops_hydra.monitoring.profile import Profile
from mlops_hydra.monitoring.profiling import profile_columns
from mlops_hydra.serving.drift.counting import CountedLog
from mlops_hydra.serving.request_log.parquet_files import FEATURE, FIXED, hour_file, part_files, parts_dir
from mlops_hydra.serving.request_log.parts import merge
from mlops_hydra.serving.request_log.windows import LoggedWindow, read_window

NOON = datetime(2025, 11, 25, 12, tzinfo=UTC)
OWN, OTHER = "aaaaaaaaaaaa", "bbbbbbbbbbbb"
ANY = "0000"


def hour_of(hours: int) -> str:
    return f"{NOON + timedelta(hours=hours):%Y-%m-%dT%H}"


def write_part(
    folder: Path, hours: int, name: str, columns: dict[str, list[object]], lineage: str = OWN, prediction: str = "yes"
) -> Path:
    """Rows of an hour after noon, as the recorder leaves what a worker wrote."""
    size = len(next(iter(columns.values())))
    moment = NOON + timedelta(hours=hours, minutes=5)
    fixed = {"time": [moment] * size, "request_id": [name] * size, "lineage": [lineage] * size}
    fixed |= {"prediction": [prediction] * size, "confidence": [0.75] * size}
    arrays = [pa.array(fixed.get(field.name, [None] * size), field.type) for field in FIXED]
    features = [pa.array(values) for values in columns.values()]
    names = [*FIXED.names, *(f"{FEATURE}{column}" for column in columns)]
    place = parts_dir(folder, hour_of(hours))
    place.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table([*arrays, *features], names=names), place / f"{name}.parquet")
    return place / f"{name}.parquet"


def rows(size: int, seed: int, shift: float = 0.0) -> dict[str, list[object]]:
    rng = np.random.default_rng(seed)
    return {"age": [*rng.normal(shift, 1, size)], "city": [*rng.choice(["Bonn", "Oslo"], size)]}


def make_profile() -> Profile:
    columns = {name: np.array(values) for name, values in rows(5_000, seed=0).items()}
    columns["city"] = columns["city"].astype(object)
    kinds = {"age": "numeric", "city": "categorical"}
    features = profile_columns(columns, kinds, bins=32, max_categories=10, num_rows=5_000)  # type: ignore[arg-type]
    return Profile(5_000, features)


@pytest.fixture(scope="module")
def profile() -> Profile:
    return make_profile()


def numbers(found: LoggedWindow) -> tuple[object, ...]:
    window = found.window
    cells = {name: counts.cells.tolist() for name, counts in window.features.items()}
    return window.num_rows, found.num_others, window.absent, cells


def merge_hour(folder: Path, hours: int) -> None:
    merge(folder, hour_of(hours), lambda: None)


@pytest.mark.parametrize("seed", range(12))
def test_it_counts_what_reading_all_at_once_does_whatever_the_recorder_did_meanwhile(
    tmp_path: Path, profile: Profile, seed: int
) -> None:
    rng = random.Random(seed)
    log = CountedLog(tmp_path, profile, OWN)
    for step in range(12):
        for _ in range(rng.randint(0, 2)):
            hours = rng.randint(0, 2)
            write_part(tmp_path, hours, f"{step}-{rng.random()}", rows(5, seed=step), rng.choice([OWN, OTHER]))
        if rng.random() < 0.4 and part_files(tmp_path, hour_of(hours := rng.randint(0, 2))):
            merge_hour(tmp_path, hours)
        if rng.random() < 0.1:
            hour_file(tmp_path, hour_of(rng.randint(0, 2))).unlink(missing_ok=True)  # by a person
        if rng.random() < 0.7:
            log.look(ANY)
            assert numbers(log.total()) == numbers(read_window(tmp_path, profile, OWN))
            assert not log.look(ANY) and not log.damaged


def test_what_was_counted_is_not_read_again(tmp_path: Path, profile: Profile) -> None:
    """Neither when others come nor when the hour becomes one file: it could not be read any more."""
    first = write_part(tmp_path, 0, "one", rows(50, seed=1))
    log = CountedLog(tmp_path, profile, OWN)
    assert log.look(ANY)
    before = first.stat()
    content = first.read_bytes()
    first.write_bytes(bytes(before.st_size))
    os.utime(first, ns=(before.st_atime_ns, before.st_mtime_ns))
    write_part(tmp_path, 0, "two", rows(7, seed=2))
    assert log.look(ANY) and log.total().window.num_rows == 57
    first.write_bytes(content)
    os.utime(first, ns=(before.st_atime_ns, before.st_mtime_ns))
    merge_hour(tmp_path, 0)
    whole = hour_file(tmp_path, hour_of(0))
    data = whole.read_bytes()
    footer = data[-8 - int.from_bytes(data[-8:-4], "little") :]
    whole.write_bytes(bytes(len(data) - len(footer)) + footer)
    assert log.look(ANY) and log.total().window.num_rows == 57 and not log.damaged


def test_a_file_that_was_changed_is_counted_anew(tmp_path: Path, profile: Profile) -> None:
    write_part(tmp_path, 0, "one", rows(50, seed=1))
    log = CountedLog(tmp_path, profile, OWN)
    log.look(ANY)
    write_part(tmp_path, 0, "one", rows(3, seed=1))
    assert log.look(ANY) and log.total().window.num_rows == 3


def test_an_hour_file_of_whatever_origin_is_counted(tmp_path: Path, profile: Profile) -> None:
    """One that does not say which parts it was made of."""
    part = write_part(tmp_path, 0, "one", rows(50, seed=1))
    log = CountedLog(tmp_path, profile, OWN)
    log.look(ANY)
    part.rename(hour_file(tmp_path, hour_of(0)))
    write_part(tmp_path, 0, "two", rows(5, seed=1))
    assert log.look(ANY) and log.total().window.num_rows == 55


def test_hours_before_the_window_are_forgotten_and_not_read(tmp_path: Path, profile: Profile) -> None:
    for hours in range(4):
        write_part(tmp_path, hours, "one", rows(10, seed=hours))
    log = CountedLog(tmp_path, profile, OWN)
    assert log.look(hour_of(1)) and log.total().window.num_rows == 30
    assert log.look(hour_of(3)) and log.total().window.num_rows == 10
    assert not log.look(hour_of(3))


def test_a_damaged_file_is_left_out_and_told_and_the_others_are_counted(tmp_path: Path, profile: Profile) -> None:
    write_part(tmp_path, 0, "one", rows(10, seed=0))
    torn = write_part(tmp_path, 0, "two", rows(1_000, seed=0))
    torn.write_bytes(torn.read_bytes()[:-100])
    strange = tmp_path / f"{hour_of(1)}.parquet"
    pq.write_table(pa.table({"n": [1]}), strange)
    log = CountedLog(tmp_path, profile, OWN)
    log.look(ANY)
    write_part(tmp_path, 0, "three", rows(10, seed=0))
    log.look(ANY)
    assert log.total().window.num_rows == 20
    assert len(log.damaged) == 2 and str(torn) in log.damaged[0]
    torn.unlink()
    assert log.look(ANY) and len(log.damaged) == 1


def test_columns_that_are_not_logged_or_hashed_are_unknown_and_not_missing(tmp_path: Path, profile: Profile) -> None:
    """Also when that began in the middle of the window."""
    write_part(tmp_path, 0, "one", {"age": [0.0] * 10, "city": ["Bonn"] * 10})
    write_part(tmp_path, 1, "two", {"city": ["Oslo"] * 10})
    log = CountedLog(tmp_path, profile, OWN)
    log.look(ANY)
    total = log.total()
    assert (total.unknown, total.window.absent) == (set(), set())
    assert total.window.features["age"].num_rows == 10 and total.window.num_rows == 20
    write_part(tmp_path, 2, "three", {"city": ["0123456789abcdef" * 2] * 10})
    log.look(ANY)
    assert log.total().unknown == {"city"}
    log.look(hour_of(1))
    assert log.total().unknown == {"age", "city"}
