"""Many variations of one request, as a study asks for them: what they share is composed once.

Gives what composing each of them from scratch gives (a test compares), in a tenth of the time.
"""

import pickle
from collections.abc import Sequence
from typing import Any, Final

from omegaconf import DictConfig, OmegaConf, flag_override

from mlops_hydra.config import compose as composing
from mlops_hydra.config.check import as_tree
from mlops_hydra.config.overrides import quoted
from mlops_hydra.config.schema import ExperimentConfig, Origin
from mlops_hydra.errors import ConfigError, Fault

SWEEP_KEYS: Final = ("sweeps", "hydra")
"""What belongs to the study rather than to its trials."""

_BY_HAND: Final = "only values can vary: the config was built or changed by hand, so its groups have no options"

_NO_TRIAL: Final = "belongs to the study, and is the same for all of it"


class Variations:
    """Configs that differ from `config` in some overrides.

    A config that was built or changed by hand has no groups to choose from: then only values can vary.
    """

    def __init__(self, config: ExperimentConfig) -> None:
        self._config = _without_study(config)
        self._roots = config.origin.roots
        self._choices = config.origin.choices
        self.fixed = tuple(text for text in config.origin.overrides if not _is_of_study(text))
        self._groups: dict[str, bool] = {}
        self._kept_of: dict[frozenset[str], tuple[str, ...]] = {}
        self._composed: dict[tuple[str, ...], tuple[bytes, tuple[tuple[str, str], ...]]] = {}
        self._is_composed = bool(config.origin.choices) and self._comes_from_its_origin()
        self._by_hand = pickle.dumps(OmegaConf.create(as_tree(self._config)))

    def _comes_from_its_origin(self) -> bool:
        try:
            again = composing.compose_from(self.fixed, self._roots)
        except ConfigError:
            return False
        return _without_study(again) == self._config

    def with_overrides(self, changes: Sequence[str]) -> ExperimentConfig:
        """The config with `changes` after its own overrides, and no study.

        Raises:
            ConfigError: with every fault that was found.
        """
        parsed, faults = composing.parse_overrides([quoted(text) for text in changes])
        options = [override for override in parsed if self._is_option(override)]
        faults += [Fault(one.key_or_group, _NO_TRIAL) for one in parsed if _is_of_study(one.key_or_group)]
        if not self._is_composed:
            faults += [Fault(one.key_or_group, _BY_HAND, one.get_value_element_as_str()) for one in options]
        if faults:
            raise ConfigError(faults)
        groups = tuple(str(override.input_line) for override in options)
        values = [override for override in parsed if override not in options]
        kept = self._kept(frozenset(override.get_key_element() for override in parsed))
        pickled, choices = self._base(kept, groups)
        cfg: DictConfig = pickle.loads(pickled)  # five times as fast as a deep copy
        faults = composing.apply_values(values, cfg, self._roots)
        origin = Origin((*kept, *changes), choices, self._roots)
        return _without_study(composing.config_of(cfg, origin, faults))

    def _is_option(self, override: Any) -> bool:
        """Whether it chooses an option of a group; a mapping for a group sets values, as Hydra has it."""
        key = override.key_or_group
        if key not in self._groups:
            self._groups[key] = composing.is_group(key, self._roots)
        if not self._is_composed:
            return self._groups[key] and isinstance(override.value(), str)
        return self._groups[key] and not isinstance(override.value(), dict)

    def _kept(self, changed: frozenset[str]) -> tuple[str, ...]:
        """The overrides that are not given anew."""
        if changed not in self._kept_of:
            parsed, _ = composing.parse_overrides([quoted(text) for text in self.fixed])
            keys = [override.get_key_element() for override in parsed]
            self._kept_of[changed] = tuple(
                text for text, key in zip(self.fixed, keys, strict=True) if key not in changed
            )
        return self._kept_of[changed]

    def _base(self, kept: tuple[str, ...], groups: tuple[str, ...]) -> tuple[bytes, tuple[tuple[str, str], ...]]:
        """What is composed with these options, pickled, without Hydra's own node unless something refers to it."""
        if not self._is_composed:
            return self._by_hand, self._choices
        key = (*kept, *groups)
        if key not in self._composed:
            cfg, origin = composing.compose_tree(key, self._roots)
            with flag_override(cfg, "struct", False):
                hydra, cfg.sweeps = cfg.pop("hydra", None), None
                if "${hydra." in OmegaConf.to_yaml(cfg):
                    cfg.hydra = hydra
            self._composed[key] = (pickle.dumps(cfg), origin.choices)
        return self._composed[key]


def _without_study(config: ExperimentConfig) -> ExperimentConfig:
    """As a trial has it; the origin stays."""
    alone = config.model_copy(update={"sweeps": None})
    alone._origin = config.origin
    return alone


def _is_of_study(text: str) -> bool:
    key = text.lstrip("+~").partition("=")[0].partition("@")[0]
    return key.replace("/", ".").partition(".")[0] in SWEEP_KEYS
