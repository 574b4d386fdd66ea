"""A training that was cut off goes on as if nothing had happened; what a crash leaves on the disk is never trusted."""

import gc
import json
import logging
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, IterableDataset

from mlops_hydra.config.schema import CheckpointConfig
from mlops_hydra.errors import NonFiniteError, TrackingError
from mlops_hydra.training.batches import Batches, LoaderBatches
from mlops_hydra.training.checkpoints import LARGEST_SHARE, Checkpoints
from mlops_hydra.training.loop import FitResult
from mlops_hydra.training.manifest import newest_manifest
from mlops_hydra.training.observers import Observer, Training
from mlops_hydra.training.seeding import set_all_seeds


def cadence(**given: Any) -> CheckpointConfig:
    return CheckpointConfig(**({"every_epochs": None, "every_steps": None, "every_seconds": None} | given))


Fitter = Any  # of conftest.py, which cannot be imported


class CutError(Exception):
    """Stands for the end of the process: nothing in the loop expects it."""


class Cut(Observer):
    """Ends the training after so many steps."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, training: Training) -> None:
        if training.step == self.step:
            raise CutError


class Noisy(nn.Module):
    """Dropout, batch normalisation and a learnt scale: generators and buffers matter."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.ReLU(), nn.Linear(8, 2))

    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.net(x)
        return output


class Points(Dataset[Any]):
    """Items drawn with noise."""

    def __init__(self, points: tuple[Tensor, Tensor]) -> None:
        self.inputs, self.targets = points

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor]:
        return self.inputs[row] + 0.1 * torch.randn(4), self.targets[row]


class Stream(IterableDataset[Any]):
    """The same, one after the other."""

    def __init__(self, points: tuple[Tensor, Tensor]) -> None:
        self.points = points

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for x, y in zip(*self.points, strict=True):
            yield x + 0.1 * torch.randn(4), y


def train(fitter: Fitter, *overrides: str, **given: Any) -> tuple[FitResult, dict[str, Tensor]]:
    set_all_seeds(3)
    fitted = fitter("epochs=6", *overrides, model=given.pop("model", Noisy)(), **given)
    return fitted, fitter.model.state_dict()


def assert_same(first: tuple[FitResult, dict[str, Tensor]], second: tuple[FitResult, dict[str, Tensor]]) -> None:
    assert first[0] == second[0]
    assert all(torch.equal(value, second[1][name]) for name, value in first[1].items())


OPTIMIZERS: dict[str, Callable[..., Any]] = {
    "sgd": lambda parameters, lr: torch.optim.SGD(parameters, lr=lr, momentum=0.9, nesterov=True),
    "fused adam": lambda parameters, lr: torch.optim.Adam(parameters, lr=lr, fused=True),
    "adamw": torch.optim.AdamW,
}
SCHEDULERS: dict[str, dict[str, Any]] = {
    "none": {},
    "cosine": {"scheduler": lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 6)},
    "plateau": {"scheduler": lambda optimizer: torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=1)},
    "one cycle": {
        "scheduler": lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=24),
        "schedule_each_step": True,
    },
}
DATA: dict[str, Callable[[tuple[Tensor, Tensor]], Batches | None]] = {
    "tensors": lambda _: None,
    "loader": lambda points: LoaderBatches(Points(points), batch_size=16, seed=1, shuffle=True),
    "workers": lambda points: LoaderBatches(Points(points), batch_size=16, seed=1, shuffle=True, num_workers=2),
    "stream": lambda points: LoaderBatches(Stream(points), batch_size=16, seed=1, shuffle=True),
}


def cut_and_go_on(
    fitter: Fitter, folder: Path, cuts: list[int], *overrides: str, **given: Any
) -> tuple[FitResult, dict[str, Tensor]]:
    make_train = given.pop("make_train", lambda: None)
    for step in cuts:
        kept = Checkpoints(folder, "me", cadence(every_steps=1))
        with pytest.raises(CutError):
            train(fitter, *overrides, checkpoints=kept, observers=[Cut(step)], train=make_train(), **given)
        gc.collect()  # ends loader workers, which hold on to those that are started after them
    return train(fitter, *overrides, checkpoints=Checkpoints(folder, "me", cadence()), train=make_train(), **given)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_training_cut_off_at_any_step_ends_with_the_same_bits(
    fitter: Fitter, tmp_path: Path, optimizer: str, scheduler: str
) -> None:
    given = {"make_optimizer": OPTIMIZERS[optimizer], **SCHEDULERS[scheduler]}
    whole = train(fitter, **given)
    assert whole[0].num_steps == 24
    for number, cuts in enumerate(([2], [4], [5, 9, 16], [23])):
        folder = tmp_path / str(number)
        folder.mkdir()
        assert_same(cut_and_go_on(fitter, folder, cuts, **given), whole)


@pytest.mark.parametrize("data", DATA)
@pytest.mark.parametrize("overrides", [(), ("accumulate=3",), ("early_stopping.patience=1",)], ids=str)
def test_whatever_gives_the_rows_the_rest_is_the_same(
    fitter: Fitter, tmp_path: Path, points: tuple[Tensor, Tensor], data: str, overrides: tuple[str, ...]
) -> None:
    def make_train() -> Batches | None:
        return DATA[data](points)

    whole = train(fitter, *overrides, train=make_train())
    assert_same(cut_and_go_on(fitter, tmp_path, [2, 6], *overrides, make_train=make_train), whole)


def test_a_training_given_in_steps_goes_on_to_the_same_one(fitter: Fitter, tmp_path: Path) -> None:
    steps = ("epochs=null", "steps=10")
    whole = train(fitter, *steps)
    assert whole[0].num_steps == 10
    assert_same(cut_and_go_on(fitter, tmp_path, [3, 8], *steps), whole)


def test_a_checkpoint_of_a_training_that_is_over_gives_its_result_again(fitter: Fitter, tmp_path: Path) -> None:
    def again() -> tuple[FitResult, dict[str, Tensor]]:
        kept = Checkpoints(tmp_path, "me", cadence(every_epochs=1))
        return train(fitter, "early_stopping.patience=1", checkpoints=kept, observers=[Cut(100)])

    first = again()
    assert_same(again(), first)


class Starting(Observer):
    """Knows where the training stood when it began."""

    at_start: tuple[int, int] = (-1, -1)

    def on_fit_start(self, training: Training) -> None:
        self.at_start = training.step, len(training.history)


class Counting(Starting):
    """Remembers something: how many epochs it has heard of."""

    def __init__(self) -> None:
        self.epochs: list[int] = []

    def on_epoch_end(self, training: Training) -> None:
        self.epochs.append(training.epoch)

    def state_dict(self) -> dict[str, Any]:
        return {"epochs": list(self.epochs)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.epochs = list(state["epochs"])


def test_what_an_observer_remembers_is_kept_with_the_rest(fitter: Fitter, tmp_path: Path) -> None:
    with pytest.raises(CutError):
        train(
            fitter,
            checkpoints=Checkpoints(tmp_path, "me", cadence(every_epochs=1)),
            observers=[Counting(), Cut(14)],
        )
    counting = Counting()
    train(fitter, checkpoints=Checkpoints(tmp_path, "me", cadence()), observers=[counting])
    assert counting.at_start == (12, 3)
    assert counting.epochs == [1, 2, 3, 4, 5, 6]


class Filing(Observer):
    """Logs a file in the middle of an epoch; the record takes it at the end of one."""

    def __init__(self) -> None:
        self.found: list[list[str]] = []

    def on_step_end(self, training: Training) -> None:
        if training.step == 5:
            training.log_artifact("notes.txt")

    def on_epoch_end(self, training: Training) -> None:
        self.found.append([str(path) for path in training.artifacts])
        training.artifacts.clear()


def test_a_file_that_was_logged_but_not_yet_recorded_is_kept_with_the_rest(fitter: Fitter, tmp_path: Path) -> None:
    with pytest.raises(CutError):
        train(fitter, checkpoints=Checkpoints(tmp_path, "me", cadence(every_steps=1)), observers=[Filing(), Cut(7)])
    filing = Filing()
    train(fitter, checkpoints=Checkpoints(tmp_path, "me", cadence()), observers=[filing])
    assert filing.found == [["notes.txt"], [], [], [], []]


@pytest.fixture
def kept(fitter: Fitter, tmp_path: Path) -> Path:
    """The folder of a training of 24 steps that was cut off after the 14th, with two checkpoints."""
    with pytest.raises(CutError):
        train(fitter, checkpoints=Checkpoints(tmp_path, "me", cadence(every_steps=5)), observers=[Cut(14)])
    return tmp_path


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder / "checkpoints").as_posix() for path in folder.rglob("checkpoints/**/*.*")}


def test_two_checkpoints_and_the_best_weights_are_kept(fitter: Fitter, kept: Path) -> None:
    files = names(kept)
    assert {name for name in files if not name.startswith("best")} == {
        "000001.json", "000001.pt", "000002.json", "000002.pt"
    }  # fmt: skip
    with pytest.raises(CutError):
        train(fitter, checkpoints=Checkpoints(kept, "me", cadence(every_steps=1)), observers=[Cut(20)])
    manifests = sorted(name for name in names(kept) if name.endswith("json"))
    assert manifests == ["000010.json", "000011.json"], "the numbers go on, and two are kept"
    states = [name for name in names(kept) if name.endswith(".pt") and not name.startswith("best")]
    assert len(states) == 2


def tear(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def delete(path: Path) -> None:
    path.unlink()


def give_to_another(path: Path) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | {"owner": "somebody else"}))


@pytest.mark.parametrize(
    ("damage", "name", "reason"),
    [
        (tear, "000002.pt", "SHA-256 differs"),
        (flip_a_bit, "000002.pt", "SHA-256 differs"),
        (delete, "000002.pt", "is missing"),
        (tear, "000002.json", "is torn"),
        (give_to_another, "000002.json", "another run"),
    ],
)
def test_a_checkpoint_that_cannot_be_trusted_is_set_aside_and_named(
    fitter: Fitter,
    kept: Path,
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[Path], None],
    name: str,
    reason: str,
) -> None:
    whole = train(fitter)
    damage(kept / "checkpoints" / name)
    starting = Starting()
    with caplog.at_level(logging.WARNING):
        again = train(fitter, checkpoints=Checkpoints(kept, "me", cadence()), observers=[starting])
    assert starting.at_start[0] == 5, "the one before it is used"
    assert reason in caplog.text
    assert "000002.json" in caplog.text
    assert "set-aside/000002.json" in names(kept)
    assert_same(again, whole)


def test_without_any_valid_checkpoint_the_training_begins_anew(fitter: Fitter, kept: Path) -> None:
    for path in (kept / "checkpoints").glob("*.pt"):
        tear(path)
    assert_same(train(fitter, checkpoints=Checkpoints(kept, "me", cadence())), train(fitter))


def test_what_a_crash_left_half_written_is_removed_by_the_next_checkpoint(fitter: Fitter, kept: Path) -> None:
    (kept / "checkpoints" / "000009.pt").write_bytes(b"a state without a manifest")
    (kept / "checkpoints" / ".000010.pt-0011.partial").write_bytes(b"half")
    train(fitter, checkpoints=Checkpoints(kept, "me", cadence(every_steps=5)))
    assert not {"000009.pt", ".000010.pt-0011.partial"} & names(kept)


class Payload:
    """What a hostile file would run when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("was-run"),)


def test_a_hostile_state_is_not_run(
    fitter: Fitter, kept: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import hashlib

    monkeypatch.chdir(kept)
    path, manifest = kept / "checkpoints" / "000002.pt", kept / "checkpoints" / "000002.json"
    torch.save({"epoch": Payload()}, path)
    data = json.loads(manifest.read_text())
    data["files"]["000002.pt"] = hashlib.sha256(path.read_bytes()).hexdigest()
    manifest.write_text(json.dumps(data))
    train(fitter, checkpoints=Checkpoints(kept, "me", cadence()))
    assert "cannot be read" in caplog.text
    assert not Path("was-run").exists()


class Opaque(Observer):
    """Remembers what is no plain value."""

    def state_dict(self) -> dict[str, Any]:
        return {"callback": Path.touch}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        raise AssertionError("never kept, never restored")


def test_a_state_that_could_not_be_read_again_costs_a_warning_and_no_training(
    fitter: Fitter, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept = Checkpoints(tmp_path, "me", cadence(every_steps=1))
    train(fitter, checkpoints=kept, observers=[Opaque()])
    assert [r.getMessage() for r in caplog.records if "cannot be resumed" in r.getMessage()] == [caplog.messages[0]]
    assert newest_manifest(tmp_path) is None


class Clock:
    """Moves when it is told to, and by `a_look` at each look."""

    def __init__(self) -> None:
        self.now, self.a_look = 100.0, 0.0

    def __call__(self) -> float:
        self.now += self.a_look
        return self.now


def test_the_clock_decides_when_nothing_else_does_and_slow_writing_makes_it_rarer(tmp_path: Path) -> None:
    clock = Clock()
    kept = Checkpoints(tmp_path, "me", cadence(every_seconds=10), clock)
    assert not kept.is_due(1, 1, epoch_ended=False)
    clock.now += 10
    assert kept.is_due(1, 2, epoch_ended=False)

    clock.a_look = 3
    kept.save({"epoch": 1, "step": 2}, best_epoch=0, best={})
    clock.a_look = 0
    clock.now += 3 / LARGEST_SHARE - 1
    assert not kept.is_due(1, 3, epoch_ended=False), "no more than 2 % of the time"
    clock.now += 7
    assert kept.is_due(1, 3, epoch_ended=False)


def test_epochs_and_steps_decide_for_themselves(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path, "me", cadence(every_epochs=2, every_steps=100))
    assert not kept.is_due(1, 10, epoch_ended=True)
    assert kept.is_due(2, 20, epoch_ended=True)
    assert not kept.is_due(2, 20, epoch_ended=False)
    assert kept.is_due(1, 100, epoch_ended=False)


def test_a_full_disk_ends_the_training_with_a_clear_error_and_a_valid_checkpoint(
    fitter: Fitter, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, limits[1]))
        with pytest.raises(TrackingError, match=r"000003\.pt: cannot be written: File too large"):
            train(fitter, checkpoints=Checkpoints(kept, "me", cadence(every_steps=1)))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert not [name for name in names(kept) if name.endswith("partial")]
    assert_same(train(fitter, checkpoints=Checkpoints(kept, "me", cadence())), train(fitter))


class Signalling(Observer):
    """Sends this process a signal in the middle of an epoch, once or twice."""

    def __init__(self, number: signal.Signals, step: int, times: int = 1) -> None:
        self.number, self.step, self.times = number, step, times

    def on_step_end(self, training: Training) -> None:
        if training.step == self.step:
            for _ in range(self.times):
                signal.raise_signal(self.number)


def test_ctrl_c_writes_a_checkpoint_of_this_very_step_first(fitter: Fitter, tmp_path: Path) -> None:
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        train(fitter, checkpoints=Checkpoints(tmp_path, "me", cadence()), observers=[Signalling(signal.SIGINT, 7)])
    manifest = newest_manifest(tmp_path)
    assert manifest is not None
    assert (manifest.epoch, manifest.step, manifest.at) == (2, 7, "epoch 2, step 7")
    assert signal.getsignal(signal.SIGINT) is handler
    assert_same(train(fitter, checkpoints=Checkpoints(tmp_path, "me", cadence())), train(fitter))


def test_a_second_ctrl_c_quits_at_once(fitter: Fitter, tmp_path: Path) -> None:
    interrupting = Signalling(signal.SIGINT, 7, times=2)
    with pytest.raises(KeyboardInterrupt):
        train(fitter, checkpoints=Checkpoints(tmp_path, "me", cadence()), observers=[interrupting])
    assert newest_manifest(tmp_path) is None


def test_a_handler_of_ones_own_that_returns_lets_the_training_go_on(fitter: Fitter, tmp_path: Path) -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))
    try:
        fitted, _ = train(
            fitter, checkpoints=Checkpoints(tmp_path, "me", cadence()), observers=[Signalling(signal.SIGTERM, 7)]
        )
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == [signal.SIGTERM]
    assert fitted.num_steps == 24
    assert newest_manifest(tmp_path) is not None


def test_another_environment_is_a_warning(fitter: Fitter, kept: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = kept / "checkpoints" / "000002.json"
    data = json.loads(path.read_text())
    data["environment"]["torch"] = "1.0"
    path.write_text(json.dumps(data))
    train(fitter, checkpoints=Checkpoints(kept, "me", cadence()))
    assert "another environment (torch 1.0 ->" in caplog.text


def test_a_copied_folder_of_another_run_is_not_used(fitter: Fitter, kept: Path, tmp_path_factory: Any) -> None:
    other = tmp_path_factory.mktemp("other")
    shutil.copytree(kept / "checkpoints", other / "checkpoints")
    starting = Starting()
    train(fitter, checkpoints=Checkpoints(other, "another lineage", cadence()), observers=[starting])
    assert starting.at_start == (0, 0)


class Poison:
    """A loss that is NaN once, in one step: a cause that passes."""

    def __init__(self, step: int) -> None:
        self.left = step

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        self.left -= outputs.requires_grad
        loss = nn.functional.cross_entropy(outputs, targets)
        return loss * float("nan") if self.left == 0 and outputs.requires_grad else loss


def test_no_checkpoint_is_written_of_what_is_not_finite(fitter: Fitter, tmp_path: Path) -> None:
    with pytest.raises(NonFiniteError):
        train(fitter, checkpoints=Checkpoints(tmp_path, "me", cadence(every_steps=1)), loss=Poison(7))
    manifest = newest_manifest(tmp_path)
    assert manifest is not None
    assert manifest.step == 6
    assert_same(train(fitter, checkpoints=Checkpoints(tmp_path, "me", cadence())), train(fitter))
