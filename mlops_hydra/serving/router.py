"""Which arm of an A/B test a user sees: the same user, the same arm, in every process and on every platform.

A user is a point between 0 and 2**64: the 64-bit BLAKE2b of the experiment's name and the user's. The arms share this
line among them. At first all of it is the control's; every other arm has a home on it, takes what it gains from there
onwards, and gives back what it gained last.

What the weights alone can say (`docs/decisions/0011-router.md`): between the same two arms, every change moves as few
users as any scheme could. From the third arm on no scheme does that for every change, so the order of the mapping says
who was there first: an arm appended at the control's expense moves nobody but control users. Give a new arm the last
place, and an arm that is over the weight 0 rather than no mention. `Router.reweighted` knows what was before, and
moves the fewest possible for every change of weights and arms.

Not here: who was shown what (the request log), and what the test says.
"""

import hashlib
import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import lru_cache, partial
from itertools import accumulate
from typing import Any, Final, NamedTuple

from mlops_hydra.errors import Fault, UsageError, nearest

ROOM: Final = 2**64
_EVEN: Final = (("control", 50), ("treatment", 50))
_FREE: Final = ""  # no arm has this name
_Piece = tuple[int, int, str]  # from, up to but without, whose


class _Way(NamedTuple):
    """In which order an arm takes the line: from its home up or down, round the end."""

    home: int
    up: bool

    def along(self, pieces: Sequence[_Piece]) -> list[_Piece]:
        """The pieces in this order; the one that holds the home is cut there."""
        cut = [
            part
            for start, stop, arm in pieces
            for part in ((start, min(stop, self.home), arm), (max(start, self.home), stop, arm))
            if part[0] < part[1]
        ]
        return sorted(cut, key=lambda piece: (piece[0] - self.home) % ROOM, reverse=not self.up)


@dataclass(frozen=True, slots=True, eq=False)
class Router:
    """One experiment's assignment, prepared once: 0.7 us a call, however many arms.

    `weights` are shares in any unit (90 and 10, 0.9 and 0.1). `earlier` lists the weights that were in force before,
    oldest first: given from the start, no change ever moves more users than it must. `overrides` send testers to an
    arm, also to one of weight 0. The kill switch sends all, testers too, to the control: the arm of that name, or the
    first. `dataclasses.replace(router, kill_switch=True)` turns it.
    """

    experiment: str
    weights: Mapping[str, float]
    earlier: Sequence[Mapping[str, float]] = field(default=(), kw_only=True)
    overrides: Mapping[str | int, str] = field(default_factory=dict, kw_only=True)
    kill_switch: bool = field(default=False, kw_only=True)
    _borders: list[int] = field(init=False, repr=False)
    _arms: list[str] = field(init=False, repr=False)
    _testers: dict[bytes, str] = field(init=False, repr=False)
    _salted: Any = field(init=False, repr=False)  # BLAKE2b that has read the experiment: copying it is the cheap part

    def __post_init__(self) -> None:
        faults = _faults_of_name("experiment", self.experiment) + _faults_of_weights("weights", self.weights)
        for number, weights in enumerate(self.earlier):
            faults += _faults_of_weights(f"earlier[{number}]", weights)
        faults = faults or _faults_of_overrides(self.overrides, self.weights)
        if faults:
            raise UsageError(faults)
        pieces = _line([*self.earlier, self.weights])
        prepared = {
            "weights": dict(self.weights),
            "earlier": tuple(map(dict, self.earlier)),
            "overrides": dict(self.overrides),
            "_borders": [start for start, _, _ in pieces[1:]],
            "_arms": [arm for _, _, arm in pieces],
            "_testers": {_key(user): arm for user, arm in self.overrides.items()},
            "_salted": _salted(self.experiment),
        }
        for name, value in prepared.items():
            object.__setattr__(self, name, value)

    @property
    def control(self) -> str:
        """Where the kill switch sends everybody."""
        return _control(self.weights)

    def variant(self, user_id: str | int) -> str:
        """The arm of this user; 42 and "42" are one user. No other folding: case, blanks and Unicode forms count."""
        key = _key(user_id)
        if self.kill_switch:
            return self.control
        if self._testers and key in self._testers:
            return self._testers[key]
        state = self._salted.copy()
        state.update(key)
        return self._arms[bisect_right(self._borders, int.from_bytes(state.digest(), "big"))]

    def is_override(self, user_id: str | int) -> bool:
        """Whether `variant` answers from `overrides`: such a user is not part of the experiment's statistics."""
        return not self.kill_switch and _key(user_id) in self._testers

    def reweighted(self, weights: Mapping[str, float]) -> "Router":
        """The same experiment from now on: moves as many users as the shares differ, and not one more."""
        return replace(self, weights=weights, earlier=(*self.earlier, self.weights))

    def __reduce__(self) -> tuple[Any, ...]:
        again = partial(Router, earlier=self.earlier, overrides=self.overrides, kill_switch=self.kill_switch)
        return again, (self.experiment, self.weights)  # a BLAKE2b state cannot be pickled


def get_model_variant(user_id: str | int, experiment: str, weights: Mapping[str, float] | None = None) -> str:
    """The name of the arm that this user sees; without weights, half see "control" and half "treatment".

    Raises UsageError. The same as `Router(experiment, weights).variant(user_id)`, with the router remembered.
    """
    try:
        router = _remembered(experiment, _EVEN if weights is None else tuple(weights.items()))
    except (AttributeError, TypeError):  # no mapping, or something in it that cannot be a key
        router = Router(experiment, dict(_EVEN) if weights is None else weights)  # says what is wrong
    return router.variant(user_id)


@lru_cache(maxsize=256)
def _remembered(experiment: str, weights: tuple[tuple[str, float], ...]) -> Router:
    return Router(experiment, dict(weights))


def _salted(experiment: str) -> Any:
    """A hash that has read the experiment's name, its length first: ("a", "bc") is not ("ab", "c")."""
    name = experiment.encode()
    return hashlib.blake2b(len(name).to_bytes(8, "big") + name, digest_size=8, person=b"mlops-hydra ab 1")


def _key(user_id: str | int) -> bytes:
    try:
        if isinstance(user_id, str) and user_id:
            return user_id.encode()
        if isinstance(user_id, int) and not isinstance(user_id, bool):
            return str(user_id).encode()
    except ValueError:
        pass  # the fault says why
    raise UsageError(_faults_of_name("user_id", user_id, kinds=(str, int)))


def _control(arms: Mapping[str, float]) -> str:
    return "control" if "control" in arms else next(iter(arms))


def _line(history: Sequence[Mapping[str, float]]) -> list[_Piece]:
    """Who holds which part of the line after these weights, one after the other."""
    rest = _control(history[0])
    pieces, ways = [(0, ROOM, rest)], dict[str, _Way]()
    for weights in history:
        for arm in weights:
            if arm != rest and arm not in ways:
                first = next(iter(ways), arm)
                ways[arm] = _way(len(ways), upwards=first < rest)
        pieces = _moved(pieces, ways, rest=rest, sizes=_sizes(weights))
    return _joined(pieces)


def _way(number: int, *, upwards: bool) -> _Way:
    """Homes lie as far apart as they can: 0, 1/2, 1/4, 3/4, ..., and two arms share one, in opposite directions.

    `upwards` says where the first one goes; it follows from the names, so that two arms may stand in either order.
    """
    return _Way(home=int(f"{number // 2:064b}"[::-1], 2), up=(number % 2 == 0) == upwards)


def _moved(pieces: list[_Piece], ways: Mapping[str, _Way], *, rest: str, sizes: Mapping[str, int]) -> list[_Piece]:
    """The line after one change: who shrinks lays down, who grows takes that first, and only then from the rest."""
    change = {arm: sizes.get(arm, 0) - held for arm, held in _held(pieces, [*ways, rest]).items()}
    for arm, way in ways.items():
        backwards = _Way(way.home, not way.up)  # what was gained last comes first
        pieces = _hand_over(pieces, backwards, arm, _FREE, amount=-change[arm])
    for arm, way in ways.items():
        free = min(change[arm], _held(pieces, [_FREE])[_FREE])
        pieces = _hand_over(pieces, way, _FREE, arm, amount=free)
        pieces = _hand_over(pieces, way, rest, arm, amount=change[arm] - free)
    return [(start, stop, arm or rest) for start, stop, arm in pieces]


def _held(pieces: Sequence[_Piece], arms: Sequence[str]) -> dict[str, int]:
    held = Counter(dict.fromkeys(arms, 0))
    for start, stop, arm in pieces:
        held[arm] += stop - start
    return held


def _hand_over(pieces: list[_Piece], way: _Way, giver: str, taker: str, *, amount: int) -> list[_Piece]:
    """What of the giver's comes first on the way is the taker's, as much as the amount says."""
    if amount <= 0:
        return pieces
    result: list[_Piece] = []
    for start, stop, arm in way.along(pieces):
        part = min(amount, stop - start) if arm == giver else 0
        amount -= part
        border = start + part if way.up else stop - part
        result += [(start, border, taker if way.up else arm), (border, stop, arm if way.up else taker)]
    return sorted(piece for piece in result if piece[0] < piece[1])


def _joined(pieces: Sequence[_Piece]) -> list[_Piece]:
    """The same line, neighbours of one arm made one."""
    result: list[_Piece] = []
    for start, stop, arm in pieces:
        begun = result.pop()[0] if result and result[-1][2] == arm else start
        result.append((begun, stop, arm))
    return result


def _sizes(weights: Mapping[str, float]) -> dict[str, int]:
    """Whole parts of the line, in proportion: exact arithmetic, the same on every platform; together all of it."""
    total = sum(map(Fraction, weights.values()))
    borders = [math.floor(sum_of * ROOM / total) for sum_of in accumulate(map(Fraction, weights.values()))]
    return {arm: stop - start for arm, start, stop in zip(weights, [0, *borders], borders, strict=False)}


def _faults_of_name(path: str, name: object, kinds: tuple[type, ...] = (str,)) -> list[Fault]:
    if not isinstance(name, kinds) or isinstance(name, bool) or name == "":
        return [Fault(path, f"must be {'an int or ' if int in kinds else ''}a str that is not empty", name)]
    try:
        str(name).encode()
    except ValueError as error:  # half a surrogate pair, or an int too long for `str`
        return [Fault(path, f"cannot be written as UTF-8: {error}")]
    return []


def _faults_of_weights(path: str, weights: object) -> list[Fault]:
    if not isinstance(weights, Mapping) or not weights:
        return [Fault(path, "must be a mapping of at least one arm to its weight", weights)]
    faults = [fault for arm in weights for fault in _faults_of_name(f"{path}: the name of an arm", arm)]
    for arm, weight in weights.items():
        if not isinstance(weight, int | float) or not 0 <= weight < math.inf:
            faults.append(Fault(f"{path}.{arm}", "a weight must be a finite number, 0 or more", weight))
    if not faults and not any(weights.values()):
        faults.append(Fault(path, "at least one weight must be above 0", dict(weights)))
    return faults


def _faults_of_overrides(overrides: object, weights: Mapping[str, float]) -> list[Fault]:
    if not isinstance(overrides, Mapping):
        return [Fault("overrides", "must be a mapping of users to arms", overrides)]
    faults = [fault for user in overrides for fault in _faults_of_name("overrides", user, kinds=(str, int))]
    for user, arm in overrides.items():
        if arm not in weights:
            faults.append(Fault(f"overrides.{user}", "no arm of this name", arm, nearest(str(arm), weights)))
    return faults
