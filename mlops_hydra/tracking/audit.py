"""Who moved an alias of a model, when, from where to where and why: one tag on the registered model for each move.

A tag is written by one process only, under a name of its own, so that no entry replaces another, whoever writes at the
same time. It is there before the alias moves, as `intended`, and becomes `made` afterwards: a process that dies in
between leaves an entry too many, never a move without one. How an alias moves is `alias.py`.
"""

import getpass
import json
import secrets
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Final, Literal

from mlops_hydra.tracking.lease import DEAD_SECONDS, Owner, lives

PREFIX: Final = "audit."
MAX_REASON_LENGTH: Final = 2000  # the value of a tag holds 5,000 characters; a quotation mark takes two

Action = Literal["promote", "rollback"]


@dataclass(frozen=True, slots=True)
class Move:
    """One change of an alias. `before` and `after` are versions; `before` is what was found, also if set by hand."""

    time: int
    """Milliseconds since 1970; always after the entry before it, even where the clocks of two machines differ."""
    who: str
    alias: str
    before: int | None
    after: int | None
    action: Action
    verdict: str
    reason: str
    forced: bool


@dataclass(frozen=True, slots=True)
class Entry:
    """A move as it is written down, and the process that does it."""

    key: str
    move: Move
    owner: Owner
    is_made: bool = False

    @property
    def text(self) -> str:
        """The value of the tag."""
        state = {"state": "made" if self.is_made else "intended", "owner": asdict(self.owner)}
        return json.dumps(asdict(self.move) | state, ensure_ascii=False)

    @property
    def is_in_flight(self) -> bool:
        """Whether the process that means to move the alias may still do so.

        One that hangs for longer than `DEAD_SECONDS` counts as gone; should it go on after all, it finds out.
        """
        age = abs(time.time() - self.move.time / 1000)
        return not self.is_made and age < DEAD_SECONDS and lives(self.owner, self.move.time / 1000)

    def made(self, note: str = "") -> "Entry":
        """The same, after the alias moved."""
        return replace(self, is_made=True, move=replace(self.move, reason=_one_line(f"{note}{self.move.reason}")))


def intended(wish: Move, owner: Owner, entries: Sequence[Entry]) -> Entry:
    """The entry of a move that is about to be made, after all `entries`."""
    after = entries[-1].move.time if entries else 0
    when = max(int(time.time() * 1000), after + 1)
    return Entry(f"{PREFIX}{when:013d}-{secrets.token_hex(4)}", replace(wish, time=when), owner)


def wish(alias: str, after: int, *, action: Action, verdict: str, reason: str, forced: bool) -> Move:
    """A move that nobody has made yet: by whom is this process's user, when and from where is not known."""
    return Move(0, _who(), alias, None, after, action, verdict, _one_line(reason), forced)


def _who() -> str:
    user = "unknown"
    with suppress(OSError, KeyError):  # a container may have no entry for its user
        user = getpass.getuser()
    return f"{user}@{socket.gethostname()}"


def _one_line(text: str) -> str:
    """What any database takes in a tag: printable, and not too long."""
    text = "".join(letter if letter.isprintable() else "?" for letter in " ".join(text.split()))
    return text if len(text) <= MAX_REASON_LENGTH else f"{text[: MAX_REASON_LENGTH - 3]}..."


def read_entries(tags: Mapping[str, str]) -> tuple[Entry, ...]:
    """The entries among the tags of a registered model, oldest first; what nobody here wrote is left out."""
    found = (_read(key, text) for key, text in tags.items() if key.startswith(PREFIX))
    return tuple(
        sorted((entry for entry in found if entry is not None), key=lambda entry: (entry.move.time, entry.key))
    )


def _read(key: str, text: str) -> Entry | None:
    try:
        data = json.loads(text)
        move = Move(**{field.name: data[field.name] for field in fields(Move)})
        entry = Entry(key, move, Owner(**data["owner"]), data["state"] == "made")
    except (ValueError, TypeError, KeyError):
        return None
    return entry if _is_sound(move) else None


def _is_sound(move: Move) -> bool:
    versions: tuple[Any, ...] = (move.before, move.after)
    return isinstance(move.time, int) and all(number is None or isinstance(number, int) for number in versions)


def moves(entries: Sequence[Entry], aliases: Mapping[str, int]) -> list[Move]:
    """What happened, oldest first.

    Of a process that died at it, a move counts unless the alias was still where it began when somebody looked next:
    rather one too many than none for a move that was made.
    """
    found = dict(aliases)
    happened = []
    for entry in reversed(entries):
        move = entry.move
        if entry.is_made or found.get(move.alias) != move.before:
            happened.append(move)
        if move.before is None:
            found.pop(move.alias, None)
        else:
            found[move.alias] = move.before
    return happened[::-1]


def trail(history: Iterable[Move], alias: str, now: int | None) -> list[int]:
    """The versions that led to `now`, which is the last: a promotion adds one, a rollback takes away what it left.

    So a rollback of a rollback goes further back, and a version that was rolled back is never returned to. Versions
    that somebody gave the alias by hand are part of it as far as they were found.
    """
    path: list[int] = []
    for move in history:
        if move.alias != alias or move.after is None:
            continue
        _found(path, move.before)
        if move.action == "rollback":
            path = path if move.before is None else path[:-1]
            while path and path[-1] != move.after:
                path.pop()
        _found(path, move.after)
    _found(path, now)
    return path


def _found(path: list[int], version: int | None) -> None:
    if version is not None and path[-1:] != [version]:
        path.append(version)
