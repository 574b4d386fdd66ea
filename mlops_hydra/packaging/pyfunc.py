"""A bundle as MLflow knows it: what it takes and gives, and `_load_pyfunc`, which MLflow calls to load it.

MLflow itself is not imported here: what its files look like is `tracking/mlmodel.py`'s business.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

from mlops_hydra.data.encoding import Feature
from mlops_hydra.packaging.about import FOLDER
from mlops_hydra.packaging.bundle import Bundle, load_bundle
from mlops_hydra.tracking.mlmodel import Array, Column, Described

_PACKAGES: Final = ("mlops_hydra", "numpy", "onnxruntime", "pandas")
_TYPES: Final[dict[type, Literal["boolean", "long", "double", "string"]]] = {
    bool: "boolean",
    int: "long",
    float: "double",
    str: "string",
}


def describe(bundle: Bundle) -> Described:
    """What MLflow should be told of a bundle in the folder `bundle`."""
    golden = bundle.golden
    inputs: Sequence[Column] | Sequence[Array]
    if bundle.schema is None:
        inputs = [Array(item.name, item.dtype, item.shape) for item in bundle.inputs]
        example = {name: values[:1].tolist() for name, values in golden.rows.items()}
    else:
        inputs = [_column(feature, golden.rows[feature.name], golden.timestamps) for feature in bundle.schema.features]
        example = dict(golden.rows)
    return Described(
        name=f"{bundle.name} {bundle.fingerprint} {bundle.lineage}",
        data=FOLDER,
        loader_module=__name__,
        inputs=inputs,
        outputs=_outputs(bundle),
        example=example,
        packages=_PACKAGES,
        run_id=bundle.run_id,
    )


def _column(feature: Feature, values: Sequence[Any], timestamps: Sequence[str]) -> Column:
    """Of the type of its raw values, if MLflow leaves these as they are; it refuses whole numbers for a `double`."""
    required = feature.missing_rate == 0
    if feature.kind == "date":
        return Column(feature.name, "datetime" if feature.name in timestamps else "string", required)
    kinds = {type(value) for value in values if value is not None}
    fallback: dict[str, type] = {"numeric": float, "boolean": bool, "categorical": str}
    kind = kinds.pop() if len(kinds) == 1 else fallback[feature.kind]
    if kind is int or (kind is bool and not required):
        return Column(feature.name, "any", required)
    return Column(feature.name, _TYPES[kind], required)


def _outputs(bundle: Bundle) -> list[Column]:
    kinds: set[type] = {type(label) for label in bundle.classes} or {float}
    prediction = Column("prediction", _TYPES[kinds.pop()] if len(kinds) == 1 else "string")
    return [prediction, *(Column(f"p_{label}", "double") for label in bundle.classes)]


class BundleModel:
    """What MLflow predicts with."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle

    def predict(self, model_input: Any, params: Mapping[str, Any] | None = None) -> Any:
        """A DataFrame [n] of `prediction`, and for classes `p_<class>` each.

        Columns that had missing values in training can be left out.

        Raises:
            DataError: a column is missing, or a value is not of its kind.
        """
        import pandas as pd

        bundle, rows = self.bundle, model_input
        if bundle.schema is None:
            rows = model_input.to_numpy() if isinstance(model_input, pd.DataFrame) else model_input
        elif isinstance(model_input, pd.DataFrame):
            optional = [feature.name for feature in bundle.schema.features if feature.missing_rate > 0]
            absent = {name: None for name in optional if name not in model_input.columns}
            rows = model_input.assign(**absent) if absent else model_input
        outputs = bundle.outputs(rows)
        if not bundle.classes:
            return pd.DataFrame({"prediction": outputs})
        columns = {f"p_{label}": outputs[:, place] for place, label in enumerate(bundle.classes)}
        return pd.DataFrame({"prediction": bundle.labels(outputs), **columns})


def _load_pyfunc(path: str) -> BundleModel:
    """MLflow calls this with the folder of the bundle."""
    return BundleModel(load_bundle(path))
