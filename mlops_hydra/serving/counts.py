"""What a worker counts, and how all of them tell it in one voice: GET /metrics of any worker is about every worker.

Counting is plain arithmetic (0.1 us); each worker leaves what it counted in a file every second, and who is asked adds
the files up. The files of workers that died stay until the service stops: a counter never falls.
"""

import json
import os
import secrets
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector, CollectorRegistry

SECONDS: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
BATCH_ROWS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 1024)
_DEAD_SECONDS: Final = 5.0  # without a word
_PREFIX: Final = "mlops_hydra_serving_"


class Histogram:
    """How many values lie at or below each bound, and their sum."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """One more."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


@dataclass
class Counts:
    """Of one worker. Requests are counted by arm and status; arm is empty where none was chosen.

    `unusual`: an array of counts for the columns of these names.
    """

    requests: Counter[tuple[str, int]] = field(default_factory=Counter)
    rows: Counter[str] = field(default_factory=Counter)
    unusual: dict[tuple[str, ...], Any] = field(default_factory=dict)
    seconds: dict[str, Histogram] = field(default_factory=dict)
    batch_rows: Histogram = field(default_factory=lambda: Histogram(BATCH_ROWS))
    swaps: Counter[str] = field(default_factory=Counter)
    gauges: dict[str, float] = field(default_factory=dict)
    totals: dict[str, float] = field(default_factory=dict)

    def answered(self, arm: str, status: int, seconds: float) -> None:
        """One request."""
        self.requests[arm, status] += 1
        histogram = self.seconds.get(arm)
        if histogram is None:
            histogram = self.seconds[arm] = Histogram(SECONDS)
        histogram.observe(seconds)

    def as_json(self) -> dict[str, Any]:
        """Lists of [labels, number], by name."""
        return {
            "requests": [[list(key), count] for key, count in self.requests.items()],
            "rows": [[[key], count] for key, count in self.rows.items()],
            "unusual": [[[key], count] for key, count in self._unusual().items()],
            "swaps": [[[key], count] for key, count in self.swaps.items()],
            "seconds": [[[key], [*h.counts, h.total]] for key, h in self.seconds.items()],
            "batch_rows": [[[], [*self.batch_rows.counts, self.batch_rows.total]]],
            "gauges": [[[key], value] for key, value in self.gauges.items()],
            "totals": [[[key], value] for key, value in self.totals.items()],
        }

    def _unusual(self) -> Counter[str]:
        total = Counter[str]()
        for names, counts in self.unusual.items():
            total.update({name: count for name, count in zip(names, counts.tolist(), strict=True) if count})
        return total


class CountsFolder:
    """Where the workers of a service leave what they counted."""

    def __init__(self, folder: Path, worker: str) -> None:
        self._folder = folder
        self._own = folder / f"{worker}-{os.getpid()}-{secrets.token_hex(2)}.json"

    def write(self, counts: Counts) -> None:
        """Raises OSError."""
        self._folder.mkdir(parents=True, exist_ok=True)
        scratch = self._own.with_suffix(".new")
        scratch.write_text(json.dumps(counts.as_json()))
        scratch.replace(self._own)

    def others(self) -> Iterator[dict[str, Any]]:
        """What the others left, alive or not."""
        for path in sorted(self._folder.glob("*.json")):
            if path != self._own:
                try:
                    counts, age = json.loads(path.read_bytes()), time.time() - path.stat().st_mtime
                except (OSError, ValueError):
                    continue
                yield counts if age < _DEAD_SECONDS else counts | {"gauges": []}  # nothing waits for who is dead


def exposition(all_counts: Iterable[Mapping[str, Any]], metrics: Sequence[Metric] = ()) -> bytes:
    """The text that Prometheus reads: the sum of what was counted, and `metrics` of the asked worker alone."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Sum(_added_up(all_counts), metrics))
    return generate_latest(registry)


def _added_up(all_counts: Iterable[Mapping[str, Any]]) -> dict[str, dict[tuple[str, ...], Any]]:
    total: dict[str, dict[tuple[str, ...], Any]] = {}
    for counts in all_counts:
        for name, items in counts.items():
            mine = total.setdefault(name, {})
            for labels, value in items:
                key = tuple(map(str, labels))
                mine[key] = _plus(mine.get(key), value)
    return total


def _plus(first: Any, second: Any) -> Any:
    if first is None:
        return second
    return [a + b for a, b in zip(first, second, strict=True)] if isinstance(first, list) else first + second


_COUNTERS: Final = {
    "requests": ("prediction requests that were answered", ("variant", "status")),
    "rows": ("rows that were predicted", ("variant",)),
    "unusual": ("values outside what training saw", ("column",)),
    "swaps": ("times that an arm got another model", ("variant",)),
}
_HISTOGRAMS: Final = {
    "seconds": ("request_seconds", "from the first byte of a body to the last of its answer", SECONDS, ("variant",)),
    "batch_rows": ("batch_rows", "rows that were predicted together", BATCH_ROWS, ()),
}
_WORDS: Final = {
    "queued_rows": "rows that wait to be predicted",
    "log_rows": "rows that were handed to the request log",
    "log_rows_dropped": "rows that the request log could not take",
}


class _Sum(Collector):
    def __init__(self, total: Mapping[str, Mapping[tuple[str, ...], Any]], metrics: Sequence[Metric]) -> None:
        self._total = total
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        for name, (text, labels) in _COUNTERS.items():
            family = CounterMetricFamily(_PREFIX + name, text, labels=labels)
            for key, value in self._total.get(name, {}).items():
                family.add_metric(key, value)
            yield family
        for name, (said, text, bounds, labels) in _HISTOGRAMS.items():
            yield _histogram(said, text, bounds, labels, self._total.get(name, {}))
        for (name,), value in self._total.get("totals", {}).items():
            yield CounterMetricFamily(_PREFIX + name, _WORDS[name], value=value)
        for (name,), value in self._total.get("gauges", {}).items():
            yield GaugeMetricFamily(_PREFIX + name, _WORDS[name], value=value)
        yield from self._metrics


def _histogram(
    name: str, text: str, bounds: Sequence[float], labels: Sequence[str], values: Mapping[tuple[str, ...], Any]
) -> Metric:
    family = HistogramMetricFamily(_PREFIX + name, text, labels=labels)
    for key, (*counts, total) in values.items():
        below, buckets = 0, []
        for bound, count in zip([*map(str, map(float, bounds)), "+Inf"], counts, strict=True):
            below += count
            buckets.append((bound, below))
        family.add_metric(key, buckets, total)
    return family


def gauge(name: str, text: str, values: Mapping[Any, float], labels: Sequence[str] = ()) -> Metric:
    """One that is not added up, such as which version an arm has."""
    family = GaugeMetricFamily(_PREFIX + name, text, labels=labels)
    for key, value in values.items():
        family.add_metric(key, value)
    return family
