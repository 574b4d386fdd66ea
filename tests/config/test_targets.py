"""Targets: resolving, signatures, building, and who may be named by configuration from elsewhere."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from mlops_hydra.config.check import as_tree, recorded
from mlops_hydra.config.compose import compose
from mlops_hydra.config.frozen import FrozenMap, Target, freeze, thaw
from mlops_hydra.config.signatures import as_declared, check_signature
from mlops_hydra.config.targets import as_function, build, check_trusted, resolve
from mlops_hydra.errors import ConfigError


def target(path: str, **args: Any) -> Target:
    frozen = freeze({"_target_": path, **args})
    assert isinstance(frozen, Target)
    return frozen


def test_resolving_finds_classes_functions_and_nested_names() -> None:
    assert resolve("torch.nn.Linear") is torch.nn.Linear
    assert resolve("collections.abc.Mapping.get").__name__ == "get"


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("torch.nn.Linaer", "Linear"),
        ("torch.optm.SGD", "optim"),
        ("no_such_package.Model", "no module named 'no_such_package'"),
        ("Linear", "a dotted path"),
        ("torch..nn", "a dotted path"),
        ("torch.nn.__doc__", "cannot be called"),
        ("mlops_hydra.config.nothing.X", "nothing"),
    ],
)
def test_what_cannot_be_resolved_says_why(path: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        resolve(path)


def test_a_module_that_fails_to_import_is_told_with_its_own_error(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "half_written.py").write_text("import json\nraise RuntimeError('the database is down')\n")
    (tmp_path / "lacks.py").write_text("import not_installed_anywhere\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="RuntimeError: the database is down"):
        resolve("half_written.Model")
    with pytest.raises(ConfigError, match="no module named 'not_installed_anywhere'"):
        resolve("lacks.Model")


def test_a_signature_is_checked_for_names_types_and_what_is_missing() -> None:
    faults = check_signature(target("torch.nn.Linear", in_feature=3, out_features="two"), "model")
    assert [fault.path for fault in faults] == ["model.in_feature", "model.out_features", "model"]
    assert faults[0].nearest[0] == "in_features"


def test_values_that_only_the_constructor_can_judge_are_left_to_it() -> None:
    assert check_signature(target("torch.nn.Linear", in_features=1, out_features=1, device="cpu"), "model") == []


def test_declared_floats_are_floats_and_other_numbers_stay() -> None:
    declared = as_declared(target("torch.optim.AdamW", lr=1, betas=[0, 1], foreach=None))
    assert thaw(declared) == {"_target_": "torch.optim.AdamW", "lr": 1.0, "betas": [0.0, 1.0], "foreach": None}
    assert isinstance(declared.args["lr"], float)
    assert isinstance(as_declared(target("torch.nn.Linear", in_features=2)).args["in_features"], int)


def test_building_passes_what_the_signature_names_and_nothing_else() -> None:
    built = build(target("torch.nn.Linear", out_features=2), {"in_features": 3, "total_steps": 9})
    assert (built.in_features, built.out_features) == (3, 2)


def test_nested_targets_are_built_inside_out() -> None:
    inner = {"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 3}
    built = build(target("torch.nn.Sequential", _args_=[inner]))
    assert isinstance(built[0], torch.nn.Linear)


def test_a_constructor_that_refuses_is_told_in_its_own_words() -> None:
    with pytest.raises(ConfigError, match="hidden needs at least one unit"):
        build(target("mlops_hydra.models.MLP", hidden=[0]), {"in_features": 2, "out_features": 1})


def test_a_function_becomes_a_call_with_its_arguments_bound() -> None:
    loss = as_function(target("torch.nn.functional.cross_entropy", label_smoothing=0.1))
    logits, codes = torch.zeros(2, 3), torch.tensor([0, 1])
    assert loss(logits, codes) == torch.nn.functional.cross_entropy(logits, codes, label_smoothing=0.1)
    assert isinstance(as_function(target("torch.nn.CrossEntropyLoss")), torch.nn.CrossEntropyLoss)


def test_frozen_values_survive_the_way_there_and_back() -> None:
    value = {"_target_": "a.b", "list": [1, {"x": None}], "map": {"_target_": "c.d", "y": [True]}}
    assert thaw(freeze(value)) == value
    assert hash(freeze(value)) == hash(freeze(dict(reversed(value.items()))))
    assert FrozenMap({"a": 1}) == {"a": 1}


HOSTILE = [
    {"_target_": "os.system", "command": "touch hacked"},
    {"_target_": "subprocess.Popen", "args": ["touch", "hacked"]},
    {"_target_": "builtins.eval"},
    {"_target_": "builtins.exec"},
    {"_target_": "torch.load", "f": "hacked.pt"},
    {"_target_": "torch.optim.optimizer.torch.load", "f": "hacked.pt"},
    {"_target_": "torch.nn.modules.module.torch.hub.load", "repo_or_dir": "x"},
    {"_target_": "mlops_hydra.data.sources.sys.exit"},
    {"_target_": "mlops_hydra.models.mlp.nn.modules.module.warnings.warn", "message": "x"},
    {"_target_": "mlops_hydra.models.mlp.nn.Module.__class__"},
    {"_target_": "torch.nn.Sequential", "_args_": [{"_target_": "os.system", "command": "touch hacked"}]},
    {"_target_": "torch.nn.Sequential", "x": {"y": [{"_target_": "pickle.loads"}]}},
    {"_target_": "torch.optimizer_of_mine.X"},
    {"_target_": "mlops_hydra.cli.main", "argv": []},
    {"_target_": "evil_module.Model"},
]


@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda node: str(node["_target_"]))
def test_a_recorded_config_cannot_choose_what_is_imported(
    hostile: dict[str, Any], tmp_path: Path, monkeypatch: Any
) -> None:
    (tmp_path / "evil_module.py").write_text("open('hacked', 'w').close()\nclass Model: ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="a recorded configuration may only name code below"):
        recorded({**as_tree(compose()), "model": hostile})
    assert not (tmp_path / "hacked").exists()
    assert "evil_module" not in sys.modules


@pytest.mark.parametrize(
    "where", ["optimizer", "scheduler", "data.source", "trainer.loss", "trainer.step", "metrics.x"]
)
def test_every_place_of_a_recorded_config_is_held_to_the_policy(where: str) -> None:
    tree = as_tree(compose())
    node = tree
    *parents, name = where.split(".")
    for key in parents:
        node = node[key]
    node[name] = {"_target_": "os.system", "command": "touch hacked"}
    with pytest.raises(ConfigError) as caught:
        recorded(tree)
    assert caught.value.faults[0].path == f"{where}._target_"


def test_a_recorded_config_of_ours_is_accepted_and_its_own_trust_is_not_believed() -> None:
    tree = as_tree(compose(["experiment=digits_cnn"]))
    assert recorded(tree).fingerprint == compose(["experiment=digits_cnn"]).fingerprint
    metrics = {"x": {"_target_": "sklearn.metrics.matthews_corrcoef"}}
    with pytest.raises(ConfigError, match="trust"):
        recorded({**tree, "metrics": metrics, "trust": ["sklearn"]})
    assert recorded({**tree, "metrics": metrics}, trust=("sklearn",)).metrics


@pytest.mark.parametrize(
    "left",
    [
        "${oc.env:HOME}",
        "${oc.create:{_target_: torch.hub.load, repo_or_dir: here}}",
        "a ${oc.decode:'{_target_: torch.load}'} b",
    ],
)
def test_an_interpolation_cannot_smuggle_in_a_target(left: str) -> None:
    for model in (
        {"_target_": "torch.nn.Sequential", "_args_": [left]},
        {"_target_": "torch.nn.Sequential", "_args_": [{"_target_": "torch.nn.Linear", "x": {"deep": [left]}}]},
        {"_target_": "torch.nn.Linear", "device": left},
    ):
        with pytest.raises(ConfigError, match="must not hold an interpolation"):
            recorded({**as_tree(compose()), "model": model})


@pytest.mark.parametrize("word", ["_execution_whitelist_", "_recursive_", "_convert_", "_isolate_"])
def test_hydras_own_words_cannot_loosen_what_is_built(word: str) -> None:
    model = {"_target_": "torch.nn.Module", word: ["*"]}
    with pytest.raises(ConfigError, match=word):
        recorded({**as_tree(compose()), "model": model})


def test_a_recorded_config_without_a_bottom_is_refused() -> None:
    node: Any = []
    for _ in range(100_000):
        node = [node]
    with pytest.raises(ConfigError, match="nested too deeply"):
        recorded({**as_tree(compose()), "model": {"_target_": "mlops_hydra.models.MLP", "hidden": node}})


def test_trust_is_about_packages_not_about_beginnings_of_names() -> None:
    assert check_trusted(target("sklearnx.Model"), ("sklearn",))
    assert not check_trusted(target("sklearn.metrics.f1_score"), ("sklearn",))


@pytest.mark.parametrize("path", ["os.system", "builtins.eval", "subprocess.run"])
def test_building_refuses_what_hydra_knows_to_run_anything(path: str) -> None:
    with pytest.raises(ConfigError):
        build(target(path))
