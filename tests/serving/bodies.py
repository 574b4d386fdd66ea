"""Bodies that nobody should send: mutations of valid ones, by a seed."""

import codecs
import gzip
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

TOKENS = (
    "NaN", "-NaN", "Infinity", "-Infinity", "1e400", "-1e400", "1e-400", "1e308", "-1.7976931348623157e308", "-0",
    "-0.0", "01", "1.", ".5", "+1", "1e", "0x10", "1_000", "9" * 20, "9" * 400, "9" * 5_000, "-" + "9" * 5_000,
    "9223372036854775807", "9223372036854775808", "-9223372036854775809", "18446744073709551616", "2147483648",
    "0", "1", "0.5", "2", "1.0", "true", "false", "null", "True", "None", "undefined", "'x'", "{}", "[]", "[[]]",
    "[null]", '{"a":1}', '{"a":1,"a":2}', '"true"', '"1"', '"NaN"', '""', '" "', r'"\u0000"', r'"\ud800"', r'"\x41"',
    '"\x00"', '"\n"', '"\u2028"', '"\U0001f600"', r'"\ud83d\ude00"', '"0001-01-01T00:00:00+23:59"', '"2024-13-01"',
    '"9999-12-31T23:59:59-23:59"', '"0001-01-01"', '"9999-12-31"', '"2024-02-30"', '"2024-W01-1"', '"20240101"',
    '"2024-01-01T00:00:00+00:00:00.000001"', '"2024-01-01T25:00"', '"0000-00-00"', '"-2024-01-01"', '"2024-01-01Z"',
    r'"\udfff\ud800"', '"' + "x" * 300 + '"', '"' + "ü" * 20_000 + '"', "[" * 40 + "]" * 40, "[" * 5_000 + "]" * 5_000,
    "[" * 5_000, '{"a":' * 990,
)  # fmt: skip
KEYS = (
    "rows",
    "features",
    "user_id",
    "probabilities",
    "row",
    "Rows",
    "",
    "a" * 10_000,
    "\x00",
    "ü",
    "\ud800",
    "$ref",
    "__class__",
)
_MARK = "@%d@"


@dataclass
class Bodies:
    """Endless, of one model; `valid` are what it takes. `large` is the share of bodies of megabytes."""

    valid: list[dict[str, Any]]
    seed: int
    large: float = 0.0
    _random: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)

    def __iter__(self) -> Iterator[bytes]:
        while True:
            if self._random.random() < self.large:
                yield self._random.choice(LARGE)(self._random, self.valid)
            else:
                yield self._one()

    def _one(self) -> bytes:
        body = json.loads(json.dumps(self._random.choice(self.valid)))
        tokens: list[str] = []
        for _ in range(self._random.choice((0, 1, 1, 1, 2, 3))):
            body = self._changed(body, tokens)
        text = json.dumps(body, ensure_ascii=self._random.random() < 0.5)
        for place, token in enumerate(tokens):
            text = text.replace(f'"{_MARK % place}"', token)
        content = text.encode(errors="surrogatepass")
        return self._random.choice(BYTES)(self._random, content) if self._random.random() < 0.3 else content

    def _changed(self, body: Any, tokens: list[str]) -> Any:
        """One place of it: another value, no value, one more, or one twice."""
        rng = self._random
        holder, key = rng.choice([(None, None), *_places(body)])
        tokens.append(rng.choice(TOKENS))
        odd = _MARK % (len(tokens) - 1)
        if holder is None:
            return odd if rng.random() < 0.1 else body
        match rng.randrange(6), holder:
            case 0, _:
                del holder[key]
            case 1, dict():
                holder[rng.choice(KEYS)] = odd
            case 1, list():
                holder.insert(rng.randrange(len(holder) + 1), odd)
            case 2, list():
                holder.append(holder[key])
            case 2, dict() if isinstance(key, str):
                holder[key[:-1] or "x"] = holder.pop(key)
            case _:
                holder[key] = odd
        return body


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every (holder, key) below a value."""
    items = (
        list(value.items()) if isinstance(value, dict) else list(enumerate(value)) if isinstance(value, list) else []
    )
    return [(value, key) for key, _ in items] + [place for _, each in items for place in _places(each)]


Mutation = Callable[[random.Random, bytes], bytes]


def _truncated(rng: random.Random, content: bytes) -> bytes:
    return content[: rng.randrange(len(content) + 1)]


def _flipped(rng: random.Random, content: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8)) if changed else 0):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def _inserted(rng: random.Random, content: bytes) -> bytes:
    place = rng.randrange(len(content) + 1)
    odd = (
        b"\x00",
        b"\xff",
        b"\xed\xa0\x80",
        b"\xef\xbb\xbf",
        b"\\",
        b'"',
        b",",
        b"{",
        b"]",
        b"\r\n",
        b"\x0b",
        b"/**/",
        b"NaN",
    )
    return content[:place] + rng.choice(odd) + content[place:]


def _without(rng: random.Random, content: bytes) -> bytes:
    start, stop = sorted(rng.randrange(len(content) + 1) for _ in range(2))
    return content[:start] + content[stop:]


def _doubled_key(rng: random.Random, content: bytes) -> bytes:
    """`{...}` becomes `{..., "rows": X}`."""
    name = rng.choice(("rows", "features", "user_id", "probabilities"))
    return content.rstrip()[:-1] + b',"%b":%b}' % (name.encode(), rng.choice(TOKENS).encode())


def _encoded(rng: random.Random, content: bytes) -> bytes:
    text = content.decode(errors="replace")
    encoding = rng.choice(("utf-16", "utf-16-le", "utf-32", "utf-8-sig", "latin-1", "cp037"))
    return text.encode(encoding, errors="replace")


BYTES: tuple[Mutation, ...] = (
    _truncated,
    _flipped,
    _inserted,
    _without,
    _doubled_key,
    _encoded,
    lambda _rng, content: gzip.compress(content, mtime=0),
    lambda _rng, content: codecs.BOM_UTF8 + content,
    lambda _rng, content: content + content,
    lambda rng, content: content + rng.choice((b"\x00", b" ", b"\n", b"x", b"]")),
    lambda rng, _content: rng.randbytes(rng.randrange(200)),
    lambda _rng, _content: b"",
    lambda _rng, content: b"--x\r\nContent-Disposition: form-data; name=rows\r\n\r\n" + content + b"\r\n--x--",
)  # fmt: skip

Maker = Callable[[random.Random, list[dict[str, Any]]], bytes]
FULL = 4_194_304 - 100  # what the service takes at most, nearly


def _filled(start: bytes, part: bytes, end: bytes) -> bytes:
    return start + part * ((FULL - len(start) - len(end)) // len(part)) + end


def _rows(rng: random.Random, valid: list[dict[str, Any]]) -> list[Any]:
    return list(rng.choice([body["rows"] for body in valid if "rows" in body]))


def _unknown_keys(rng: random.Random, valid: list[dict[str, Any]]) -> bytes:
    names = (b'"rowz%06d":0' % number for number in range(FULL // 15))
    return b"{" + b",".join(names) + b"}"


def _row_of_many_keys(rng: random.Random, valid: list[dict[str, Any]]) -> bytes:
    names = (b'"agex%06d":0' % number for number in range(FULL // 15))
    return b'{"rows":[{' + b",".join(names) + b"}]}"


def _last_row_wrong(rng: random.Random, valid: list[dict[str, Any]]) -> bytes:
    row = json.dumps(_rows(rng, valid)[0]).encode() + b","
    return _filled(b'{"rows":[', row, b"{}]}")


def _last_number_too_large(rng: random.Random, valid: list[dict[str, Any]]) -> bytes:
    return _filled(b'{"features":[', b"1,", b"1e999]}")


LARGE: tuple[Maker, ...] = (
    lambda _rng, _valid: b"[" * 10_000_000,
    lambda _rng, _valid: b'{"rows":[' + b"{}," * 3_333_333 + b"{}]}",
    lambda rng, _valid: rng.randbytes(10_000_000),
    lambda _rng, _valid: b'{"user_id":"' + b"x" * 10_000_000 + b'","rows":[{}]}',
    lambda rng, valid: json.dumps({"rows": _rows(rng, valid)[:1] * 100_000}).encode(),
    lambda _rng, _valid: b'{"rows":[' + b"{}," * 99_999 + b"{}]}",
    lambda _rng, _valid: _filled(b'{"rows":[', b"[],", b"[]]}"),
    lambda _rng, _valid: _filled(b'{"features":[', b"[],", b"[]]}"),
    lambda _rng, _valid: _filled(b'{"features":[', b"1,", b"1]}"),
    lambda _rng, _valid: _filled(b'{"features":', b"9", b"}"),
    lambda _rng, _valid: _filled(b'{"rows":[{"age":', b"9", b"}]}"),
    lambda _rng, _valid: _filled(b'{"', b"x", b'":1}'),
    lambda _rng, _valid: _filled(b'{"rows":[{"', b"x", b'":1}]}'),
    lambda _rng, _valid: _filled(b'{"rows":[', b'{"a":', b"]}"),
    lambda _rng, _valid: _filled(b'{"user_id":"', b"\\u00fc", b'","rows":1}'),
    lambda _rng, _valid: _filled(b'{"rows":"', b"\\ud83d\\ude00", b'"}'),
    lambda _rng, _valid: _filled(b"", b" ", b"{}"),
    _unknown_keys,
    _row_of_many_keys,
    _last_row_wrong,
    _last_number_too_large,
)  # fmt: skip
