import subprocess
import sys
from pathlib import Path

import pytest

from mlops_hydra.errors import ConfigError
from mlops_hydra.tracking.lineage import Lineage, code_digest, identify, target_paths


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's package beside their project, importable."""
    folder = tmp_path / "project" / "lineage_pkg"
    (folder / "nested").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('hashing imported me')\n")
    (folder / "models.py").write_text("class Net: ...\n")
    (folder / "nested" / "layers.py").write_text("WIDTH = 3\n")
    monkeypatch.syspath_prepend(folder.parent)
    return folder


@pytest.fixture
def own_model(package: Path, make_config):
    return make_config(model={"_target_": "lineage_pkg.models.Net"})


def test_the_digest_depends_on_each_of_the_three_and_on_their_order():
    digests = {Lineage(*parts).digest for parts in ("abc", "xbc", "axc", "abx", "bac")}
    assert len(digests) == 5
    assert {len(digest) for digest in digests} == {12}


def test_targets_are_found_at_every_depth_and_once(make_config):
    config = make_config(
        model={"_target_": "m.Net", "layers": [{"_target_": "m.Layer", "inner": {"act": {"_target_": "m.Act"}}}]},
        callbacks={"a": {"_target_": "c.Callback"}, "b": {"_target_": "c.Callback"}},
        metrics={"cost": {"_target_": "k.cost"}},
    )
    expected = ("c.Callback", "collections.OrderedDict", "k.cost", "m.Act", "m.Layer", "m.Net", "torch.optim.SGD")
    assert target_paths(config) == expected


@pytest.mark.parametrize("edited", ["models.py", "nested/layers.py", "nested/new.py"])
def test_any_change_of_a_local_package_changes_the_code_digest(own_model, package: Path, edited: str):
    before = code_digest(own_model)
    (package / edited).write_text("WIDTH = 4\n")
    assert code_digest(own_model) != before


def test_what_is_no_python_code_does_not_change_the_code_digest(own_model, package: Path):
    before = code_digest(own_model)
    (package / "README.md").write_text("text\n")
    (package / ".hidden").mkdir()
    (package / ".hidden" / "scratch.py").write_text("1\n")
    (package / ".#models.py").symlink_to("nowhere")
    (package.parent / "other.py").write_text("1\n")
    assert code_digest(own_model) == before


def test_renaming_a_file_changes_the_code_digest(own_model, package: Path):
    before = code_digest(own_model)
    (package / "nested" / "layers.py").rename(package / "nested" / "blocks.py")
    assert code_digest(own_model) != before


def test_the_code_digest_does_not_depend_on_where_the_package_lies(own_model, package: Path, monkeypatch):
    before = code_digest(own_model)
    moved = package.parent.parent / "elsewhere"
    package.parent.rename(moved)
    monkeypatch.syspath_prepend(moved)
    assert code_digest(own_model) == before


def test_a_single_module_is_hashed_alone(make_config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "lineage_single.py").write_text("def net(): ...\n")
    config = make_config(model={"_target_": "lineage_single.net"})
    before = code_digest(config)
    (tmp_path / "unrelated.py").write_text("1\n")
    assert code_digest(config) == before
    (tmp_path / "lineage_single.py").write_text("def net(): return 1\n")
    assert code_digest(config) != before


def test_installed_code_counts_with_its_version(make_config, monkeypatch: pytest.MonkeyPatch):
    config = make_config()
    before = code_digest(config)
    monkeypatch.setattr("importlib.metadata.version", lambda _: "0.0.1")
    assert code_digest(config) != before


def test_the_standard_library_does_not_count(make_config):
    other = make_config(model={"_target_": "collections.Counter"})
    assert code_digest(other) == code_digest(make_config(model={"_target_": "json.loads"}))


def test_a_package_that_a_distribution_of_another_name_installed_is_known(make_config):
    plain = code_digest(make_config(model={"_target_": "collections.Counter"}))
    assert code_digest(make_config(model={"_target_": "sklearn.linear_model.Ridge"})) != plain


def test_a_missing_module_is_a_fault_that_names_it(make_config):
    with pytest.raises(ConfigError, match="no module named 'nowhere'"):
        code_digest(make_config(model={"_target_": "nowhere.Net"}))


def test_a_class_of_an_interactive_session_is_refused_with_what_to_do(make_config, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delattr(sys.modules["__main__"], "__file__", raising=False)
    with pytest.raises(ConfigError, match=r"move it to a \.py file"):
        code_digest(make_config(model={"_target_": "__main__.Net"}))


def test_identify_names_config_data_and_code_as_they_are_now(make_config):
    source = {"_target_": "mlops_hydra.data.tables.SklearnTable", "name": "wine"}
    tree = make_config().model_dump()
    config = make_config(data=tree["data"] | {"source": source})
    other = make_config(data=tree["data"] | {"source": source | {"name": "digits"}})
    lineage = identify(config)
    assert lineage.config.startswith(config.fingerprint)
    assert lineage.code == code_digest(config) == identify(other).code
    assert lineage.data != identify(other).data


def test_importing_lineage_imports_neither_torch_nor_mlflow():
    code = "import sys, mlops_hydra.tracking.run; print({'torch', 'mlflow', 'pandas'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
