"""What learns: plain torch modules that know nothing of configuration.

Each takes `in_features` or `in_shape` and `out_features`, and maps float32 `[batch, ...]` to `[batch, out_features]`:
logits for classes, the standardised target for regression.
"""

from mlops_hydra.models.cnn import CNN
from mlops_hydra.models.linear import Linear
from mlops_hydra.models.losses import CrossEntropy
from mlops_hydra.models.mlp import MLP

__all__ = ["CNN", "MLP", "CrossEntropy", "Linear"]
