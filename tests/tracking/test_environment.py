import json
import platform

import numpy

from mlops_hydra.tracking.environment import environment


def test_it_is_plain_json_with_the_versions_that_are_installed():
    found = environment()
    assert json.loads(json.dumps(found)) == found
    assert found["python"] == platform.python_version()
    assert found["packages"]["numpy"] == numpy.__version__


def test_threads_and_device_are_those_torch_uses_once_it_is_loaded():
    import torch

    assert environment()["threads"] == torch.get_num_threads()
    assert environment()["device"] == "cpu"
