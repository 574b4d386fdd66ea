"""Whether a recorded run comes out again: its experiment is rebuilt from the record, trained anew, and compared.

In a scratch folder, without a record in MLflow. What the record names must be trusted (`config/targets.py`); data and
code must be what they were, or the person says that they may differ.
"""

import json
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from rich.console import Console

from mlops_hydra.atomic import read_json, write_json_atomic
from mlops_hydra.config.commands import VerifyConfig
from mlops_hydra.config.compose import read_recorded
from mlops_hydra.config.fingerprint import flatten
from mlops_hydra.config.schema import ExperimentConfig
from mlops_hydra.data.sources import open_source
from mlops_hydra.errors import Fault, TrackingError, UsageError
from mlops_hydra.evaluation.evaluate import Predicted
from mlops_hydra.experiment import train_unrecorded
from mlops_hydra.packaging import files
from mlops_hydra.tracking.environment import environment
from mlops_hydra.tracking.folders import RESULT
from mlops_hydra.tracking.lineage import Lineage, identify
from mlops_hydra.tracking.recorded import RecordedRun
from mlops_hydra.training.device import resolve_device
from mlops_hydra.training.seeding import reproducible

VERIFY: Final = "verify"
_DECIDES_BITS: Final = ("packages.torch", "packages.numpy", "machine", "kernels", "threads", "device")


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that came out otherwise, and where first."""

    what: str
    where: str
    recorded: Any
    now: Any


@dataclass(frozen=True, slots=True)
class Verification:
    """What came out. `environment` holds what decides the last bits and is not as it was, as (recorded, now)."""

    run: RecordedRun
    lineage: Lineage
    environment: Mapping[str, tuple[Any, Any]]
    tolerance: float
    differences: tuple[Difference, ...]
    num_epochs: int

    @property
    def is_exact(self) -> bool:
        """Whether every bit was asked for."""
        return not self.environment

    @property
    def is_reproduced(self) -> bool:
        """Whether nothing differs, or nothing by more than the tolerance."""
        return not self.differences

    def as_json(self) -> dict[str, Any]:
        """What `result.json` holds."""
        return {
            "fingerprint": self.run.fingerprint,
            "run_id": self.run.run_id,
            "status": "reproduced" if self.is_reproduced else "not reproduced",
            "recorded": asdict(self.run.lineage),
            "lineage": asdict(self.lineage),
            "exact": self.is_exact,
            "tolerance": 0.0 if self.is_exact else self.tolerance,
            "environment": {name: list(pair) for name, pair in self.environment.items()},
            "differences": [asdict(difference) for difference in self.differences],
        }


def verify(run: RecordedRun, asked: VerifyConfig, console: Console) -> Verification:
    """Train `run` again and compare.

    Raises:
        RequestError: the record names what is not trusted, or data or code changed and that was not allowed.
        TrackingError: the record is damaged.
    """
    if run.folder is None:
        raise TrackingError(f"run {run.label} has no folder here")
    config = _rebuilt(run.folder, asked)
    source = open_source(config.data)
    lineage = identify(config, source)
    _refuse_changes(run, lineage, asked)
    recorded = _Outcome.of(run.folder)
    device = resolve_device(config.trainer.device)
    changed = _changed_environment(config, run.folder, device)
    tolerance = asked.tolerance if changed else 0.0
    console.print(_announced(run, changed, tolerance), highlight=False, markup=False, soft_wrap=True)
    with tempfile.TemporaryDirectory(prefix=".verify-", dir=_below(asked.output_dir)) as scratch:
        train_unrecorded(config, source, Path(scratch), device, console)
        now = _Outcome.of(Path(scratch))
    differences = tuple(_differences(recorded, now, tolerance))
    verification = Verification(run, lineage, changed, asked.tolerance, differences, len(now.history))
    folder = _below(asked.output_dir, run.folder.name)
    write_json_atomic(folder / RESULT, verification.as_json())
    return verification


def _below(output_dir: str, *names: str) -> Path:
    folder = Path(output_dir, VERIFY, *names)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrackingError(f"output_dir: {folder} cannot be made: {error.strerror}") from error
    return folder


def _rebuilt(folder: Path, asked: VerifyConfig) -> ExperimentConfig:
    """The recorded experiment, with what is this person's own business set to what they asked for."""
    given = {
        "data.path": asked.data.path,
        "data.num_workers": asked.data.num_workers,
        "trainer.device": asked.device,
        "progress": asked.progress,
    }
    changes: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    changes |= {"output_dir": asked.output_dir, "tracking": asked.tracking.model_dump()}
    return read_recorded(folder / files.CONFIG, changes, asked.trust)


def _refuse_changes(run: RecordedRun, lineage: Lineage, asked: VerifyConfig) -> None:
    """Raises UsageError for every part that is not what it was and may not differ."""
    faults = []
    for part in ("config", "data", "code"):
        recorded, now = getattr(run.lineage, part), getattr(lineage, part)
        if recorded == now or part in asked.allow:
            continue
        rule = f"changed since the run was recorded ({recorded[:12]}, now {now[:12]})"
        more = "its file in the folder was edited" if part == "config" else f"allow=[{part}] compares all the same"
        faults.append(Fault(part, f"{rule}: {more}"))
    if faults:
        raise UsageError(faults)


def _changed_environment(config: ExperimentConfig, recorded: Path, device: torch.device) -> dict[str, tuple[Any, Any]]:
    """What of the environment decides the last bits and is not as it was."""
    if device.type == "cuda":
        torch.cuda.init()  # type: ignore[no-untyped-call]
    with reproducible(deterministic=False, num_threads=config.trainer.num_threads):
        now = flatten(environment())
    before = flatten(_json(recorded / "environment.json"))
    return {key: (before.get(key), now.get(key)) for key in _DECIDES_BITS if before.get(key) != now.get(key)}


def _announced(run: RecordedRun, changed: Mapping[str, tuple[Any, Any]], tolerance: float) -> str:
    what = f"Training run {run.label} of {run.fingerprint} again"
    if not changed:
        return f"{what}; in this environment every bit must be the same"
    reasons = ", ".join(f"{name.removeprefix('packages.')} {was} -> {now}" for name, (was, now) in changed.items())
    return f"{what}; it must be the same within {tolerance:g}, because the environment is another ({reasons})"


def _json(path: Path) -> dict[str, Any]:
    data = read_json(path)
    if data is None:
        raise TrackingError(f"{path} is missing or damaged: the run cannot be verified")
    return data


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What a training leaves, in memory: the recorded one is read before anything is trained."""

    history: Sequence[Mapping[str, Any]]
    weights: Mapping[str, torch.Tensor]
    predictions: Mapping[str, Predicted]

    @classmethod
    def of(cls, folder: Path) -> "_Outcome":
        """Raises TrackingError when a file is missing or damaged."""
        history = _json(folder / files.HISTORY).get("epochs", [])
        return cls(history, files.read_weights(folder), files.read_predictions(folder).splits)


def _differences(recorded: _Outcome, now: _Outcome, tolerance: float) -> Iterator[Difference]:
    yield from _history_differences(recorded.history, now.history, tolerance)
    yield from _weight_differences(recorded.weights, now.weights, tolerance)
    yield from _prediction_differences(recorded.predictions, now.predictions, tolerance)


def _history_differences(
    recorded: Sequence[Mapping[str, Any]], now: Sequence[Mapping[str, Any]], tolerance: float
) -> Iterator[Difference]:
    """The first epoch in which each metric differs, and the number of epochs."""
    told: set[str] = set()
    for before, after in zip(recorded, now, strict=False):
        for name in sorted({*before, *after} - told):
            if not _close(before.get(name), after.get(name), tolerance):
                told.add(name)
                yield Difference(name, f"epoch {before['epoch']}", before.get(name), after.get(name))
    if len(recorded) != len(now):
        yield Difference("epochs", "the end", len(recorded), len(now))


def _close(first: Any, second: Any, tolerance: float) -> bool:
    if first is None or second is None or tolerance == 0:
        return bool(first == second)
    return math.isclose(first, second, rel_tol=tolerance, abs_tol=tolerance)


def _weight_differences(
    before: Mapping[str, torch.Tensor], after: Mapping[str, torch.Tensor], tolerance: float
) -> Iterator[Difference]:
    for name in sorted({*before, *after}):
        first, second = before.get(name), after.get(name)
        if first is None or second is None or first.shape != second.shape or first.dtype != second.dtype:
            yield Difference("weights", name, _shape(first), _shape(second))
        elif not _equal(first.numpy(), second.numpy(), tolerance):
            gap = (first.double() - second.double()).abs().max().item()
            yield Difference("weights", name, "", f"off by up to {gap:.3g}")


def _shape(tensor: torch.Tensor | None) -> str | None:
    return None if tensor is None else f"{tensor.dtype} {list(tensor.shape)}"


def _equal(first: Any, second: Any, tolerance: float) -> bool:
    if tolerance == 0 or first.dtype.kind not in "fc":
        return bool(first.shape == second.shape and first.tobytes() == second.tobytes())
    return bool(first.shape == second.shape and np.allclose(first, second, tolerance, tolerance, equal_nan=True))


def _prediction_differences(
    before: Mapping[str, Predicted], after: Mapping[str, Predicted], tolerance: float
) -> Iterator[Difference]:
    for split in sorted({*before, *after}):
        if split not in before or split not in after or len(before[split].targets) != len(after[split].targets):
            counts = [len(side[split].targets) if split in side else None for side in (before, after)]
            yield Difference("predictions", f"{split}: rows", *counts)
            continue
        first, second = before[split].predictions, after[split].predictions
        if _equal(first, second, tolerance):
            continue
        rows = np.flatnonzero(
            ~np.isclose(first, second, tolerance, tolerance, equal_nan=True).reshape(len(first), -1).all(1)
        )
        row = int(rows[0]) if len(rows) else 0
        where = f"{split}: {len(rows)} of {len(first)} rows, first {row}"
        yield Difference("predictions", where, json.dumps(first[row].tolist()), json.dumps(second[row].tolist()))
