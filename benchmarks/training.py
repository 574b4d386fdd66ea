"""Our `fit`, validation metrics included, against other ways to train the same model on the same rows.

    python benchmarks/training.py
    python benchmarks/training.py --large

CPU time of one process with one thread: a fit of 1 + E epochs minus one of 1 epoch, so that what is paid once (imports,
compilation, set-up) does not count. Lightning and skorch take part if they are installed (`make bench` does it).
"""

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from functools import cache, partial

import torch
from peers import (
    LEARNING_RATE,
    NUM_CLASSES,
    Data,
    Peer,
    by_hand,
    digits,
    make_lightning,
    make_model,
    make_skorch,
    synthetic,
    textbook,
)
from rounds import Ratio, interleaved, print_target

from mlops_hydra import compose
from mlops_hydra.config.objective import Objective
from mlops_hydra.config.schema import TrainerConfig
from mlops_hydra.evaluation.metrics import EpochMetrics
from mlops_hydra.training.batches import TensorBatches
from mlops_hydra.training.loop import Learner, fit
from mlops_hydra.training.seeding import reproducible

OURS, BY_HAND, TEXTBOOK, LIGHTNING, SKORCH = (
    "mlops_hydra",
    "indexed + fused, by hand",
    "textbook",
    "Lightning",
    "skorch",
)


@cache
def trainer_settings(num_epochs: int) -> TrainerConfig:
    """Composed once: composing is no part of training."""
    return compose([f"trainer.epochs={num_epochs}", "trainer.early_stopping.patience=null"]).trainer


def ours(data: Data, batch_size: int, num_epochs: int) -> float:
    """`fit` as `experiment.py` calls it, with the default trainer but without early stopping."""
    settings = trainer_settings(num_epochs)
    with reproducible(deterministic=settings.deterministic, num_threads=1):
        model = make_model()
        optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, fused=True)
        fitted = fit(
            Learner(model, optimizer, torch.nn.CrossEntropyLoss()),
            TensorBatches((data.train_x,), data.train_y, batch_size, shuffle_seed=0),
            TensorBatches((data.val_x,), data.val_y, max(4096, batch_size)),
            settings=settings,
            objective=Objective("log_loss", "minimize"),
            measure=EpochMetrics("multiclass", NUM_CLASSES, "log_loss"),
        )
    return fitted.history[-1]["val/accuracy"]


def competitors() -> dict[str, Peer]:
    """Ours and the peers that are installed; says which are not."""
    found: dict[str, Peer] = {OURS: ours, BY_HAND: by_hand, TEXTBOOK: textbook}
    makers: dict[str, Callable[[], Peer]] = {LIGHTNING: make_lightning, SKORCH: make_skorch}
    for name, make in makers.items():
        try:
            found[name] = make()
        except ImportError as error:
            print(f"{name} is left out: {error} (pip install -e '.[bench]')")
    return found


def seconds_an_epoch(peer: Peer, data: Data, batch_size: int, num_epochs: int) -> tuple[float, float]:
    """CPU seconds an epoch without set-up, and the accuracy reached."""
    before = time.process_time()
    peer(data, batch_size, 1)
    between = time.process_time()
    accuracy = peer(data, batch_size, 1 + num_epochs)
    after = time.process_time()
    return ((after - between) - (between - before)) / num_epochs, accuracy


def compare(peers: dict[str, Peer], data: Data, batch_size: int, num_epochs: int, rounds: int) -> None:
    """Measure, and print a table and the targets."""
    runs = {name: partial(seconds_an_epoch, peer, data, batch_size, num_epochs) for name, peer in peers.items()}
    measured = interleaved(runs, rounds)
    seconds = {name: [cpu for cpu, _ in values] for name, values in measured.items()}
    print(f"\n{data.name}, batches of {batch_size}: CPU time of an epoch, {rounds} rounds, {num_epochs} epochs each")
    print(f"  {'':<26} {'ms':>8}  {'times ours (min-max)':<20}  accuracy")
    for name, values in seconds.items():
        times = Ratio.of(values, seconds[OURS])
        print(f"  {name:<26} {statistics.median(values) * 1e3:8.2f}  {times!s:<20}  {measured[name][-1][1]:.3f}")
    print_target("ours / by hand", _duel(runs, rounds), "<=", 1.05)
    if data.name == "digits" and batch_size == 64:
        print_target("textbook / ours", Ratio.of(seconds[TEXTBOOK], seconds[OURS]), ">=", 2)
        if LIGHTNING in seconds:
            print_target("Lightning / ours", Ratio.of(seconds[LIGHTNING], seconds[OURS]), ">=", 3)


def _duel(runs: dict[str, Callable[[], tuple[float, float]]], rounds: int) -> Ratio:
    """Ours over the loop by hand, in five times as many rounds: 5 % are less than what a round varies by."""
    pair = interleaved({name: runs[name] for name in (OURS, BY_HAND)}, 5 * rounds)
    ours_seconds, by_hand_seconds = ([cpu for cpu, _ in pair[name]] for name in (OURS, BY_HAND))
    return Ratio.of(ours_seconds, by_hand_seconds)


def main() -> None:
    """Read the arguments and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[64, 256, 1024])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--epochs", type=int, default=10, help="in the long fit, besides the first")
    parser.add_argument("--large", action="store_true", help="200,000 synthetic rows instead (minutes)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")  # advice of the frameworks to use more workers
    peers = competitors()
    data, epochs = (synthetic(), 1) if arguments.large else (digits(), arguments.epochs)
    for batch_size in arguments.batch_sizes:
        if arguments.large and batch_size < 256:
            continue
        compare(peers, data, batch_size, epochs, arguments.rounds)


if __name__ == "__main__":
    main()
