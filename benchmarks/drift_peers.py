"""What else compares two tables, each in the interpreter of an environment of its own: `drift.py` starts this file.

    DIR/NAME/bin/python benchmarks/drift_peers.py               # which of them are here, as JSON
    DIR/NAME/bin/python benchmarks/drift_peers.py PEER FILE.npz   # answers each line with the CPU seconds of a check

Imports, data frames and what a peer can prepare of the reference are made before, and not counted. Imports nothing of
ours: these environments do not have it.
"""

import importlib.metadata
import importlib.util
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

Tables = Any
Check = Callable[[], object]


def evidently(tables: Tables, **methods: str) -> Check:
    """By its defaults: from 1,000 rows on, Wasserstein's and Jensen-Shannon's distance, which have no p-values."""
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset

    (reference, current), numbers, categories = frames(tables)
    definition = DataDefinition(numerical_columns=numbers, categorical_columns=categories)
    before, now = (Dataset.from_pandas(frame, data_definition=definition) for frame in (reference, current))
    return lambda: Report([DataDriftPreset(**methods)]).run(now, before).dict()


def evidently_tests(tables: Tables) -> Check:
    """By the tests that ours uses."""
    return evidently(tables, num_method="ks", cat_method="chisquare")


def alibi(tables: Tables) -> Check:
    """Kolmogorov-Smirnov and chi-square, adjusted; categories as numbers."""
    from alibi_detect.cd import TabularDrift

    reference, current = (np.concatenate([tables[f"numbers_{i}"], tables[f"codes_{i}"]]).T for i in (0, 1))
    first = len(tables["numbers_0"])
    categories = dict.fromkeys(range(first, reference.shape[1]))
    detector = TabularDrift(reference, p_val=0.05, correction="fdr", categories_per_feature=categories)
    return lambda: detector.predict(current)


def nannyml(tables: Tables) -> Check:
    """The same statistics, against thresholds that it learns from chunks of the reference."""
    import logging

    import nannyml as nml

    logging.disable(logging.WARNING)
    (reference, current), numbers, categories = frames(tables)
    calculator = nml.UnivariateDriftCalculator(
        column_names=numbers + categories,
        treat_as_categorical=categories,
        continuous_methods=["kolmogorov_smirnov"],
        categorical_methods=["chi2"],
        chunk_size=len(current),
    ).fit(reference)
    return lambda: calculator.calculate(current)


def frouros(tables: Tables) -> Check:
    """A detector a column; categories as numbers."""
    from frouros.detectors.data_drift import ChiSquareTest, KSTest

    pairs = []
    for kind, test in (("numbers", KSTest), ("codes", ChiSquareTest)):
        for before, now in zip(tables[f"{kind}_0"], tables[f"{kind}_1"], strict=True):
            detector = test()
            detector.fit(X=before)
            pairs.append((detector, now))
    return lambda: [detector.compare(X=now) for detector, now in pairs]


def frames(tables: Tables) -> Any:
    """Both tables as data frames, and the names of their numeric and their other columns."""
    import pandas as pd

    numbers = [f"n{place}" for place in range(len(tables["numbers_0"]))]
    categories = [f"c{place}" for place in range(len(tables["codes_0"]))]
    made = []
    for i in (0, 1):
        columns: dict[str, Any] = dict(zip(numbers, tables[f"numbers_{i}"], strict=True))
        for name, codes in zip(categories, tables[f"codes_{i}"], strict=True):
            columns[name] = tables["names"].astype(object)[codes]
        made.append(pd.DataFrame(columns))
    return made, numbers, categories


PEERS: dict[str, tuple[str, Callable[[Tables], Check]]] = {
    "Evidently, its defaults": ("evidently", evidently),
    "Evidently, KS and chi-square": ("evidently", evidently_tests),
    "alibi-detect": ("alibi-detect", alibi),
    "NannyML": ("nannyml", nannyml),
    "Frouros": ("frouros", frouros),
}


def found() -> dict[str, str]:
    """Versions of the peers that are installed here."""
    return {
        peer: importlib.metadata.version(package)
        for peer, (package, _) in PEERS.items()
        if importlib.util.find_spec(package.replace("-", "_"))
    }


def answer(peer: str, path: str) -> None:
    """A line for a line; what a peer itself prints goes to the standard error."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    with np.load(path) as tables:
        check = PEERS[peer][1](dict(tables))
    for _ in sys.stdin:
        start = time.process_time()
        check()
        answers.write(f"{time.process_time() - start}\n")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        answer(*sys.argv[1:])
    else:
        print(json.dumps(found()))
