"""The commands about a service: `serve`, which is one, and `ab`, which says what its A/B test says.

Each gets the words and overrides that were typed after its name, and gives the exit code. How soon `serve` answers
depends on what is imported here: neither torch, MLflow nor pandas, and a worker starts before the request is read.
"""

from collections.abc import Sequence
from typing import Final

from mlops_hydra.config.roots import Roots
from mlops_hydra.errors import Fault, UsageError
from mlops_hydra.summary import Terminal, print_service


def serve(words: Sequence[str], overrides: Sequence[str], roots: Roots) -> int:
    """Serve what the registry says, until SIGTERM or Ctrl-C."""
    _expect_none(words, "serve name=MODEL")
    from mlops_hydra.serving.processes.request import check_extra, checked
    from mlops_hydra.serving.processes.spare import Spare

    check_extra()
    with Spare() as spare:
        from mlops_hydra.config.compose import compose_command
        from mlops_hydra.config.serving import ServeConfig
        from mlops_hydra.serving.processes.supervisor import Supervisor

        config = checked(compose_command(ServeConfig, overrides, roots))
        console = Terminal()
        return Supervisor(config, lambda url, targets: print_service(config, url, targets, console), spare=spare).run()


def ab(words: Sequence[str], overrides: Sequence[str], roots: Roots) -> int:
    """What the A/B test says, or turn its kill switch."""
    _expect_none(words, "ab name=MODEL")
    from mlops_hydra.config.ab import AbConfig
    from mlops_hydra.config.compose import compose_command
    from mlops_hydra.serving.ab.evaluation import evaluate

    return evaluate(compose_command(AbConfig, overrides, roots), Terminal()).exit_code


def _expect_none(words: Sequence[str], usage: str) -> None:
    if words:
        raise UsageError(Fault("arguments", f"it is `mlops-hydra {usage} [key=value ...]`", " ".join(words)))


COMMANDS: Final = {"serve": serve, "ab": ab}
