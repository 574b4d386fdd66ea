"""Immutable, hashable values: what a `_target_` is called with.

Not here: importing or calling anything (see `targets.py`).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

TARGET_KEY = "_target_"


class FrozenMap(Mapping[str, Any]):
    """A mapping that cannot change and can be hashed; keys keep their order, equality ignores it."""

    __slots__ = ("_items",)

    def __init__(self, items: Mapping[str, Any]) -> None:
        self._items = dict(items)

    def __getitem__(self, key: str) -> Any:
        return self._items[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __hash__(self) -> int:
        return hash(frozenset(self._items.items()))

    def __eq__(self, other: object) -> bool:
        return self._items == (other._items if isinstance(other, FrozenMap) else other)

    def __repr__(self) -> str:
        return repr(self._items)

    def __reduce__(self) -> tuple[type, tuple[dict[str, Any]]]:
        return type(self), (self._items,)


@dataclass(frozen=True, slots=True)
class Target:
    """Something to build: the dotted `path` of a class or function, and the keyword `args` to call it with."""

    path: str
    args: FrozenMap

    def __str__(self) -> str:
        return f"{self.path}({', '.join(f'{k}={v!r}' for k, v in self.args.items())})"


def freeze(value: Any) -> Any:
    """Plain containers to immutable ones; a mapping with `_target_` becomes a `Target`, at every depth."""
    if isinstance(value, Mapping):
        items = {str(k): freeze(v) for k, v in value.items()}
        if TARGET_KEY in items:
            path = items.pop(TARGET_KEY)
            return Target(path, FrozenMap(items))
        return FrozenMap(items)
    if isinstance(value, list | tuple):
        return tuple(freeze(v) for v in value)
    return value


def thaw(value: Any) -> Any:
    """The inverse of `freeze`: plain dicts and lists, fit for YAML and JSON."""
    if isinstance(value, Target):
        return {TARGET_KEY: value.path, **thaw(value.args)}
    if isinstance(value, Mapping):
        return {k: thaw(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [thaw(v) for v in value]
    return value
