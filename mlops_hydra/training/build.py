"""From a configuration and its data to objects that can be trained.

What a `_target_` gets from here, if its signature names it: models `in_features` or `in_shape`, and `out_features`;
optimizers `params`; schedulers `optimizer` and `total_steps`; losses `class_counts`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import IterableDataset, TensorDataset

from mlops_hydra.config.frozen import Target
from mlops_hydra.config.objective import Objective
from mlops_hydra.config.schema import ExperimentConfig
from mlops_hydra.config.targets import as_function, build, names_parameter, parameters_of, resolve
from mlops_hydra.data.encoding import encode
from mlops_hydra.data.features import FeatureTransform
from mlops_hydra.data.splits import SPLITS, Splits, Table
from mlops_hydra.errors import ConfigError, Fault
from mlops_hydra.training.batches import Batches, LoaderBatches, TensorBatches, as_targets
from mlops_hydra.training.loop import Learner
from mlops_hydra.training.optimization import build_optimizer, build_scheduler
from mlops_hydra.training.probe import probe
from mlops_hydra.training.scale import TargetScale
from mlops_hydra.training.seeding import RandomState

_PREDICTED_ROWS: Final = 4096  # rows a batch where nothing is learnt


@dataclass(frozen=True, slots=True)
class Workbench:
    """All that `fit` and what comes after it need."""

    learner: Learner
    network: nn.Module
    features: FeatureTransform | None
    scale: TargetScale
    train: Batches
    val: Batches
    test: Batches

    @property
    def num_parameters(self) -> int:
        """Trainable numbers."""
        return sum(parameter.numel() for parameter in self.learner.model.parameters() if parameter.requires_grad)


class Embedded(nn.Module):
    """The part of features and model that learns, for rows that were prepared beforehand."""

    def __init__(self, features: FeatureTransform, network: nn.Module) -> None:
        super().__init__()
        self.features, self.network = features, network

    def forward(self, dense: Tensor, codes: Tensor) -> Tensor:
        """Prepared rows float32 `[n, w]`, int64 `[n, k]` -> outputs."""
        outputs: Tensor = self.network(self.features.assemble(dense, codes))
        return outputs


@dataclass(slots=True)
class Prepared:
    """What is made of a table's splits before anything is learnt, kept from one trial for the next.

    Never with embeddings: they are learnt, and drawing them is part of what the seed decides.
    """

    _table: object = None
    _of: tuple[object, ...] = ()
    features: FeatureTransform | None = None
    inputs: dict[str, tuple[Tensor, ...]] = field(default_factory=dict)

    def is_of(self, table: object, *settings: object) -> bool:
        """Whether it holds what is made of just that table so; else it is emptied for it."""
        if self._table is table and self._of == settings:
            return True
        self._table, self._of, self.features, self.inputs = table, settings, None, {}
        return False


def build_workbench(
    config: ExperimentConfig,
    splits: Splits,
    objective: Objective,
    device: torch.device,
    prepared: Prepared | None = None,
) -> Workbench:
    """Build everything on `device`.

    Args:
        prepared: of an earlier trial; it is used where it fits, and filled.

    Raises:
        ConfigError: a constructor refuses its arguments, or the pieces do not fit together.
    """
    train_targets = splits.targets("train")
    is_table = isinstance(splits.train, Table)
    regression = splits.task == "regression"
    scale = TargetScale.fit(train_targets) if regression and is_table and train_targets is not None else TargetScale()
    prepared = prepared or Prepared()
    shape_matters = names_parameter(config.model, "in_shape")
    if not prepared.is_of(splits.train, config.data.encoding, shape_matters, device) or prepared.features is None:
        prepared.features = _fit_features(config, splits)
    features = prepared.features
    network = _build_model(config.model, splits, features).to(device)
    model = network
    if features is not None and features.has_embeddings:
        features.embeddings.to(device)  # the rest stays on the CPU: it is used once, in float64, which MPS lacks
        model = Embedded(features, network)
        prepared.features = None
    batches = {name: _batches(config, splits, name, prepared, features, scale, device) for name in SPLITS}
    loss = _build_loss(config, splits).to(device)
    probe(model, loss, batches["val"], _out_features(splits), config)
    optimizer = build_optimizer(config.optimizer, model, device)
    scheduler, each_step = build_scheduler(config, optimizer, objective, batches["train"])
    step = as_function(config.trainer.step, where="trainer.step") if config.trainer.step else None
    learner = Learner(model, optimizer, loss, scheduler, each_step, step)
    return Workbench(learner, network, features, scale, **batches)


def _fit_features(config: ExperimentConfig, splits: Splits) -> FeatureTransform | None:
    if splits.schema is None or not isinstance(splits.train, Table):
        return None
    shape = splits.schema.image_shape if names_parameter(config.model, "in_shape") else None
    encoded = encode(splits.train.columns(), splits.schema)
    try:
        return FeatureTransform.fit(encoded, splits.schema, config.data.encoding, shape)
    except ValueError as error:
        raise ConfigError(Fault("data.image_shape", str(error))) from error


def _out_features(splits: Splits) -> int:
    return 1 if splits.task == "regression" else len(splits.classes)


def _build_model(target: Target, splits: Splits, features: FeatureTransform | None) -> nn.Module:
    offers: dict[str, Any] = {"out_features": _out_features(splits)}
    shape = _sample_shape(splits) if features is None else features.shape
    if shape is not None:
        offers["in_shape"] = tuple(shape)
    if features is not None:
        offers["in_features"] = features.in_features
    elif shape is not None:
        offers["in_features"] = math.prod(shape)
    for name, rule in (
        ("in_shape", "needs images: set data.image_shape=[channels,height,width], or choose another model"),
        ("in_features", "needs in_features, which only tables and tensors have"),
    ):
        if name not in offers and _requires(target, name):
            raise ConfigError(Fault("model", f"{target.path} {rule}"))
    model = build(target, offers, where="model")
    if not isinstance(model, nn.Module):
        raise ConfigError(Fault("model", f"{target.path} gives a {type(model).__name__}, needed is a torch.nn.Module"))
    return model


def _requires(target: Target, name: str) -> bool:
    parameters = parameters_of(resolve(target.path)) or []
    return name not in target.args and any(p.name == name and p.default is p.empty for p in parameters)


def _sample_shape(splits: Splits) -> tuple[int, ...] | None:
    """Shape of one input of a Dataset; None where an item is a mapping or holds no array."""
    if isinstance(splits.train, Table):
        return None
    dataset: Any = splits.train
    before = RandomState()
    item = next(iter(dataset), None) if isinstance(dataset, IterableDataset) else dataset[0]
    before.restore()
    first: Any = item[0] if isinstance(item, list | tuple) and item else None
    return tuple(first.shape) if hasattr(first, "shape") else None


def _batches(
    config: ExperimentConfig,
    splits: Splits,
    name: str,
    prepared: Prepared,
    features: FeatureTransform | None,
    scale: TargetScale,
    device: torch.device,
) -> Batches:
    split, training = splits[name], name == "train"
    size = config.trainer.batch_size if training else max(_PREDICTED_ROWS, config.trainer.batch_size)
    seed = config.seed if training else None
    if isinstance(split, Table):
        assert features is not None, "tables have features"
        inputs = prepared.inputs.get(name) or tuple(t.to(device) for t in _prepared(split, splits, features))
        if not features.has_embeddings:
            prepared.inputs[name] = inputs
        targets = _target_tensor(split.targets, splits, scale).to(device)
        return TensorBatches(inputs, targets, size, seed)
    if isinstance(split, TensorDataset):
        *inputs_of, last = (tensor.to(device) for tensor in split.tensors)
        inputs = tuple(tensor.float() if tensor.is_floating_point() else tensor for tensor in inputs_of)
        return TensorBatches(inputs, as_targets(last, regression=splits.task == "regression"), size, seed)
    return LoaderBatches(
        split,
        regression=splits.task == "regression",
        batch_size=config.trainer.batch_size,
        seed=config.seed,
        shuffle=training,
        num_workers=config.data.num_workers,
        device=device,
        target=config.data.target,
    )


@torch.no_grad()
def _prepared(split: Table, splits: Splits, features: FeatureTransform) -> tuple[Tensor, ...]:
    """What the trained module is called with: everything that is not learnt is done once, here."""
    assert splits.schema is not None, "tables have a schema"
    encoded = encode(split.columns(), splits.schema)
    dense, codes = features.prepare(torch.from_numpy(encoded.numeric), torch.from_numpy(encoded.codes))
    return (dense, codes) if features.has_embeddings else (features.assemble(dense, codes),)


def _target_tensor(targets: Any, splits: Splits, scale: TargetScale) -> Tensor:
    return scale.standardised(targets) if splits.task == "regression" else torch.from_numpy(targets)


def _build_loss(config: ExperimentConfig, splits: Splits) -> Any:
    """`(outputs, targets) -> scalar` as a module; cross entropy or squared error unless something else is asked for."""
    if config.trainer.loss is None:
        return nn.MSELoss() if splits.task == "regression" else nn.CrossEntropyLoss()
    offers: Mapping[str, Any] = {}
    targets = splits.targets("train")
    if splits.task == "regression" and names_parameter(config.trainer.loss, "class_counts"):
        raise ConfigError(Fault("trainer.loss", f"{config.trainer.loss.path} is for classes; this is a regression"))
    if splits.task != "regression" and targets is not None:
        offers = {"class_counts": np.bincount(targets, minlength=len(splits.classes)).tolist()}
    loss = as_function(config.trainer.loss, offers, where="trainer.loss")
    return loss if isinstance(loss, nn.Module) else _LossFunction(loss)


class _LossFunction(nn.Module):
    """A function as a module, so that `.to(device)` is the same for both."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Outputs and targets of a batch -> scalar."""
        loss: Tensor = self.function(outputs, targets)
        return loss
