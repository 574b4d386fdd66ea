"""The way in which a worker writes an answer: with structs of the same fields as the models of `schemas.py`.

Forty times faster than these; a test compares them.
"""

from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from mlops_hydra.serving.arms import Choice
from mlops_hydra.serving.model import Outcome


class _Written(msgspec.Struct, gc=False):
    prediction: Any
    confidence: float | None
    probabilities: dict[str, float] | UnsetType = UNSET


class _One(msgspec.Struct, gc=False):
    prediction: Any
    confidence: float | None
    probabilities: dict[str, float] | UnsetType
    model_version: str
    fingerprint: str
    variant: str
    assigned_by: str
    request_id: str


class _Many(msgspec.Struct, gc=False):
    predictions: list[_Written]
    model_version: str
    fingerprint: str
    variant: str
    assigned_by: str
    request_id: str


_encode = msgspec.json.Encoder().encode


def written(
    choice: Choice, request_id: str, found: Outcome, *, is_one: bool, with_probabilities: bool = False
) -> bytes:
    """The body of an answer."""
    model = choice.model
    source = (model.version, model.bundle.fingerprint, choice.arm, choice.assigned_by, request_id)
    probabilities: list[dict[str, float] | UnsetType] = [UNSET] * len(found.predictions)
    if with_probabilities and model.label_texts:
        probabilities = [dict(zip(model.label_texts, row, strict=True)) for row in found.outputs.tolist()]
    if is_one:
        return _encode(_One(found.predictions[0], found.confidences[0], probabilities[0], *source))
    rows = map(_Written, found.predictions, found.confidences, probabilities)
    return _encode(_Many(list(rows), *source))
