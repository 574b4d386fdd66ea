"""The A/B test of a service, from its request log and a table of outcomes: what `mlops-hydra ab` does.

`read -> join -> judge -> tell`. What the numbers say is in `effect.py`. It changes nothing that a service reads but the
kill switch, which is all that `kill_switch=on|off` does.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Final

import numpy as np
from rich.console import Console

from mlops_hydra.atomic import replacing, write_json_atomic, written_to
from mlops_hydra.config.ab import AbConfig, Switch
from mlops_hydra.config.moments import as_moment
from mlops_hydra.errors import DataError, Fault, UsageError, nearest
from mlops_hydra.evaluation.wording import num
from mlops_hydra.serving.ab.assignment import Assignment, noted_assignment, shares
from mlops_hydra.serving.ab.effect import effect, mismatch
from mlops_hydra.serving.ab.exposures import COLUMNS, Exposures, read_exposures
from mlops_hydra.serving.ab.looks import Joined, Look, join, looks
from mlops_hydra.serving.ab.outcomes import Outcomes, read_outcomes
from mlops_hydra.serving.ab.plot import draw_ab
from mlops_hydra.serving.ab.result import AbResult, Arm, DayEffect
from mlops_hydra.serving.ab.wording import listed, print_ab, sentence, warnings_of
from mlops_hydra.serving.folder import ServiceFolder
from mlops_hydra.serving.request_log.reader import read_requests

RESULT: Final = "result.json"
PICTURE: Final = "ab.png"


@dataclass(frozen=True, slots=True)
class Switched:
    """The kill switch, before and now."""

    was: Switch
    now: Switch
    exit_code: int = 0


def evaluate(asked: AbConfig, console: Console) -> AbResult | Switched:
    """Judge the test, write `result.json` and `ab.png`, and tell; or turn the kill switch.

    Raises:
        RequestError: no such service, table, column or arm, or a value that is no number.
        TrackingError: the disk does not take the answer.
    """
    if asked.kill_switch is not None:
        return turn(ServiceFolder.of(asked.output_dir, asked.name), asked.kill_switch, console)
    out = Path(asked.out or Path(asked.output_dir) / "ab" / asked.name)
    if out.exists() and not out.is_dir():
        raise UsageError(Fault("out", "is a file; name a folder", str(out)))
    result = judge(asked)
    with written_to(out):
        out.mkdir(parents=True, exist_ok=True)
        write_json_atomic(out / RESULT, result.to_json())
        draw_ab(out / PICTURE, result)
    print_ab(result, console)
    console.print(f"files  {out / RESULT}, {out / PICTURE}", highlight=False, markup=False, soft_wrap=True)
    return result


def turn(folder: ServiceFolder, switch: Switch, console: Console) -> Switched:
    """All users to control from now on, or no longer; a running service sees it within a second.

    Raises:
        UsageError: no service of this name has run here.
        TrackingError: the disk does not take it.
    """
    was: Switch = "on" if folder.kill_switch.exists() else "off"
    if not folder.path.is_dir():
        raise _no_service(folder)
    with written_to(folder.path):
        if switch == "on" and was == "off":
            with replacing(folder.kill_switch):
                pass
        elif switch == "off":
            folder.kill_switch.unlink(missing_ok=True)
    means = {"on": "all users are sent to control", "off": "users are shared out by their weights"}[switch]
    already = "is already" if was == switch else f"was {was} and is now"
    text = f"kill switch of {folder.path.name} {already} {switch}: {means}"
    console.print(text, highlight=False, markup=False, soft_wrap=True)
    return Switched(was, switch)


def judge(asked: AbConfig) -> AbResult:
    """What the test says; writes nothing.

    Raises:
        RequestError: as `evaluate`.
    """
    folder = ServiceFolder.of(asked.output_dir, asked.name)
    weights, since = _assignment(asked, folder)
    control = _control(asked, weights)
    key = folder.hash_key.read_bytes() if folder.hash_key.is_file() else None
    outcomes = read_outcomes(asked.outcomes, key=key)
    wanted = np.unique(outcomes.ids) if outcomes.unit == "request_id" else np.empty(0, np.uint64)
    until = None if asked.until is None else as_moment(asked.until)
    tables = read_requests(folder.requests, columns=COLUMNS, since=since, until=until)
    exposures = read_exposures(tables, weights, joined_by=outcomes.unit, wanted=wanted)
    joined = join(exposures, outcomes, wanted)
    if len(exposures.units) and not len(joined.unit):
        raise _nobody(outcomes, exposures, joined, since)
    found = looks(exposures, joined, asked.outcomes)
    treatments = [arm for arm, share in shares(weights).items() if arm != control]
    order = [control, *treatments, *(arm for arm in weights if arm not in (control, *treatments))]
    result = AbResult(
        name=asked.name,
        outcome=outcomes.value,
        unit=exposures.unit,
        control=control,
        direction=asked.direction,
        confidence=asked.confidence,
        planned_users=asked.planned_users,
        arms=_arms(order, weights, found, exposures),
        mismatch=mismatch([look.exposed for look in found], weights, planned=asked.planned_users),
        days=tuple(_day(look, control, treatments, asked) for look in found),
        is_binary=bool(found) and found[-1].is_binary,
        has_times=outcomes.times is not None,
        first=int(exposures.first.min()) if found else None,
        left_out=exposures.left_out,
        notes=_notes(exposures, outcomes, joined),
    )
    result = replace(result, warnings=tuple(warnings_of(result)))
    return replace(result, sentence=sentence(result))


def _assignment(asked: AbConfig, folder: ServiceFolder) -> tuple[dict[str, float], datetime | None]:
    """The weights, and since when exposures count."""
    noted = noted_assignment(folder)
    if not folder.path.is_dir():
        raise _no_service(folder)
    weights = asked.weights or (noted.weights if noted else None)
    if weights is None:
        rule = "is needed, for the service left no note of them: the shares of its arms"
        raise UsageError(Fault("weights", f"{rule}, weights='{{control: 90, treatment: 10}}'"))
    if len(shares(weights)) < 2:
        raise UsageError(Fault("weights", "two arms above 0 are needed to compare", dict(weights)))
    return dict(weights), _since(asked, noted, weights)


def _no_service(folder: ServiceFolder) -> UsageError:
    name, place = folder.path.name, folder.path.parent
    others = [path.name for path in place.glob("*") if path.is_dir()]
    return UsageError(Fault("name", f"no service of this model has run here ({place})", name, nearest(name, others)))


def _since(asked: AbConfig, noted: Assignment | None, weights: Mapping[str, float]) -> datetime | None:
    if asked.since is not None:
        return as_moment(asked.since)
    is_noted = noted is not None and shares(noted.weights) == shares(weights)
    return as_moment(noted.since) if noted is not None and is_noted else None


def _control(asked: AbConfig, weights: Mapping[str, float]) -> str:
    """As the router has it, unless another is asked for."""
    arms = list(shares(weights))
    if asked.control is None:
        return "control" if "control" in arms else arms[0]
    if asked.control not in arms:
        raise UsageError(Fault("control", "no such arm with a weight", asked.control, nearest(asked.control, arms)))
    return asked.control


def _nobody(outcomes: Outcomes, exposures: Exposures, joined: Joined, since: datetime | None) -> DataError:
    if joined.num_early:
        rule = "all were known before their user's first exposure: is it the time of the outcome, in UTC?"
        return DataError(Fault("outcomes.time", rule))
    theirs, ours = ", ".join(outcomes.examples), ", ".join(exposures.examples)
    log = f"; its users are called {ours}" if ours and outcomes.unit == "user_id" else ""
    begin = f" since {since:%Y-%m-%d %H:%M:%S} UTC, when these weights began" if since is not None else ""
    rule = f"none of them is of a {outcomes.unit} that the request log has{begin} (they are called {theirs}{log})"
    return DataError(Fault("outcomes", rule))


def _arms(
    order: Sequence[str], weights: Mapping[str, float], found: Sequence[Look], exposures: Exposures
) -> dict[str, Arm]:
    if not found:
        return {}
    last, total = found[-1], sum(weights.values())
    return {
        arm: Arm(last.exposed[arm], weights[arm] / total, last.samples[arm], exposures.versions[arm]) for arm in order
    }


def _day(look: Look, control: str, treatments: Sequence[str], asked: AbConfig) -> DayEffect:
    confidence = 1 - (1 - asked.confidence) / len(treatments)  # Bonferroni: all of them hold together
    samples = look.samples
    effects = {
        arm: effect(samples[control], samples[arm], planned=asked.planned_users, confidence=confidence)
        for arm in treatments
    }
    return DayEffect(look.time, look.exposed, effects)


def _notes(exposures: Exposures, outcomes: Outcomes, joined: Joined) -> tuple[str, ...]:
    strange = f"{num(joined.num_strange, 'outcome')} of nobody in the request log, which has all but the last minute"
    notes = {
        f"not counted: {listed(exposures.left_out)}": len(exposures.left_out),
        f"{num(exposures.num_crossed, exposures.unit)} seen in several arms count in the first": exposures.num_crossed,
        strange: joined.num_strange,
        f"{num(joined.num_early, 'outcome')} from before the first exposure": joined.num_early,
        f"{num(outcomes.num_nameless, 'outcome')} without an id": outcomes.num_nameless,
    }
    return tuple(note for note, count in notes.items() if count)
