"""`profile.json` in a bundle: what training showed, so that drift can be told from the bundle alone.

The features are those of the training split. What the model predicts is of the validation and test splits, and how much
it errs of the test split: it knows its training rows too well. Reading needs neither torch nor pandas: a companion of
the service does it. Not here: what a profile is, and what it is compared with (`monitoring/`).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from mlops_hydra.data.values import FloatArray
from mlops_hydra.errors import BundleError, DataError, UsageError
from mlops_hydra.monitoring.profile import CategoryCounts, CategoryProfile, ColumnProfile, Moments, Profile
from mlops_hydra.monitoring.profiling import profile_columns, row_losses
from mlops_hydra.packaging.about import MAX_JSON_BYTES, PROFILE
from mlops_hydra.packaging.seal import open_sealed

if TYPE_CHECKING:
    from mlops_hydra.data.splits import Splits
    from mlops_hydra.evaluation.evaluate import Predicted

EMPTY: Final = Profile(0, (), (), {})


def make_profile(splits: "Splits", predicted: "Mapping[str, Predicted]", *, bins: int) -> Profile:
    """Of a run, once it has predicted validation and test; a model of torch Datasets has no features to speak of."""
    from mlops_hydra.data.splits import Table

    test = predicted["test"]
    losses = row_losses(splits.task, test.targets, test.predictions)
    train = splits.train
    features: tuple[ColumnProfile, ...] = ()
    if isinstance(train, Table) and splits.schema is not None:
        kinds = {feature.name: feature.kind for feature in splits.schema.features}
        most = max((len(feature.categories) for feature in splits.schema.features), default=1)
        features = profile_columns(train.columns(), kinds, bins=bins, max_categories=max(most, 1), num_rows=len(train))
    return Profile(
        len(train) if isinstance(train, Table) else 0,
        features,
        _outputs(splits, np.concatenate([split.predictions for split in predicted.values()]), bins),
        {name: Moments.of(values) for name, values in losses.items()},
    )


def outputs_as_columns(classes: tuple[Any, ...], outputs: Any) -> dict[str, Any]:
    """What a model said of n rows: labels and confidences of probabilities [n, classes], or values [n]."""
    if not classes:
        return {"prediction": np.asarray(outputs, dtype=np.float64)}
    names = np.array([str(label) for label in classes], dtype=object)
    return {"prediction": names[outputs.argmax(axis=1)], "confidence": outputs.max(axis=1)}


def _outputs(splits: "Splits", predictions: FloatArray, bins: int) -> tuple[ColumnProfile, ...]:
    columns = outputs_as_columns(splits.classes, predictions)
    name = "confidence" if splits.classes else "prediction"
    numbers = profile_columns(
        {name: columns[name]}, {name: "numeric"}, bins=bins, max_categories=1, num_rows=len(predictions)
    )
    if not splits.classes:
        return numbers
    counts = np.bincount(predictions.argmax(axis=1), minlength=len(splits.classes) + 1)
    names = tuple(str(label) for label in splits.classes)  # also those that the model never said
    return CategoryProfile("prediction", "categorical", names, CategoryCounts(counts)), *numbers


def write_profile(folder: Path, profile: Profile) -> None:
    """Raises TrackingError if the disk does not take it."""
    from mlops_hydra.packaging import files

    files.write_text(folder / PROFILE, profile.to_json())


def read_profile(folder: Path) -> Profile:
    """Of the bundle in `folder`.

    Raises:
        BundleError: it was changed, or holds none that can be read.
        UsageError: it was packaged when there were no profiles.
    """
    text = open_sealed(folder).read(PROFILE, max_bytes=MAX_JSON_BYTES).decode("utf-8", "replace")
    if text.strip() == "{}":
        raise UsageError(f"{folder}: was packaged without a profile: train it again (reuse=never)")
    try:
        return Profile.from_json(text)
    except DataError as error:
        raise BundleError(f"{folder / PROFILE}: {error}") from error
