"""The grammar of a space: what hydra-optuna-sweeper makes of it, and chosen values as overrides again."""

import math
from typing import Any

import pytest
from hydra_plugins.hydra_optuna_sweeper._impl import OptunaSweeperImpl, create_params_from_overrides
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from mlops_hydra.config.compose import parse_overrides
from mlops_hydra.config.search import SweepsConfig
from mlops_hydra.errors import ConfigError, Fault
from mlops_hydra.sweeps.space import Space, as_overrides, parse_space

GRAMMAR: dict[str, Any] = {
    "model=linear,mlp": CategoricalDistribution(["linear", "mlp"]),
    "x=0.1,0.2": CategoricalDistribution([0.1, 0.2]),
    "x=true,false": CategoricalDistribution([True, False]),
    "x=null,0.5": CategoricalDistribution(["null", 0.5]),
    "x='a b','c,d'": CategoricalDistribution(["'a b'", "'c,d'"]),
    "x='1',1": CategoricalDistribution(["'1'", 1]),
    "x=[8],[32,32]": CategoricalDistribution(["[8]", "[32,32]"]),
    "x={a:1},{a:2}": CategoricalDistribution(["{a:1}", "{a:2}"]),
    "x=choice(a)": CategoricalDistribution(["a"]),
    "x=choice(a,b)": CategoricalDistribution(["a", "b"]),
    "x=sort(3,1,2)": CategoricalDistribution([1, 2, 3]),
    "x=range(1,9,2)": IntDistribution(1, 7, step=2),
    "x=range(3)": IntDistribution(0, 2),
    "x=range(0.0,0.5,0.1)": FloatDistribution(0.0, 0.4, step=0.1),
    "x=interval(0.0,0.5)": FloatDistribution(0.0, 0.5),
    "x=interval(1,8)": FloatDistribution(1.0, 8.0),
    "x=int(interval(1,8))": IntDistribution(1, 8),
    "x=tag(log, interval(1e-4, 1e-1))": FloatDistribution(1e-4, 1e-1, log=True),
    "x=tag(log, int(interval(1, 512)))": IntDistribution(1, 512, log=True),
    "+x.y=1,2": CategoricalDistribution([1, 2]),
    "model@other=linear,mlp": CategoricalDistribution(["linear", "mlp"]),
}


def space_of(*overrides: str, **params: str) -> Space:
    return parse_space(params, overrides)


def faults_of(*overrides: str, **params: str) -> list[Fault]:
    with pytest.raises(ConfigError) as caught:
        parse_space(params, overrides)
    return list(caught.value.faults)


def values_of(overrides: list[str]) -> dict[str, Any]:
    """What Hydra reads in overrides, in which nothing may be wrong or a search."""
    from omegaconf import OmegaConf

    parsed, faults = parse_overrides(overrides)
    assert not faults
    assert not any(override.is_sweep_override() for override in parsed)
    tree = {override.key_or_group: override.value() for override in parsed}
    read = OmegaConf.to_container(OmegaConf.create(tree))
    assert isinstance(read, dict)
    return {str(key): value for key, value in read.items()}


@pytest.mark.parametrize("text", GRAMMAR)
def test_the_grammar_means_what_it_means_to_the_plug_in(text: str) -> None:
    key, _, values = text.partition("=")
    theirs, _, _ = create_params_from_overrides([text])
    assert space_of(text).distributions == {key: GRAMMAR[text]} == theirs
    assert space_of(**{key: values}).distributions == {key: GRAMMAR[text]}, "in a file as on the command line"


@pytest.mark.parametrize("text", ["x=0.5", "x=[1,2]", "x=null", "x='a,b'", "x={a:1}", "model=linear"])
def test_a_single_value_is_the_same_in_all_trials(text: str) -> None:
    space = space_of("other=1,2", text)
    assert set(space.distributions) == {"other"}
    assert space.fixed == (text,)


def test_a_deletion_is_the_same_in_all_trials() -> None:
    assert space_of("other=1,2", "~gates.mine").fixed == ("~gates.mine",)


def test_what_is_given_later_wins_in_both_directions() -> None:
    assert space_of("x=3", x="1,2", y="1,2") == Space({"y": CategoricalDistribution([1, 2])}, ("x=3",))
    assert space_of("x=3,4", x="5").distributions["x"] == CategoricalDistribution([3, 4])
    assert space_of("x=3,4", x="5").fixed == ()


@pytest.mark.parametrize("later", ["x=3", "+x=3", "++x=3", "~x"])
@pytest.mark.parametrize("earlier", ["x=1,2", "+x=1,2", "++x=1,2"])
def test_one_key_is_given_once_however_it_is_prefixed(earlier: str, later: str) -> None:
    assert space_of("y=1,2", earlier, later) == Space({"y": CategoricalDistribution([1, 2])}, (later,))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x=interval(5,1)", "low <= high"),
        ("x=tag(log, interval(0,1))", "low > 0"),
        ("x=interval(0,inf)", "finite"),
        ("x=nan,1", "finite"),
        ("x=interval(1", "no viable alternative"),
        ("x=range(1,5,0)", "step"),
        ("x=glob(*)", "not listed"),
        ("x=str(interval(1,2))", "cannot be cast"),
    ],
)
def test_what_cannot_be_searched_is_told_with_path_rule_and_value(text: str, words: str) -> None:
    (fault,) = faults_of(text)
    assert fault.path == "sweeps.params.x"
    assert fault.value == text.partition("=")[2]
    assert words in fault.rule
    assert "https" not in fault.rule


def test_everything_that_cannot_be_searched_is_told_at_once() -> None:
    faults = faults_of("a=interval(2,1)", "b=1,2", c="range(1", d="tag(log, interval(0, 1))")
    assert {fault.path.rpartition(".")[2] for fault in faults} == {"a", "c", "d"}


@pytest.mark.parametrize("overrides", [[], ["x=1"], ["~x"]], ids=str)
def test_a_study_without_anything_to_try_is_told_what_to_write(overrides: list[str]) -> None:
    (fault,) = faults_of(*overrides)
    assert fault.path == "sweeps.params"
    assert "model=linear,mlp" in fault.rule


def as_params(tree: object) -> dict[str, str]:
    """`sweeps.params` as the schema holds them."""
    from mlops_hydra.config.compose import compose

    base = compose(["sweeps=tpe"]).sweeps
    assert base is not None
    return SweepsConfig.model_validate({**dict(base), "params": tree}).params


@pytest.mark.parametrize(
    ("tree", "params"),
    [
        ({"model": "linear,mlp"}, {"model": "linear,mlp"}),
        ({"optimizer": {"lr": "interval(0, 1)"}}, {"optimizer.lr": "interval(0, 1)"}),
        (
            {"data": {"split": {"val": "0.1,0.2", "by": "random"}}},
            {"data.split.val": "0.1,0.2", "data.split.by": "random"},
        ),
        ({"optimizer.lr": 0.5}, {"optimizer.lr": "0.5"}),
        ({"x": None, "y": True, "z": 3}, {"x": "null", "y": "true", "z": "3"}),
        ({"x": ["linear", "mlp"]}, {"x": "linear,mlp"}),
        ({"x": [1, 0.5, None, True]}, {"x": "1,0.5,null,true"}),
        ({"x": [[8], [32, 32]]}, {"x": "[8],[32,32]"}),
        ({"x": [["a", "b c"], []]}, {"x": "[a,'b c'],[]"}),
        ({"x": ["a b", "c,d"]}, {"x": "'a b','c,d'"}),
        ({"x": ["1", "null", "it's"]}, {"x": r"'1','null','it\\'s'".replace("\\\\", "\\")}),
        ({"x": ["[8]", "'q'"]}, {"x": "[8],'q'"}),
    ],
    ids=str,
)
def test_yaml_of_every_shape_is_the_grammar(tree: object, params: dict[str, str]) -> None:
    assert as_params(tree) == params


@pytest.mark.parametrize("tree", [{"x": {}}, {"x": []}, ["x"], {"x": {"y": {}}}], ids=str)
def test_yaml_that_is_no_space_is_refused_rather_than_left_out(tree: object) -> None:
    with pytest.raises(ValueError, match="params"):
        as_params(tree)


ASCII = st.text(st.characters(codec="ascii", exclude_categories=["Cc"]))


@given(st.lists(st.one_of(ASCII, st.integers(), st.booleans(), st.none()), min_size=2, max_size=4))
@settings(max_examples=25, deadline=None)
def test_a_list_in_yaml_is_a_choice_of_exactly_these_values(values: list[Any]) -> None:
    if any(
        isinstance(one, str) and (one.startswith(("[", "{", "'", '"')) or "$" in one or "\\" in one) for one in values
    ):
        return  # grammar, references and escapes are the person's
    (distribution,) = parse_space(as_params({"x": values}), []).distributions.values()
    assert isinstance(distribution, CategoricalDistribution)
    assert [values_of(as_overrides({"x": one}))["x"] for one in distribution.choices] == values


@pytest.mark.parametrize(
    "value",
    [1e-05, 1e22, -0.0, 0.1, 3, -7, True, False, None, "mlp", "a b", "a,b", "it's", 'say "so"', "1", "1e-3", "true",
     "[8", "a=b", "a:b", "(x)", "", "10%", "nan", "${", "x}", "#x", "~x"],
    ids=repr,
)  # fmt: skip
def test_any_value_is_the_same_again_after_hydra_has_read_it(value: Any) -> None:
    parsed, faults = parse_overrides(as_overrides({"x": value}))
    assert not faults
    read = parsed[0].value()
    read = read.text if hasattr(read, "text") else read
    assert (type(read), read) == (type(value), value)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("x=[8],[32,32],[]", [[8], [32, 32], []]),
        ("x={a:1},{b:[2,c d]}", [{"a": 1}, {"b": [2, "c d"]}]),
        ("x='a b','c,d',\"it's\"", ["a b", "c,d", "it's"]),
        ("x=null,'null',true,'true',1,'1',1e-05", [None, "null", True, "true", 1, "1", 1e-05]),
        (r"x=a\,b,c", ["a,b", "c"]),
        ("x=str(1,2)", ["1", "2"]),
    ],
)
def test_what_is_chosen_is_what_was_written(text: str, values: list[Any]) -> None:
    (distribution,) = space_of(text).distributions.values()
    assert [values_of(as_overrides({"x": one}))["x"] for one in distribution.choices] == values


@given(low=st.floats(1e-9, 1e3), factor=st.floats(1.001, 1e6))
@settings(max_examples=30, deadline=None)
def test_numbers_survive_as_overrides_to_the_last_bit(low: float, factor: float) -> None:
    space = space_of(f"x=interval({low}, {low * factor})")
    for changes in space.probes():
        assert values_of(changes)["x"] in (low, low * factor)


def test_values_are_handed_over_as_the_plug_in_does() -> None:
    params = {"model": "mlp", "x": 0.1, "y": "[8,8]", "z": True, "n": 3, "t": "'a b'", "u": "null"}
    assert as_overrides(params) == [f"{name}={value}" for name, value in params.items()]


@pytest.mark.parametrize("text", ["x=a,b", "x=range(1,9,2)", "x=range(0.0,0.5,0.1)", "x=range(9,1,-3)", "x=[1],[2,3]"])
def test_a_grid_has_the_plug_ins_points_in_its_order(text: str) -> None:
    theirs, _, _ = create_params_from_overrides([text])
    space = space_of(text)
    assert space.grid()["x"] == list(OptunaSweeperImpl._to_grid_sampler_choices(theirs["x"]))
    assert space.grid_size() == len(space.grid()["x"])


def test_a_grid_is_as_large_as_its_values_multiply() -> None:
    assert space_of("x=a,b", "y=range(5)", "z=true,false").grid_size() == 2 * 5 * 2


def test_a_grid_without_end_names_every_parameter_that_has_none() -> None:
    with pytest.raises(ConfigError) as caught:
        space_of("x=interval(0,1)", "y=a,b", "z=tag(log, interval(1, 2))").grid()
    assert {fault.path for fault in caught.value.faults} == {"sweeps.params.x", "sweeps.params.z"}


def test_probes_try_every_choice_and_both_ends_of_each_range() -> None:
    space = space_of("model=linear,mlp,cnn", "lr=tag(log, interval(1e-4, 1e-1))", "n=range(2,8,2)")
    tried = [values_of(changes) for changes in space.probes()]
    assert {one["model"] for one in tried} == {"linear", "mlp", "cnn"}
    assert {one["lr"] for one in tried} == {1e-4, 1e-1}
    assert {one["n"] for one in tried} == {2, 6}
    assert all(set(one) == {"model", "lr", "n"} for one in tried)
    assert len(tried) == 1 + 2 + 1 + 1, "one parameter at a time"


def test_equal_spaces_have_one_text_whatever_their_order() -> None:
    one, other = space_of("x=1,2", "y=interval(0,1)"), space_of("y=interval(0,1)", "x=1,2")
    assert one.as_json() == other.as_json()
    assert list(one.as_json()) == ["x", "y"]
    assert one.as_json() != space_of("x=1,3", "y=interval(0,1)").as_json()


def test_names_of_runs_that_look_like_numbers_stay_names() -> None:
    space = space_of("init_from=123456789012,1234567e8901")
    assert [values_of(changes)["init_from"] for changes in space.probes()] == ["123456789012", "1234567e8901"]
    assert not any(isinstance(one, float) and math.isinf(one) for one in space.grid()["init_from"])
