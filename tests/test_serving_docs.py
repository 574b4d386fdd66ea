"""What README.md and docs/serving.md say of the service is so: commands, answers, names of metrics and columns."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from mlops_hydra.config.ab import AbConfig
from mlops_hydra.config.compose import compose_command
from mlops_hydra.config.roots import Roots
from mlops_hydra.config.serving import ServeConfig
from mlops_hydra.serving.app import Service
from mlops_hydra.serving.counts import Counts, exposition
from mlops_hydra.serving.request_log.parquet_files import FIXED
from mlops_hydra.serving.schemas import BatchPredictionResponse, Faults, PredictionRequest, PredictionResponse

ROOT = Path(__file__).resolve().parent.parent
SERVING = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
TEXTS = {"README.md": (ROOT / "README.md").read_text(encoding="utf-8"), "serving.md": SERVING}
CONFIGS: dict[str, type[Any]] = {"serve": ServeConfig, "ab": AbConfig}
PREFIX = "mlops_hydra_serving_"


def commands() -> list[str]:
    """Of `serve` and `ab`, wherever they stand."""
    found = {
        command.split("`")[0].rstrip(" .;,")
        for text in TEXTS.values()
        for command in re.findall(r"mlops-hydra (?:serve|ab) [^\n]*=[^\n]*", text)
    }
    return sorted(found)


def shown(language: str) -> list[str]:
    return [
        block for text in TEXTS.values() for block in re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)
    ]


@pytest.mark.parametrize("command", commands())
def test_every_command_is_understood(command: str) -> None:
    _, name, *overrides = shlex.split(command)
    assert compose_command(CONFIGS[name], overrides, Roots(config_name=name)).name == "credit"


def test_every_body_that_is_sent_is_a_request() -> None:
    bodies = re.findall(r"predict -d '(.*?)'", "\n".join(shown("sh")), flags=re.DOTALL)
    assert len(bodies) == 4
    for body in bodies:
        PredictionRequest.model_validate_json(body)


def test_every_answer_has_the_form_that_the_service_gives() -> None:
    answers = [block for block in shown("json") if block.startswith("{")]
    assert len(answers) == 4
    for answer in answers:
        read = json.loads(answer)
        kind = Faults if "detail" in read else BatchPredictionResponse if "predictions" in read else PredictionResponse
        kind.model_validate(read)


@pytest.mark.parametrize("block", shown("python"))
def test_code_is_code(block: str) -> None:
    compile(block, "example", "exec")


def test_every_metric_is_described(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    service = Service(compose_command(ServeConfig, ["name=credit"], Roots(config_name="serve")))
    counts = Counts()
    counts.gauges, counts.totals = {"queued_rows": 0.0}, {"log_rows": 0.0, "log_rows_dropped": 0.0}
    text = (service.exposition() + exposition([counts.as_json()])).decode()
    names = {name.removeprefix(PREFIX) for name in re.findall(r"^# TYPE (\S+)", text, flags=re.M)}
    table = SERVING.split("## Metrics")[1].split("```")[0]
    assert set(re.findall(r"`([a-z_]+)`", "".join(re.findall(r"^\| (.*?) \|", table, flags=re.M)))) == names


def test_every_column_of_the_request_log_is_described() -> None:
    table = SERVING.split("## The request log")[1].split("```")[0]
    told = re.findall(r"`([\w.]+)`", "".join(re.findall(r"^\| (.*?) \|", table, flags=re.M)))
    assert told == [*FIXED.names, "features.NAME"]


def test_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([\w./-]+\.md)\)", SERVING)
    assert links
    assert all((ROOT / "docs" / link).is_file() for link in links)
