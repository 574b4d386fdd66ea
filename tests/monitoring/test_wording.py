"""What a check for drift says on a terminal and in a log: all that matters, whatever a column is called."""

import io
from dataclasses import replace

import pytest
from rich.cells import cell_len
from rich.console import Console

from mlops_hydra.monitoring.wording import amount, print_drift, probability, reason, sentence, shown
from tests.monitoring.reports import HOSTILE, gone, of_credit, of_faults, report, result, unknown, worse


def printed(made, width=80, *, on_terminal=True):
    """What a terminal shows without colours, or a log has."""
    file = io.StringIO()
    print_drift(made, Console(file=file, width=width, force_terminal=on_terminal, color_system=None))
    return file.getvalue()


EVERY = {
    "credit": of_credit(),
    "faults": of_faults(),
    "empty": report([]),
    "stable": report([result(f"column_{number}") for number in range(57)]),
    "undecided": report([unknown(f"column_{number}") for number in range(60)]),
    "no rows": report([unknown("column", p_value=None, effect=None, adjusted_p=None)], num_current_rows=0),
}


@pytest.mark.parametrize("width", [40, 80, 120, 200])
@pytest.mark.parametrize("name", EVERY)
def test_lines_fit_into_a_terminal_and_end_without_spaces(name, width):
    lines = printed(EVERY[name], width).splitlines()
    if width >= 80:
        assert max(map(cell_len, lines)) <= width
    assert all(line == line.rstrip() for line in lines)


@pytest.mark.parametrize("on_terminal", [True, False])
def test_every_column_that_drifted_is_named_with_its_reason(on_terminal):
    made = of_credit()
    text = " ".join(printed(made, 120, on_terminal=on_terminal).split())
    for each in made:
        if each.is_drifted:
            assert shown(each.feature, 36) in text
            assert each.reason in text


def test_hostile_names_are_shown_as_they_are_without_control_characters():
    text = printed(of_faults(), 120)
    assert "[red]income[/red] " in text
    assert "line\\nbreak\\x1b[31m" in text
    assert "\x1b" not in text
    assert all(character.isprintable() or character == "\n" for character in text)


def test_stable_results_are_one_line_unless_they_are_few():
    many = printed(EVERY["stable"], 200)
    assert "57 tests of 57 columns: no difference that matters" in many
    assert "column_1 " not in many
    few = printed(report([result(f"column_{number}") for number in range(3)]))
    assert all(f"column_{number} " in few for number in range(3))


def test_what_is_significant_but_small_is_said_once():
    made = report([result(f"column_{number}") for number in range(20)] + [result("weak", adjusted_p=0.01, effect=0.09)])
    text = printed(made, 200)
    assert "1 is significant, but too small to matter" in text
    assert "the largest is 0.09 spreads where 0.1 matters (values of weak)" in text


def test_many_undecided_are_summed_up_and_share_their_reason():
    text = printed(EVERY["undecided"])
    assert text.count("undecided") == 12  # ten rows, those that are left out, the verdict
    assert "and 50 more that are undecided (values: 50)" in text
    assert text.count("0.31 spreads") == 1


def test_an_undecided_result_says_what_would_have_been_seen():
    assert "below 0.31 spreads would hardly be seen" in reason(unknown("age"))
    assert reason(unknown("age", detectable=float("inf"), reason="")) == "too few rows to see any difference"
    assert reason(unknown("age", detectable=None, reason="no values")) == "no values"


def test_features_predictions_and_performance_stand_apart():
    heads = [line.split()[0] for line in printed(of_credit()).splitlines() if " adj. p " in line]
    assert heads == ["feature", "prediction", "performance"]


def test_the_first_line_says_what_was_compared_and_the_last_one_the_verdict():
    lines = printed(of_credit(), 500).splitlines()
    assert lines[0] == "new.parquet (10,000 rows) against what credit@champion was trained on (100,000 rows)"
    assert lines[-1] == f"drifted  {sentence(of_credit())}"


def test_a_log_has_a_line_a_result():
    lines = printed(of_credit(), on_terminal=False).splitlines()
    row = next(line for line in lines if line.startswith("income"))
    assert row.endswith("drifted    the values moved by 0.42 spreads, and 0.1 matters")


SENTENCES = {
    "nothing to compare: no column was tested": report([]),
    "nothing to compare: the current data has no rows": EVERY["no rows"],
    "no drift: no difference that matters in 57 columns (false discovery rate 5 %)": EVERY["stable"],
    "no drift: no difference that matters in 1 column, in what the model predicts and in how much it errs (false "
    "discovery rate 5 %)": report([result("a"), result("prediction", part="prediction"), worse(0.01, "stable")]),
    "2 of 3 columns drifted: b and a; 1 column could not be judged fully (false discovery rate 5 %; where nothing "
    "drifts, 3.2 % of such checks raise an alarm)": report(
        [result("a", "drifted"), gone("b"), unknown("c")], false_alarms=0.032
    ),
    "what the model predicts drifted; no column is seen to have drifted (false discovery rate 1 %)": report(
        [result("a"), result("prediction", "drifted", part="prediction")], alpha=0.01
    ),
    "the model errs more than it did: log_loss (false discovery rate 5 %)": report([worse()]),
    "no drift was found, but it cannot be ruled out in 1 of 2 columns (b) (false discovery rate 5 %)": report(
        [result("a"), unknown("b")]
    ),
}  # fmt: skip


@pytest.mark.parametrize("said", SENTENCES)
def test_the_verdict_in_a_sentence(said):
    assert sentence(SENTENCES[said]) == said


def test_a_sentence_names_the_worst_five_of_many():
    made = report([result(f"c{number}", "drifted", effect=1 - number / 100) for number in range(30)])
    assert sentence(made).startswith("30 of 30 columns drifted: c0, c1, c2, c3, c4 and 25 more (")


def test_a_column_is_counted_once_however_many_tests_it_has():
    missing = result("a", "drifted", test="missing", unit="of the rows")
    assert sentence(report([result("a", "drifted"), missing, result("b")])).startswith("1 of 2 columns drifted: a (")


def test_names_are_shortened_in_the_middle_by_what_they_take_of_a_line():
    assert shown("a" * 50 + "b" * 50, 20) == "a" * 13 + "…" + "b" * 6
    assert cell_len(shown("漢" * 50, 20)) <= 20
    assert shown("", 20) == "''"
    assert all(character.isprintable() for name in HOSTILE for character in shown(name + "\u202e\ud800", 9))


@pytest.mark.parametrize(
    ("value", "unit", "said"),
    [
        (0.4212, "spreads", "0.42 spreads"),
        (0.031, "of the rows", "3.1 %"),
        (0.12, "growth", "+12 %"),
        (-0.12, "growth", "-12 %"),
        (float("inf"), "spreads", "∞ spreads"),
        (1e300, "", "1e+300"),
        (12_345.6, "spreads", "12346 spreads"),
        (0.0, "of the rows", "0 %"),
        (None, "spreads", ""),
        (float("nan"), "spreads", ""),
    ],
)
def test_effects_have_their_unit(value, unit, said):
    assert amount(value, unit) == said


def test_small_probabilities_are_no_false_zeros():
    assert [probability(p) for p in (0.0, 1e-300, 0.00012, 0.0532, 1.0, None)] == [
        *("< 0.0001", "< 0.0001", "0.00012", "0.053", "1", "")
    ]


def test_results_in_any_order_are_shown_worst_first():
    made = of_credit()
    shuffled = replace(made, results=made.results[::-1])
    first = [line.split()[0] for line in printed(shuffled, on_terminal=False).splitlines()[3:6]]
    assert first == ["branch", "years_employed", "income"]
