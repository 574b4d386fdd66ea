"""What a check for drift says in words: a table of what matters, what to keep in mind, and one sentence.

Names of columns are data: they are shown without control characters, and never read as markup. Not here: the verdicts.
"""

import math
from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from typing import Final, NamedTuple

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

from mlops_hydra.evaluation.wording import num, with_digits
from mlops_hydra.monitoring.result import DriftReport, DriftResult, Part
from mlops_hydra.monitoring.tested import GROWTH

TESTS: Final = {
    "ks": "values",
    "chi_square": "values",
    "weekday": "weekdays",
    "missing": "missing",
    "unreadable": "unreadable",
    "range": "out of range",
    "new_categories": "new categories",
    "column": "column",
    "loss": "errors",
}
"""What each test looks at."""
STYLES: Final = {"drifted": "red", "undecided": "yellow", "stable": "green"}
PARTS: Final[tuple[Part, ...]] = ("feature", "prediction", "performance")
_PERCENT: Final = {"of the rows": "", "growth": "+"}  # units that are read more easily as a percentage, and their sign
_FEW: Final = 10  # results: so many are all shown
_MOST_UNDECIDED: Final = 10  # of a part; the others are summed up
_MOST_NAMES: Final = 5  # of a sentence
_MANIFOLD: Final = 9.0  # growth that is told as a factor
_LARGE: Final = 1e9  # shown as a power of ten
_LONGEST_NAME: Final = 36
_SHORTEST_NAME: Final = 12
_HEAD: Final = ("test", "effect", "limit", "adj. p", "verdict")
_TO_THE_RIGHT: Final = frozenset({2, 3, 4})  # columns of numbers


def shown(name: str, most: int | None = None) -> str:
    """A name from the data that can be printed: control characters escaped, the middle left out beyond `most` cells."""
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in name) or "''"
    if most is None or cell_len(text) <= most:
        return text
    tail = (most - 1) // 3
    end = set_cell_size(text[::-1], tail)[::-1].strip()
    return f"{set_cell_size(text, most - 1 - tail).strip()}…{end}"


def amount(value: float | None, unit: str, digits: int = 2) -> str:
    """An effect with its unit: 0.42 spreads, 3.1 %, +12 % or x 14; nothing where it was not measured."""
    if value is None or math.isnan(value):
        return ""
    if unit == GROWTH and value >= _MANIFOLD:
        return f"x {1 + value:.3g}"
    scale, word = (100.0, "%") if unit in _PERCENT else (1.0, unit)
    number = f"{scale * value:.{digits}g}" if abs(value) >= _LARGE else with_digits(scale * value, digits)
    number = number if math.isfinite(scale * value) else "∞"
    sign = _PERCENT.get(unit, "") if value > 0 else ""
    return f"{sign}{number} {shown(word, 12)}" if word else f"{sign}{number}"


def limit(result: DriftResult) -> str:
    """The effect that matters, in the unit of the effect beside it."""
    return amount(result.min_effect, result.unit if result.unit in _PERCENT else "")


def probability(p: float | None) -> str:
    """As few digits as say enough."""
    if p is None or math.isnan(p):
        return ""
    return "< 0.0001" if p < 0.0001 else f"{p:.2g}"


def reason(result: DriftResult, *, with_smallest: bool = True) -> str:
    """Why; where it is undecided, with the smallest difference that would have been seen."""
    why = shown(result.reason) if result.reason else ""
    smallest = amount(result.detectable, result.unit)
    if result.verdict != "undecided" or not (smallest and with_smallest):
        return why
    if math.isinf(result.detectable or 0.0):
        return why or "too few rows to see any difference"
    seen = f"a difference below {smallest} would hardly be seen"
    return f"{why}; {seen}" if why else seen


def compared(report: DriftReport) -> str:
    """What with what, and how many rows of each."""
    current = f"{shown(report.current or 'current data')} ({num(report.num_current_rows, 'row')})"
    return f"{current} against {shown(report.reference or 'reference')} ({num(report.num_reference_rows, 'row')})"


def sentence(report: DriftReport) -> str:
    """The verdict, for somebody who knows no statistics."""
    if not report.num_current_rows and not report.drifted:
        return "nothing to compare: the current data has no rows"
    if not report.results:
        return "nothing to compare: no column was tested"
    told = {"drifted": _drifted, "undecided": _undecided, "stable": _stable}[report.verdict](report)
    sure = f"false discovery rate {_percent(report.alpha)}"
    if report.false_alarms is not None:
        sure += f"; where nothing drifts, {_percent(report.false_alarms)} of such checks raise an alarm"
    return f"{told} ({sure})"


def _drifted(report: DriftReport) -> str:
    columns, total = _names(report, "feature", "drifted"), len(_names(report, "feature"))
    told = [f"{len(columns):,} of {num(total, 'column')} drifted: {_listed(columns)}"] if columns else []
    if _names(report, "prediction", "drifted"):
        told.append("so did what the model predicts" if columns else "what the model predicts drifted")
    losses = _names(report, "performance", "drifted")
    if losses:
        told.append(f"the model errs more than it did: {_listed(losses)}")
    if total and not columns:
        told.append("no column is seen to have drifted")
    open_ones = [name for name in _names(report, "feature", "undecided") if name not in columns]
    if open_ones:
        told.append(f"{num(len(open_ones), 'column')} could not be judged fully")
    return "; ".join(told)


def _undecided(report: DriftReport) -> str:
    columns, total = _names(report, "feature", "undecided"), len(_names(report, "feature"))
    told = [f"in {len(columns):,} of {num(total, 'column')} ({_listed(columns)})"] if columns else []
    if _names(report, "prediction", "undecided"):
        told.append("in what the model predicts")
    losses = _names(report, "performance", "undecided")
    if losses:
        told.append(f"in how much it errs ({_listed(losses)})")
    return f"no drift was found, but it cannot be ruled out {_and(told)}"


def _stable(report: DriftReport) -> str:
    told = [f"in {num(len(names), 'column')}"] if (names := _names(report, "feature")) else []
    if _names(report, "prediction"):
        told.append("in what the model predicts")
    if _names(report, "performance"):
        told.append("in how much it errs")
    return f"no drift: no difference that matters {_and(told)}"


def _names(report: DriftReport, part: Part, verdict: str | None = None) -> list[str]:
    """Columns of a part with a result of that verdict, the worst first, each once."""
    found = (each for each in ranked(report) if each.part == part and verdict in (None, each.verdict))
    return list(dict.fromkeys(each.feature for each in found))


def _listed(names: Sequence[str]) -> str:
    few = [shown(name, _LONGEST_NAME) for name in names[:_MOST_NAMES]]
    more = len(names) - len(few)
    return _and([*few, f"{more:,} more"] if more else few)


def _and(words: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(words[:-1]), words[-1])))


def _percent(share: float) -> str:
    return f"{with_digits(100 * share, 2)} %"


def ranked(results: Sequence[DriftResult]) -> list[DriftResult]:
    """The worst first."""
    return sorted(results, key=lambda result: result.severity)


def summed_up(results: Sequence[DriftResult], alpha: float) -> str:
    """Many results without a difference that matters in one line, with the largest of those that are sure but small."""
    columns = len({result.feature for result in results})
    told = [f"{num(len(results), 'test')} of {num(columns, 'column')}: no difference that matters"]
    small = [result for result in results if result.adjusted_p is not None and result.adjusted_p < alpha]
    if small:
        largest = ranked(small)[0]
        where = f"{TESTS[largest.test]} of {shown(largest.feature, _LONGEST_NAME)}"
        told.append(f"{len(small):,} {'is' if len(small) == 1 else 'are'} significant, but too small to matter")
        told.append(f"the largest is {amount(largest.effect, largest.unit)} where {limit(largest)} matters ({where})")
    return "; ".join(told)


def print_drift(report: DriftReport, console: Console) -> None:
    """What was compared, each result that matters with its reason, the others summed up, notes, and the sentence.

    Lines are wrapped for a terminal; a log keeps them whole.
    """
    _say(console, Text(compared(report)))
    sections = [(part, [result for result in ranked(report) if result.part == part]) for part in PARTS]
    listed = {part: _to_list(results, is_all=len(report) <= _FEW) for part, results in sections}
    layout = _layout([row for rows in listed.values() for row in rows], console)
    for part, results in sections:
        if results:
            console.print()
            _print_table(part, listed[part], layout, console)
            _print_others(results, listed[part], report.alpha, console)
    console.print()
    for note in report.notes:
        _say(console, Text(f"note: {shown(note)}", style="dim"))
    _say(console, Text.assemble((report.verdict, STYLES[report.verdict]), "  ", sentence(report)))


def _to_list(results: Sequence[DriftResult], *, is_all: bool) -> list[DriftResult]:
    if is_all:
        return list(results)
    undecided = [result for result in results if result.verdict == "undecided"][:_MOST_UNDECIDED]
    return [result for result in results if result.verdict == "drifted"] + undecided


def _print_others(
    results: Sequence[DriftResult], listed: Sequence[DriftResult], alpha: float, console: Console
) -> None:
    known = set(listed)
    rest = [result for result in results if result not in known]
    undecided = Counter(TESTS[result.test] for result in rest if result.verdict == "undecided")
    if undecided:
        kinds = ", ".join(f"{word}: {count:,}" for word, count in undecided.most_common())
        _say(console, Text(f"and {undecided.total():,} more that are undecided ({kinds})", style="yellow"))
    stable = [result for result in rest if result.verdict == "stable"]
    if stable:
        prefix = "" if results[0].part == "feature" else f"{results[0].part}: "
        _say(console, Text(f"{prefix}{summed_up(stable, alpha)}", style="dim"))


def _cells(result: DriftResult) -> tuple[str, ...]:
    effect, p = amount(result.effect, result.unit), probability(result.adjusted_p)
    return shown(result.feature, _LONGEST_NAME), TESTS[result.test], effect, limit(result), p, result.verdict


class _Layout(NamedTuple):
    """Widths of the columns, and whether reasons stand behind the rows or below those that share one."""

    widths: Sequence[int]
    is_behind: bool


def _layout(results: Sequence[DriftResult], console: Console) -> _Layout:
    """On a terminal names give way, and reasons stand below where they do not fit; a log has all in one line."""
    rows = [("performance", *_HEAD), *map(_cells, results)]
    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    if not console.is_terminal:
        return _Layout(widths, is_behind=True)
    room = console.width - sum(widths[1:]) - 2 * (len(widths) - 1)
    widths[0] = max(min(widths[0], room), _SHORTEST_NAME)
    longest = max((cell_len(reason(result)) for result in results), default=0)
    return _Layout(widths, is_behind=sum(widths) + 2 * len(widths) + longest <= console.width)


def _print_table(part: Part, results: Sequence[DriftResult], layout: _Layout, console: Console) -> None:
    if not results:
        return
    widths, is_behind = layout
    has_reason = is_behind and any(map(reason, results))
    _say(console, Text(_in_columns((part, *_HEAD, *["why"] * has_reason), widths), style="dim"))
    for why, alike in groupby(results, key=reason):
        for result in alike:
            name, *cells, verdict = _cells(result)
            row = _in_columns((shown(name, widths[0]), *cells), widths)
            behind = f"{' ' * (widths[-1] - len(verdict))}  {why}" if is_behind else ""
            _say(console, Text.assemble(row, "  ", (verdict, STYLES[verdict]), (behind, "dim")))
        if why and not is_behind:
            _say(console, Text(why, style="dim"), indent=4)


def _in_columns(cells: Sequence[str], widths: Sequence[int]) -> str:
    """The last cell is not filled up."""
    aligned = []
    for place, cell in enumerate(cells):
        room = " " * (widths[place] - cell_len(cell) if place < len(widths) else 0)
        aligned.append(room + cell if place in _TO_THE_RIGHT else cell + room)
    return "  ".join(aligned)


def _say(console: Console, line: Text, *, indent: int = 0) -> None:
    lines = line.wrap(console, max(console.width - indent, 20)) if console.is_terminal else [line]
    for each in lines:
        each.rstrip()
        console.print(Text.assemble(" " * indent, each), highlight=False, soft_wrap=True)
