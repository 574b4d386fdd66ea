"""Whatever is sent, the answer is a prediction or says what is wrong: as documented, soon, in little memory."""

import asyncio
import http.client
import json
import random
import re
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from mlops_hydra.serving.app import Service
from mlops_hydra.serving.folder import ServiceFolder
from mlops_hydra.serving.refusal import MAX_FAULTS
from mlops_hydra.serving.request_log.conversion import Converter
from mlops_hydra.serving.schemas import BatchPredictionResponse, Faults, PredictionResponse
from tests.serving import handmade
from tests.serving.bodies import LARGE, Bodies
from tests.serving.conftest import CREDIT_ROW
from tests.serving.hosting import prepared

IMAGE = {"image": [[1, 2.5, 3], [4, 5, 6]], "words": [0, 6, 3]}
TABLE = [
    {"rows": [CREDIT_ROW, dict.fromkeys(CREDIT_ROW)], "user_id": "u1"},
    {"rows": [CREDIT_ROW | {"employed": 0, "city": 5, "since": "2024-03-01T10:00:00+02:00"}], "probabilities": True},
    {"rows": [list(CREDIT_ROW.values())] * 2, "user_id": 7},
    {"features": list(CREDIT_ROW.values()), "user_id": None},
]
VALID: dict[str, list[dict[str, Any]]] = {
    "classes": TABLE,
    "a value": TABLE,
    "arrays": [{"rows": [IMAGE, IMAGE], "user_id": "u1"}, {"rows": [IMAGE], "probabilities": True}],
}
OURS = re.compile(r"Traceback|Error\b|Exception|msgspec|numpy|onnx|asyncio|/site-packages|\.py\b|<class|0x[0-9a-f]{6}")
COLUMNS = {*CREDIT_ROW, *IMAGE, "rows", "features", "user_id", "probabilities"}
Ask = Callable[[bytes], tuple[int, str, bytes]]


@pytest.fixture(scope="module")
def bundles(trained_bundle: Callable[[int], Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("bundles")
    trained = trained_bundle(0)
    made = (trained, handmade.regression(trained, place / "value"), handmade.of_arrays(trained, place / "arrays"))
    return dict(zip(VALID, made, strict=True))


def judge(status: int, content_type: str, answer: bytes) -> Faults | None:
    """What is told to be wrong; None of a prediction."""
    assert status in (200, 413, 422), answer
    assert content_type == "application/json"
    data = json.loads(answer)
    if status == 200:
        (BatchPredictionResponse if "predictions" in data else PredictionResponse).model_validate(data, strict=True)
        return None
    told = Faults.model_validate(data, strict=True)
    assert 1 <= len(told.detail) <= MAX_FAULTS and len(answer) < 20_000
    for fault in told.detail:
        assert fault.rule and not OURS.search(fault.rule), fault
        assert fault.row is None or fault.row >= 0
        assert fault.column is None or fault.column in COLUMNS or fault.rule.startswith("is not known"), fault
    return told


class Directly:
    """A service within this process, without sockets."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self._runner = asyncio.Runner()
        self._runner.run(service.watch.look())

    def __call__(self, body: bytes) -> tuple[int, str, bytes]:
        return self._runner.run(self._asked(body))

    async def _asked(self, body: bytes) -> tuple[int, str, bytes]:
        said: list[Any] = []

        async def send(message: Any) -> None:
            said.append(message)

        async def receive() -> Any:
            return {"type": "http.request", "body": body, "more_body": False}

        scope = {"type": "http", "method": "POST", "path": "/predict", "headers": []}
        await self.service(scope, receive, send)
        return said[0]["status"], dict(said[0]["headers"])[b"content-type"].decode(), said[1]["body"]

    def close(self) -> None:
        if self.service.log is not None:
            self.service.log.journal.close()
        self._runner.close()


@pytest.fixture
def ask(bundles: dict[str, Path], serve_config: Any) -> Any:
    """`ask(kind)`: one that logs what it predicts."""
    made: list[Directly] = []

    def make(kind: str) -> Directly:
        config = serve_config("~variants.treatment", "log.sample=1")
        made.append(Directly(prepared(config, bundles[kind])))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.mark.parametrize("kind", VALID)
def test_whatever_is_sent_is_predicted_or_refused_in_the_documented_form(ask: Any, kind: str) -> None:
    predict = ask(kind)
    statuses, rules = Counter[int](), set[str]()
    for body in islice(Bodies(VALID[kind], seed=1), 2_000):
        status, content_type, answer = predict(body)
        told = judge(status, content_type, answer)
        statuses[status] += 1
        rules |= {fault.rule for fault in told.detail} if told else set()
    assert statuses[200] > 200 and statuses[422] > 1_000, "else this tries less than it says"
    assert len(rules) >= 15
    lines_that_the_log_cannot_read(predict)


def lines_that_the_log_cannot_read(predict: Directly) -> None:
    """There are none."""
    assert predict.service.log is not None
    predict.service.log.journal.close()
    aside: list[bytes] = []
    paths = sorted(ServiceFolder.for_config(predict.service.config).journal.iterdir())
    tables = Converter().convert([line for path in paths for line in path.read_bytes().splitlines()], aside.append)
    assert not aside and sum(table.num_rows for _, table in tables) > 200


@pytest.mark.parametrize("kind", VALID)
def test_bodies_of_megabytes_take_no_longer_than_others_notice(ask: Any, kind: str) -> None:
    predict = ask(kind)
    rng = random.Random(1)
    for make in LARGE:
        body = make(rng, VALID[kind])
        start = time.thread_time()
        told = judge(*predict(body))
        assert told is not None
        assert time.thread_time() - start < 2, body[:60]  # alone it is 0.2; others may work on this machine


ODD: dict[str, tuple[str, ...]] = {
    "age": ('"41"', "true", "[]", "{}", "1e400", "-1e999", "9" * 5_000, "9" * 400),
    "employed": ('"true"', "0.5", "2", "-1", "[]", "1e400", "1e300", "9" * 5_000),
    "city": ("[]", "{}", '["Wien"]', "1e400", "9" * 5_000, '"' + "x" * 10_001 + '"'),
    "since": (
        "5", "true", "[]", '""', '"yesterday"', '"2024-02-30"', '"0001-01-01T00:00:00+23:59"', "1e400",
        '"9999-12-31T23:59:59-23:59"', '"\\u0000"', '"' + "2" * 65 + '"',
    ),
}  # fmt: skip
ODD_ARRAYS = {
    "image": (
        "[[1,2],[3,4]]", "[1,2,3]", "[[1,2,3],[4,5]]", "null", '"x"', "[[1,2,3],[4,5,1e39]]", "[[1,2,3],[4,5,null]]",
    ),
    "words": ("[1,2]", "[1,2,3,4]", "[0.5,1,2]", "[1,2,true]", "[1,2,9223372036854775808]", "[0,0,1e400]", "0"),
}  # fmt: skip


@pytest.mark.parametrize("column", ODD)
def test_a_wrong_value_is_told_with_row_column_rule_and_value(ask: Any, column: str) -> None:
    predict = ask("classes")
    for token in ODD[column]:
        row, place = json.dumps(CREDIT_ROW), list(CREDIT_ROW).index(column)
        wrong = json.dumps(CREDIT_ROW | {column: "@"}).replace('"@"', token)
        values = json.dumps(["@" if number == place else value for number, value in enumerate(CREDIT_ROW.values())])
        for number, body in (
            (2, f'{{"rows":[{row},{row},{wrong},{row}]}}'),
            (0, f'{{"rows":[{values}]}}'.replace('"@"', token)),
            (0, f'{{"features":{values}}}'.replace('"@"', token)),
        ):
            told = judge(*predict(body.encode()))
            assert told is not None, token[:30]
            ((found),) = told.detail
            assert (found.row, found.column) == (number, column), (token[:30], found)
            assert found.rule.startswith("must be ")
            assert len(token) > 90 or found.value in (token, json.loads(token)), found


@pytest.mark.parametrize("column", ODD_ARRAYS)
def test_a_wrong_array_is_told_with_row_and_input(ask: Any, column: str) -> None:
    predict = ask("arrays")
    for token in ODD_ARRAYS[column]:
        wrong = json.dumps(IMAGE | {column: "@"}).replace('"@"', token)
        told = judge(*predict(f'{{"rows":[{json.dumps(IMAGE)},{wrong}]}}'.encode()))
        assert told is not None, token
        assert [(fault.row, fault.column) for fault in told.detail] == [(1, column)], token
        assert "must be a list of the shape" in told.detail[0].rule


def test_numbers_that_the_graph_cannot_look_up_are_the_fault_of_their_rows(ask: Any) -> None:
    predict = ask("arrays")
    rows = [IMAGE | {"words": [0, 0, 7 if row in (3, 60) else 6]} for row in range(64)]
    told = judge(*predict(json.dumps({"rows": rows}).encode()))
    assert told is not None
    assert [(fault.row, fault.rule) for fault in told.detail] == [
        (3, "has values that the model cannot take"), (60, "has values that the model cannot take")
    ]  # fmt: skip
    assert judge(*predict(json.dumps({"rows": rows[:3]}).encode())) is None


USERS = {  # what is sent: who it is, or None where it is refused
    '"u1"': "u1", "7": "7", "7.0": "7", "-0": "0", "-0.0": "0", "null": None, '"7"': "7", '"ü"': "ü", '" "': " ",
    '"\\u0000"': "\x00",
    '"\\ud83d\\ude00"': "\U0001f600", "9223372036854775807": "9223372036854775807", '"' + "ü" * 256 + '"': "ü" * 256,
}  # fmt: skip
NO_USERS = (
    '""', "7.5", "true", "[]", "{}", "9223372036854775808", "1e400", "1e19", "9" * 5_000, '"' + "x" * 257 + '"',
    '"\\ud800"', "NaN", '"\x00"',
)  # fmt: skip


def test_users_are_text_or_whole_numbers_of_any_spelling(ask: Any) -> None:
    predict = ask("classes")
    heard: list[Any] = []
    predict.service._endpoint._heard = lambda *said: heard.append(said[2].user_id)
    for token, user in USERS.items():
        body = f'{{"user_id":{token},"rows":[{json.dumps(CREDIT_ROW)}]}}'
        assert judge(*predict(body.encode())) is None, token
        assert user == (None if heard[-1] is None else str(heard[-1])), token
    for token in NO_USERS:
        told = judge(*predict(f'{{"user_id":{token},"rows":[{json.dumps(CREDIT_ROW)}]}}'.encode()))
        assert told is not None, token
        assert told.detail[0].column in ("user_id", None)


def test_columns_may_have_any_name(bundles: dict[str, Path], make_bundle: Any, ask: Any) -> None:
    name = 'the "city"\\ of\nbirth | \U0001f600'
    bundles["odd names"] = make_bundle(rename={"city": name})
    predict = ask("odd names")
    row = {name if column == "city" else column: value for column, value in CREDIT_ROW.items()}
    for ensure_ascii in (True, False):
        assert judge(*predict(json.dumps({"rows": [row]}, ensure_ascii=ensure_ascii).encode())) is None
    for wrong, rule in ((row | {name: []}, "must be text"), ({**row, name: 0} | {"age": ""}, "must be a number")):
        _, _, answer = predict(json.dumps({"rows": [row, wrong]}).encode())
        (fault,) = json.loads(answer)["detail"]
        assert fault["row"] == 1 and fault["rule"].startswith(rule)
    del row[name]
    (fault,) = json.loads(predict(json.dumps({"rows": [row]}).encode())[2])["detail"]
    assert fault["column"] == name and fault["rule"].startswith("is missing")


# Over sockets, by a real worker


def memory_of(pid: int) -> tuple[float, float]:
    """Resident now, and the most it ever was: MB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    told = dict(line.split(":", 1) for line in lines)
    now, most = (int(told[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM"))
    return now, most


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "number"), [("classes", 70_000), ("a value", 15_000), ("arrays", 15_000)])
def test_100_000_bodies_over_sockets(service: Any, bundles: dict[str, Path], kind: str, number: int) -> None:
    arms = [f"variants.control.bundle={bundles[kind]}", "~variants.treatment"]
    with service(*arms) as served, closing(http.client.HTTPConnection(served.url[7:], timeout=20)) as connection:
        worker, statuses, longest, num_bytes = served.child("worker"), Counter[int](), (0.0, b""), 0
        for _ in range(200):  # everything is warm
            send(connection, json.dumps(VALID[kind][0]).encode())
        before, _ = memory_of(worker)
        for body in islice(Bodies(VALID[kind], seed=2, large=0.002), number):
            start = time.perf_counter()
            answer = send(connection, body)
            longest = max(longest, (time.perf_counter() - start, body[:60]))
            judge(*answer)
            statuses[answer[0]] += 1
            num_bytes += len(body)
        after, most = memory_of(worker)
        print(f"\n{kind}: {dict(statuses)}, {num_bytes / 1e6:.0f} MB; longest {longest[0]:.3f} s: {longest[1]!r}")
        print(f"resident: {before:.0f} MB before, {after:.0f} after, {most:.0f} at most")
        assert served.child("worker") == worker, "it never died"
        assert longest[0] < 2
        assert after < before + 40 and most < before + 120
    assert "Traceback" not in served.said and "failed" not in served.said


def send(connection: http.client.HTTPConnection, body: bytes) -> tuple[int, str, bytes]:
    connection.request("POST", "/predict", body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    return answer.status, answer.headers["content-type"], answer.read()
