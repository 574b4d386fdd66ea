"""With an API key: who has it is answered, who has not is told so, and nobody else gets to see it."""

import hmac
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mlops_hydra.serving.endpoint import Key
from mlops_hydra.serving.refusal import Refusal
from tests.serving.conftest import CREDIT_ROW, Service

KEY = "correct-horse-battery-staple"
LOCKED = ("/predict", "/model", "/drift", "/metrics")
OPEN = ("/health", "/ready", "/docs", "/openapi.json")
WRONG: tuple[dict[str, str], ...] = (
    {}, {"X-API-Key": ""}, {"X-API-Key": KEY[:-1]}, {"X-API-Key": KEY + "x"}, {"X-API-Key": KEY.upper()},
    {"X-API-Key": "correct-horse-battery-stable"}, {"Authorization": KEY}, {"Authorization": f"Basic {KEY}"},
    {"Authorization": "Bearer "}, {"Authorization": f"Bearer {KEY[1:]}"}, {"Cookie": f"X-API-Key={KEY}"},
    {"X-API-Key": "\u00fc" * 20},
)  # fmt: skip
RIGHT = (
    {"X-API-Key": KEY},
    {"x-api-key": KEY},
    {"Authorization": f"Bearer {KEY}"},
    {"authorization": f"bearer  {KEY} "},
)


@pytest.fixture(scope="module")
def locked(trained_bundle: Callable[[int], Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    arms = [f"variants.control.bundle={trained_bundle(0)}", "~variants.treatment"]
    with Service(tmp_path_factory.mktemp("locked"), *arms, MLOPS_HYDRA_API_KEY=KEY) as made:
        made.key = None  # what is sent is the tests' business
        yield made


def ask(service: Service, path: str, headers: dict[str, str]) -> tuple[int, str]:
    """The status, and all else of an answer."""
    body = b'{"rows":[%b]}' % str(CREDIT_ROW).replace("'", '"').replace("True", "true").encode()
    request = urllib.request.Request(f"{service.url}{path}", body if "/predict" in path else None, headers)
    try:
        answer = urllib.request.urlopen(request, timeout=20)
    except urllib.error.HTTPError as error:
        answer = error
    with answer:
        return answer.status, f"{answer.headers}{answer.read().decode()}"


@pytest.mark.parametrize("path", LOCKED)
def test_without_the_key_nothing_is_told(locked: Service, path: str) -> None:
    for headers in WRONG:
        status, told = ask(locked, path, headers)
        assert status == 401 and "needs the API key" in told, headers
        assert "www-authenticate: bearer" in told.lower() and KEY not in told
    assert ask(locked, f"{path}?X-API-Key={KEY}", {})[0] == 401, "addresses end up in logs"


@pytest.mark.parametrize("path", LOCKED)
def test_the_key_is_a_header_of_its_own_or_a_bearer(locked: Service, path: str) -> None:
    for headers in RIGHT:
        status, told = ask(locked, path, headers)
        assert status == 200 and KEY not in told, headers


@pytest.mark.parametrize("path", OPEN)
def test_whether_it_lives_and_how_to_ask_is_no_secret(locked: Service, path: str) -> None:
    for headers in ({}, RIGHT[0]):
        status, told = ask(locked, path, headers)
        assert status == 200 and KEY not in told


def test_nothing_that_is_left_or_shown_has_the_key(locked: Service) -> None:
    for path in LOCKED:
        ask(locked, path, RIGHT[0])
        ask(locked, path, {"X-API-Key": KEY + "x"})
    assert KEY not in locked.said
    for pid in (locked.process.pid, *locked.children()):
        assert KEY.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()
    files = [path for path in locked.folder.parents[1].rglob("*") if path.is_file()]
    assert len(files) >= 3
    assert not [path for path in files if KEY.encode() in path.read_bytes()]
    assert not [path for path in locked.log.parent.rglob("*") if KEY in path.name]


def test_keys_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[Any] = []

    def compare(first: Any, second: Any) -> bool:
        compared.append((first, second))
        return False

    monkeypatch.setattr(hmac, "compare_digest", compare)
    for name, value in ((b"x-api-key", KEY.encode()), (b"authorization", b"Bearer " + KEY.encode())):
        with pytest.raises(Refusal):  # nothing else lets anybody in
            Key(KEY).check([(name, value)])
    assert compared == [(KEY.encode(), KEY.encode())] * 2
    Key(None).check([])
