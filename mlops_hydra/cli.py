"""argv -> command -> exit code. The only place that turns errors into text and numbers.

Single runs are composed by `config.compose`; `hydra.main` serves multirun, --cfg, --help, --info and completion.
"""

import argparse
import contextlib
import io
import logging
import math
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from rich.markup import escape

from mlops_hydra import __version__
from mlops_hydra.config.jobs import collected, say
from mlops_hydra.config.overrides import quoted
from mlops_hydra.config.roots import CONFIG_NAME, Roots
from mlops_hydra.errors import EXIT_CODES, INTERRUPTED, ConfigError, Fault, MlopsHydraError, RequestError, nearest
from mlops_hydra.summary import Terminal, print_faults, print_jobs, print_result

if TYPE_CHECKING:
    from mlops_hydra.config.schema import ExperimentConfig
    from mlops_hydra.packaging.result import Result

PROGRAM: Final = "mlops-hydra"
_LAUNCHED: Final = ("hydra.*", "hydra_plugins.*")  # what Hydra itself builds: sweepers, launchers, callbacks


def main(argv: Sequence[str]) -> int:
    """Carry out one command.

    Returns:
        0 done; 1 a failure of ours; 2 the request is wrong; 3 a gate failed; 4 a gate could not decide; 5 drift;
        6 not reproduced; 7 another process holds it; 130 Ctrl-C; 143 SIGTERM. A service that is told to stop: 0.
    """
    if "" not in sys.path:
        sys.path.insert(0, "")  # the directory it is called from is importable
    _listen()
    argv = [quoted(word) for word in argv]
    try:
        named = [index for index, word in enumerate(argv) if word in _COMMANDS and not _is_value(argv, index)]
        if not named:
            return train(argv)
        return _COMMANDS[argv[named[0]]]([word for index, word in enumerate(argv) if index != named[0]])
    except KeyboardInterrupt:
        _stderr().print("Interrupted.")
        return INTERRUPTED
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else 1
    except Exception as error:
        return _report(error)


_TAKE_A_VALUE: Final = frozenset(
    {
        "--config-dir",
        "-cd",
        "--config-path",
        "-cp",
        "--config-name",
        "-cn",
        "--package",
        "-p",
        "--cfg",
        "-c",
        "--info",
        "-i",
    }
)


def _is_value(argv: Sequence[str], index: int) -> bool:
    """Whether a word belongs to the flag before it."""
    return index > 0 and argv[index - 1] in _TAKE_A_VALUE


def train(argv: Sequence[str]) -> int:
    """One run, or what Hydra's own flags ask for."""
    overrides, roots, multirun, others = _parse(argv)
    if "--version" in argv:
        print(f"{PROGRAM} {__version__}")
        return 0
    if {"-sc", "--shell-completion"} & set(argv):
        return _complete(argv, roots)
    if others:
        return _look(argv, overrides, roots)
    _check_words(overrides)
    from mlops_hydra.config.compose import compose_from, split_swept

    fixed, swept = split_swept(overrides)
    if multirun or swept:
        return _many(argv, fixed, swept, roots, is_given=multirun)
    config = compose_from(overrides, roots)
    return _study(overrides, [], roots) if config.sweeps is not None else _train(config).exit_code


def _many(argv: Sequence[str], fixed: list[str], swept: list[str], roots: Roots, *, is_given: bool) -> int:
    """Several values or -m: a study, or else what Hydra's sweepers make of it."""
    from mlops_hydra.config.compose import asks_for_study, compose_from

    if any(text.lstrip("+").startswith("sweeps=") for text in swept):
        raise ConfigError(Fault("sweeps", "is chosen once: a study of studies would compare nothing", swept))
    is_other = any(text.startswith("hydra/sweeper=") for text in fixed)
    launcher = None if is_other else asks_for_study(fixed, roots)
    if launcher is not None and (strange := [text for text in fixed if text.lstrip("+").startswith("hydra.sweeper.")]):
        raise ConfigError(
            [Fault(text, "is not read: the study is what `sweeps` says, sweeps.n_trials=...") for text in strange]
        )
    if launcher == "basic":
        return _study(fixed, swept, roots)
    if launcher is not None:
        flags = argv if is_given else ["-m", *argv]
        return _multirun(["hydra/sweeper=mlops_hydra", *flags], [], roots)
    if not is_given:
        compose_from([*fixed, *swept], roots)  # says that -m is missing
    return _multirun(argv, [*fixed, *swept], roots, is_searched=is_other)


def _study(fixed: list[str], swept: list[str], roots: Roots) -> int:
    """A study that this process carries out, with worker processes of its own."""
    from mlops_hydra.sweeps.planning import base_config
    from mlops_hydra.sweeps.sweep import sweep

    study = sweep(base_config(fixed, swept, roots), overrides=swept, console=Terminal())
    if study.result is not None:
        print_result(study.result, study.result.store, Terminal())
    return study.exit_code


def check(argv: Sequence[str]) -> int:
    """Compose and check everything, and print what a run would do; creates nothing."""
    overrides, roots, multirun, others = _parse(argv)
    if others:
        return _look(argv, overrides, roots)
    _check_words(overrides)
    from mlops_hydra.config.compose import asks_for_study, compose_from, split_swept
    from mlops_hydra.preview import preview, preview_study

    fixed, swept = split_swept(overrides)
    if asks_for_study(fixed, roots) is not None:
        lines = preview_study(fixed, swept, roots)
    elif multirun:
        raise ConfigError(Fault("check", "looks at one experiment, or a study: leave out -m and the swept values"))
    else:
        lines = preview(compose_from(overrides, roots))
    Terminal().print("\n".join(lines), highlight=False, markup=False, soft_wrap=True)
    return 0


def _past(name: str) -> Callable[[Sequence[str]], int]:
    """A command about runs, models or a service, which has a primary config of its own."""

    def carry_out(argv: Sequence[str]) -> int:
        overrides, roots, multirun, others = _parse(argv)
        if roots.config_name is not None:
            raise ConfigError(Fault("--config-name", f"{name} has a config of its own", roots.config_name))
        roots, rest = replace(roots, config_name=name), [text for text in overrides if not _is_word(text)]
        if others:
            kept = [word for i, word in enumerate(argv) if word[0] in "-~" or "=" in word or _is_value(argv, i)]
            return _look(kept, rest, roots)
        words = [text for text in overrides if _is_word(text)]
        if multirun:
            raise ConfigError(Fault("-m", f"{name} is no sweep"))
        if name in _LIVE:
            from mlops_hydra import live

            return live.COMMANDS[name](words, rest, roots)
        from mlops_hydra import past, releases

        return {**past.COMMANDS, **releases.COMMANDS}[name](words, rest, roots)

    return carry_out


_MODELS: Final = ("predict", "promote", "rollback", "drift")
_LIVE: Final = ("serve", "ab")
_COMMANDS: Final[dict[str, Callable[[Sequence[str]], int]]] = {
    "check": check,
    **{name: _past(name) for name in ("runs", "clean", "sync", "diff", "verify", *_MODELS, *_LIVE)},
}


def _parse(argv: Sequence[str]) -> tuple[list[str], Roots, bool, bool]:
    """Overrides, where YAML is, whether -m was given, and whether there are flags that are Hydra's own business."""
    parser = argparse.ArgumentParser(prog=PROGRAM, add_help=False, allow_abbrev=False)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--config-dir", "-cd")
    parser.add_argument("--config-path", "-cp")
    parser.add_argument("--config-name", "-cn")
    parser.add_argument("--multirun", "-m", action="store_true")
    known, others = parser.parse_known_intermixed_args(list(argv))
    return known.overrides, Roots(known.config_path, known.config_dir, known.config_name), known.multirun, bool(others)


def _check_words(overrides: Sequence[str]) -> None:
    """A word without `=` is a misspelt command: Hydra's grammar would say something about missing '='."""
    words = [text for text in overrides if _is_word(text)]
    rule = f"is neither a command ({', '.join(_COMMANDS)}) nor an override (key=value)"
    if words:
        raise ConfigError([Fault(word, rule, None, nearest(word, _COMMANDS)) for word in words])


def _is_word(text: str) -> bool:
    return "=" not in text and not text.startswith("~")


def _train(config: "ExperimentConfig") -> "Result":
    from mlops_hydra.experiment import run
    from mlops_hydra.tracking.store import anchored, redacted, tracking_uri

    console = Terminal()
    uri, reason = tracking_uri(config)
    result = run(config, console=console)
    where = f"{redacted(uri)} ({reason})" if result.store in ("", redacted(anchored(uri))) else result.store
    print_result(result, where, console)
    return result


def _multirun(argv: Sequence[str], overrides: list[str], roots: Roots, *, is_searched: bool = False) -> int:
    """Check every job, let Hydra run them, and sum them up.

    Args:
        is_searched: not every combination becomes a job, so each value is checked once.
    """
    _check_jobs(overrides, roots, one_at_a_time=is_searched)
    with collected() as jobs:
        try:
            code = _hydra(argv)
        except KeyboardInterrupt:
            code = INTERRUPTED
    if own := [job for job in jobs if "study" not in job]:
        print_jobs(own, Terminal())
    if code:
        return code
    if any("error" in job for job in jobs):
        return 1
    verdicts = {job.get("verdict") for job in jobs}
    return next((EXIT_CODES[verdict] for verdict in ("failed", "undecided") if verdict in verdicts), 0)


def _check_jobs(overrides: list[str], roots: Roots, *, one_at_a_time: bool) -> None:
    """Raises ConfigError with the faults of all jobs, each once, before the first of them runs."""
    from mlops_hydra.config.compose import compose_from, sweep_jobs

    faults: dict[str, Fault] = {}
    for job in sweep_jobs(overrides, roots, one_at_a_time=one_at_a_time):
        try:
            compose_from(job, roots)
        except ConfigError as error:
            faults |= {str(fault): fault for fault in error.faults}
    if faults:
        raise ConfigError(list(faults.values()))


def _look(argv: Sequence[str], overrides: list[str], roots: Roots) -> int:
    """What Hydra's own flags ask for; where it refuses the request, our faults rather than its text."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        code = _hydra(argv, roots.name)
    if code == 1:
        from mlops_hydra.config.compose import compose_from

        compose_from([text for text in overrides if not _is_word(text)], roots)
    sys.stderr.write(said.getvalue())
    return code


def _complete(argv: Sequence[str], roots: Roots) -> int:
    """What the shell asks for; Hydra sees the line as one without our command, and with the config of that."""
    words = os.environ.get("COMP_LINE", "").split(" ")
    named = [word for word in words if word in _COMMANDS]
    if named:
        last = len(words) - 1
        kept = [w for i, w in enumerate(words) if i in (0, last) or (w not in _COMMANDS and not _is_word(w))]
        os.environ["COMP_LINE"] = " ".join(kept)
        roots = roots if named[0] == "check" else replace(roots, config_name=named[0])
    return _hydra(argv, roots.name)


def _hydra(argv: Sequence[str], config_name: str = CONFIG_NAME) -> int:
    """Hand over to `hydra.main`, which reads sys.argv and exits."""
    import hydra

    from mlops_hydra.config.roots import offering, packaged_conf

    before = sys.argv
    sys.argv = [PROGRAM, *argv]
    try:
        with offering():
            hydra.main(config_path=str(packaged_conf()), config_name=config_name, execution_whitelist=_LAUNCHED)(_job)()
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else int(exit_.code is not None)
    finally:
        sys.argv = before
    return 0


def _job(cfg: Any) -> Any:
    """One job of a multirun: its objectives for the sweeper, NaN if it failed, and a line for the summary."""
    from hydra.core.hydra_config import HydraConfig

    from mlops_hydra.config.compose import config_of, origin_of

    hydra_cfg = HydraConfig.get()
    overrides = list(hydra_cfg.overrides.task)
    Terminal().print(f"\n[dim]── {escape(' '.join(overrides) or '(defaults)')}[/dim]", highlight=False)
    job: dict[str, Any] = {"overrides": overrides}
    try:
        config = config_of(cfg, origin_of(overrides, hydra_cfg.runtime.choices))
        result = _train(config)
        metric = result.objective.metric
        job |= {"fingerprint": result.fingerprint, "verdict": result.verdict, "objective": metric}
        job |= {split: _finite(result.metrics.get(f"{split}/{metric}")) for split in ("val", "test")}
        return result.objectives(config.objective.others)
    except Exception as error:
        job["error"] = str(error)
        _report(error)
        return [math.nan] * (1 + len(cfg.objective.others)) if cfg.objective.others else math.nan
    except BaseException:
        job["error"] = "interrupted"
        raise
    finally:
        say(job)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _report(error: Exception) -> int:
    """Say what went wrong, and give the exit code; a traceback only for bugs, or when HYDRA_FULL_ERROR=1 asks."""
    import traceback

    console = _stderr()
    if os.environ.get("HYDRA_FULL_ERROR", "0") not in ("0", "") or not isinstance(error, MlopsHydraError):
        console.print("".join(traceback.format_exception(error)), highlight=False, markup=False, soft_wrap=True)
    if isinstance(error, RequestError):
        print_faults(error.faults, console)
        return error.exit_code
    if isinstance(error, MlopsHydraError):
        console.print(f"[red]{type(error).__name__}[/red]: {error}", highlight=False, soft_wrap=True)
        return error.exit_code
    console.print(
        "Something failed in code that mlops_hydra called, or in mlops_hydra itself; the traceback ends where.",
        highlight=False,
    )
    return 1


class _LogToTerminal(logging.Handler):
    """Warnings and announcements of the package, for the person at the terminal."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record; the console is made anew because a test or a notebook may have moved stderr."""
        mark = "[yellow]warning:[/yellow] " if record.levelno >= logging.WARNING else ""
        _stderr().print(mark + escape(record.getMessage()), highlight=False, soft_wrap=True)


def _listen() -> None:
    package = logging.getLogger("mlops_hydra")
    package.setLevel(logging.INFO)
    if not any(isinstance(handler, _LogToTerminal) for handler in package.handlers):
        package.addHandler(_LogToTerminal())


def _stderr() -> Terminal:
    return Terminal(stderr=True)
