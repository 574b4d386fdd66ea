"""Two processes on one machine give the same bits."""

import json
import os
import subprocess
import sys
from pathlib import Path

PROCESS = """
import hashlib, json, sys
import torch
from mlops_hydra import compose, set_all_seeds
from mlops_hydra.config.objective import resolve_objective
from mlops_hydra.data.sources import open_source
from mlops_hydra.evaluation.metrics import EpochMetrics
from mlops_hydra.training.build import build_workbench
from mlops_hydra.training.loop import fit
from mlops_hydra.training.seeding import reproducible

IMAGES = ["model=cnn", "data.source._target_=own_project.Images", "~data.source.name", "data.image_shape=null"]
EXPERIMENTS = {
    "linear": ["model=linear"],
    "mlp": ["model=mlp", "model.dropout=0.3", "trainer.clip_norm=1", "scheduler=one_cycle"],
    "cnn": ["model=cnn", "model.dropout=0.3", "trainer.accumulate=2"],
    "dataset, no workers": IMAGES,
    "dataset, two workers": [*IMAGES, "data.num_workers=2"],
}
results = {}
for name, overrides in EXPERIMENTS.items():
    config = compose(["data=digits", "trainer.epochs=2", "trainer.device=cpu", *overrides])
    with reproducible(deterministic=True, num_threads=config.trainer.num_threads):
        set_all_seeds(config.seed)
        splits = open_source(config.data).load()
        objective = resolve_objective(config.objective, splits.task)
        bench = build_workbench(config, splits, objective, torch.device("cpu"))
        fitted = fit(bench.learner, bench.train, bench.val, settings=config.trainer, objective=objective,
                     measure=EpochMetrics(splits.task, len(splits.classes), objective.metric))
    state = bench.learner.model.state_dict()
    weights = hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in state.values())).hexdigest()
    results[name] = [weights, fitted.history]
print(json.dumps(results))
"""


def test_two_processes_give_the_same_weights_and_metrics_bit_for_bit(tmp_path: Path) -> None:
    """Both import torch and train five times, which takes longer than 5 s."""
    code = Path(__file__).with_name("own_project.py").read_text(encoding="utf-8")
    (tmp_path / "own_project.py").write_text(code, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2])])}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS], env=environment | {"PYTHONHASHSEED": seed}, stdout=subprocess.PIPE
        )
        for seed in ("1", "2")
    ]
    first, second = (json.loads(process.communicate()[0]) for process in processes)
    assert len(first) == 5
    assert first == second
    assert first["dataset, no workers"] == first["dataset, two workers"]
    assert len({weights for weights, _ in first.values()}) == 4
