"""What a run would do, and why, without doing any of it: what `mlops-hydra check` prints."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mlops_hydra.config.fingerprint import neutral_values
from mlops_hydra.config.roots import Roots
from mlops_hydra.config.schema import ExperimentConfig
from mlops_hydra.data.digests import remembering
from mlops_hydra.tracking.decision import Decision, decide
from mlops_hydra.tracking.find import identified, shorter_run
from mlops_hydra.tracking.folders import RUNS
from mlops_hydra.tracking.lineage import identify
from mlops_hydra.tracking.store import redacted, tracking_uri
from mlops_hydra.tracking.versions import check_registration


def preview(config: ExperimentConfig) -> Iterator[str]:
    """Lines for people: the name, what would be done, where it is recorded, and what is not part of the name.

    Raises:
        RequestError: data or code cannot be read.
    """
    config = identified(config)
    check_registration(config)
    with remembering(config.output_dir):
        lineage = identify(config)
    decision = decide(config, lineage)
    digests = ", ".join(f"{part} {digest[:12]}" for part, digest in asdict(lineage).items())
    uri, reason = tracking_uri(config)
    yield _row("fingerprint", config.fingerprint)
    yield _row("lineage", f"{lineage.digest} ({digests})")
    yield _row("would", _would(decision, Path(config.output_dir) / RUNS / config.fingerprint / lineage.digest))
    yield _row("because", decision.reason)
    if decision.action == "new" and (shorter := shorter_run(config, lineage)):
        name = shorter.fingerprint
        yield _row("or", f"start from {name}, which differs in the length of the training alone: init_from={name}")
    yield _row("tracking", f"{redacted(uri)} ({reason})")
    yield _row("neutral", "not part of the fingerprint:")
    for path, value in neutral_values(config).items():
        yield _row("", f"{path}={redacted(_short(value))}")


def preview_study(fixed: Sequence[str], swept: Sequence[str], roots: Roots) -> Iterator[str]:
    """Lines for people: what a study would search, and how far it is. Opens no store that is not there.

    Raises:
        RequestError: the request is wrong, or a study of this name is of something else.
    """
    from mlops_hydra.sweeps.planning import base_config, planned
    from mlops_hydra.sweeps.study import check_buildable, trials_in

    request = planned(base_config(fixed, swept, roots), swept)
    plan = request.plan
    check_buildable(plan)
    num_ended = sum(trial.state.is_finished() for trial in trials_in(plan))
    yield _row("study", plan.name)
    yield _row("would", f"run {max(0, plan.total - num_ended)} of {plan.total} trials; {num_ended} are there")
    yield _row("objective", ", ".join(f"{direction} val/{name}" for name, direction in plan.objectives))
    for name, distribution in plan.space.distributions.items():
        yield _row("space", f"{name}: {distribution}")
    yield _row("sampler", str(plan.sampler))
    yield _row("pruner", str(plan.pruner or "none"))
    yield _row("storage", redacted(plan.storage))
    yield _row("workers", str(request.settings.workers))


def _row(name: str, value: str) -> str:
    return f"{name:<12} {value}"


def _would(decision: Decision, folder: Path) -> str:
    what = {
        "new": f"train a new run in {folder}",
        "resume": f"go on in {decision.run.folder if decision.run else folder}",
        "reuse": f"take the result of run {decision.run.label if decision.run else ''} and judge it again",
        "busy": "exit with 7, or wait with on_busy=wait",
    }
    return what[decision.action]


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
