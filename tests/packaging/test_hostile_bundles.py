"""A bundle that was changed, or was made to harm, is refused, and nothing of it is run."""

import hashlib
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from onnx import TensorProto, helper

from mlops_hydra import compose
from mlops_hydra.config.objective import Objective
from mlops_hydra.data.sources import open_source
from mlops_hydra.errors import BundleError
from mlops_hydra.fitting import export
from mlops_hydra.packaging.bundle import load_bundle
from mlops_hydra.packaging.bundle_writer import seal_bundle, write_graph
from mlops_hydra.packaging.result import Result
from mlops_hydra.tracking.lineage import Lineage
from mlops_hydra.training.build import build_workbench


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of a table with numbers and a category."""
    folder = tmp_path_factory.mktemp("whole")
    lines = [f"{row % 13},{'abc'[row % 3]},{'yes' if row % 2 else 'no'}" for row in range(120)]
    (folder / "table.csv").write_text("number,word,target\n" + "\n".join(lines))
    path, objective = folder / "bundle", Objective("log_loss", "minimize")
    overrides = [
        "data=csv",
        "data.target=target",
        f"data.path={folder / 'table.csv'}",
        "model=linear",
        "data.encoding.max_one_hot=2",
    ]
    config = compose([*overrides, "data.split.duplicates=count"])
    splits = open_source(config.data).load()
    bench = build_workbench(config, splits, objective, torch.device("cpu"))
    write_graph(path, export(bench, splits), bench, splits, cache=None, key="")
    lineage, rest = Lineage("a" * 64, "b" * 64, "c" * 64), (objective, 1, 1, folder, ())
    result = Result("1234567e8901", None, "new", "", "binary", lineage, {}, (), "passed", *rest)
    seal_bundle(path, result, name="model", classes=splits.classes)
    return path


@pytest.fixture
def bundle(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path / "bundle")
    return tmp_path / "bundle"


@pytest.fixture
def ran(tmp_path: Path) -> Path:
    """A file that is there once a payload has run."""
    return tmp_path / "ran"


class Payload:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def sealed(folder: Path) -> None:
    """A manifest that fits: whoever can write a file can write its digest."""
    files = {}
    for path in folder.iterdir():
        if path.name != "manifest.json" and path.is_file():
            content = path.read_bytes()
            files[path.name] = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
    (folder / "manifest.json").write_text(json.dumps({"format": 1, "files": files}))


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def refused(folder: Path, match: str) -> None:
    with pytest.raises(BundleError, match=match) as caught:
        load_bundle(folder)
    assert caught.value.exit_code == 1 and len(str(caught.value)) < 1000


def test_it_is_whole_before_it_is_touched_and_sealing_alone_changes_nothing(bundle: Path) -> None:
    load_bundle(bundle)
    sealed(bundle)
    load_bundle(bundle)


# The manifest

NAMES = (
    "bundle.json", "graph.json", "model.onnx", "weights.safetensors", "schema.json", "golden.json", "metrics.json",
    "verdicts.json", "lineage.json", "profile.json",
)  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_one_changed_byte_is_seen(bundle: Path, name: str) -> None:
    content = bytearray((bundle / name).read_bytes())
    content[len(content) // 2] ^= 1
    (bundle / name).write_bytes(content)
    refused(bundle, rf"{name}: was changed")


@pytest.mark.parametrize("name", [*NAMES, "manifest.json"])
def test_a_missing_file_is_seen(bundle: Path, name: str) -> None:
    (bundle / name).unlink()
    refused(bundle, rf"{name}|is no bundle")
    sealed(bundle)
    if name not in ("manifest.json", "schema.json"):
        refused(bundle, rf"{name} is missing")
    elif name == "schema.json":
        refused(bundle, "golden")


@pytest.mark.parametrize("name", ["code.py", ".hidden", "model.onnx.data"])
def test_a_file_more_is_seen(bundle: Path, name: str) -> None:
    (bundle / name).write_text("import os")
    refused(bundle, rf"{name} is not in manifest\.json")


def test_a_folder_more_is_seen(bundle: Path) -> None:
    (bundle / "sub").mkdir()
    refused(bundle, "sub is not in")


@pytest.mark.parametrize("name", ["model.onnx", "golden.json", "manifest.json"])
def test_a_link_is_no_file(bundle: Path, name: str) -> None:
    (bundle / name).rename(bundle.parent / name)
    (bundle / name).symlink_to(bundle.parent / name)
    refused(bundle, name.replace(".", r"\."))


def test_a_pipe_is_not_waited_for(bundle: Path) -> None:
    for name in ("model.onnx", "manifest.json"):
        (bundle / name).unlink()
        os.mkfifo(bundle / name)
        refused(bundle, "no plain file")


@pytest.mark.parametrize(
    "name", ["../outside", "/etc/passwd", "sub/file", "..", "", "a\x00b", ".hidden", "manifest.json"]
)
def test_a_name_that_leads_elsewhere_is_none(bundle: Path, name: str) -> None:
    entry = {"sha256": "0" * 64, "bytes": 3}
    edit(bundle / "manifest.json", lambda data: data["files"].update({name: entry}))
    refused(bundle, "is no name of a file")


MANIFESTS = (
    b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b" " * (2**20 + 1), b"9" * 5000, b'{"format": 1}',
    b'{"format": 1, "files": []}', b'{"format": 2, "files": {}}', b'{"format": NaN}',
    b'{"format": 1, "files": {"a": 1}}', b'{"format": 1, "files": {"a": {"sha256": 1, "bytes": 1}}}',
)  # fmt: skip


@pytest.mark.parametrize("content", MANIFESTS, ids=range(len(MANIFESTS)))
def test_a_manifest_that_is_none_is_refused(bundle: Path, content: bytes) -> None:
    (bundle / "manifest.json").write_bytes(content)
    refused(bundle, "manifest")


# Pickle, and headers that lie


@pytest.mark.parametrize("name", NAMES)
def test_pickle_in_disguise_is_not_run(bundle: Path, name: str, ran: Path) -> None:
    (bundle / name).write_bytes(pickle.dumps(Payload(ran)))
    sealed(bundle)
    refused(bundle, r".")
    assert not ran.exists()


@pytest.mark.parametrize("name", ["model.onnx", "weights.safetensors"])
def test_a_torch_checkpoint_in_disguise_is_not_run(bundle: Path, name: str, ran: Path) -> None:
    torch.save(Payload(ran), bundle / name)
    sealed(bundle)
    refused(bundle, r".")
    assert not ran.exists()


HEADERS = {
    "huge": (2**62).to_bytes(8, "little") + b"{}",
    "as long as the limit": (16 * 2**20).to_bytes(8, "little") + b"{}",
    "deep": (100_000).to_bytes(8, "little") + b"[" * 100_000,
    "of more data than there is": b'{"a":{"dtype":"F32","shape":[9],"data_offsets":[0,36]}}',
    "of another length": b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}1234',
    "with a gap": b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[3,4]}}1234',
    "negative": b'{"a":{"dtype":"U8","shape":[-1],"data_offsets":[1,0]}}',
    "unknown": b'{"a":{"dtype":"PY","shape":[1],"data_offsets":[0,1]}}1',
}


@pytest.mark.parametrize("how", HEADERS)
def test_a_header_that_lies_is_refused(bundle: Path, how: str) -> None:
    content = HEADERS[how]
    if content.startswith(b"{"):
        content = (content.rindex(b"}") + 1).to_bytes(8, "little") + content
    (bundle / "weights.safetensors").write_bytes(content)
    sealed(bundle)
    refused(bundle, r"weights\.safetensors: is no safetensors file")


# The graph


def tensor(kind: int, name: str, *shape: Any) -> Any:
    return helper.make_tensor_value_info(name, kind, list(shape))


DOUBLE, INT = TensorProto.DOUBLE, TensorProto.INT64
NUMERIC, CODES, OUT = tensor(DOUBLE, "numeric", "n", 1), tensor(INT, "codes", "n", 1), tensor(DOUBLE, "y", "n", 2)
SOFTMAX = helper.make_node("Concat", ["numeric", "numeric"], ["y"], axis=1)


def graph_of(
    inputs: Any, nodes: Any = (SOFTMAX,), outputs: Any = (OUT,), initializers: Any = (), domain: str = ""
) -> Any:
    graph = helper.make_graph(list(nodes), "g", list(inputs), list(outputs), list(initializers))
    sets = [helper.make_opsetid("", 20)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    return helper.make_model(graph, opset_imports=sets, ir_version=10)


def outside(location: str) -> Any:
    """A tensor whose numbers lie in another file."""
    kept = TensorProto(name="w", data_type=DOUBLE, dims=[1], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("length", "8")):
        kept.external_data.add(key=key, value=value)
    return kept


def add(name: str) -> Any:
    return [helper.make_node("Add", ["numeric", name], ["z"]), helper.make_node("Concat", ["z", "z"], ["y"], axis=1)]


def inner(location: str) -> list[Any]:
    """The same within a constant of a branch."""
    constant = helper.make_node("Constant", [], ["w"], value=outside(location))
    body = helper.make_graph([constant], "branch", [], [tensor(DOUBLE, "w", 1)])
    yes = helper.make_node("Constant", [], ["yes"], value=helper.make_tensor("t", TensorProto.BOOL, [], [True]))
    return [yes, helper.make_node("If", ["yes"], ["v"], then_branch=body, else_branch=body), *add("v")]


def foreign(domain: str, op: str) -> Any:
    return graph_of([NUMERIC], [helper.make_node(op, ["numeric"], ["y"], domain=domain)], domain=domain)


FLOAT = tensor(TensorProto.FLOAT, "numeric", "n", 1)
WIDE, NOT_DOUBLE = tensor(DOUBLE, "numeric", "n", 2), tensor(INT, "y", "n", 1)
SAME = helper.make_node("Identity", ["numeric"], ["y"])
BOTH = [SOFTMAX, helper.make_node("Identity", ["numeric"], ["z"])]
FROM_FLOAT = [
    helper.make_node("Cast", ["numeric"], ["d"], to=DOUBLE),
    helper.make_node("Concat", ["d", "d"], ["y"], axis=1),
]
TO_INT = helper.make_node("Cast", ["numeric"], ["y"], to=INT)


def elsewhere(location: str) -> Any:
    return graph_of([NUMERIC], add("w"), initializers=[outside(location)])


GRAPHS: dict[str, tuple[Callable[[], Any], str]] = {
    "numbers in a file beside it": (lambda: elsewhere("weights.safetensors"), "another file"),
    "numbers in a file outside": (lambda: elsewhere("../../secret"), "another file"),
    "numbers in a file of the system": (lambda: elsewhere("/etc/passwd"), "another file"),
    "numbers in memory": (lambda: elsewhere("*/_ORT_MEM_ADDR_/*"), "another file"),
    "numbers in a file, within a branch": (lambda: graph_of([NUMERIC], inner("/etc/passwd")), "another file"),
    "an unknown operator": (lambda: foreign("", "Nope"), "cannot be loaded"),
    "an operator of a library": (lambda: foreign("evil", "Run"), "no standard set"),
    "an operator in Python": (lambda: foreign("ai.onnx.contrib", "PyCustomOp"), "no standard set"),
    "an input more": (lambda: graph_of([NUMERIC, CODES, tensor(DOUBLE, "extra", "n", 1)]), "takes 'extra'"),
    "an input of another type": (lambda: graph_of([FLOAT], FROM_FLOAT), "float32, declared is float64"),
    "an input of another width": (lambda: graph_of([WIDE], [SAME]), "of shape"),
    "a batch of one length": (lambda: graph_of([tensor(DOUBLE, "numeric", 12, 1)]), "of shape"),
    "two outputs": (lambda: graph_of([NUMERIC], BOTH, [OUT, tensor(DOUBLE, "z", "n", 1)]), "one output"),
    "an output of another type": (lambda: graph_of([NUMERIC], [TO_INT], [NOT_DOUBLE]), "one output"),
    "an output of another width": (
        lambda: graph_of([NUMERIC], [SAME], [tensor(DOUBLE, "y", "n", "m")]),
        "the graph gives",
    ),
    "other predictions": (lambda: graph_of([NUMERIC]), "golden predictions are not reproduced"),
}


@pytest.mark.parametrize("how", GRAPHS)
def test_a_graph_that_is_not_what_is_declared_is_refused(bundle: Path, how: str, capfd: Any) -> None:
    make, match = GRAPHS[how]
    (bundle / "model.onnx").write_bytes(make().SerializeToString())
    sealed(bundle)
    refused(bundle, match)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("content", [b"", b"\xff" * 100, b"/etc/passwd", b"\x3a\xff\xff\xff\xff\x0f"])
def test_bytes_that_are_no_graph_are_refused(bundle: Path, content: bytes) -> None:
    (bundle / "model.onnx").write_bytes(content)
    sealed(bundle)
    refused(bundle, "graph")


def test_weights_of_another_model_in_the_graph_are_seen(bundle: Path) -> None:
    model = onnx.load_model(bundle / "model.onnx")
    for kept in model.graph.initializer:
        if kept.name == "model.layer.weight":
            kept.raw_data = bytes(len(kept.raw_data))
    onnx.save_model(model, bundle / "model.onnx")
    sealed(bundle)
    refused(bundle, "golden predictions are not reproduced")


# What describes it

CHANGES: dict[str, tuple[str, Callable[[dict[str, Any]], object], str]] = {
    "a prediction that is no number": ("golden.json", lambda d: d["predictions"][0].__setitem__(0, None), "golden"),
    "a prediction without end": ("golden.json", lambda d: d["predictions"][0].__setitem__(0, 1e999), "golden|no JSON"),
    "NaN": ("golden.json", lambda d: d["predictions"][0].__setitem__(0, float("nan")), "golden"),
    "other predictions": ("golden.json", lambda d: d["predictions"].reverse(), "not reproduced"),
    "no golden rows": (
        "golden.json",
        lambda d: d.update(predictions=[], columns={name: [] for name in d["columns"]}),
        "none",
    ),
    "a tolerance of everything": ("golden.json", lambda d: d.update(tolerance=1.0), "tolerance"),
    "a tolerance of text": ("golden.json", lambda d: d.update(tolerance="1"), "tolerance"),
    "rows of text": ("golden.json", lambda d: d["columns"].update(number=["x"] * 12), "golden rows cannot"),
    "rows that nest": ("golden.json", lambda d: d["columns"].update(number=[[1]] * 12), "golden rows cannot"),
    "other columns": ("golden.json", lambda d: d["columns"].update(more=[1] * 12), "not those of the schema"),
    "a class more": ("bundle.json", lambda d: d["classes"].append("maybe"), "task and classes"),
    "another order of classes": ("bundle.json", lambda d: d["classes"].reverse(), "other classes"),
    "another task": ("bundle.json", lambda d: d.update(task="sorting"), "task and classes"),
    "another format": ("bundle.json", lambda d: d.update(format=2), "format 2"),
    "a name that is none": ("bundle.json", lambda d: d.update(name=["x"]), "cannot be read"),
    "an input more": (
        "graph.json",
        lambda d: d["inputs"].append({"name": "x", "dtype": "int64", "shape": []}),
        "not give",
    ),
    "an input of objects": ("graph.json", lambda d: d["inputs"][0].update(dtype="object"), "cannot be read"),
    "a feature more": ("schema.json", lambda d: d["features"].append({**d["features"][0], "name": "more"}), "not give"),
    "a feature less": ("schema.json", lambda d: d["features"].pop(), "not give"),
    "a feature twice": ("schema.json", lambda d: d["features"].append(d["features"][0]), "cannot be read"),
    "a feature of code": ("schema.json", lambda d: d["features"][0].update(kind="eval"), "cannot be read"),
    "a key more": ("schema.json", lambda d: d["features"][0].update(more=1), "cannot be read"),
    "a category that is a list": ("schema.json", lambda d: d["features"][1]["categories"].append([]), "cannot be read"),
    "a category more": ("schema.json", lambda d: d["features"][1]["categories"].append("d"), "the graph fails"),
    "a metric of text": ("metrics.json", lambda d: d.update(accuracy="high"), "a metric is a number"),
}


@pytest.mark.parametrize("how", CHANGES)
def test_a_description_that_does_not_fit_is_refused(bundle: Path, how: str) -> None:
    name, change, match = CHANGES[how]
    edit(bundle / name, change)
    sealed(bundle)
    refused(bundle, match)
