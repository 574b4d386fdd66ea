"""Requests of known rows, and what each version has to say of them: computed beforehand, by its bundle.

Any two versions say different things of every row, so that an answer tells which one gave it.
"""

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mlops_hydra.packaging.bundle import load_bundle
from mlops_hydra.serving.router import Router

Rows = list[dict[str, Any]]
TOLERANCE = 1e-9
NUM_USERS = 2_000


@dataclass(frozen=True)
class State:
    """What is served: versions by arm, and the kill switch."""

    control: str
    treatment: str | None = None
    is_killed: bool = False

    def choice(self, router: Router, user: str | None, request_id: str) -> tuple[str, str, str]:
        """Arm, why, and version."""
        if self.is_killed:
            return "control", "kill_switch", self.control
        if router.variant(user or request_id) == "control":
            return "control", "request_id" if user is None else "user_id", self.control
        if self.treatment is None:
            return "control", "no_model", self.control
        return "treatment", "request_id" if user is None else "user_id", self.treatment


def rows_for(bundles: Sequence[Path], size: int = 100) -> Rows:
    """Rows of which any two of these bundles say different things, some values missing."""
    rng = random.Random(0)
    rows = [
        {
            "age": rng.choice([None, *(float(rng.randint(18, 90)) for _ in range(9))]),
            "income": rng.choice([None, *(round(rng.gauss(50_000, 15_000), 2) for _ in range(9))]),
            "employed": rng.choice([True, True, False, None]),
            "city": rng.choice(["Köln", "Wien", "Zürich", "Lyon", None]),
            "since": rng.choice([f"2024-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}", None]),
        }
        for _ in range(20 * size)
    ]
    outputs = np.sort([load_bundle(bundle).outputs(rows)[:, 0] for bundle in bundles], axis=0)
    apart = np.diff(outputs, axis=0).min(axis=0) > 1e-3
    found = [row for row, is_apart in zip(rows, apart, strict=True) if is_apart][:size]
    assert len(found) == size
    return found


class Known:
    """What each version says of each row."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self.fingerprints: dict[str, str] = {}
        self.outputs: dict[str, Any] = {}

    def add(self, version: str, folder: Path) -> None:
        bundle = load_bundle(folder)
        assert bundle.schema is not None
        self.names, self.classes = bundle.schema.names, bundle.classes
        self.outputs[version] = bundle.outputs(self.rows)
        self.fingerprints[version] = bundle.fingerprint

    def said(self, version: str, row: int) -> tuple[Any, float]:
        """Class and confidence."""
        of_row = self.outputs[version][row]
        return self.classes[int(of_row.argmax())], float(of_row.max())

    def is_right(self, asked: "Asked", version: str, predictions: list[dict[str, Any]]) -> bool:
        """Whether all of this is what the version says of these rows."""
        if len(predictions) != len(asked.rows):
            return False
        for row, found in zip(asked.rows, predictions, strict=True):
            label, confidence = self.said(version, row)
            if found["prediction"] != label or abs(found["confidence"] - confidence) > TOLERANCE:
                return False
            if asked.has_probabilities:
                given = [found["probabilities"][str(each)] for each in self.classes]
                if np.abs(given - self.outputs[version][row]).max() > TOLERANCE:
                    return False
        return True


class Asked(NamedTuple):
    """One request."""

    body: bytes
    rows: tuple[int, ...]
    user: str | None
    is_one: bool
    has_probabilities: bool


def requests_of(known: Known, seed: int) -> Iterator[Asked]:
    """Endless: single rows and batches, with and without a user."""
    rng = random.Random(seed)
    while True:
        size = rng.choices([1, rng.randint(2, 16), rng.randint(17, 64)], [70, 25, 5])[0]
        rows = tuple(rng.randrange(len(known.rows)) for _ in range(size))
        is_one, has_probabilities = size == 1 and rng.random() < 0.6, rng.random() < 0.2
        number = rng.randrange(NUM_USERS)
        user = rng.choices([f"user {number}", number, None], [70, 10, 20])[0]
        body: dict[str, Any] = {"probabilities": has_probabilities} | ({} if user is None else {"user_id": user})
        if is_one:
            body["features"] = [known.rows[rows[0]][name] for name in known.names]
        else:
            body["rows"] = [known.rows[row] for row in rows]
        yield Asked(json.dumps(body).encode(), rows, None if user is None else str(user), is_one, has_probabilities)


class Answered(NamedTuple):
    """What the request log has to say, too; `at` is when the answer was there."""

    version: str
    variant: str
    assigned_by: str
    user: str | None
    rows: tuple[int, ...]
    at: float
