"""What connects a training with its record: an observer, and checkpoints that never run ahead of it."""

from collections.abc import Mapping
from typing import Any

from mlops_hydra.config.schema import ExperimentConfig
from mlops_hydra.tracking.run import Run
from mlops_hydra.training.checkpoints import Checkpoints
from mlops_hydra.training.observers import Observer, Training


class Recorder(Observer):
    """Sends each epoch's numbers, and files that observers logged, to the record of the run; hears after them."""

    def __init__(self, tracked: Run) -> None:
        self._tracked = tracked

    def on_fit_start(self, training: Training) -> None:
        """What a training had that goes on: a crash may have kept it from the record."""
        for entry in training.history:
            values = {name: value for name, value in entry.items() if name != "epoch"}
            self._tracked.log_metrics(values, step=int(entry["epoch"]))

    def on_epoch_end(self, training: Training) -> None:
        """Record and forget."""
        self._tracked.log_metrics(training.metrics, step=training.epoch)
        self.on_fit_end(training)

    def on_fit_end(self, training: Training) -> None:
        """Files that were logged since, also by an epoch that did not come to its end."""
        while training.artifacts:
            self._tracked.log_artifact(training.artifacts.pop(0))


class RecordedCheckpoints(Checkpoints):
    """Those of a recorded run: the record is on the disk before a checkpoint that relies on it."""

    def __init__(self, config: ExperimentConfig, tracked: Run) -> None:
        super().__init__(tracked.folder, tracked.lineage.digest, config.trainer.checkpoint)
        self._tracked = tracked

    def save(self, state: Mapping[str, Any], *, best_epoch: int, best: Mapping[str, Any]) -> None:
        """Record first."""
        self._tracked.sync()
        super().save(state, best_epoch=best_epoch, best=best)
