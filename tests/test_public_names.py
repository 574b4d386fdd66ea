"""What `from mlops_hydra import ...` gives a service's caller, and what that loads."""

import json
import subprocess
import sys

import pytest
from pydantic import ValidationError

import mlops_hydra
from mlops_hydra import PredictionRequest, PredictionResponse, get_model_variant


def test_a_user_and_an_experiment_are_enough_for_an_arm() -> None:
    arms = [get_model_variant(f"user-{number}", "checkout") for number in range(200)]
    assert set(arms) == {"control", "treatment"}
    assert arms == [get_model_variant(f"user-{number}", "checkout") for number in range(200)]


def test_a_list_of_features_is_a_request() -> None:
    request = PredictionRequest(features=[41, 30500.0, "Oslo", None])
    assert request.features == [41, 30500.0, "Oslo", None]
    assert json.loads(request.model_dump_json()) == {
        "features": [41, 30500.0, "Oslo", None],
        "probabilities": False,
    }


@pytest.mark.parametrize("asked", [{}, {"features": [1], "rows": [{"x": 1}]}, {"feature": [1]}])
def test_a_request_that_the_service_would_refuse_is_refused_before_it_is_sent(asked: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        PredictionRequest.model_validate(asked)


def test_an_answer_is_read_as_the_service_wrote_it() -> None:
    answer = PredictionResponse.model_validate_json(
        '{"prediction":"yes","confidence":0.885,"model_version":"1","fingerprint":"d9a5f81f7031",'
        '"variant":"control","assigned_by":"request_id","request_id":"4ec08a97e516-2"}'
    )
    assert (answer.prediction, answer.model_version, answer.variant) == ("yes", "1", "control")
    assert answer.probabilities is None


def test_they_are_among_the_public_names() -> None:
    names = {"PredictionRequest", "PredictionResponse", "Router", "get_model_variant"}
    assert names <= set(mlops_hydra.__all__)
    assert names <= set(dir(mlops_hydra))


def test_a_client_loads_neither_torch_nor_mlflow() -> None:
    script = (
        "import sys\n"
        "import mlops_hydra\n"
        "assert 'pydantic' not in sys.modules and 'msgspec' not in sys.modules\n"
        "from mlops_hydra import PredictionRequest, PredictionResponse, get_model_variant\n"
        "assert not {'torch', 'mlflow', 'pandas', 'optuna', 'fastapi'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
