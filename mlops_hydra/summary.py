"""What a person reads at the end: of one run, of many, of a request that is wrong."""

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mlops_hydra.atomic import read_json
from mlops_hydra.config.objective import NUM_PARAMETERS
from mlops_hydra.errors import Fault

if TYPE_CHECKING:
    from mlops_hydra.config.serving import ServeConfig
    from mlops_hydra.evaluation.intervals import Interval
    from mlops_hydra.evaluation.verdicts import Verdict
    from mlops_hydra.packaging.result import Result
    from mlops_hydra.serving.targets import Targets
    from mlops_hydra.tracking.diff import Difference as LineageDifference
    from mlops_hydra.tracking.recorded import RecordedRun
    from mlops_hydra.verification import Verification

_REPEATS: Final = ("seed", "data.split.seed", "data.split.fold")  # overrides that only repeat a configuration
_STYLES: Final = {"passed": "green", "failed": "red", "undecided": "yellow"}


class Terminal(Console):
    """Falls silent when nobody reads it any more: a closed pipe or a full disk ends no training."""

    def print(self, *objects: Any, **options: Any) -> None:
        """As rich prints."""
        try:
            super().print(*objects, **options)
        except OSError:
            self.quiet = True

    def on_broken_pipe(self) -> None:
        """rich would leave the process here."""
        self.quiet = True


def print_result(result: "Result", uri: str, console: Console) -> None:
    """Fingerprint, metrics beside the baseline's, each gate with its verdict, and where to look."""
    style = _STYLES[result.verdict]
    epochs = f"best epoch {result.best_epoch} of {result.num_epochs}"
    head = f"\n[bold]{result.fingerprint}[/bold]  [{style}]{result.verdict}[/{style}]  ({epochs}, {result.objective})"
    console.print(head, highlight=False)
    console.print(_metrics_table(result.metrics, result.intervals))
    if result.gates:
        console.print(_gates_table(result.gates))
    if result.test_set is not None and result.test_set.num_candidates > 1:
        number, name = result.test_set.num_candidates, result.test_set.digest
        console.print(f"test    set {name} has judged {number} models", highlight=False)
    console.print(f"bundle  {escape(_bundle(result))}", highlight=False, soft_wrap=True)
    console.print(f"files   {escape(_shortest(result.folder))}", highlight=False, soft_wrap=True)
    where = f"run {result.run_id} in {uri}" if result.run_id else "not delivered; the record waits in the folder above"
    console.print(f"mlflow  {escape(where)}", highlight=False, soft_wrap=True)


def _shortest(path: str | Path) -> str:
    """From the current directory, if it lies below it."""
    path = Path(path)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def _bundle(result: "Result") -> str:
    return f"none: {result.unpackaged}" if result.unpackaged else _shortest(result.folder / "model")


def print_gates(gates: Sequence["Verdict"], warnings: Sequence[str], console: Console) -> None:
    """Each gate with its verdict, and what to keep in mind."""
    if gates:
        console.print(_gates_table(gates))
    for warning in warnings:
        console.print(f"[yellow]warning:[/yellow] {escape(warning)}", highlight=False, soft_wrap=True)


def _metrics_table(metrics: Mapping[str, float], intervals: Mapping[str, "Interval"]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("", "test", "interval", "val", "baseline"):
        table.add_column(column, justify="left" if not column else "right")
    names = [name.removeprefix("test/") for name in metrics if name.startswith("test/")]
    for name in names:
        test, *others = (_number(metrics.get(f"{split}/{name}")) for split in ("test", "val", "baseline"))
        table.add_row(name, test, _interval(intervals.get(f"test/{name}")), *others)
    for name in (name for name in metrics if "/" not in name):
        table.add_row(name, f"{metrics[name]:.0f}" if name == NUM_PARAMETERS else _number(metrics[name]))
    return table


def _interval(interval: "Interval | None") -> str:
    if interval is None or math.isnan(interval.low):
        return ""
    return f"[dim]{interval.low:.4f} - {interval.high:.4f}[/dim]"


def _gates_table(gates: Sequence["Verdict"]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("gate", "verdict", "reason"):
        table.add_column(column)
    for gate in gates:
        style = _STYLES[gate.verdict]
        table.add_row(escape(gate.name), f"[{style}]{gate.verdict}[/{style}]", escape(gate.reason))
    return table


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def print_runs(runs: Sequence["RecordedRun"], num_found: int, console: Console) -> None:
    """A line a run, newest first."""
    if not runs:
        console.print("No runs.")
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("fingerprint", "run", "age", "state", "objective", "verdict"):
        table.add_column(column, no_wrap=True)
    table.add_column("overrides", overflow="fold")
    for run in runs:
        objective = (run.result or {}).get("objective", {})
        value = f"{objective['metric']} {_number(objective['value'])}" if objective else ""
        style = _STYLES.get(run.verdict or "", "")
        verdict = f"[{style}]{run.verdict}[/{style}]" if run.verdict else ""
        age = run.ago.removesuffix(" ago")
        table.add_row(run.fingerprint, run.label, age, run.state, value, verdict, escape(run.overrides or "(defaults)"))
    console.print(table)
    if num_found > len(runs):
        console.print(f"{num_found - len(runs)} more; limit=null shows all", highlight=False)


def print_differences(
    first: "RecordedRun", second: "RecordedRun", rows: Sequence["LineageDifference"], console: Console
) -> None:
    """A table for each part of the lineage; what cannot change a result comes last."""
    console.print(f"{first.fingerprint}/{first.label} and {second.fingerprint}/{second.label}", highlight=False)
    for section in ("config", "data", "code", "environment", "metrics", "neutral"):
        own = [row for row in rows if row.section == section]
        if not own:
            console.print(f"{section}: the same", highlight=False)
            continue
        console.print(f"{section}:" + (" (cannot change a result)" if section == "neutral" else ""), highlight=False)
        table = Table(box=None, show_header=False, pad_edge=True)
        for row in own:
            table.add_row("", escape(row.key), escape(_shown(row.first)), "->", escape(_shown(row.second)))
        console.print(table)


def print_verification(verification: "Verification", console: Console) -> None:
    """What differs first, or that nothing does."""
    how = "bit for bit" if verification.is_exact else f"within {verification.tolerance:g}"
    run = verification.run
    if verification.is_reproduced:
        text = f"[green]reproduced[/green] {how}: {verification.num_epochs} epochs, weights and predictions of run"
        console.print(f"{text} {run.label}", highlight=False, soft_wrap=True)
        return
    console.print(f"[red]not reproduced[/red] {how}: run {run.label} differs in", highlight=False, soft_wrap=True)
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("what", "where first", "recorded", "now"):
        table.add_column(column, overflow="fold")
    for row in verification.differences:
        table.add_row(escape(row.what), escape(row.where), escape(_shown(row.recorded)), escape(_shown(row.now)))
    console.print(table)


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def print_service(config: "ServeConfig", url: str, targets: "Targets", console: Console) -> None:
    """What each arm serves, and where."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("variant", "weight", "model", "fingerprint"):
        table.add_column(column, justify="right" if column == "weight" else "left", overflow="fold")
    for arm, variant in config.variants.items():
        target = targets.arms.get(arm)
        weight = f"{variant.weight:g}"
        if target is None:
            table.add_row(escape(arm), weight, f"none is {escape(str(variant.alias))}: control answers", "")
            continue
        model = f"version {target.version} ({variant.alias})" if target.version else str(variant.bundle)
        about = read_json(Path(target.folder) / "bundle.json") or {}
        table.add_row(escape(arm), weight, escape(model), escape(str(about.get("fingerprint", ""))))
    console.print(table)
    if not config.is_loopback:
        what = (
            "there is no key" if config.api_key is None else "the key is not encrypted on its way; have a proxy do TLS"
        )
        console.print(f"[yellow]warning:[/yellow] others can reach this address, and {what}", soft_wrap=True)
    docs = f", docs at {url}/docs" if config.docs else ""
    console.print(f"Serving {escape(config.name)} at {url}{docs}; Ctrl-C stops", highlight=False, soft_wrap=True)


def print_faults(faults: Sequence[Fault], console: Console) -> None:
    """Every fault on a line of its own, with what may be meant."""
    count = "1 fault" if len(faults) == 1 else f"{len(faults)} faults"
    console.print(f"[red]The request is wrong[/red] ({count}):", highlight=False)
    for fault in faults:
        text = escape(str(fault)).replace(escape(fault.path), f"[bold]{escape(fault.path)}[/bold]", 1)
        console.print(f"  {text}", highlight=False, soft_wrap=True)


def print_jobs(jobs: Sequence[Mapping[str, Any]], console: Console) -> None:
    """A line for each configuration: mean and deviation of the objective over its seeds and folds."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("configuration", overflow="fold")
    for column in ("n", "val", "test", "verdicts", "objective"):
        table.add_column(column, justify="right" if column in ("n", "val", "test") else "left", no_wrap=True)
    for (overrides, objective), members in _by_configuration(jobs).items():
        done = [job for job in members if "error" not in job]
        table.add_row(
            escape(overrides or "(defaults)"),
            str(len(done)),
            *(_spread([job[split] for job in done]) for split in ("val", "test")),
            ", ".join(filter(None, (_count(members, word) for word in (*_STYLES, "error")))),
            objective,
        )
    console.print()
    console.print(table)


def _by_configuration(jobs: Sequence[Mapping[str, Any]]) -> dict[tuple[str, str], list[Mapping[str, Any]]]:
    """Jobs that differ in seeds and folds only, together; what all jobs have in common is left out of the name."""
    shared = set.intersection(*(set(job["overrides"]) for job in jobs))
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for job in jobs:
        own = [text for text in job["overrides"] if text not in shared]
        name = " ".join(text for text in own if text.lstrip("+").partition("=")[0] not in _REPEATS)
        groups.setdefault((name, job.get("objective") or ""), []).append(job)
    return groups


def _count(jobs: Sequence[Mapping[str, Any]], word: str) -> str:
    number = sum(word in (job.get("verdict"), *job) for job in jobs)
    return f"{number} {word}" if number else ""


def _spread(values: Sequence[float | None]) -> str:
    numbers = [value for value in values if value is not None]
    if not numbers:
        return "-"
    if len(numbers) == 1:
        return f"{numbers[0]:.4f}"
    return f"{statistics.mean(numbers):.4f} ± {statistics.stdev(numbers):.4f}"
