"""What an A/B test says in words: one sentence, a table, and what to keep in mind. Not here: deciding it."""

import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final, NamedTuple

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mlops_hydra.evaluation.wording import num, signed, with_digits
from mlops_hydra.serving.ab.effect import MIN_UNITS, MIN_VARIED, MISMATCH_BELOW, Effect, independence_p
from mlops_hydra.serving.ab.result import AbResult, Arm

_STYLES: Final = {"better": "green", "worse": "red", "open": "yellow", "untrustworthy": "red"}
_CLEAR_BELOW: Final = 0.001


class _Shown(NamedTuple):
    """An effect in the unit that says most: % of control's mean, else percentage points or the outcome's own."""

    unit: str
    difference: float
    low: float
    high: float
    detectable: float
    detectable_later: float


def sentence(result: AbResult) -> str:
    """What it means, for somebody who knows no statistics."""
    if result.status == "nothing":
        why = listed(result.left_out) or "the request log has no request of the time asked for"
        return f"nothing to judge: no exposure counts ({why})"
    if result.mismatch.is_found:
        return _mistrust(result)
    return "; ".join(_told(result, arm, effect) for arm, effect in result.effects.items())


def _mistrust(result: AbResult) -> str:
    counts = ", ".join(
        f"{name} has {arm.num_units:,} {result.units} where {result.num_units * arm.expected:,.0f} were expected"
        for name, arm in result.arms.items()
    )
    return (
        f"not to be trusted: {counts}, which chance does not explain (p {_p(result.mismatch.p)}). What sorts them may "
        "sort the outcomes, too: find out why, or, if the service had other weights, say which and since when "
        "(weights, since)"
    )


def _told(result: AbResult, arm: str, effect: Effect) -> str:
    if not effect.is_judged:
        return _too_few(result, arm)
    shown, sure = _shown(result, effect), f"{100 * result.confidence:g} %, however often one looks"
    if not effect.sign:
        more = sum(result.arms[name].outcomes.num_units for name in (result.control, arm))
        return (
            f"no difference between {arm} and {result.control} can be seen yet: it lies between {_signed(shown.low)} "
            f"and {_signed(shown.high)}{shown.unit} ({sure}). One of {_short(shown.detectable)}{shown.unit} would most "
            f"likely have been seen by now, one of {_short(shown.detectable_later)}{shown.unit} with {more:,} "
            f"{result.units} more"
        )
    amount, way = _short(shown.difference), "more" if effect.sign > 0 else "less"
    near, far = map(_short, sorted((shown.low, shown.high), key=abs))
    verdict = result.verdict_of(arm)
    return f"{arm} is {verdict} than {result.control}: {amount}{shown.unit} {way} ({near} to {far}{shown.unit}, {sure})"


def _short(value: float) -> str:
    return with_digits(abs(value), 2)


def _signed(value: float) -> str:
    return signed(value, 2)


def _shown(result: AbResult, effect: Effect) -> _Shown:
    sizes = (effect.detectable, effect.detectable_later)
    if not math.isnan(effect.relative):
        mean = result.arms[result.control].outcomes.mean
        values = (effect.relative, effect.relative_low, effect.relative_high, *(size / mean for size in sizes))
        return _Shown(" %", *(100 * value for value in values))
    unit, scale = (" points", 100) if result.is_binary else ("", 1)
    return _Shown(unit, *(scale * value for value in (effect.difference, effect.low, effect.high, *sizes)))


def _too_few(result: AbResult, arm: str) -> str:
    lacking = " and ".join(
        f"{name} has {sample.num_units:,} with {sample.num_varied:,}"
        for name in (result.control, arm)
        if not (sample := result.arms[name].outcomes).is_enough
    )
    return (
        f"too few to say whether {arm} differs from {result.control}: an arm needs outcomes of {MIN_UNITS} "
        f"{result.units}, {MIN_VARIED} of them another than the commonest value; {lacking}"
    )


def warnings_of(result: AbResult) -> list[str]:
    """What may be wrong with the numbers, or with reading them."""
    found = [
        f"{name} was version {_in_order(arm)}: the effect mixes them; since={_day(max(arm.versions.values()))} looks "
        "at the last alone"
        for name, arm in result.arms.items()
        if len(arm.versions) > 1
    ]
    samples = [arm.outcomes for arm in result.arms.values()]
    p = independence_p([sample.num_units for sample in samples], [arm.num_units for arm in result.arms.values()])
    if p < _CLEAR_BELOW:
        shares = ", ".join(f"{_share(arm)} of {name}" for name, arm in result.arms.items() if arm.num_units)
        found.append(
            f"outcomes are there for {shares} (p {_p(p)}): those without one may differ, and are left out; "
            "outcomes.missing=0 counts them, if they are failures"
        )
    if sum(sample.num_units for sample in samples) >= MIN_UNITS and not any(sample.num_varied for sample in samples):
        value = next(sample.mean for sample in samples if sample.num_units)
        hint = "; are those without one failures? outcomes.missing=0" if value else ""
        found.append(f"every outcome is {value:g}: there is nothing to compare{hint}")
    return found


def _in_order(arm: Arm) -> str:
    return ", then ".join(sorted(arm.versions, key=lambda version: arm.versions[version]))


def _share(arm: Arm) -> str:
    return f"{100 * arm.outcomes.num_units / arm.num_units:.1f} %"


def _day(microseconds: int) -> str:
    return datetime.fromtimestamp(microseconds / 1e6, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def print_ab(result: AbResult, console: Console) -> None:
    """Arms with their effects, what was left out, what to keep in mind, and the sentence."""

    def say(text: str) -> None:
        console.print(text, highlight=False, soft_wrap=True)

    if result.days:
        console.print(_table(result))
        fit = "do not fit" if result.mismatch.is_found else "fit"
        p = f"p {_p(result.mismatch.p)} at any time, alarm below {MISMATCH_BELOW}"
        first, last = (_day(time)[:10] for time in (result.first or 0, result.days[-1].time))
        say(f"[dim]first exposures from {first} to {last} (UTC); the shares {fit} what was expected ({p})[/dim]")
    for note in result.notes:
        say(f"[dim]{escape(note)}[/dim]")
    for warning in result.warnings:
        say(f"[yellow]warning:[/yellow] {escape(warning)}")
    style = _STYLES[result.verdict]
    say(f"[{style}]{result.verdict}[/{style}]  {escape(result.sentence)}")


def _table(result: AbResult) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("arm", result.units, "share", "expected", "outcomes", "mean", "effect", "interval"):
        table.add_column(column, justify="left" if column == "arm" else "right", no_wrap=column != "arm")
    for name, arm in result.arms.items():
        share, expected = (f"{100 * value:.1f} %" for value in (arm.num_units / result.num_units, arm.expected))
        mean = _mean(result, arm.outcomes.mean) if arm.outcomes.num_units else ""
        counts = (f"{arm.num_units:,}", share, expected, f"{arm.outcomes.num_units:,}")
        table.add_row(escape(name), *counts, mean, *_cells(result, name))
    return table


def _cells(result: AbResult, arm: str) -> tuple[str, str]:
    effect = result.effects.get(arm)
    if effect is None:
        return "[dim]control[/dim]", ""
    if not effect.is_judged:
        return "", "[dim]too few[/dim]"
    shown = _shown(result, effect)
    return f"{_signed(shown.difference)}{shown.unit}", f"[dim]{_signed(shown.low)} to {_signed(shown.high)}[/dim]"


def _mean(result: AbResult, mean: float) -> str:
    return f"{with_digits(100 * mean, 3)} %" if result.is_binary else with_digits(mean, 4)


def _p(p: float) -> str:
    return "< 0.0001" if p < 0.0001 else f"= {p:.2g}"


def listed(left_out: Mapping[str, int]) -> str:
    """Requests that do not count, by the reason."""
    return ", ".join(f"{num(count, 'request')} {reason}" for reason, count in left_out.items())
