"""A check for drift against SciPy's loop over the columns, and against what people install, on the same tables.

    python benchmarks/drift.py
    python benchmarks/drift.py --rounds 9 --peers ../peers
    python benchmarks/drift.py --stream 100_000_000

100,000 rows of reference and 10,000 current ones, of 50 numbers and 10 categories; seven columns have drifted. CPU
time of one thread, so that a busy machine counts for less. SciPy's loop (`ks_2samp`, and `chi2_contingency` of counts
by pandas) reads the same two data frames as ours. Ours, prepared: `Reference.of(table)` is made once, as peers `fit`.
Ours, a window: rows were counted as they came, as the service does, and the check is what is left.

`--peers DIR`: each DIR/*/bin/python is asked which peers it has; Evidently, alibi-detect, NannyML and Frouros want
environments of their own, a `python -m venv DIR/NAME` and a `DIR/NAME/bin/pip install PACKAGE` for each.
`--stream ROWS`: so many rows are counted, from a pool of chunks, to see that the memory stays where it is.
"""

import os

os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

import argparse
import contextlib
import itertools
import json
import resource
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rounds import Ratio, interleaved, print_target
from scipy import stats

from mlops_hydra.config.drift import default_rules
from mlops_hydra.monitoring.detection import detect_drift
from mlops_hydra.monitoring.judging import judge
from mlops_hydra.monitoring.reference import Reference
from mlops_hydra.monitoring.window import Window

NUM_NUMERIC = 50
CARDINALITIES = (3, 4, 5, 6, 8, 10, 12, 20, 30, 50)
NAMES = np.array([f"category {number}" for number in range(max(CARDINALITIES))], dtype=object)
CHUNK_ROWS = 10_000
SCIPY, PREPARED, WINDOW = "SciPy's loop", "ours, prepared reference", "ours, window against profile"
PEERS = Path(__file__).with_name("drift_peers.py")
QUIET = {"DO_NOT_TRACK": "1", "NML_DISABLE_USAGE_LOGGING": "1", "PYTHONWARNINGS": "ignore"}

Numbers = NDArray[np.float64]
Codes = NDArray[np.int64]
Columns = dict[str, NDArray[np.generic]]


@dataclass(frozen=True)
class Table:
    """`numbers` [50, rows] and `codes` [10, rows]; a code is a place in NAMES."""

    numbers: Numbers
    codes: Codes

    def columns(self) -> Columns:
        """Categories by their names."""
        categories = {f"c{place}": NAMES[codes] for place, codes in enumerate(self.codes)}
        return {f"n{place}": values for place, values in enumerate(self.numbers)} | categories


def table_of(rows: int, seed: int, *, drifts: bool = False) -> Table:
    """Normal, skewed, bounded, rounded and heavy-tailed numbers; five of them drift, and two categories."""
    rng = np.random.default_rng(seed)
    numbers = rng.normal(size=(NUM_NUMERIC, rows))
    numbers[5:10] = np.exp(numbers[5:10])
    numbers[10:13] = rng.exponential(size=(3, rows))
    numbers[13:16] = rng.uniform(size=(3, rows))
    numbers[16:18] = np.round(numbers[16:18], 1)
    numbers[18:20] = rng.standard_t(3, size=(2, rows))
    shares = [np.arange(1, size + 1, dtype=np.float64) for size in CARDINALITIES]
    if drifts:
        numbers[20:23] += 0.1
        numbers[23:25] *= 1.2
        shares[0], shares[5] = shares[0][::-1], shares[5][::-1]
    return Table(numbers, np.stack([rng.choice(len(each), rows, p=each / each.sum()) for each in shares]))


def cpu(work: Callable[[], object], *, repeat: int = 1) -> Callable[[], float]:
    """The same work, returning its CPU seconds; what takes milliseconds is repeated."""

    def measure() -> float:
        start = time.process_time()
        for _ in range(repeat):
            work()
        return (time.process_time() - start) / repeat

    return measure


def scipys(reference: pd.DataFrame, current: pd.DataFrame) -> None:
    """What is usually written first: no adjustment, no verdict, nothing about missing values."""
    for name in reference:
        before, now = reference[name], current[name]
        if pd.api.types.is_numeric_dtype(before):
            stats.ks_2samp(before, now)
        else:
            counts = pd.concat([before.value_counts(), now.value_counts()], axis=1).fillna(0)
            stats.chi2_contingency(counts.T, correction=False)


def ours(before: pd.DataFrame, now: pd.DataFrame, counted: Columns) -> dict[str, Callable[[], float]]:
    """Every way to check."""
    prepared = Reference.of(before)
    profiled, window, rules = Reference(prepared.profile), Window(prepared.profile), default_rules()
    window.add(counted, len(now))
    return {
        PREPARED: cpu(lambda: detect_drift(prepared, now), repeat=5),
        WINDOW: cpu(lambda: judge(profiled, window, rules), repeat=50),
        "ours, table against profile": cpu(lambda: detect_drift(profiled, now), repeat=5),
        "ours, two tables, once": cpu(lambda: detect_drift(before, now)),
    }


class Peer:
    """A process that checks whenever it is asked to; its files, if it makes any, are made beside `tables`."""

    def __init__(self, python: Path, peer: str, tables: Path) -> None:
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115  closed when it is stopped
        self.process = subprocess.Popen(
            [python, PEERS, peer, tables],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            text=True,
            cwd=tables.parent,
            env=os.environ | QUIET | {"MPLCONFIGDIR": str(tables.parent)},
        )

    def __call__(self) -> float:
        """CPU seconds of a check; raises OSError with its last words if there is none."""
        assert self.process.stdin is not None and self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            print(file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            self.errors.seek(0)
            raise OSError(self.errors.read().decode(errors="replace").strip().rpartition("\n")[2])
        return float(line)

    def stop(self) -> None:
        """It leaves when there is nothing more to read."""
        with contextlib.suppress(BrokenPipeError):
            self.process.communicate()
        self.errors.close()


@contextlib.contextmanager
def peers_of(folder: Path | None, reference: Table, current: Table) -> Iterator[dict[str, Peer]]:
    """Those that are installed in environments below `folder`, and work."""
    with tempfile.TemporaryDirectory() as place, contextlib.ExitStack() as stack:
        working: dict[str, Peer] = {}
        tables = Path(place) / "tables.npz"
        np.savez(
            tables,
            names=NAMES.astype(str),
            numbers_0=reference.numbers,
            numbers_1=current.numbers,
            codes_0=reference.codes,
            codes_1=current.codes,
        )
        for python in sorted(folder.glob("*/bin/python")) if folder is not None else ():
            asked = subprocess.run([python, PEERS], check=False, capture_output=True, text=True)
            for name, version in json.loads(asked.stdout or "{}").items():
                peer = Peer(python.absolute(), name, tables)
                stack.callback(peer.stop)
                try:
                    peer()
                except OSError as error:
                    print(f"left out: {name} {version}: {error}")
                else:
                    working[f"{name} ({version})"] = peer
        yield working


def checks(rounds: int, folder: Path | None) -> None:
    """Tables of a check by everything."""
    reference, current = table_of(100_000, 0), table_of(10_000, 1, drifts=True)
    with peers_of(folder, reference, current) as peers:
        before, now = pd.DataFrame(reference.columns()), pd.DataFrame(current.columns())
        work: dict[str, Callable[[], float]] = {SCIPY: cpu(lambda: scipys(before, now))}
        times = interleaved(work | ours(before, now, current.columns()) | peers, rounds)
    print(f"a check of 10,000 x 60 against 100,000 x 60, median CPU milliseconds of {rounds} rounds")
    for name, seconds in times.items():
        print(f"  {name:<40} {statistics.median(seconds) * 1e3:10.1f}")
    print("\nits time over ours (prepared reference; window against profile), round by round")
    for name in [SCIPY, *peers]:
        over = [Ratio.of(times[name], times[mine]) for mine in (PREPARED, WINDOW)]
        print(f"  {name:<40} {over[0]!s:<28} {over[1]}")
    print()
    print_target("SciPy's loop / prepared reference", Ratio.of(times[SCIPY], times[PREPARED]), ">=", 15)
    print_target("SciPy's loop / window against profile", Ratio.of(times[SCIPY], times[WINDOW]), ">=", 200)
    for name in (name for name in peers if name.startswith("Evidently")):
        print_target(f"{name.partition(' (')[0]} / prepared", Ratio.of(times[name], times[PREPARED]), ">=", 100)


def pool(num_chunks: int) -> tuple[Window, list[Columns]]:
    """An empty window over the profile of 100,000 rows, and chunks as a reader of files makes them."""
    profile = Reference.of(pd.DataFrame(table_of(100_000, 0).columns())).profile
    return Window(profile), [table_of(CHUNK_ROWS, seed).columns() for seed in range(1, num_chunks + 1)]


def ingestion(rounds: int) -> None:
    """Microseconds a row."""
    window, chunks = pool(10)
    turns = itertools.cycle(chunks)
    work = cpu(lambda: window.add(next(turns), CHUNK_ROWS), repeat=len(chunks))
    seconds = interleaved({"add": work}, rounds)["add"]
    cost = Ratio.of(seconds, [CHUNK_ROWS / 1e6] * rounds)
    print_target("microseconds to count a row of 60 columns", cost, "<=", 10)


def stream(rows: int) -> None:
    """Count that many rows."""
    window, chunks = pool(10)
    for chunk in chunks:
        window.add(chunk, CHUNK_ROWS)
    before, start, start_cpu = memory_mb(), time.perf_counter(), time.process_time()
    for chunk in itertools.cycle(chunks):
        if window.num_rows >= rows:
            break
        window.add(chunk, CHUNK_ROWS)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - start_cpu
    assert all(counts.num_rows == window.num_rows for counts in window.features.values()), "rows were lost"
    first = CHUNK_ROWS * len(chunks)
    counted = window.num_rows - first
    speed = f"{counted / seconds:,.0f} a second, {counted / cpu_seconds:,.0f} a CPU second"
    print(f"\n{window.num_rows:,} rows of 60 columns, {speed}")
    for what, mb in memory_mb().items():
        print(f"  {what} memory {before[what]:.1f} MB after {first:,} rows, {mb:.1f} MB at the end")


def memory_mb() -> dict[str, float]:
    """Of this process; the peak is that of making the tables, and hides what grows less than they took. Linux."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"resident": pages * resource.getpagesize() / 2**20, "peak resident": peak / 1024}


def main() -> None:
    """Read the arguments and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peers", type=Path, metavar="DIR", help="where environments of peers are")
    parser.add_argument("--stream", type=int, metavar="ROWS", default=0, help="rows to count, such as 100_000_000")
    arguments = parser.parse_args()
    checks(arguments.rounds, arguments.peers)
    ingestion(arguments.rounds)
    if arguments.stream:
        stream(arguments.stream)


if __name__ == "__main__":
    main()
