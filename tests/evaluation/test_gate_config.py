"""What a gate may ask for, and what is refused before anything is trained."""

import pytest
from pydantic import ValidationError

from mlops_hydra.config.compose import compose
from mlops_hydra.config.gate import GateConfig
from mlops_hydra.errors import ConfigError

CHAMPION = "better_than: champion"


@pytest.mark.parametrize(
    "gate",
    [
        "metric: accuracy, threshold: 0.9",
        "metric: accuracy, threshold: 0.9, slice: country, min_rows: 50, if_undecided: pass",
        "metric: accuracy, threshold: 0.9, on: val, slice: country",
        f"metric: log_loss, {CHAMPION}",
        f"metric: log_loss, {CHAMPION}, by: 0.01, on: val, slice: country, min_rows: 5",
        f"metric: objective, {CHAMPION}, by: 2.5%, if_no_champion: fail, if_undecided: fail",
        "metric: f1, no_worse_than: champion, tolerance: 0",
        "metric: f1, no_worse_than: champion, tolerance: 1%",
        "metric: roc_auc, better_than: baseline, by: 5%",
        "metric: latency_p95_ms, threshold: 50",
        "metric: loss, threshold: 0.5, on: val",
    ],
)
def test_what_makes_sense_is_taken(gate):
    assert "mine" in compose([f"+gates.mine={{{gate}}}"]).gates


@pytest.mark.parametrize(
    ("gate", "path", "told"),
    [
        ("metric: f1", "gates.mine", "one of threshold, better_than and no_worse_than"),
        (f"metric: f1, threshold: 0.5, {CHAMPION}", "gates.mine", "one of threshold"),
        (f"metric: f1, no_worse_than: champion, tolerance: 0.1, {CHAMPION}", "gates.mine", "one of threshold"),
        ("metric: f1, no_worse_than: champion", "gates.mine", "tolerance"),
        (f"metric: f1, {CHAMPION}, tolerance: 0.1", "gates.mine", "given together"),
        ("metric: f1, threshold: 0.5, by: 0.1", "gates.mine", "`by` is a margin"),
        ("metric: f1, no_worse_than: baseline, tolerance: 0.1", "gates.mine.no_worse_than", "champion"),
        ("metric: f1, no_worse_than: champion, tolerance: -0.1", "gates.mine", "at least 0"),
        ("metric: f1, no_worse_than: champion, tolerance: ten", "gates.mine", "percentage"),
        (f"metric: f1, {CHAMPION}, by: '²%'", "gates.mine", "percentage"),
        ("metric: f1, better_than: baseline, slice: country", "gates.mine", "as a whole"),
        ("metric: f1, threshold: 0.5, if_no_champion: fail", "gates.mine", "compare with the champion"),
        ("metric: f1, threshold: 0.5, if_undecided: pass", "gates.mine", "if_undecided is for slices"),
        ("metric: f1, better_than: baseline, if_undecided: pass", "gates.mine", "if_undecided is for slices"),
        ("metric: f1, threshold: 0.5, min_rows: 50", "gates.mine", "min_rows is for slices"),
        (f"metric: f1, {CHAMPION}, min_rows: 0", "gates.mine.min_rows", "greater than or equal to 1"),
        (f"metric: latency_p95_ms, {CHAMPION}", "gates.mine", "of the model, not of rows"),
        ("metric: latency_p95_ms, no_worse_than: champion, tolerance: 5%", "gates.mine", "of the model"),
        ("metric: model_size_mb, better_than: baseline", "gates.mine", "of the model"),
        ("metric: latency_p95_ms, threshold: 50, slice: country", "gates.mine", "of the model"),
        ("metric: latency_p95_ms, threshold: 50, on: val", "gates.mine", "of the model"),
        (f"metric: loss, on: val, {CHAMPION}", "gates.mine", "loss is measured on val as a whole"),
        ("metric: loss, on: val, threshold: 1, slice: country", "gates.mine", "loss is measured on val as a whole"),
        (f"metric: acuracy, {CHAMPION}", "gates.mine.metric", "no such metric"),
    ],
)
def test_what_makes_no_sense_is_a_fault_with_its_path(gate, path, told):
    with pytest.raises(ConfigError) as caught:
        compose([f"+gates.mine={{{gate}}}"])
    faults = {fault.path: str(fault) for fault in caught.value.faults}
    assert told in faults[path]


@pytest.mark.parametrize("gate", [CHAMPION, "threshold: 1, slice: country"])
def test_the_loss_as_objective_is_neither_sliced_nor_compared(gate):
    with pytest.raises(ConfigError, match="the loss is measured on val as a whole"):
        compose(["gates=none", "objective.metric=loss", f"+gates.mine={{metric: objective, on: val, {gate}}}"])


def test_a_metric_of_the_user_s_own_needs_a_direction_against_the_champion_too():
    with pytest.raises(ConfigError, match=r"gates\.mine\.direction"):
        compose(["+metrics.mcc._target_=sklearn.metrics.matthews_corrcoef", f"+gates.mine={{metric: mcc, {CHAMPION}}}"])


def test_the_champion_option_adds_one_gate_to_the_default_ones():
    gates, default = compose(["gates=champion"]).gates, compose().gates
    assert set(gates) - set(default) == {"no_worse"}
    assert gates["no_worse"].needs_champion
    assert not any(gate.needs_champion for gate in default.values())
    assert compose(["gates=champion", "gates.no_worse.if_undecided=fail"]).gates["no_worse"].if_undecided == "fail"


def test_a_gate_made_by_hand_is_held_to_the_same_rules():
    with pytest.raises(ValidationError, match="min_rows"):
        GateConfig(metric="f1", threshold=0.5, min_rows=3)
