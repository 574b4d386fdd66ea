"""Whether a model errs more than it did on its test split, once labels are there.

One-sided: to err less is no drift. The share of errors is tested exactly (Fisher's hypergeometric), means by Welch's t.
"""

import math
from collections.abc import Iterator
from typing import Final

from scipy import special

from mlops_hydra.config.drift import MonitoringConfig
from mlops_hydra.monitoring.profile import Moments
from mlops_hydra.monitoring.reference import Reference
from mlops_hydra.monitoring.tested import GROWTH, Tested
from mlops_hydra.monitoring.window import Window

POWER: Final = 0.8
_MOST_COUNTED: Final = 10**8  # rows; scipy takes minutes for far more, which a stranger's profile may claim


def tested_losses(reference: Reference, window: Window, rules: MonitoringConfig, *, alpha: float) -> Iterator[Tested]:
    """Every error measure that was taken before and now, at the level `alpha` of a single test."""
    for name, before in reference.profile.losses.items():
        now = window.losses.get(name)
        if now is None or not now.n or not before.n or not math.isfinite(before.mean):
            continue
        deviation = math.sqrt(before.variance * (1 / before.n + 1 / now.n))
        z = float(special.ndtri(POWER)) - float(special.ndtri(alpha))
        yield Tested(
            name=name,
            part="performance",
            test="loss",
            column=None,
            sizes=(before.n, now.n),
            statistic=now.mean,
            p_value=_p_of_errors(before, now) if name == "error_rate" else _p_of_means(before, now),
            effect=_growth(now.mean - before.mean, before.mean),
            unit=GROWTH,
            min_effect=rules.min_effect.loss,
            detectable=_growth(z * deviation, before.mean) if before.mean > 0 else None,
            must_see=rules.must_see.loss if before.mean > 0 else None,  # twice of nothing is nothing to look for
        )


def _growth(difference: float, mean: float) -> float:
    if mean > 0:
        return difference / mean
    return math.inf if difference > 0 else 0.0


def _p_of_errors(before: Moments, now: Moments) -> float:
    from scipy.stats import hypergeom

    if max(before.n, now.n) > _MOST_COUNTED or not 0 <= before.mean <= 1:
        return _p_of_means(before, now)
    old, new = round(before.mean * before.n), round(now.mean * now.n)
    return float(hypergeom.sf(new - 1, before.n + now.n, old + new, now.n))


def _p_of_means(before: Moments, now: Moments) -> float:
    """Welch's t, with the degrees of freedom of Welch and Satterthwaite."""
    if min(before.n, now.n) < 2:
        return 1.0
    parts = before.variance / before.n, now.variance / now.n
    total = sum(parts)
    if total <= 0:
        return float(now.mean <= before.mean)
    share = parts[0] / total
    degrees = 1 / (share**2 / (before.n - 1) + (1 - share) ** 2 / (now.n - 1))
    return float(special.stdtr(degrees, -(now.mean - before.mean) / math.sqrt(total)))
