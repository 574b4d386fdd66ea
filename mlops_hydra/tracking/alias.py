"""Moving an alias from the version that somebody judged against to another, in a store without compare-and-set.

Processes that share an `output_dir` come here one at a time (`Registry.lock`). Those that do not see each other in the
audit: each writes what it intends, *then* looks whether anybody else has, and only moves the alias if nobody did; of
two that look at the same time at least one sees the other, and steps back. What does not keep to this (MLflow's own
pages) is found when the alias is read again after the move.
"""

import random
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from mlops_hydra.errors import BusyError
from mlops_hydra.tracking.audit import Entry, Move, intended, moves, read_entries
from mlops_hydra.tracking.lease import Owner

if TYPE_CHECKING:
    from mlflow import MlflowClient

ABSENT: Final = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")  # a name that cannot be is the second
_FIRST_PAUSE_SECONDS: Final = 0.1
_LONGEST_PAUSE_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class State:
    """What a registered model says of its aliases; empty where there is no such model."""

    aliases: Mapping[str, int] = field(default_factory=dict)
    entries: tuple[Entry, ...] = ()

    @property
    def history(self) -> list[Move]:
        """Oldest first."""
        return moves(self.entries, self.aliases)

    def keys(self, alias: str) -> set[str]:
        """Of the audit's entries."""
        return {entry.key for entry in self.entries if entry.move.alias == alias}


def read_state(client: "MlflowClient", name: str) -> State:
    """One request."""
    from mlflow.exceptions import MlflowException

    try:
        model = client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code not in ABSENT:
            raise
        return State()
    return State({alias: int(version) for alias, version in model.aliases.items()}, read_entries(model.tags))


class Mover:
    """Moves the aliases of one model; the caller holds its lock."""

    def __init__(self, client: "MlflowClient", name: str, owner: Owner, *, patience_seconds: float) -> None:
        self._client = client
        self._name = name
        self._owner = owner
        self._patience_seconds = patience_seconds

    def move(self, wish: Move, *, expected: int | None) -> Move | None:
        """Six short requests; None if the alias is there already.

        Raises:
            BusyError: it is not where it is expected to be, or somebody else moved it at the same moment.
        """
        pause, give_up = _FIRST_PAUSE_SECONDS, time.monotonic() + self._patience_seconds
        while True:
            state = read_state(self._client, self._name)
            now = state.aliases.get(wish.alias)
            if now == wish.after:
                return None
            if now != expected:
                raise BusyError(self._told(state, wish.alias, expected))
            entry = self._alone(replace(wish, before=now), state)
            if entry is not None:
                return self._made(entry, state)
            if time.monotonic() > give_up:
                raise BusyError(f"others keep moving {self._name}@{wish.alias}: nothing was changed; try again")
            time.sleep(random.uniform(0, pause))
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    def _alone(self, wish: Move, state: State) -> Entry | None:
        """The entry of a move that nobody else is at; None, and no trace, if somebody is."""
        if any(self._is_rival(entry, wish.alias) for entry in state.entries):
            return None
        entry = intended(wish, self._owner, state.entries)
        self._client.set_registered_model_tag(self._name, entry.key, entry.text)
        seen = read_state(self._client, self._name)
        has_rivals = seen.keys(wish.alias) - state.keys(wish.alias) - {entry.key}
        if not has_rivals and seen.aliases.get(wish.alias) == wish.before:
            return entry
        self._client.delete_registered_model_tag(self._name, entry.key)
        return None

    def _is_rival(self, entry: Entry, alias: str) -> bool:
        """Not what this process left when the store did not answer: nobody else here is at it."""
        return entry.move.alias == alias and entry.owner.token != self._owner.token and entry.is_in_flight

    def _made(self, entry: Entry, state: State) -> Move:
        alias, after = entry.move.alias, entry.move.after
        self._client.set_registered_model_alias(self._name, alias, str(after))
        seen = read_state(self._client, self._name)
        rivals = [
            other for other in seen.entries if other.is_made and other.key in seen.keys(alias) - state.keys(alias)
        ]
        is_lost = seen.aliases.get(alias) != after or bool(rivals)
        entry = entry.made("lost a race: " if is_lost else "")
        self._client.set_registered_model_tag(self._name, entry.key, entry.text)
        if is_lost:
            raise BusyError(self._told(seen, alias, after))
        return entry.move

    def _told(self, state: State, alias: str, expected: int | None) -> str:
        now = state.aliases.get(alias)
        last = [move for move in state.history if move.alias == alias and move.after == now]
        by = f"by {last[-1].who}" if last and now is not None else "by hand"
        what, was = _named(now), _named(expected)
        return f"{self._name}@{alias} was moved meanwhile {by}: it is {what}, not {was}; judge again, against {what}"


def _named(version: int | None) -> str:
    return "no version" if version is None else f"version {version}"
