"""What gates may look at besides numbers: the rows that were predicted, their raw columns, the model in use.

Whoever judges hands it in; nothing here loads a model or reads data. What cannot be had raises MlopsHydraError, and the
gate that asked for it fails with those words.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from mlops_hydra.config.section import Task
from mlops_hydra.errors import MlopsHydraError, UsageError
from mlops_hydra.evaluation.evaluate import Predicted
from mlops_hydra.evaluation.metrics import score, user_metrics
from mlops_hydra.evaluation.wording import in_a_line

MAX_SLICES: Final = 200
"""A column with more values is a number or a name, not a group of rows."""


@dataclass(frozen=True, slots=True)
class Champion:
    """The model in use, and what it says of the rows that are judged.

    Attributes:
        name: for people, such as `mlops_hydra@champion, version 3 (1a2b3c4d5e6f)`.
        predict: the name of a split -> predictions, shaped as the candidate's and in its order of classes. Raises
            MlopsHydraError if it cannot.
        is_candidate: it is the very model that is judged, which need not beat itself.
    """

    name: str
    predict: Callable[[str], NDArray[np.float64]]
    is_candidate: bool = False


@dataclass(frozen=True)
class Evidence:
    """The rows behind the metrics.

    Attributes:
        predicted: the candidate's predictions and the targets, by split.
        column: (split, raw column) -> its values `[n]` as text, None where missing. Raises MlopsHydraError if there is
            no such column.
        champion: None where there is none, or none that can be asked.
        no_champion: why it cannot be asked; empty where there is none yet.
        functions: the user's metrics by name, as for `user_metrics`.
        resamples: of a bootstrap.
        confidence: of the interval of a difference.
        seed: of the resampling.
    """

    predicted: Mapping[str, Predicted]
    column: Callable[[str, str], NDArray[Any]]
    champion: Champion | None = None
    no_champion: str = ""
    functions: Mapping[str, Callable[..., object]] = field(default_factory=dict)
    resamples: int = 2000
    confidence: float = 0.95
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Rows:
    """All rows of a split, or some of them: targets `[n]`, predictions `[n]` or `[n, classes]` of both models."""

    targets: NDArray[Any]
    candidate: NDArray[np.float64]
    champion: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.targets)

    def only(self, index: NDArray[np.intp]) -> Self:
        """The rows at `index`."""
        champion = None if self.champion is None else self.champion[index]
        return replace(self, targets=self.targets[index], candidate=self.candidate[index], champion=champion)


class Inquiry:
    """Evidence as several gates ask for it: the champion predicts each split once."""

    def __init__(self, evidence: Evidence, task: Task) -> None:
        self.evidence = evidence
        self.task = task
        self._champion: dict[str, NDArray[np.float64] | str] = {}

    def rows(self, split: str) -> Rows:
        """The candidate's rows.

        Raises:
            MlopsHydraError: they are not at hand.
        """
        predicted = self.evidence.predicted.get(split)
        if predicted is None:
            have = ", ".join(sorted(self.evidence.predicted)) or "none"
            raise MlopsHydraError(f"needs the rows of {split}, which are not at hand (there are those of: {have})")
        return Rows(np.asarray(predicted.targets), np.asarray(predicted.predictions, dtype=np.float64))

    def paired(self, split: str) -> Rows:
        """The candidate's rows, with what the champion says of them.

        Raises:
            MlopsHydraError: the champion cannot say it, or not of all rows.
        """
        rows = self.rows(split)
        if split not in self._champion:
            try:
                self._champion[split] = self._asked(split, rows)
            except MlopsHydraError as error:
                self._champion[split] = in_a_line(error)
        answer = self._champion[split]
        if isinstance(answer, str):
            raise MlopsHydraError(answer)
        return replace(rows, champion=answer)

    def slices(self, split: str, column: str) -> dict[str | None, NDArray[np.intp]]:
        """The positions of the rows that have each value; those without one under None.

        Raises:
            MlopsHydraError: no such column, not a value for each row, or more than MAX_SLICES of them.
        """
        num_rows = len(self.rows(split))
        if not num_rows:
            raise MlopsHydraError(f"there are no rows of {split} to slice")
        values = np.asarray(self.evidence.column(split, column), dtype=object)
        if values.shape != (num_rows,):
            text = f"{column} has values of shape {values.shape} for {num_rows:,} rows of {split}"
            raise MlopsHydraError(f"{text}: it is no column to slice by")
        positions: dict[str | None, list[int]] = {}
        for position, value in enumerate(values):
            positions.setdefault(None if value is None else str(value), []).append(position)
        if len(positions) > MAX_SLICES:
            text = f"{column} has {len(positions):,} values in {num_rows:,} rows of {split}, at most {MAX_SLICES} are"
            raise MlopsHydraError(f"{text} judged one by one: it is no column to slice by")
        return {value: np.array(found, dtype=np.intp) for value, found in positions.items()}

    def value(self, metric: str, rows: Rows) -> float:
        """The candidate's metric on some rows; NaN where it cannot be measured.

        Raises:
            MlopsHydraError: there is no such metric, or the user's own failed.
        """
        if (function := self.evidence.functions.get(metric)) is not None:
            return user_metrics({metric: function}, rows.targets, rows.candidate, self.task)[metric]
        values = score(self.task, rows.targets, rows.candidate)
        if metric not in values:
            raise MlopsHydraError(f"{metric} is not measured on rows; choose from {', '.join(sorted(values))}")
        return values[metric]

    def _asked(self, split: str, rows: Rows) -> NDArray[np.float64]:
        champion = self.evidence.champion
        assert champion is not None, "only who knows of a champion asks what it says"
        try:
            predictions = np.asarray(champion.predict(split), dtype=np.float64)
        except Exception as error:  # a model of another day: whatever goes wrong in it must not pass, nor end this run
            kind = "" if isinstance(error, MlopsHydraError) else f"{type(error).__name__}: "
            raise MlopsHydraError(f"{champion.name} cannot predict {split}: {kind}{in_a_line(error)}") from error
        if predictions.shape != rows.candidate.shape:
            text = f"{champion.name} gives predictions of shape {predictions.shape} for {split}"
            raise MlopsHydraError(f"{text}, the candidate of shape {rows.candidate.shape}: they cannot be compared")
        finite = np.isfinite(predictions).reshape(len(rows), -1).all(axis=1)
        if not finite.all():
            bad = f"{len(rows) - int(finite.sum()):,} of {len(rows):,} rows"
            raise MlopsHydraError(f"{champion.name} gives predictions of {split} that are not finite in {bad}")
        try:
            score(self.task, rows.targets, predictions)
        except UsageError as error:
            raise MlopsHydraError(f"{champion.name} cannot be measured on {split}: {in_a_line(error)}") from error
        return predictions
