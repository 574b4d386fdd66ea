"""Who sees which arm: always the same, by weight, independent between experiments, and moved no more than needed."""

import hashlib
import itertools
import json
import math
import os
import pickle
import subprocess
import sys
from collections import Counter
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from mlops_hydra import Router, get_model_variant
from mlops_hydra.errors import UsageError

USERS = [f"user-{number}" for number in range(20_000)]
PINNED_USERS = ["user-1", "user-2", 42, "Zoë", "用户", "x" * 10_000, "0", " ", "🙂", -7]
PINNED = {  # one letter a pinned user: the first of the arm's name. A change here moves every user of every experiment
    ("checkout", "control=50 treatment=50"): "ctctccctcc",
    ("search", "control=50 treatment=50"): "ctccccttcc",
    ("search", "control=90 treatment=10"): "ccccccttcc",
    ("checkout", "control=40 a=30 b=20 d=10"): "ccadacccca",
    ("search", "control=40 a=30 b=20 d=10"): "abacaabbac",
}
ARMS = ("control", "a", "b", "d", "e")


def _weights(text):
    return {arm: int(weight) for arm, weight in (pair.split("=") for pair in text.split())}


def _variants(router, users=USERS):
    return [router.variant(user) for user in users]


def _moves(before, after):
    """How many users went from which arm into which."""
    return Counter((old, new) for old, new in zip(_variants(before), _variants(after), strict=True) if old != new)


def _shares(weights):
    return {arm: weights.get(arm, 0) / sum(weights.values()) for arm in ARMS}


def _assert_least_movement(before, after, *, old, new):
    """Every move is out of what shrinks into what grows, and together they are the distance of the two weightings."""
    was, will = _shares(old), _shares(new)
    moves = _moves(before, after)
    for source, goal in moves:
        assert will[source] < was[source]
        assert will[goal] > was[goal]
    distance = sum(abs(will[arm] - was[arm]) for arm in ARMS) / 2
    spread = math.sqrt(len(USERS) * distance * (1 - min(distance, 1)))
    assert abs(moves.total() - len(USERS) * distance) <= 5 * spread + 5


positive = st.integers(0, 1000) | st.floats(0, 1, allow_subnormal=False)
weightings = st.dictionaries(st.sampled_from(ARMS), positive, min_size=1).filter(lambda weights: any(weights.values()))
pairs = st.dictionaries(st.sampled_from(ARMS[:2]), positive, min_size=2).filter(lambda weights: any(weights.values()))
trades = st.tuples(st.integers(0, 50), st.integers(0, 50))  # percent of two treatments; control has the rest


# The same user, the same arm


@pytest.mark.parametrize(("experiment", "weights"), PINNED)
def test_known_users_see_known_arms(experiment, weights):
    seen = "".join(get_model_variant(user, experiment, _weights(weights))[0] for user in PINNED_USERS)
    assert seen == PINNED[experiment, weights]


def test_a_user_is_the_point_that_the_documentation_says():
    name = b"checkout"
    point = hashlib.blake2b(len(name).to_bytes(8, "big") + name + b"user-1", digest_size=8, person=b"mlops-hydra ab 1")
    assert point.hexdigest() == "71405cffcff9679b"
    share = int(point.hexdigest(), 16) / 2**64
    assert Router("checkout", {"control": 1 - share + 1e-9, "treatment": share - 1e-9}).variant("user-1") == "control"
    assert Router("checkout", {"control": share - 1e-9, "treatment": 1 - share + 1e-9}).variant("user-1") == "treatment"


def test_other_processes_and_other_hash_seeds_say_the_same():
    script = (
        "import json; from mlops_hydra import get_model_variant\n"
        "weights = {'control': 40, 'a': 30, 'b': 20, 'd': 10}\n"
        "print(json.dumps([get_model_variant(f'user-{i}', 'checkout', weights) for i in range(500)]))"
    )
    said = [
        json.loads(subprocess.check_output([sys.executable, "-c", script], env=os.environ | {"PYTHONHASHSEED": seed}))
        for seed in ("0", "1", "4294967295")
    ]
    assert said == [_variants(Router("checkout", _weights("control=40 a=30 b=20 d=10")), USERS[:500])] * 3


def test_a_whole_number_is_the_user_that_its_digits_name():
    assert all(get_model_variant(n, "checkout") == get_model_variant(str(n), "checkout") for n in range(-500, 500))


def test_units_of_the_weights_do_not_matter():
    routers = [Router("units", {"control": 90 * unit, "treatment": 10 * unit}) for unit in (1, 0.01, 1e-300, 1e300)]
    assert all(_variants(router) == _variants(routers[0]) for router in routers)


@pytest.mark.parametrize("names", [("control", "treatment"), ("control", "a"), ("v2", "v1"), ("B", "A")])
def test_the_order_of_two_arms_does_not_matter(names):
    one, other = names
    ordered, turned = ({one: 30, other: 70}, {other: 70, one: 30})
    assert _variants(Router("order", ordered)) == _variants(Router("order", turned))


# As many as the weights say


@pytest.mark.parametrize(
    ("treatment", "num_users"), [(50, 100_000), (10, 100_000), (0.01, 1_000_000)], ids=["50", "10", "0.01"]
)
def test_each_arm_gets_its_share(treatment, num_users):
    variant = Router("shares", {"control": 100 - treatment, "treatment": treatment}).variant
    seen = sum(variant(str(number)) == "treatment" for number in range(num_users))
    assert stats.binomtest(seen, num_users, treatment / 100).pvalue > 1e-4


def test_an_arm_of_weight_zero_gets_nobody():
    assert set(_variants(Router("zero", {"control": 0, "a": 1, "b": 0, "d": 2}))) == {"a", "d"}


@pytest.mark.parametrize("text", ["control=50 treatment=50", "control=60 a=30 b=10"])
def test_experiments_do_not_know_of_each_other(text):
    names = ["checkout", "checkout-2", "search", "a", "b"]
    seen = {name: _variants(Router(name, _weights(text))) for name in names}
    for one, other in itertools.combinations(names, 2):
        table = stats.contingency.crosstab(seen[one], seen[other]).count
        assert stats.chi2_contingency(np.asarray(table)).pvalue > 1e-4, (one, other)


def test_an_experiment_ends_where_its_name_ends():
    users = range(200)
    split = (
        [get_model_variant(f"b{user}", "a") for user in users],
        [get_model_variant(str(user), "ab") for user in users],
    )
    assert split[0] != split[1]


# Changes


def test_raising_a_treatment_moves_only_control_users_into_it():
    moves = _moves(*(Router("raise", {"control": 100 - share, "treatment": share}) for share in (10, 20)))
    assert set(moves) == {("control", "treatment")}


@pytest.mark.parametrize("name", ["a", "challenger", "zebra"])
def test_a_third_arm_at_the_expense_of_control_moves_only_control_users(name):
    moves = _moves(
        Router("third", {"control": 50, "treatment": 50}), Router("third", {"control": 40, "treatment": 50, name: 10})
    )
    assert set(moves) == {("control", name)}


def test_small_arms_can_be_raised_without_touching_each_other():
    before = {"control": 60, "a": 10, "b": 10, "d": 10, "e": 10}
    for arm in "abde":
        moves = _moves(Router("many", before), Router("many", before | {"control": 50, arm: 20}))
        assert set(moves) == {("control", arm)}


@settings(max_examples=20, deadline=None)
@given(old=weightings, newcomer=st.integers(1, 1000))
def test_a_last_arm_moves_nobody_but_control_users_however_many_there_are(old, newcomer):
    old = {"control": newcomer} | {arm: weight for arm, weight in old.items() if arm != "control"}
    new = old | {"control": 0, "newcomer": newcomer}
    assert set(_moves(Router("last", old), Router("last", new))) <= {("control", "newcomer")}


@settings(max_examples=20, deadline=None)
@given(old=pairs, new=pairs)
def test_two_arms_never_move_more_users_than_they_must(old, new):
    _assert_least_movement(Router("two", old), Router("two", new), old=old, new=new)


@settings(max_examples=20, deadline=None)
@given(one=trades, other=trades)
def test_two_treatments_that_trade_with_control_never_move_more_users_than_they_must(one, other):
    """Both up or both down: what one gives to the other without control is what weights alone cannot settle."""
    (few_a, few_b), (many_a, many_b) = map(min, one, other), map(max, one, other)
    old = {"control": 100 - few_a - few_b, "a": few_a, "b": few_b}
    new = {"control": 100 - many_a - many_b, "a": many_a, "b": many_b}
    _assert_least_movement(Router("trade", old), Router("trade", new), old=old, new=new)
    _assert_least_movement(Router("trade", new), Router("trade", old), old=new, new=old)


@settings(max_examples=30, deadline=None)
@given(history=st.lists(weightings, min_size=2, max_size=5))
def test_a_router_that_knows_what_was_never_moves_more_users_than_it_must(history):
    before = Router("history", history[0])
    for old, new in itertools.pairwise(history):
        after = before.reweighted(new)
        _assert_least_movement(before, after, old=old, new=new)
        before = after
    assert _variants(before, USERS[:500]) == _variants(Router("history", new, earlier=history[:-1]), USERS[:500])


def test_a_change_taken_back_brings_the_same_users_back():
    before = Router("back", {"control": 70, "a": 20, "b": 10})
    after = before.reweighted({"control": 30, "a": 60, "b": 10}).reweighted(before.weights)
    assert _variants(before) == _variants(after)


# Testers, the switch, and what a router is


def test_testers_see_the_arm_they_were_given_and_are_known_as_such():
    router = Router("testers", {"control": 100, "dark": 0}, overrides={"alice": "dark", 42: "dark"})
    assert [router.variant(user) for user in ("alice", "42", 42, "bob")] == ["dark", "dark", "dark", "control"]
    assert [router.is_override(user) for user in ("alice", "42", 42, "bob")] == [True, True, True, False]


@pytest.mark.parametrize(("arms", "control"), [(("a", "control"), "control"), (("v1", "a"), "v1")])
def test_the_kill_switch_sends_everybody_to_control(arms, control):
    router = Router("switch", dict.fromkeys(arms, 1), overrides={"alice": "a"})
    off = replace(router, kill_switch=True)
    assert set(_variants(off, ["alice", *USERS[:500]])) == {control}
    assert not off.is_override("alice")
    assert _variants(replace(off, kill_switch=False)) == _variants(router)


def test_a_router_does_not_change_and_goes_to_other_processes():
    weights, overrides = {"control": 1, "a": 1}, {"alice": "a"}
    router = Router("frozen", weights, earlier=[{"control": 1}], overrides=overrides, kill_switch=False)
    seen = _variants(router)
    weights["a"] = overrides["bob"] = 100
    assert _variants(router) == seen
    with pytest.raises(FrozenInstanceError):
        router.kill_switch = True
    copy = pickle.loads(pickle.dumps(router))
    assert _variants(copy) == seen
    assert copy.variant("alice") == "a"


def test_serving_loads_no_heavy_library():
    heavy = {"torch", "mlflow", "scipy", "pandas", "numpy", "hydra", "optuna"}
    script = "import sys; from mlops_hydra import get_model_variant; get_model_variant('user', 'experiment')"
    subprocess.run([sys.executable, "-c", f"{script}\nassert not {heavy} & set(sys.modules)"], check=True)


# What makes no sense


@pytest.mark.parametrize(
    ("weights", "paths"),
    [
        ({}, ["weights"]),
        ([("control", 1)], ["weights"]),
        ("control", ["weights"]),
        ({"control": 0, "a": 0.0}, ["weights"]),
        ({"control": -1, "a": math.nan, "b": math.inf, "d": "1", "e": None}, [f"weights.{arm}" for arm in ARMS]),
        ({"control": [1]}, ["weights.control"]),
        ({"control": 1, "": 1}, ["weights: the name of an arm"]),
        ({"control": 1, 7: 1}, ["weights: the name of an arm"]),
    ],
)
def test_weights_that_make_no_sense_are_named_all_at_once(weights, paths):
    with pytest.raises(UsageError) as caught:
        get_model_variant("user", "experiment", weights)
    assert [fault.path for fault in caught.value.faults] == paths


BAD_USERS = ["", None, 1.0, True, b"user", ["user"], "\ud800", 10**5000]  # the last is too long for `str`


@pytest.mark.parametrize("user", BAD_USERS, ids=range(len(BAD_USERS)))
@pytest.mark.parametrize("kill_switch", [False, True])
def test_a_user_is_a_name_or_a_whole_number(user, kill_switch):
    router = Router("experiment", {"control": 1}, overrides={"alice": "control"}, kill_switch=kill_switch)
    with pytest.raises(UsageError, match="user_id"):
        router.variant(user)
    with pytest.raises(UsageError, match="user_id"):
        get_model_variant(user, "experiment")


@pytest.mark.parametrize("experiment", ["", None, 7, ["experiment"], "\ud800"])
def test_an_experiment_has_a_name(experiment):
    with pytest.raises(UsageError, match="experiment"):
        get_model_variant("user", experiment)


def test_everything_that_is_wrong_with_a_router_is_said():
    with pytest.raises(UsageError) as caught:
        Router("", {"control": -1}, earlier=[{"control": 1}, {"a": math.nan}])
    assert [fault.path for fault in caught.value.faults] == ["experiment", "weights.control", "earlier[1].a"]
    with pytest.raises(UsageError, match=r"treatmnt.*Did you mean treatment"):
        Router("experiment", {"control": 1, "treatment": 1}, overrides={"alice": "treatmnt"})
    with pytest.raises(UsageError, match="overrides"):
        Router("experiment", {"control": 1}, overrides={"": "control"})
