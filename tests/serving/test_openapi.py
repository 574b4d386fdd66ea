"""The document behind /docs: it is valid, says what is so, and what it says is what the service does."""

import json
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jsonschema
import pytest
from hypothesis import HealthCheck, Phase, given, settings

from mlops_hydra.config.serving import ServeConfig
from mlops_hydra.serving.app import Service
from tests.serving import handmade
from tests.serving.hosting import hosted, prepared

schemathesis = pytest.importorskip("schemathesis")

KINDS = ("classes", "a value", "arrays")
FEW, MANY = 20, 500
EXPECTED_REFUSALS = (
    "has values so large that the model's answer is not finite",
    "has values that the model cannot take",
)


class Served(NamedTuple):
    """A service that runs, and its document."""

    url: str
    document: dict[str, Any]

    def ask(self, path: str, body: Any = None, **headers: str) -> tuple[int, str, Any]:
        """Status, content type and content of an answer."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}{path}", data, {"Content-Type": "application/json", **headers})
        try:
            answer = urllib.request.urlopen(request, timeout=20)
        except urllib.error.HTTPError as error:
            answer = error
        with answer:
            kind, text = answer.headers["content-type"], answer.read().decode()
            return answer.status, kind, json.loads(text) if "json" in kind else text

    @property
    def operation(self) -> dict[str, Any]:
        return dict(self.document["paths"]["/predict"]["post"])

    def validate(self, value: Any, schema: dict[str, Any]) -> None:
        jsonschema.Draft202012Validator(schema | {"components": self.document["components"]}).validate(value)


@pytest.fixture(scope="module")
def bundles(trained_bundle: Callable[[int], Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("bundles")
    trained = trained_bundle(0)
    made = (trained, handmade.regression(trained, place / "value"), handmade.of_arrays(trained, place / "arrays"))
    return dict(zip(KINDS, made, strict=True))


@pytest.fixture(scope="module")
def serve(bundles: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Served]]:
    """`serve(kind, *overrides)`: each one once."""
    from contextlib import ExitStack

    from mlops_hydra.config.compose import compose_command
    from mlops_hydra.config.roots import Roots

    with ExitStack() as stack:

        @cache
        def make(kind: str, *overrides: str) -> Served:
            place = tmp_path_factory.mktemp("served")
            own = ["name=credit", f"output_dir={place}", "port=0", "log.sample=0", "~variants.treatment"]
            overrides = (*own, "limits.max_rows=20", *overrides)
            config = compose_command(ServeConfig, overrides, Roots(config_name="serve"))
            url = stack.enter_context(hosted(prepared(config, bundles[kind])))
            with urllib.request.urlopen(f"{url}/openapi.json", timeout=20) as answer:
                return Served(url, json.load(answer))

        yield make


# What it says


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_an_openapi_document(serve: Callable[..., Served], kind: str) -> None:
    document = serve(kind).document
    assert document["openapi"].startswith("3.1")
    schema = schemathesis.openapi.from_dict(document)
    schema.validate()
    assert len(list(schema.get_all_operations())) == 6
    for described in document["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(described)
    told = re.findall(r'"\$ref": "#/components/schemas/(\w+)"', json.dumps(document))
    assert set(told) <= document["components"]["schemas"].keys()


@pytest.mark.parametrize("kind", KINDS)
def test_its_examples_are_what_the_service_takes_and_answers(serve: Callable[..., Served], kind: str) -> None:
    served = serve(kind)
    asked = served.operation["requestBody"]["content"]["application/json"]
    answered = served.operation["responses"]["200"]["content"]["application/json"]
    assert asked["examples"].keys() == answered["examples"].keys()
    for name, example in asked["examples"].items():
        served.validate(example["value"], asked["schema"])
        status, _, answer = served.ask("/predict", example["value"])
        assert status == 200
        served.validate(answer, answered["schema"])
        told = answered["examples"][name]["value"]
        served.validate(told, answered["schema"])
        assert told | {"request_id": ""} == answer | {"request_id": ""}
    for column, described in served.document["components"]["schemas"]["Row"]["properties"].items():
        for value in described.get("examples", ()):
            row = asked["examples"]["rows"]["value"]["rows"][0] | {column: value}
            assert served.ask("/predict", {"rows": [row]})[0] == 200


def test_columns_are_described_as_training_saw_them(serve: Callable[..., Served]) -> None:
    served = serve("classes")
    columns = served.document["components"]["schemas"]["Row"]["properties"]
    assert columns["age"]["description"].startswith("A number; null where it is missing. In training: 18 to 89; ")
    assert columns["age"]["x-minimum-seen"] == 18 and columns["age"]["x-maximum-seen"] == 89
    assert "In training: Köln, Wien, Zürich; " in columns["city"]["description"]
    assert columns["city"]["x-categories"] == ["Köln", "Wien", "Zürich"]
    assert "In training: 2024-01-0" in columns["since"]["description"]
    assert all(re.search(r"\d\.\d% missing$", column["description"]) for column in columns.values())
    told = served.operation["description"]
    assert "the class `repaid`, one of `no`, `yes`" in told and "At most 20 rows" in told
    assert "the value `repaid`" in serve("a value").operation["description"]


def test_arrays_are_described_by_shape(serve: Callable[..., Served]) -> None:
    row = serve("arrays").document["components"]["schemas"]["Row"]["properties"]
    assert row["image"]["description"] == "float32: nested lists of 2 x 3 numbers"
    assert row["words"]["items"] == {"type": "integer", "minimum": -(2**63), "maximum": 2**63 - 1}


@pytest.mark.parametrize("kind", KINDS)
def test_every_route_answers_as_it_is_described(serve: Callable[..., Served], kind: str) -> None:
    served = serve(kind)
    for path in ("/health", "/ready", "/model", "/drift", "/metrics"):
        status, content_type, answer = served.ask(path)
        ((told, described),) = served.document["paths"][path]["get"]["responses"]["200"]["content"].items()
        assert status == 200 and content_type.startswith(told)
        served.validate(answer, described["schema"])


def test_without_a_model_the_document_is_there_and_true(serve_config: Any) -> None:
    with hosted(Service(serve_config())) as url, urllib.request.urlopen(f"{url}/openapi.json", timeout=20) as answer:
        served = Served(url, json.load(answer))
        schemathesis.openapi.from_dict(served.document).validate()
        assert "No model is loaded yet" in served.operation["description"]
        for path, body in (("/ready", None), ("/predict", {"rows": [{}]})):
            status, _, told = served.ask(path, body)
            (operation,) = served.document["paths"][path].values()
            assert status == 503
            served.validate(told, operation["responses"]["503"]["content"]["application/json"]["schema"])


def test_with_a_key_the_document_says_what_needs_it(serve: Callable[..., Served]) -> None:
    served = serve("classes", "api_key=0123456789abcdef")
    locked = {path for path, ways in served.document["paths"].items() for way in ways.values() if "security" in way}
    assert locked == {"/predict", "/model", "/drift", "/metrics"}
    for path in locked:
        (operation,) = served.document["paths"][path].values()
        status, _, answer = served.ask(path, {} if path == "/predict" else None)
        assert status == 401
        served.validate(answer, operation["responses"]["401"]["content"]["application/json"]["schema"])


# What it does: schemathesis


def exercise(served: Served, mode: Any, max_examples: int) -> None:
    """Ask every route what its description allows, or forbids, and judge each answer by the description."""
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi import checks

    judged = [
        not_a_server_error,
        checks.status_code_conformance,
        checks.content_type_conformance,
        checks.response_schema_conformance,
    ]
    schema = schemathesis.openapi.from_url(f"{served.url}/openapi.json")
    for operation in schema.get_all_operations():
        is_predict = operation.ok().path == "/predict"
        if not is_predict and mode is not schemathesis.GenerationMode.POSITIVE:
            continue  # nothing can be sent to the others

        @settings(
            max_examples=max_examples if is_predict else 1,
            phases=(Phase.generate,),
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.ok().as_strategy(generation_mode=mode))
        def ask(case: Any) -> None:
            answer = case.call(timeout=20)
            case.validate_response(answer, checks=judged)
            if mode is schemathesis.GenerationMode.POSITIVE and answer.status_code != 200:
                assert {fault["rule"] for fault in answer.json()["detail"]} <= set(EXPECTED_REFUSALS), answer.text

        ask()


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_document_allows_is_answered_as_described(serve: Callable[..., Served], kind: str) -> None:
    exercise(serve(kind), schemathesis.GenerationMode.POSITIVE, FEW)


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_document_forbids_is_refused_as_described(serve: Callable[..., Served], kind: str) -> None:
    exercise(serve(kind), schemathesis.GenerationMode.NEGATIVE, FEW)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_schemathesis_finds_nothing(serve: Callable[..., Served], kind: str, tmp_path: Path) -> None:
    """All that it checks, but that every valid request is answered: numbers can be too large for any model."""
    (tmp_path / "schemathesis.toml").write_text('[checks.negative_data_rejection]\nexpected-statuses = ["4xx"]\n')
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(tmp_path / "schemathesis.toml")]
    command += ["run", f"{serve(kind).url}/openapi.json", "--checks", "all", "--exclude-checks"]
    command += ["positive_data_acceptance", "--phases", "examples,coverage,fuzzing", "--max-examples", str(MANY)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=900, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    print(done.stdout[-600:])
