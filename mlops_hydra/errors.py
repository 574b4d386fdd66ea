"""What can go wrong, and which exit code each branch means.

    MlopsHydraError            1   a failure of ours
    ├── RequestError           2   the request is wrong; carries every fault that was found
    │   ├── ConfigError            overrides, YAML, a `_target_` that does not fit
    │   ├── DataError              files, columns, rows
    │   └── UsageError             arguments of the command line, or of a public function
    ├── TrainingError          1
    │   └── NonFiniteError         a loss or an objective that is NaN or infinite
    ├── TrackingError          1   what should be recorded could not be
    ├── ExportError            1   a model has no graph that runs without torch; it stays trained and judged
    ├── BundleError            1   what was packaged is not whole, or not what it says it is
    ├── ServingError           1   a service cannot go on
    └── BusyError              7   another living process holds the run

Verdicts are results, not errors: a failed gate is exit code 3, an undecided one 4 (`EXIT_CODES`), drift 5, a result
that `verify` did not reproduce 6.
"""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

EXIT_CODES = {"passed": 0, "failed": 3, "undecided": 4}
DRIFTED = 5
NOT_REPRODUCED = 6
INTERRUPTED = 130  # the shells' convention: 128 + SIGINT
TERMINATED = 143  # 128 + SIGTERM


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong: where (a config path, a file, a column), which rule, what value, what may be meant."""

    path: str
    rule: str
    value: object = None
    nearest: tuple[str, ...] = ()

    def below(self, where: str) -> "Fault":
        """The same fault, one level deeper in the configuration."""
        return Fault(f"{where}.{self.path}".strip("."), self.rule, self.value, self.nearest)

    def __str__(self) -> str:
        got = "" if self.value is None else f", got {self.value!r}"
        meant = f". Did you mean {' or '.join(self.nearest)}?" if self.nearest else ""
        return f"{self.path}: {self.rule}{got}{meant}"


def nearest(name: str, known: Iterable[str], *, limit: int = 2) -> tuple[str, ...]:
    """The known names most like `name`, best first; empty when none is alike."""
    return tuple(difflib.get_close_matches(name, list(known), n=limit, cutoff=0.5))


class MlopsHydraError(Exception):
    """The root of everything this package raises on purpose."""

    exit_code = 1


class RequestError(MlopsHydraError):
    """The request cannot be carried out as it was made."""

    exit_code = 2

    def __init__(self, faults: Fault | str | Sequence[Fault]) -> None:
        if isinstance(faults, str):
            faults = Fault("request", faults)
        self.faults: tuple[Fault, ...] = (faults,) if isinstance(faults, Fault) else tuple(faults)
        super().__init__("\n".join(map(str, self.faults)))

    def __reduce__(self) -> tuple[type, tuple[tuple[Fault, ...]]]:
        return type(self), (self.faults,)  # launchers pickle errors between processes


class ConfigError(RequestError):
    """The configuration does not describe an experiment."""


class DataError(RequestError):
    """The data is not what the configuration says, or cannot be learnt from."""


class UsageError(RequestError):
    """A command or a public function was called with arguments that make no sense."""


class TrainingError(MlopsHydraError):
    """Training could not go on."""


class NonFiniteError(TrainingError):
    """A loss became NaN or infinite; `epoch` and `step` (both from 1) say when."""

    def __init__(self, message: str, *, epoch: int, step: int) -> None:
        super().__init__(message)
        self.epoch, self.step = epoch, step


class TrackingError(MlopsHydraError):
    """The record of a run could not be kept."""


class ExportError(MlopsHydraError):
    """A model cannot be packaged; the message is one line that says why."""


class BundleError(MlopsHydraError):
    """A bundle is damaged, was changed, or is none; nothing of it was run."""


class ServingError(MlopsHydraError):
    """The processes of a service do not live."""


class BusyError(MlopsHydraError):
    """Another living process holds the run."""

    exit_code = 7
