"""A real worker and clients that do not keep to HTTP, or do and are rarely met: each is answered, and so are others."""

import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.serving.conftest import CREDIT_ROW, Service

BODY = json.dumps({"rows": [CREDIT_ROW]}).encode()
MAX_BYTES = 20_000
TIMEOUT_SECONDS = 0.3
CHUNKED = b"POST /predict HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture(scope="module")
def served(trained_bundle: Callable[[int], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    limits = [f"limits.max_body_bytes={MAX_BYTES}", f"limits.timeout_seconds={TIMEOUT_SECONDS}"]
    arms = [f"variants.control.bundle={trained_bundle(0)}", "~variants.treatment", "log.sample=0"]
    with Service(tmp_path_factory.mktemp("http"), *arms, *limits) as made:
        yield made


@pytest.fixture(autouse=True)
def _others_are_served(served: Service) -> Iterator[None]:
    """Before, meanwhile and after."""
    yield
    assert served.ask("/predict", BODY)[0] == 200


class Answer(NamedTuple):
    """What came before the connection was closed, or enough."""

    status: int
    headers: dict[str, str]
    body: bytes
    rest: bytes

    @property
    def rule(self) -> str:
        return str(json.loads(self.body)["detail"][0]["rule"])


def read(content: bytes) -> Answer:
    head, _, rest = content.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines)
    length = int(headers.get("content-length", 0))
    return Answer(int(first.split()[1]), headers, rest[:length], rest[length:])


def connected(served: Service) -> socket.socket:
    host, _, port = served.url.removeprefix("http://").partition(":")
    return socket.create_connection((host, int(port)), timeout=10)


def until_closed(connection: socket.socket) -> Answer:
    return read(b"".join(iter(lambda: connection.recv(2**16), b"")))


def asked(method: str = "POST", path: str = "/predict", body: bytes = BODY, *headers: str, length: Any = None) -> bytes:
    """A request after which the connection is to be closed."""
    length = len(body) if length is None else length
    lines = [f"{method} {path} HTTP/1.1", "Host: x", f"Content-Length: {length}", "Connection: close", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def talk(served: Service, content: bytes) -> Answer:
    with connected(served) as connection:
        connection.sendall(content)
        return until_closed(connection)


def chunks(*contents: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(content), content) for content in contents)


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "OPTIONS", "DELETE", "PATCH", "TRACE"])
def test_predictions_are_asked_for_with_post(served: Service, method: str) -> None:
    answer = talk(served, asked(method))
    assert answer.status == 405 and answer.headers["allow"] == "post"
    assert answer.body == b"" if method == "HEAD" else answer.rule == "must be POST"


MALFORMED = {
    "no HTTP": b"\x16\x03\x01\x02\x00\x01\x00" + bytes(200),
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "an unknown method": asked("FOO"),
    "two lengths": asked("POST", "/predict", BODY, "Content-Length: 3"),
    "a negative length": asked(length=-1),
    "a length beyond any": asked(length=10**30),
    "a length and chunks": asked("POST", "/predict", b"0\r\n\r\n", "Transfer-Encoding: chunked"),
    "a chunk without a length": CHUNKED + b"zz\r\n",
    "a path that is none": asked("POST", "/\u00fc"),
    "a path with NUL": asked("POST", "/\0"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_what_is_no_http_is_refused(served: Service, name: str) -> None:
    assert talk(served, MALFORMED[name]).status == 400


def test_a_body_in_chunks_is_a_body(served: Service) -> None:
    content = CHUNKED.replace(b"Host: x", b"Connection: close") + chunks(BODY[:7], BODY[7:]) + b"0\r\n\r\n"
    assert talk(served, content).status == 200


@pytest.mark.parametrize("size", [MAX_BYTES + 1, 1_000_000, 10_000_000])
def test_a_body_that_is_too_long_is_refused_when_it_was_sent(served: Service, size: int) -> None:
    """Not before: who is still writing would find the connection reset, and never read why."""
    body = b"x" * size
    for content in (asked(body=body), CHUNKED + chunks(*[body[:50_000]] * (size // 50_000 + 1)) + b"0\r\n\r\n"):
        answer = talk(served, content)
        assert answer.status == 413 and answer.headers["connection"] == "close"
        assert answer.rule == f"the body must have at most {MAX_BYTES} bytes"


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (asked(length=len(BODY) + 5), 408),
        (asked(length=10**10), 408),
        (CHUNKED + chunks(BODY), 408),
        (asked(body=b"x" * MAX_BYTES * 2, length=10**10), 413),
    ],
)
def test_a_body_that_does_not_come_is_not_waited_for(served: Service, content: bytes, status: int) -> None:
    with connected(served) as connection:
        connection.sendall(content)
        assert served.ask("/predict", BODY)[0] == 200, "others are served meanwhile"
        answer = until_closed(connection)
    assert answer.status == status and answer.headers["connection"] == "close"


def test_what_follows_a_body_is_another_request(served: Service) -> None:
    first = asked().replace(b"Connection: close\r\n", b"")
    answer = talk(served, first + first.replace(BODY, b"x" * len(BODY)) + asked("GET", "/health", b""))
    second = read(answer.rest)
    third = read(second.rest)
    assert [each.status for each in (answer, second, third)] == [200, 422, 200]
    assert json.loads(third.body) == {"status": "alive"} and not third.rest


def test_a_client_may_ask_whether_to_go_on(served: Service) -> None:
    content = asked("POST", "/predict", BODY, "Expect: 100-continue")
    with connected(served) as connection:
        connection.sendall(content.removesuffix(BODY))
        assert connection.recv(1000).startswith(b"HTTP/1.1 100 Continue")
        connection.sendall(BODY)
        assert until_closed(connection).status == 200


def test_clients_that_leave_before_their_answer_are_not_waited_for(served: Service) -> None:
    for content in (asked(), asked(length=9_999), b"POST /pre", b"", asked(body=b"x" * 10_000, length=10**9)) * 10:
        with connected(served) as connection:
            connection.sendall(content)
    served.until(lambda: "mlops_hydra_serving_queued_rows 0.0" in served.ask("/metrics")[1])
    assert "Traceback" not in served.said


@pytest.mark.parametrize("path", ["/", "/predict/", "/predict/x", "/Predict", "//predict", "/..", "/openapi", "*"])
def test_other_paths_are_nowhere(served: Service, path: str) -> None:
    answer = talk(served, asked("POST" if path != "*" else "OPTIONS", path))
    assert answer.status == 404 and answer.headers["content-type"] == "application/json"


def test_an_offer_of_another_protocol_is_not_taken_up(served: Service) -> None:
    """Java sends it with its first request; httptools would drop the body."""
    headers = ("Connection: Upgrade, HTTP2-Settings, close", "Upgrade: h2c", "HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABk")
    content = asked("POST", "/predict", BODY, *headers).replace(b"Connection: close\r\n", b"")
    with connected(served) as connection:
        connection.sendall(content)
        assert read(connection.recv(2**16)).status == 200


@pytest.mark.parametrize("part", [b"a" * 1_000_000, b"X: a\r\n" * 200_000])
def test_a_head_that_does_not_end_is_cut_off(served: Service, part: bytes) -> None:
    with connected(served) as connection:
        try:
            connection.sendall(b"GET /health HTTP/1.1\r\nX: " + part)
            assert until_closed(connection).status == 400
        except ConnectionError:  # closed while this still wrote
            pass
