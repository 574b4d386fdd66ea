"""What is known of the bundle in a folder without its graph: whose it is, and what it predicts.

Needs NumPy alone: who watches a model does not load it. Not here: predicting (`bundle.py`).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, cast, get_args

from mlops_hydra.config.section import Task
from mlops_hydra.data.encoding import ClassLabel
from mlops_hydra.errors import BundleError
from mlops_hydra.packaging.seal import Sealed, open_sealed, read_json_text

FOLDER: Final = "bundle"
BUNDLE, PROFILE = "bundle.json", "profile.json"
FORMAT: Final = 1
MAX_JSON_BYTES: Final = 16 * 2**20


@dataclass(frozen=True, slots=True)
class About:
    """`lineage` is 12 hex digits over config, data and code."""

    name: str
    fingerprint: str
    lineage: str
    run_id: str | None
    task: Task
    classes: tuple[ClassLabel, ...]
    verdict: str

    @classmethod
    def of(cls, sealed: Sealed) -> "About":
        """Raises BundleError."""
        data = read_object(sealed, BUNDLE)
        if data.get("format") != FORMAT:
            raise BundleError(f"{BUNDLE}: is of format {data.get('format')!r}; this version reads {FORMAT}")
        texts = {key: data.get(key) for key in ("name", "fingerprint", "lineage", "verdict")}
        run_id, task, classes = data.get("run_id"), data.get("task"), data.get("classes")
        if not all(isinstance(text, str) for text in texts.values()) or not isinstance(run_id, str | None):
            raise BundleError(f"{BUNDLE}: cannot be read")
        labels = tuple(classes) if isinstance(classes, list) else (None,)
        known = all(isinstance(label, str | int) for label in labels) and len(set(map(str, labels))) == len(labels)
        counts = {"regression": len(labels) == 0, "binary": len(labels) == 2, "multiclass": len(labels) >= 2}
        if not isinstance(task, str) or task not in get_args(Task) or not known or not counts[task]:
            raise BundleError(f"{BUNDLE}: task and classes do not fit")
        return cls(**cast("Any", texts), run_id=run_id, task=cast("Task", task), classes=cast("Any", labels))


def read_about(folder: Path) -> About:
    """Raises BundleError: there is no bundle, or it was changed."""
    return About.of(open_sealed(folder))


def bundle_folder(path: str | Path) -> Path:
    """Where the bundle is: this folder, or `bundle` in that of a packaged model."""
    folder = Path(path)
    return folder / FOLDER if (folder / FOLDER).is_dir() and not (folder / BUNDLE).exists() else folder


def read_object(sealed: Sealed, name: str) -> dict[str, Any]:
    """The JSON object of a file. Raises BundleError."""
    try:
        data = read_json_text(sealed.read(name, max_bytes=MAX_JSON_BYTES))
    except ValueError as error:
        raise BundleError(f"{name}: is no JSON") from error
    if not isinstance(data, dict):
        raise BundleError(f"{name}: is no JSON object")
    return data
