"""The commands about runs of the past: `runs`, `clean`, `sync`, `diff`, `verify`.

Each gets the words and overrides that were typed after its name, and gives the exit code.
"""

import json
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from mlops_hydra.config.commands import CleanConfig, CommandConfig, DiffConfig, RunsConfig, SyncConfig, VerifyConfig
from mlops_hydra.config.compose import compose_command
from mlops_hydra.config.roots import Roots
from mlops_hydra.errors import NOT_REPRODUCED, Fault, UsageError
from mlops_hydra.summary import Terminal, print_differences, print_runs, print_verification
from mlops_hydra.tracking.claim import locked
from mlops_hydra.tracking.delivery import is_waiting
from mlops_hydra.tracking.diff import diff as differences_between
from mlops_hydra.tracking.find import Place, find_run
from mlops_hydra.tracking.folders import RUNS, run_folders
from mlops_hydra.tracking.lease import live_owner
from mlops_hydra.tracking.recorded import RecordedRun, local_runs, read_result, read_run
from mlops_hydra.tracking.store import anchored, tracking_uri
from mlops_hydra.tracking.sync import Store, reap_dead
from mlops_hydra.tracking.sync import sync as deliver_all
from mlops_hydra.training.manifest import CHECKPOINTS

Command = Callable[[Sequence[str], Sequence[str], Roots], int]
_WIDE: Final = 200  # characters a line, where no terminal sets a limit


def runs(words: Sequence[str], overrides: Sequence[str], roots: Roots) -> int:
    """List what has been run here, newest first."""
    expect(words, 0, "runs [filters]")
    asked = compose_command(RunsConfig, overrides, roots)
    recorded = local_runs(asked.output_dir)
    reap_dead(asked.output_dir, recorded)
    found = [run for run in reversed(recorded) if _is_wanted(run, asked)]
    shown = found[: asked.limit]
    if asked.format == "json":
        for run in shown:
            print(json.dumps(_as_json(run)))
    else:
        console = Terminal()
        print_runs(shown, len(found), console if console.is_terminal else Terminal(width=_WIDE))
    return 0


def _is_wanted(run: RecordedRun, asked: RunsConfig) -> bool:
    return (
        asked.state in (None, run.state)
        and asked.verdict in (None, run.verdict)
        and (asked.overrides is None or asked.overrides in run.overrides)
        and (asked.days is None or time.time() - run.time <= asked.days * 86400)
    )


def _as_json(run: RecordedRun) -> dict[str, Any]:
    result = run.result or {}
    return {
        "fingerprint": run.fingerprint,
        "run": run.label,
        "run_id": run.run_id,
        "name": run.name,
        "state": run.state,
        "began": run.began,
        "time": run.time,
        "overrides": run.overrides,
        "objective": result.get("objective"),
        "verdict": run.verdict,
        "folder": str(run.folder),
    }


@dataclass(frozen=True, slots=True)
class _Superfluous:
    """What can go: `kept` says why it stays nevertheless."""

    path: Path
    why: str
    kept: str = ""

    @property
    def num_bytes(self) -> int:
        return sum(file.stat().st_size for file in self.path.rglob("*") if file.is_file())


def clean(words: Sequence[str], overrides: Sequence[str], roots: Roots) -> int:
    """Remove checkpoints of finished runs, and abandoned runs; or say what would go."""
    expect(words, 0, "clean")
    asked = compose_command(CleanConfig, overrides, roots)
    console, total = Terminal(), 0
    for item in _superfluous(asked):
        text = f"{item.path}: {item.why}"
        if item.kept:
            console.print(f"keeps   {text}; {item.kept}", highlight=False, markup=False, soft_wrap=True)
            continue
        size = item.num_bytes
        if asked.apply and not _remove(asked.output_dir, item.path):
            continue
        total += size
        verb = "removed" if asked.apply else "would remove"
        console.print(f"{verb} {text}, {size / 1e6:.1f} MB", highlight=False, markup=False, soft_wrap=True)
    done = "given back" if asked.apply else "would be given back; clean apply=true does it"
    console.print(f"{total / 1e6:.1f} MB {done}", highlight=False)
    return 0


def _superfluous(asked: CleanConfig) -> Iterator[_Superfluous]:
    for path in run_folders(asked.output_dir):
        is_old = time.time() - path.stat().st_mtime >= asked.days * 86400
        if is_old and read_run(path) is None and read_result(path) is None and live_owner(path) is None:
            yield _Superfluous(path, "holds no record of a run")
    for run in local_runs(asked.output_dir):
        folder = run.folder
        if folder is None or run.state == "running":
            continue
        if run.state in ("finished", "trained"):
            if (folder / CHECKPOINTS).is_dir():
                yield _Superfluous(folder / CHECKPOINTS, f"checkpoints of a {run.state} run")
        elif time.time() - run.time >= asked.days * 86400:
            why = f"{run.state} {run.ago}, and not gone on with"
            waits = "MLflow does not have its record yet: `mlops-hydra sync` first" if is_waiting(folder) else ""
            yield _Superfluous(folder, why, waits)


def _remove(output_dir: str, path: Path) -> bool:
    """False if a process has taken it up in the meantime."""
    with locked(output_dir):
        if live_owner(path if path.name != CHECKPOINTS else path.parent) is not None:
            return False
        shutil.rmtree(path)
    return True


def sync(words: Sequence[str], overrides: Sequence[str], roots: Roots) -> int:
    """Deliver to MLflow what it missed; 1 if something still waits."""
    expect(words, 0, "sync")
    asked = compose_command(SyncConfig, overrides, roots)
    console, problems = Terminal(), 0
    if not (Path(asked.output_dir) / RUNS).is_dir():
        console.print(f"Nothing waits: there are no runs in {asked.output_dir}", highlight=False, markup=False)
        return 0
    given = any(text.startswith("tracking.uri=") for text in overrides)
    store = Store(_uri(asked), given, asked.tracking.timeout_seconds)
    outcomes = 0
    for outcome in deliver_all(asked.output_dir, store):
        outcomes, problems = outcomes + 1, problems + bool(outcome.problem)
        what = outcome.problem or "delivered"
        line = f"{outcome.run.fingerprint}/{outcome.run.label}: {outcome.num_records} records {what}"
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    if not outcomes:
        console.print("Nothing waits: MLflow has everything", highlight=False)
    return int(problems > 0)


def diff(words: Sequence[str], overrides: Sequence[str], roots: Roots) -> int:
    """Print which part of the lineage of two runs differs."""
    expect(words, 2, "diff RUN RUN")
    asked = compose_command(DiffConfig, overrides, roots)
    first, second = (find_run(word, place_of(asked)) for word in words)
    print_differences(first, second, differences_between(first, second), Terminal())
    return 0


def verify(words: Sequence[str], overrides: Sequence[str], roots: Roots) -> int:
    """Train a run again and compare; 6 if it differs."""
    expect(words, 1, "verify RUN")
    asked = compose_command(VerifyConfig, overrides, roots)
    run = find_run(words[0], place_of(asked))
    from mlops_hydra.verification import verify as train_again_and_compare

    console = Terminal()
    verification = train_again_and_compare(run, asked, console)
    print_verification(verification, console)
    return 0 if verification.is_reproduced else NOT_REPRODUCED


def expect(words: Sequence[str], number: int, usage: str) -> None:
    """Raises UsageError unless there are as many words."""
    if len(words) != number:
        raise UsageError(Fault("arguments", f"it is `mlops-hydra {usage} [key=value ...]`", " ".join(words) or None))


def _uri(asked: CommandConfig) -> str:
    return anchored(tracking_uri(asked)[0])


def place_of(asked: CommandConfig) -> Place:
    """Where a command looks for runs."""
    return Place(asked.output_dir, _uri(asked), asked.tracking.timeout_seconds)


COMMANDS: Final[dict[str, Command]] = {"runs": runs, "clean": clean, "sync": sync, "diff": diff, "verify": verify}
