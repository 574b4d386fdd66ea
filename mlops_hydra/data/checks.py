"""Whether three splits can be learnt from, and honestly: checked on every run, whatever the source.

Faults stop the run and are reported all at once; warnings are printed and recorded. Not here: faults that a reader or a
split finds on its way (`tables.py`, `target.py`, `table_source.py`).
"""

import dataclasses
from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from mlops_hydra.data.digests import row_hashes
from mlops_hydra.data.encoding import Encoded, Feature, FeatureSchema, encode
from mlops_hydra.data.splits import SPLITS, Splits, Table
from mlops_hydra.data.values import FloatArray, is_missing
from mlops_hydra.errors import DataError, Fault

_MIN_ROWS: Final = {"train": 2, "val": 1, "test": 1}
_FEW_ROWS: Final = 20  # with fewer, coincidence looks like a pattern
_HEADS: Final = (50, 1000)
"""Rows that are compared first: nearly every feature is told from the target by then."""


def check(splits: Splits) -> tuple[str, ...]:
    """What should be known about the splits, if nothing is wrong with them.

    Raises:
        DataError: every fault, with its row or column.
    """
    faults = [*_size_faults(splits), *_target_faults(splits), *_class_faults(splits), *overlap_faults(splits)]
    tables = tables_of(splits)
    encoded: dict[str, Encoded] = {}
    if tables and splits.schema:
        encoded, encoding_faults = encode_tables(tables, splits.schema)
        faults += encoding_faults or equal_to_target_faults(tables, encoded, splits.schema)
        faults += _feature_faults(splits.schema)
    if faults:
        raise DataError(faults)
    warnings = [*_class_warnings(splits)]
    if tables and splits.schema:
        warnings += [*_feature_warnings(tables["train"], encoded, splits.schema), *copy_warnings(hash_rows(tables))]
    return tuple(warnings)


def tables_of(splits: Splits) -> dict[str, Table]:
    """The splits by name if they are tables, else nothing."""
    parts = {name: splits[name] for name in SPLITS}
    return {name: part for name, part in parts.items() if isinstance(part, Table)}


def _size_faults(splits: Splits) -> Iterator[Fault]:
    for name in SPLITS:
        split: Any = splits[name]
        if hasattr(split, "__len__") and len(split) < _MIN_ROWS[name]:
            rule = f"needs at least {_MIN_ROWS[name]} row(s): give more rows, or change data.split"
            yield Fault(f"the {name} split", rule, len(split))


def _target_faults(splits: Splits) -> Iterator[Fault]:
    for name in SPLITS:
        targets, split = splits.targets(name), splits[name]
        if targets is None or targets.dtype.kind != "f":
            continue
        bad = np.flatnonzero(~np.isfinite(targets))
        if len(bad):
            row = split.rows[bad[0]] if isinstance(split, Table) else bad[0]
            where = f"target, row {row}" + ("" if isinstance(split, Table) else f" of {name}")
            yield Fault(where, f"must be a finite number ({len(bad)} are not)", float(targets[bad[0]]))


def _class_faults(splits: Splits) -> Iterator[Fault]:
    counts = _class_counts(splits)
    for code, label in enumerate(splits.classes if "train" in counts else ()):
        if counts["train"][code] == 0:
            elsewhere = {name: int(count[code]) for name, count in counts.items() if count[code]}
            found = ", ".join(f"{number} in {name}" for name, number in elsewhere.items()) or "none anywhere"
            rule = f"has no row in the training split ({found}): leave it out, or split by=stratified"
            yield Fault(f"class {label!r}", rule)


def _class_warnings(splits: Splits) -> Iterator[str]:
    for name, count in _class_counts(splits).items():
        absent = [str(label) for label, number in zip(splits.classes, count, strict=False) if number == 0]
        if absent and name != "train":
            yield f"the {name} split has no row of class {', '.join(absent)}: its metrics say nothing about it"


def _class_counts(splits: Splits) -> dict[str, NDArray[np.int64]]:
    if splits.task == "regression":
        return {}
    targets = {name: splits.targets(name) for name in SPLITS}
    return {
        name: np.bincount(codes.astype(np.int64), minlength=len(splits.classes))
        for name, codes in targets.items()
        if codes is not None
    }


def overlap_faults(splits: Splits) -> Iterator[Fault]:
    """Rows, ids and groups that are in two splits."""
    for first, second in combinations(SPLITS, 2):
        names = f"{first} and {second}"
        if splits[first] is splits[second]:
            yield Fault(f"the {second} split", f"is the same object as {first}")
            continue
        for word, one, other in _comparable(splits[first], splits[second]):
            shared = sorted({*one} & {*other}, key=str)
            if shared:
                rule = f"is in {names} ({len(shared)} such): a model would be tested on what it has seen"
                yield Fault(f"{word} {shared[0]!r}", rule)


def _comparable(one: Any, other: Any) -> Iterator[tuple[str, list[Any], list[Any]]]:
    """What two splits must not share: word, values in one, values in the other."""
    if isinstance(one, Table) and isinstance(other, Table):
        yield "row", one.rows.tolist(), other.rows.tolist()
        for word, ids, others in (("id", one.ids, other.ids), ("group", one.groups, other.groups)):
            if ids is not None and others is not None:
                yield word, _known(ids), _known(others)
    elif hasattr(one, "indices") and hasattr(other, "indices") and one.dataset is other.dataset:  # torch's Subset
        yield "sample", list(map(int, one.indices)), list(map(int, other.indices))


def _known(values: NDArray[Any]) -> list[Any]:
    return [value for value in values.tolist() if not is_missing(value)]


def encode_tables(tables: Mapping[str, Table], schema: FeatureSchema) -> tuple[dict[str, Encoded], list[Fault]]:
    """Each table encoded, and what stood in the way."""
    encoded, faults = {}, []
    for name, table in tables.items():
        try:
            encoded[name] = encode(table.columns(), schema)
        except DataError as error:
            faults += [dataclasses.replace(fault, path=f"{name} split, {fault.path}") for fault in error.faults]
            continue
        lengths = {len(encoded[name]), len(table.features), len(table.targets), len(table.rows)}
        if len(lengths) > 1:
            faults.append(Fault(f"the {name} split", "lost rows on the way from raw to encoded", sorted(lengths)))
    return encoded, faults


def hash_rows(tables: Mapping[str, Table]) -> dict[str, NDArray[np.uint64]]:
    """A hash [n] of each row of each split, target included."""
    return {name: row_hashes(table.features, table.targets) for name, table in tables.items()}


def _feature_faults(schema: FeatureSchema) -> Iterator[Fault]:
    for feature in schema.features:
        if feature.missing_rate == 1:
            yield Fault(f"column {feature.name!r}", "has no value in the training split: add it to data.drop")


def equal_to_target_faults(
    tables: Mapping[str, Table], encoded: Mapping[str, Encoded], schema: FeatureSchema
) -> Iterator[Fault]:
    """Features that are the target itself, or the classes under other names, wherever they have a value."""
    targets = np.concatenate([tables[name].targets for name in encoded])
    numeric = np.concatenate([part.numeric for part in encoded.values()])
    codes = np.concatenate([part.codes for part in encoded.values()]).astype(np.float64)
    codes[codes == 0] = np.nan
    columns = [(f.name, numeric[:, schema.numeric_places[f.name].start]) for f in schema.numeric_features]
    columns += [(name, codes[:, place]) for place, name in enumerate(schema.categorical_names)]
    same = np.array_equal if schema.task == "regression" else _is_relabelled
    for name, values in dict(columns).items():
        known = ~np.isnan(values)
        pairs = [(values[:end][known[:end]], targets[:end][known[:end]]) for end in (*_HEADS, len(values))]
        if all(same(*pair) for pair in pairs) and len(np.unique(targets[known])) > 1:
            yield Fault(f"column {name!r}", "equals the target wherever it has a value: add it to data.drop")


def _is_relabelled(values: FloatArray, targets: NDArray[Any]) -> bool:
    """Whether each value goes with one target and each target with one value."""
    both = np.unique(np.stack([values, targets.astype(np.float64)]), axis=1)
    return bool(both.shape[1] == len(np.unique(values)) == len(np.unique(targets)))


def _feature_warnings(train: Table, encoded: Mapping[str, Encoded], schema: FeatureSchema) -> Iterator[str]:
    constant = [f.name for f in schema.features if _is_constant(f)]
    if constant and schema.image_shape is None:  # a pixel at the edge may well always be black
        yield f"the same value in every training row: {', '.join(constant)} (consider data.drop)"
    numeric = np.concatenate([part.numeric for part in encoded.values()])
    for feature in schema.features:
        if feature.kind == "numeric" and _counts_rows(numeric[:, schema.numeric_places[feature.name].start]):
            yield f"column {feature.name!r} looks like a row number: consider data.drop=[{feature.name}]"
        if feature.kind == "categorical":
            yield from _text_warnings(train, feature)


def _is_constant(feature: Feature) -> bool:
    is_one = feature.minimum == feature.maximum if feature.kind != "categorical" else len(feature.categories) == 1
    return is_one and feature.missing_rate == 0


def _counts_rows(values: FloatArray) -> bool:
    """Whether the values [n] are n whole numbers without a gap, in any order."""
    first, last = values.min(), values.max()
    if last - first != len(values) - 1 or len(values) < _FEW_ROWS:
        return False
    return bool(np.array_equal(np.sort(values), np.arange(first, last + 1)))


def _text_warnings(train: Table, feature: Feature) -> Iterator[str]:
    texts = train.features[feature.name].dropna()
    num_texts = texts.nunique()
    if len(texts) >= _FEW_ROWS and num_texts > 0.9 * len(texts):
        yield (
            f"column {feature.name!r} has {num_texts} different texts in {len(texts)} training rows: an id or free "
            f"text? Consider data.drop=[{feature.name}]"
        )


def copy_warnings(hashes: Mapping[str, NDArray[np.uint64]]) -> Iterator[str]:
    """Rows of val and test that training has seen, by a hash [n] of each row of each split."""
    for name in ("val", "test"):
        num_copies = int(np.isin(hashes[name], hashes["train"]).sum())
        if num_copies:
            yield (
                f"{num_copies} of {len(hashes[name])} {name} rows are exact copies of training rows, so {name} looks "
                f"better than it is (data.split.duplicates=together keeps copies in one split)"
            )
