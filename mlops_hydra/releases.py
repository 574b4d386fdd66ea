"""The commands about models that are in use, or shall be: `predict`, `promote`, `rollback`, `drift`.

Each gets the words and overrides that were typed after its name, and gives the exit code.
"""

from collections.abc import Sequence
from typing import Final

from mlops_hydra.config.commands import PredictConfig, PromoteConfig, RollbackConfig
from mlops_hydra.config.compose import compose_command
from mlops_hydra.config.roots import Roots
from mlops_hydra.errors import RequestError
from mlops_hydra.past import Command, expect, place_of
from mlops_hydra.summary import Terminal, print_gates
from mlops_hydra.tracking.find import find_run


def predict(words: Sequence[str], overrides: Sequence[str], roots: Roots) -> int:
    """Predict the rows of a file; 2 if some of them cannot be read."""
    expect(words, 1, "predict RUN|MODEL data.path=in.csv out=out.csv")
    asked = compose_command(PredictConfig, overrides, roots)
    from mlops_hydra.prediction import find_bundle, predict_file, print_predictions

    bundle = find_bundle(words[0], place_of(asked))
    found = predict_file(bundle, asked)
    print_predictions(found, bundle, str(asked.out), Terminal())
    return RequestError.exit_code if found.num_bad else 0


def promote(words: Sequence[str], overrides: Sequence[str], roots: Roots) -> int:
    """Judge a run again, and give it the alias if it passes; else the exit code of the verdict."""
    expect(words, 1, "promote RUN [to=challenger]")
    asked = compose_command(PromoteConfig, overrides, roots)
    run = find_run(words[0], place_of(asked))
    from mlops_hydra.promotion import promote as judge_and_move

    console = Terminal()
    promotion = judge_and_move(run, asked)
    if promotion.judgement is not None:
        print_gates(promotion.judgement.verdicts, promotion.judgement.warnings, console)
    console.print(promotion.told(asked.to), highlight=False, markup=False, soft_wrap=True)
    return promotion.exit_code


def rollback(words: Sequence[str], overrides: Sequence[str], roots: Roots) -> int:
    """Give the alias back to the version that had it before."""
    expect(words, 1, "rollback NAME")
    asked = compose_command(RollbackConfig, overrides, roots)
    from mlops_hydra.promotion import rollback as go_back

    go_back(words[0], asked, Terminal())
    return 0


def drift(words: Sequence[str], overrides: Sequence[str], roots: Roots) -> int:
    """Compare data with what a model was trained on; 5 if something drifted, 4 if there is too little to tell."""
    expect(words, 1, "drift RUN|MODEL current=new.csv")
    from mlops_hydra.config.drift import DriftConfig

    asked = compose_command(DriftConfig, overrides, roots)
    from mlops_hydra.drift import check_drift
    from mlops_hydra.prediction import find_bundle

    place = place_of(asked)
    return check_drift(find_bundle(words[0], place), asked, place, Terminal()).exit_code


COMMANDS: Final[dict[str, Command]] = {"predict": predict, "promote": promote, "rollback": rollback, "drift": drift}
