"""The pruner's ear, for tasks that are not ours: a function that trains calls `report` after each epoch.

Within a study of `hydra/sweeper=mlops_hydra` with a pruner it may raise; anywhere else it does nothing.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

Report = Callable[[float, int], bool]
"""`(objective, epoch) -> whether to stop here`."""

_EAR: Final[ContextVar[Report | None]] = ContextVar("ear", default=None)


def report(value: float, step: int) -> None:
    """Tell the study how the trial is doing.

    Raises:
        optuna.TrialPruned: it is not worth going on; let it pass through.
    """
    hears = _EAR.get()
    if hears is not None and hears(float(value), int(step)):
        import optuna

        raise optuna.TrialPruned


@contextmanager
def listening(hears: Report | None) -> Iterator[None]:
    """Within the block reports go to `hears`, which says whether to stop."""
    token = _EAR.set(hears)
    try:
        yield
    finally:
        _EAR.reset(token)
