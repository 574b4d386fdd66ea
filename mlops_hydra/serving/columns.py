"""What a model takes, as far as its clients have to know: names in order, and kinds.

Categories and ranges are not among it: they are what training showed, and change from one version to the next.
"""

from collections.abc import Sequence

from mlops_hydra.packaging.bundle import Bundle

Columns = tuple[tuple[str, str], ...]


def columns_of(bundle: Bundle) -> Columns:
    """Name and kind of each column; of a model of arrays, name, dtype and shape of a row of each input."""
    if bundle.schema is not None:
        return tuple((feature.name, feature.kind) for feature in bundle.schema.features)
    return tuple((item.name, f"{item.dtype} {list(item.shape)}") for item in bundle.inputs)


def difference(before: Columns, after: Columns) -> str:
    """In words; empty where they are the same."""
    if before == after:
        return ""
    old, new = dict(before), dict(after)
    changed = [f"{name} is {new[name]}, was {old[name]}" for name in old if name in new and old[name] != new[name]]
    parts = [_listed("without", [name for name in old if name not in new])]
    parts += [_listed("with", [name for name in new if name not in old]), _shown(changed)]
    return "; ".join(filter(None, parts)) or "in another order"


def _listed(word: str, names: Sequence[str]) -> str:
    return f"{word} {_shown(names)}" if names else ""


def _shown(names: Sequence[str], limit: int = 5) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
