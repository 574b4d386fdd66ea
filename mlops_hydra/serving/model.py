"""A bundle that is served: with its reader of rows, the time that it takes, and the words of its answers.

Not here: which arm it serves (`arms.py`), and when it predicts (`batching.py`).
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlops_hydra.packaging.bundle import Bundle, load_bundle
from mlops_hydra.serving.refusal import Refusal, RowFault
from mlops_hydra.serving.rows import Arrays, Row, RowReader, reader_of

_WARM_RUNS: Final = 3
_NOT_FINITE: Final = "has values so large that the model's answer is not finite"


class Outcome(NamedTuple):
    """Classes or values of n rows as plain Python, probabilities of these classes (else None), and the outputs."""

    predictions: list[Any]
    confidences: list[Any]
    outputs: NDArray[np.float64]

    def part(self, start: int, stop: int) -> "Outcome":
        """Of the rows from `start` up to but without `stop`."""
        return Outcome(self.predictions[start:stop], self.confidences[start:stop], self.outputs[start:stop])


@dataclass(frozen=True, eq=False)
class ServedModel:
    """Ready to predict. `version` is the registered one's number, or empty.

    `batch_seconds` is what a full batch took when it was warmed.
    """

    bundle: Bundle
    version: str
    reader: RowReader
    batch_seconds: float

    @cached_property
    def labels(self) -> tuple[Any, ...]:
        """The classes; empty for a regression."""
        return self.bundle.classes

    @cached_property
    def label_texts(self) -> tuple[str, ...]:
        """The classes as keys of JSON."""
        return tuple(map(str, self.bundle.classes))

    def predict(self, rows: Sequence[Row]) -> tuple[Outcome, Arrays]:
        """What the model says of rows, and the arrays that it read them as.

        Raises:
            Refusal: a row cannot be read, or is too far from anything for a finite prediction.
            BundleError: the graph fails.
        """
        arrays = self.reader.arrays(rows)
        outputs = self.bundle.graph.run(arrays, len(rows))
        confidences: list[Any] = [None] * len(rows)
        if self.labels:
            places = outputs.argmax(axis=1)  # NaN's, if there is one
            predictions = [self.labels[place] for place in places.tolist()]
            highest = outputs.max(axis=1).tolist()
            confidences = [value if value < 1 else 1.0 for value in highest]
        else:
            predictions = highest = outputs.tolist()
        if not all(map(math.isfinite, highest)):
            wrong = [row for row, value in enumerate(highest) if not math.isfinite(value)]
            raise Refusal(422, [RowFault(row, None, _NOT_FINITE) for row in wrong])
        return Outcome(predictions, confidences, outputs), arrays

    def check(self) -> None:
        """Predict the golden rows again. Raises BundleError where they come out otherwise."""
        self.bundle.golden.check(self.bundle.outputs(self.bundle.golden.rows))


def load_model(folder: str | Path, version: str, *, max_batch_rows: int, num_threads: int = 1) -> ServedModel:
    """The model of a bundle, checked and warm.

    Raises:
        BundleError: it is none, or not what it was.
    """
    bundle = load_bundle(folder, num_threads=num_threads)
    seconds = _warmed(bundle, max_batch_rows)
    return ServedModel(bundle, version, reader_of(bundle), seconds)


def _warmed(bundle: Bundle, num_rows: int) -> float:
    """Seconds of a batch of golden rows, repeated to its full size; the fastest of a few."""
    golden = bundle.golden
    repeats = -(-num_rows // len(golden))
    rows = {name: _repeated(values, repeats) for name, values in golden.rows.items()}
    seconds = []
    for _ in range(_WARM_RUNS):
        start = time.perf_counter()
        bundle.outputs(rows)
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def _repeated(values: Any, repeats: int) -> Any:
    return values * repeats if isinstance(values, list) else np.concatenate([values] * repeats)
