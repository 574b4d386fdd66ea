"""MLflow's files around a packaged model, written directly: `log_model` would take seconds to guess what is known.

With them a folder is a model of MLflow's `python_function` flavour, without pickle. Not here: what the model is.
"""

import json
import platform
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, Literal

from mlops_hydra.atomic import written_to

MLMODEL: Final = "MLmodel"
EXAMPLE: Final = "input_example.json"
SERVING_EXAMPLE: Final = "serving_input_example.json"
REQUIREMENTS: Final = "requirements.txt"
PYTHON_ENV: Final = "python_env.yaml"


@dataclass(frozen=True, slots=True)
class Column:
    """A column that a model takes or gives; one that is not `required` may be left out.

    `any` is for input that MLflow would change in silence: its server makes 2 of 2.5 for a `long`, and false of a
    missing `boolean`.
    """

    name: str
    type: Literal["double", "long", "boolean", "string", "datetime", "any"]
    required: bool = True


@dataclass(frozen=True, slots=True)
class Array:
    """An array `[n, *shape]` that a model takes; `dtype` is NumPy's name."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Described:
    """What MLflow is told of a model.

    Args:
        name: tells this model from every other; equal names give equal ids.
        data: its folder, below the one that MLflow sees.
        loader_module: its `_load_pyfunc` loads `data`.
        inputs: all columns, or all arrays.
        example: values by column, each n, or nested lists by array.
        packages: what it needs to predict, as installed here.
    """

    name: str
    data: str
    loader_module: str
    inputs: Sequence[Column] | Sequence[Array]
    outputs: Sequence[Column]
    example: Mapping[str, Sequence[Any]]
    packages: Sequence[str]
    run_id: str | None = None


def write_mlmodel(folder: Path, described: Described) -> None:
    """Make of `folder`, which holds the model's own below `described.data`, a model of MLflow's.

    Raises:
        TrackingError: the disk does not take it.
    """
    from mlflow.models import Model, ModelSignature

    requirements = [f"{name}=={version(name)}" for name in described.packages]
    example, serving, kind = _example(described)
    model = Model(
        run_id=described.run_id,
        signature=ModelSignature(inputs=_inputs(described.inputs), outputs=_columns(described.outputs)),
        saved_input_example_info={"artifact_path": EXAMPLE, "serving_input_path": SERVING_EXAMPLE, **kind},
        model_uuid=uuid.uuid5(uuid.NAMESPACE_OID, described.name).hex,
        model_size_bytes=sum(path.stat().st_size for path in (folder / described.data).iterdir()),
    )
    model.add_flavor(
        "python_function",
        loader_module=described.loader_module,
        data=described.data,
        python_version=platform.python_version(),
        env={"virtualenv": PYTHON_ENV},
    )
    with written_to(folder):
        (folder / EXAMPLE).write_text(json.dumps(example, ensure_ascii=False), encoding="utf-8")
        (folder / SERVING_EXAMPLE).write_text(json.dumps(serving, ensure_ascii=False), encoding="utf-8")
        (folder / REQUIREMENTS).write_text("".join(f"{line}\n" for line in requirements), encoding="utf-8")
        (folder / PYTHON_ENV).write_text(_python_env(), encoding="utf-8")
        model.save(str(folder / MLMODEL))


def _columns(columns: Sequence[Column]) -> Any:
    from mlflow.types.schema import AnyType, ColSpec, Schema

    specs: list[Any] = []
    for column in columns:
        is_any = column.type == "any"  # MLflow has it as optional only
        kind = AnyType() if is_any else column.type  # type: ignore[no-untyped-call]
        specs.append(ColSpec(kind, column.name, required=column.required and not is_any))
    return Schema(specs)


def _inputs(inputs: Sequence[Column] | Sequence[Array]) -> Any:
    import numpy as np
    from mlflow.types.schema import Schema, TensorSpec

    columns = [item for item in inputs if isinstance(item, Column)]
    arrays = [item for item in inputs if isinstance(item, Array)]
    if not arrays:
        return _columns(columns)
    names = [item.name for item in arrays] if len(arrays) > 1 else [None]
    return Schema(
        [TensorSpec(np.dtype(item.dtype), (-1, *item.shape), name) for item, name in zip(arrays, names, strict=True)]
    )


def _example(described: Described) -> tuple[Any, dict[str, Any], dict[str, str]]:
    """What is shown as an example, what is sent to a server for it, and how MLflow calls its form."""
    values = described.example
    if all(isinstance(item, Column) for item in described.inputs):
        table = {"columns": list(values), "data": [list(row) for row in zip(*values.values(), strict=True)]}
        return table, {"dataframe_split": table}, {"type": "dataframe", "pandas_orient": "split"}
    inputs = dict(values) if len(values) > 1 else next(iter(values.values()))
    return inputs, {"inputs": inputs}, {"type": "ndarray"}


def _python_env() -> str:
    return f"python: {platform.python_version()}\nbuild_dependencies:\n- pip\ndependencies:\n- -r {REQUIREMENTS}\n"
