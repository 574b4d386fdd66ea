"""A check for drift as one HTML file: no network, no script, light and dark, on a screen and on paper.

Everything from the data is escaped. Not here: the words (`wording.py`) and the pictures (`pictures.py`).
"""

import base64
from collections.abc import Iterator, Sequence
from html import escape
from typing import Final

from mlops_hydra.evaluation.wording import num, with_digits
from mlops_hydra.monitoring.pictures import draw
from mlops_hydra.monitoring.result import DriftReport, DriftResult
from mlops_hydra.monitoring.wording import (
    PARTS,
    STYLES,
    TESTS,
    amount,
    limit,
    probability,
    ranked,
    reason,
    sentence,
    shown,
)

_MOST_PICTURES: Final = 50
_LONGEST_NAME: Final = 80
_CSP: Final = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_STYLE: Final = """
:root { color-scheme: light dark; --page: #fff; --text: #1c1e21; --dim: #60666d; --line: #dcdfe3; --soft: #f5f6f8;
  --drifted: #b3261e; --undecided: #8a5a00; --stable: #1b6e3c; }
@media (prefers-color-scheme: dark) { :root { --page: #16181b; --text: #e6e8eb; --dim: #9aa1a9; --line: #363a40;
  --soft: #202327; --drifted: #ff8a80; --undecided: #ffc163; --stable: #7bd69a; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 72rem; padding: 1.5rem 1.25rem 3rem; background: var(--page); color: var(--text);
  font: 15px/1.5 system-ui, "Segoe UI", Roboto, "Liberation Sans", sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.3rem; line-height: 1.35; margin: .4rem 0 1rem; font-weight: 600; }
h2 { font-size: 1.05rem; margin: 2rem 0 .6rem; }
.verdict { font-weight: 600; white-space: nowrap; }
.badge { display: inline-block; padding: .1rem .6rem; border: 1.5px solid; border-radius: 1rem; }
.drifted { color: var(--drifted); } .undecided { color: var(--undecided); } .stable { color: var(--stable); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1.2rem; margin: 0; }
dt, .dim, th, figcaption { color: var(--dim); } dd { margin: 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; }
th { text-align: left; font-weight: 500; white-space: nowrap; }
th, td { padding: .32rem .9rem .32rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th.number, td.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
td.name { font-weight: 600; min-width: 11rem; max-width: 20rem; } td.why { min-width: 16rem; }
td.test { white-space: nowrap; }
a { color: inherit; text-decoration-color: var(--dim); }
tbody tr.part td { padding-top: 1rem; color: var(--dim); font-weight: 500; }
.pictures { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(30rem, 100%), 1fr)); gap: 1rem;
  align-items: start; }
figure { margin: 0; padding: .6rem; border: 1px solid var(--line); border-radius: .5rem; break-inside: avoid; }
figure img { display: block; width: 100%; max-width: 540px; height: auto; background: #fff; border-radius: .25rem; }
figcaption { font-size: .85rem; margin-top: .4rem; }
details { margin-top: 2rem; } summary { cursor: pointer; font-weight: 600; font-size: 1.05rem; }
ul { padding-left: 1.2rem; margin: .4rem 0; }
.reading dt { color: var(--text); font-weight: 500; } .reading dd { color: var(--dim); }
@media print { :root { --page: #fff; --text: #000; --dim: #444; --line: #bbb; } body { max-width: none; padding: 0;
  font-size: 10pt; } thead { display: table-header-group; } tr { break-inside: avoid; }
  .scroll { overflow: visible; } td.why, td.name { min-width: 0; } }
"""
_READING: Final = {
    "effect": "How large the difference is. For numbers and dates in spreads: how far values moved on average "
    "(Wasserstein's distance), over the spread of the reference, which is about its standard deviation. For "
    "categories the percentage of rows that would have to change their category; for missing, unreadable, new and "
    "out-of-range values the change of their percentage of the rows; for errors how much they grew.",
    "limit": "The effect from which on a difference matters, as configured. A column drifts only if its difference is "
    "both beyond chance and at least this large.",
    "p": "How often chance alone makes a difference at least this large, if nothing changed.",
    "adjusted p": "The same, made larger for the number of tests (Benjamini and Hochberg). Below the false discovery "
    "rate a difference counts as beyond chance; of all that are found, at most this share is expected to be false.",
    "could see": "The smallest effect that a sample of this size would show in 4 of 5 cases. Where it is too large, "
    "the test is undecided: no difference was found, but one that matters may be there.",
    "statistic, PSI": "Kolmogorov's distance of numbers, chi-square of categories, or the current share; PSI is the "
    "population stability index, for comparison with other tools: no verdict is made from it.",
}
_Cell = tuple[str, str]  # its class, and its escaped text


def page(report: DriftReport) -> str:
    """The whole file; its pictures are drawn here (60 ms each)."""
    pictured = _pictured(report)
    num_left_out, pictured = len(pictured[_MOST_PICTURES:]), pictured[:_MOST_PICTURES]
    body = "\n".join(
        (
            f'<p class="verdict"><span class="badge {report.verdict}">{report.verdict}</span></p>',
            f"<h1>{_text(sentence(report))}</h1>",
            _compared(report),
            _notes(report.notes),
            _that_matter(report, pictured),
            _pictures(report, pictured, num_left_out),
            _all(report),
            _how_to_read(),
        )
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(_CSP, quote=True)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Drift: {report.verdict}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def _text(value: str) -> str:
    return escape(shown(value), quote=True)


def _compared(report: DriftReport) -> str:
    rows = {
        "current": f"{report.current or 'current data'} ({num(report.num_current_rows, 'row')})",
        "reference": f"{report.reference or 'reference'} ({num(report.num_reference_rows, 'row')})",
    }
    model = ", ".join(f"{key} {value}" for key, value in report.model.items() if value)
    rows |= {"model": model} if model else {}
    counts = [f"{sum(result.verdict == verdict for result in report):,} {verdict}" for verdict in STYLES]
    total = num(max(report.num_tests, len(report)), "test")
    rows["tests"] = (
        f"{total}: {', '.join(counts[:2])}, the others stable; false discovery rate {100 * report.alpha:g} %"
    )
    if report.false_alarms is not None:
        share = with_digits(100 * report.false_alarms, 2)
        rows["false alarms"] = f"{share} % of such checks would raise one if nothing drifted (estimated)"
    return f"<dl>{''.join(f'<dt>{name}</dt><dd>{_text(value)}</dd>' for name, value in rows.items())}</dl>"


def _notes(notes: Sequence[str]) -> str:
    if not notes:
        return ""
    return f"<h2>Notes</h2>\n<ul>{''.join(f'<li>{_text(note)}</li>' for note in notes)}</ul>"


def _that_matter(report: DriftReport, pictured: Sequence[tuple[str, str]]) -> str:
    results = [result for result in ranked(report) if result.verdict != "stable"]
    if not results:
        return ""
    heads = ("test", "effect", "limit", "could see", "adjusted p", "verdict", "why")
    rows = []
    for result in results:
        key = (result.part, result.feature)
        name = _name(result)
        link = f'<a href="#picture-{pictured.index(key)}">{name}</a>' if key in pictured else name
        rows.append((result, (("name", link), *_measured(result), _verdict(result), ("why", _why(result)))))
    return f"<h2>What drifted, and what could not be judged</h2>\n{_table(heads, rows)}"


def _name(result: DriftResult) -> str:
    short = _text(shown(result.feature, _LONGEST_NAME))
    return short if len(result.feature) <= _LONGEST_NAME else f'<span title="{_text(result.feature)}">{short}</span>'


def _why(result: DriftResult) -> str:
    return escape(reason(result, with_smallest=False), quote=True)


def _measured(result: DriftResult) -> Iterator[_Cell]:
    yield "test", TESTS[result.test]
    yield "number", escape(amount(result.effect, result.unit))
    yield "number", escape(limit(result))
    yield "number", escape(amount(result.detectable, result.unit))
    yield "number", escape(probability(result.adjusted_p))


def _verdict(result: DriftResult) -> _Cell:
    return f"verdict {result.verdict}", result.verdict


def _table(heads: Sequence[str], rows: Sequence[tuple[DriftResult, Sequence[_Cell]]]) -> str:
    """Features, predictions and performance apart."""
    lines = []
    for part in PARTS:
        own = [cells for result, cells in rows if result.part == part]
        if own and part != "feature":
            lines.append(f'<tr class="part"><td colspan="{len(heads) + 1}">{part}</td></tr>')
        lines += [_row(cells, "td") for cells in own]
    styles = (style if style == "number" else "head" for style, _ in rows[0][1])
    titles = list(zip(styles, ("column", *heads), strict=True))
    head, body = _row(titles, "th"), "\n".join(lines)
    return f'<div class="scroll"><table>\n<thead>{head}</thead>\n<tbody>\n{body}\n</tbody>\n</table></div>'


def _row(cells: Sequence[_Cell], tag: str) -> str:
    return f"<tr>{''.join(f'<{tag} class={style!r}>{text}</{tag}>' for style, text in cells)}</tr>"


def _pictured(report: DriftReport) -> list[tuple[str, str]]:
    """Columns that drifted and have a picture, the worst first."""
    drifted = dict.fromkeys((result.part, result.feature) for result in ranked(report) if result.is_drifted)
    return [key for key in drifted if key in report.pictures]


def _pictures(report: DriftReport, pictured: Sequence[tuple[str, str]], num_left_out: int) -> str:
    if not pictured:
        return ""
    figures = "\n".join(_figure(report, key, place) for place, key in enumerate(pictured))
    more = f"The {len(pictured)} that drifted most; {num_left_out:,} more that drifted are not pictured."
    left_out = f'<p class="dim">{more}</p>' if num_left_out else ""
    return f'<h2>Reference against current</h2>\n<div class="pictures">\n{figures}\n</div>\n{left_out}'


def _figure(report: DriftReport, key: tuple[str, str], place: int) -> str:
    png = base64.b64encode(draw(key[1], report.pictures[key])).decode("ascii")
    own = (result for result in ranked(report) if (result.part, result.feature) == key and result.is_drifted)
    said = "; ".join(f"{TESTS[result.test]}: {reason(result) or amount(result.effect, result.unit)}" for result in own)
    name = _text(key[1])
    return (
        f'<figure id="picture-{place}"><img alt="{name}: reference against current" src="data:image/png;base64,{png}">'
        f"<figcaption>{escape(said, quote=True)}</figcaption></figure>"
    )


def _all(report: DriftReport) -> str:
    if not report.results:
        return ""
    heads = ("test", "effect", "limit", "could see", "adjusted p", "p", "statistic", "PSI", "rows", "before", "verdict")
    rows = [
        (
            result,
            (
                ("name", _name(result)),
                *_measured(result),
                ("number", escape(probability(result.p_value))),
                ("number", escape(amount(result.statistic, "", 4))),
                ("number", escape(amount(result.psi, ""))),
                ("number", f"{result.num_current:,}"),
                ("number", f"{result.num_reference:,}"),
                _verdict(result),
            ),
        )
        for result in ranked(report)
    ]
    num_silent = report.num_tests - len(rows)
    silent = (
        f"{num(num_silent, 'more test')} of shares (missing, unreadable, out of range, new) had none before and now."
    )
    more = f'<p class="dim">{silent}</p>' if num_silent > 0 else ""
    return f"<details><summary>All {num(len(rows), 'result')}</summary>\n{_table(heads, rows)}\n{more}</details>"


def _how_to_read() -> str:
    terms = "".join(f"<dt>{term}</dt><dd>{text}</dd>" for term, text in _READING.items())
    return f'<h2>How to read this</h2>\n<dl class="reading">{terms}</dl>'
