"""What `mlops-hydra drift` does: `find -> count -> judge -> tell -> record`.

Rows are counted in chunks, so that a file may be larger than the memory. What the model makes of them is counted, too,
and where there are labels, how much it errs. Not here: what counts as drift (`monitoring/`).
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from mlops_hydra.atomic import replacing, write_json_atomic, written_to
from mlops_hydra.config.drift import DriftConfig
from mlops_hydra.config.moments import as_moment
from mlops_hydra.data.chunks import Chunk
from mlops_hydra.data.tables import Csv
from mlops_hydra.errors import DataError, Fault, TrackingError, UsageError, nearest
from mlops_hydra.model_rows import Labels, ModelColumns, file_chunks, predict_rows
from mlops_hydra.monitoring.false_alarms import false_alarm_rate
from mlops_hydra.monitoring.judging import judge
from mlops_hydra.monitoring.page import page
from mlops_hydra.monitoring.profile import Profile
from mlops_hydra.monitoring.profiling import profile_chunks, row_losses
from mlops_hydra.monitoring.reference import Reference
from mlops_hydra.monitoring.result import DriftReport
from mlops_hydra.monitoring.window import Window
from mlops_hydra.monitoring.wording import print_drift
from mlops_hydra.packaging.bundle import Bundle
from mlops_hydra.packaging.profile_file import outputs_as_columns, read_profile
from mlops_hydra.serving.request_log.parquet_files import hours_of
from mlops_hydra.serving.request_log.windows import read_window
from mlops_hydra.tracking.afterwards import add_to_run
from mlops_hydra.tracking.find import Place

RESULT: Final = "result.json"
PAGE: Final = "report.html"

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Counted:
    """What was read of the current data."""

    window: Window
    what: str
    unknown: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)


def check_drift(bundle: Bundle, asked: DriftConfig, place: Place, console: Console) -> DriftReport:
    """Compare, write `result.json` and `report.html`, tell, and record it on the run of the model.

    Raises:
        RequestError: no such file, or the model takes no tables.
        BundleError: its profile cannot be read.
        TrackingError: the disk does not take the answer.
    """
    out = Path(asked.out or Path(asked.output_dir) / "drift" / bundle.name)
    if out.exists() and not out.is_dir():
        raise UsageError(Fault("out", "is a file; name a folder", str(out)))
    report = compare(bundle, asked)
    with written_to(out):
        out.mkdir(parents=True, exist_ok=True)
        write_json_atomic(out / RESULT, report.to_json())
        with replacing(out / PAGE) as file:
            file.write(page(report).encode("utf-8"))
    print_drift(report, console)
    console.print(f"files  {out / RESULT}, {out / PAGE}", highlight=False, markup=False, soft_wrap=True)
    if asked.record and bundle.run_id is not None:
        _record(bundle.run_id, report, [out / RESULT, out / PAGE], place)
    return report


def _record(run_id: str, report: DriftReport, paths: Sequence[Path], place: Place) -> None:
    """On the run that trained the model. The answer stands without it."""
    tested = {result.feature for result in report if result.part == "feature"}
    drifted = {result.feature for result in report if result.part == "feature" and result.is_drifted}
    metrics = {
        "drift/drifted_features": float(len(drifted)),
        "drift/drifted_share": len(drifted) / max(len(tested), 1),
        "drift/undecided_tests": float(sum(result.verdict == "undecided" for result in report)),
        "drift/exit_code": float(report.exit_code),
        "drift/rows": float(report.num_current_rows),
    }
    folder = f"drift/{datetime.now(UTC):%Y-%m-%dT%H-%M-%S}"
    try:
        add_to_run(
            place.uri, run_id, metrics=metrics, paths=paths, folder=folder, timeout_seconds=place.timeout_seconds
        )
    except TrackingError as error:
        logger.warning("not recorded in MLflow: %s (record=false does not try)", error)


def compare(bundle: Bundle, asked: DriftConfig) -> DriftReport:
    """What the comparison says; writes nothing."""
    if asked.current is None:
        raise UsageError(Fault("current", "is needed: drift MODEL current=new.csv, or the folder of a request log"))
    profile = read_profile(bundle.folder)
    what = f"the profile of {bundle.name} {bundle.fingerprint}"
    if asked.reference is not None:
        if asked.target is not None:
            rule = "is of no use with `reference`: only features are compared with a table"
            raise UsageError(Fault("target", rule, asked.target))
        profile, what = _profile_of_table(bundle, asked), asked.reference
    counted = _count(bundle, profile, asked)
    rules, reference = asked.monitoring.without(counted.unknown), Reference(profile)
    report = judge(reference, counted.window, rules)
    notes = [*counted.notes, *report.notes]
    if asked.reference is not None:
        notes.append("with another table features alone are compared")
    if counted.unknown:
        notes.append(f"not in the request log, or hashed: {', '.join(sorted(counted.unknown))}")
    if asked.estimate_false_alarms:
        report = replace(report, false_alarms=false_alarm_rate(reference, counted.window, rules))
    model = {"name": bundle.name, "fingerprint": bundle.fingerprint, "lineage": bundle.lineage, "run_id": bundle.run_id}
    return replace(report, notes=tuple(notes), reference=what, current=counted.what, model=model)


def _count(bundle: Bundle, profile: Profile, asked: DriftConfig) -> Counted:
    assert asked.current is not None, "checked before"
    if Path(asked.current).is_dir():
        if asked.target is not None:
            raise UsageError(Fault("target", "is a column of a table; a request log has no labels", asked.target))
        return _count_log(bundle, profile, asked)
    span = {"since": asked.since, "until": asked.until}
    rule = "is of a request log, which is a folder; `current` is a file"
    if faults := [Fault(name, rule, moment) for name, moment in span.items() if moment is not None]:
        raise UsageError(faults)
    _check_takes_tables(bundle)
    return _count_table(bundle, profile, asked)


def _check_takes_tables(bundle: Bundle) -> None:
    if bundle.schema is None:
        rule = "takes tensors, not tables: only the request log of its service can be compared"
        raise UsageError(Fault("MODEL", rule, bundle.name))


def _count_log(bundle: Bundle, profile: Profile, asked: DriftConfig) -> Counted:
    assert asked.current is not None, "checked before"
    since, until = (None if text is None else as_moment(text) for text in (asked.since, asked.until))
    found = read_window(_requests_in(Path(asked.current)), profile, bundle.lineage, since=since, until=until)
    span = [f"from {since:%Y-%m-%d %H:%M}" if since else "", f"until {until:%Y-%m-%d %H:%M}" if until else ""]
    counted = Counted(found.window, " ".join([f"the request log {asked.current}", *filter(None, span)]), found.unknown)
    if found.num_others:
        counted.notes.append(f"{found.num_others:,} rows that another model answered are left out")
    return counted


def _requests_in(folder: Path) -> Path:
    """A service's folder holds the log in `requests`."""
    if (folder / "requests").is_dir():
        return folder / "requests"
    if folder.name != "requests" and not hours_of(folder):
        rule = "is a folder without a request log: name that of a service, output_dir/serving/NAME, or a file"
        raise UsageError(Fault("current", rule, str(folder)))
    return folder


def _count_table(bundle: Bundle, profile: Profile, asked: DriftConfig) -> Counted:
    assert asked.current is not None and bundle.schema is not None, "checked before"
    window, labels = Window(profile), Labels(bundle, asked.target)
    counted = Counted(window, asked.current)
    num_bad = num_strange = 0
    for chunk, columns in _table_chunks(bundle, asked.current, asked):
        _check_target(chunk, asked.target)
        window.add(columns, len(chunk))
        window.extra |= set(chunk.names) - {*bundle.schema.names, labels.name or ""}
        if not len(chunk) or window.absent or not profile.outputs:
            continue
        outputs, problems = predict_rows(bundle, columns, len(chunk))
        good = np.array([row not in problems for row in range(len(chunk))], dtype=bool)
        num_bad += len(problems)
        window.add_outputs(outputs_as_columns(bundle.classes, outputs[good]))
        read = labels.read(chunk)
        if read is not None and (both := good & read.known).any():
            window.add_losses(row_losses(bundle.task, read.values[both], outputs[both]))
        num_strange += 0 if read is None else int(read.strange.sum())
    counted.notes += _about_rows(window, num_bad, num_strange)
    return counted


def _check_target(chunk: Chunk, target: str | None) -> None:
    if target is not None and target not in chunk.names:
        raise DataError(Fault("target", "no such column", target, nearest(target, chunk.names)))


def _about_rows(window: Window, num_bad: int, num_strange: int) -> Iterator[str]:
    if window.absent:
        yield "nothing was predicted: columns that the model needs are missing"
    if num_bad:
        yield f"{num_bad:,} rows cannot be predicted; their other values are counted"
    if num_strange:
        yield f"{num_strange:,} labels are none that the model knows, and are left out"


def _table_chunks(bundle: Bundle, path: str, asked: DriftConfig) -> Iterator[tuple[Chunk, dict[str, NDArray[Any]]]]:
    csv = Csv(path, asked.separator, asked.encoding, asked.decimal)
    columns = ModelColumns(bundle)
    names = {"data.source.": "", "data.path": "reference" if path == asked.reference else "current"}
    for chunk in file_chunks(path, asked.chunk_rows, csv, names=names):
        yield chunk, columns.of(chunk)


def _profile_of_table(bundle: Bundle, asked: DriftConfig) -> Profile:
    """The same columns, as another table shows them; what the model made of that one is not looked at."""
    _check_takes_tables(bundle)
    assert asked.reference is not None and bundle.schema is not None, "checked before"
    path = asked.reference

    def chunks() -> Iterator[Mapping[str, Any]]:
        for chunk, columns in _table_chunks(bundle, path, asked):
            lacking = [name for name in bundle.schema.names if name not in columns] if bundle.schema else []
            if lacking:
                rule = "is missing in the reference"
                raise DataError([Fault(f"column {name!r}", rule, None, nearest(name, chunk.names)) for name in lacking])
            yield columns

    kinds = {feature.name: feature.kind for feature in bundle.schema.features}
    most = max((len(feature.categories) for feature in bundle.schema.features), default=1)
    num_rows, features = profile_chunks(chunks, kinds, bins=asked.bins, max_categories=max(most, 1))
    return Profile(num_rows, features, (), {})
