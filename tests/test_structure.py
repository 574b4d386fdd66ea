"""The structure that DESIGN promises: who may import whom, and what a light start leaves alone."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "mlops_hydra"
LAYERS = (
    "errors", "atomic", "config", "data", "models", "training", "evaluation", "monitoring", "tracking", "packaging",
    "fitting", "leaving", "judgement", "promotion", "reuse", "experiment", "verification", "sweeps", "serving",
    "testing", "model_rows", "prediction", "drift", "summary", "past", "releases", "live", "preview", "cli", "__main__",
)  # fmt: skip
HOMES = {
    "hydra": {"config", "sweeps", "cli"},
    "omegaconf": {"config", "sweeps", "cli"},
    "mlflow": {"tracking"},
    "optuna": {"sweeps"},
    "fastapi": {"serving"},
}
MODULES = [path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"]


def layer_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(path: Path) -> Iterator[str]:
    """Dotted names that a module imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_there_are_modules_to_look_at() -> None:
    assert len(MODULES) > 30


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_a_package_imports_only_what_stands_above_it(path: Path) -> None:
    own = LAYERS.index(layer_of(path))
    for name in imports(path):
        if name.startswith("mlops_hydra.") and name != "mlops_hydra.__version__":
            other = name.split(".")[1]
            assert other in LAYERS, f"{other} has no place in the layout"
            assert LAYERS.index(other) <= own, f"{path.name} imports {name}, which stands below it"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_boundary_libraries_live_in_one_place_each(path: Path) -> None:
    for name in imports(path):
        homes = HOMES.get(name.split(".")[0])
        assert homes is None or layer_of(path) in homes, f"{path.name} imports {name}"


def test_encoding_needs_numpy_alone() -> None:
    light = {"numpy", "mlops_hydra.config.section", "mlops_hydra.errors", "mlops_hydra.data.values"}
    for name in ("encoding.py", "values.py"):
        heavy = [
            module
            for module in imports(PACKAGE / "data" / name)
            if module.split(".")[0] not in sys.stdlib_module_names and not any(module.startswith(ok) for ok in light)
        ]
        assert heavy == []


@pytest.mark.parametrize(
    "code",
    ["import mlops_hydra", "from mlops_hydra.cli import main; main(['--help'])"],
    ids=["import", "help"],
)
def test_a_light_start_loads_neither_torch_nor_mlflow(code: str) -> None:
    script = f"{code}\nimport sys\nassert not {{'torch', 'mlflow', 'pandas', 'optuna'}} & set(sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_names_that_explain_nothing_are_not_used() -> None:
    banned = {"utils", "helpers", "common", "manager", "misc"}
    names = {part.removesuffix(".py") for path in MODULES for part in path.relative_to(PACKAGE).parts}
    assert not banned & names


def test_every_public_name_is_there() -> None:
    import mlops_hydra

    for name in mlops_hydra.__all__:
        assert getattr(mlops_hydra, name) is not None
    with pytest.raises(AttributeError, match="nothing_of_the_kind"):
        mlops_hydra.nothing_of_the_kind  # noqa: B018
