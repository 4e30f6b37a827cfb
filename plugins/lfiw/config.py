"""The options of LFIW, as users write them and as they are saved."""

from __future__ import annotations

import math
import warnings
from dataclasses import asdict, dataclass, fields
from typing import Any

from sb3_ext.algorithms.composable import Composable
from sb3_ext.plugins.lfiw.equations import DIVERGENCES, WEIGHT_FORMS
from sb3_ext.plugins.lfiw.weighting import LikelihoodFreeWeighting, ring_size


class _Default(int):
    """An int that was not chosen by the user, and so may be clipped instead of refused."""


DEFAULT_FAST_BUFFER_SIZE = _Default(10_000)


@dataclass(frozen=True)
class LikelihoodFree:
    """Likelihood-free importance weights (Sinha et al. 2022) for any base.

    :param temperature: T > 0; the larger, the nearer to uniform (paper: 5 everywhere)
    :param fast_buffer_size: newest transitions that count as on-policy (paper: 10_000). The
        default shrinks to a tenth of a small replay buffer; a chosen value must be smaller than it
    :param divergence: ``"js"`` (paper), ``"kl"``, ``"chi2"`` or ``"hellinger"``
    :param weight_form: ``"ratio"`` (paper) or ``"prob"`` (the authors' code, milder)
    :param ratio_net_arch: widths of the ratio network's hidden layers
    :param ratio_learning_rate: its Adam's rate; None follows the critic's, schedule included
    :param ratio_updates: steps of the ratio network for each gradient step
    :param logit_clip: bound of the logit: ``"auto"`` is ln(slow / fast), the truth's own bound;
        a number; or None for no bound
    :param normalize_inputs: whether the ratio network standardises features; ``"auto"`` does
        unless VecNormalize or raw features make it needless
    :param holdout_fraction: share of the fast window that the ratio network never trains on, to
        see whether it memorises; 0 for none
    """

    temperature: float = 5.0
    fast_buffer_size: int = DEFAULT_FAST_BUFFER_SIZE
    divergence: str = "js"
    weight_form: str = "ratio"
    ratio_net_arch: tuple[int, ...] = (256, 256)
    ratio_learning_rate: float | None = None
    ratio_updates: int = 1
    logit_clip: float | str | None = "auto"
    normalize_inputs: bool | str = "auto"
    holdout_fraction: float = 0.1

    def __post_init__(self) -> None:
        object.__setattr__(self, "ratio_net_arch", tuple(self.ratio_net_arch))
        _require(
            _positive(self.temperature), "temperature must be > 0 and finite", self.temperature
        )
        _require(
            isinstance(self.fast_buffer_size, int) and self.fast_buffer_size >= 1,
            "fast_buffer_size must be an integer >= 1",
            self.fast_buffer_size,
        )
        _require(
            self.divergence in DIVERGENCES,
            f"divergence must be one of {DIVERGENCES}",
            self.divergence,
        )
        _require(
            self.weight_form in WEIGHT_FORMS,
            f"weight_form must be one of {WEIGHT_FORMS}",
            self.weight_form,
        )
        _require(
            all(isinstance(width, int) and width >= 1 for width in self.ratio_net_arch),
            "ratio_net_arch must hold layer widths >= 1",
            self.ratio_net_arch,
        )
        _require(
            self.ratio_learning_rate is None or _positive(self.ratio_learning_rate),
            "ratio_learning_rate must be None or > 0",
            self.ratio_learning_rate,
        )
        _require(
            isinstance(self.ratio_updates, int) and self.ratio_updates >= 1,
            "ratio_updates must be an integer >= 1",
            self.ratio_updates,
        )
        _require(
            self.logit_clip in (None, "auto") or _positive(self.logit_clip),
            "logit_clip must be 'auto', None or > 0",
            self.logit_clip,
        )
        _require(
            self.normalize_inputs in (True, False, "auto"),
            "normalize_inputs must be 'auto', True or False",
            self.normalize_inputs,
        )
        _require(
            0 <= self.holdout_fraction <= 0.5,
            "holdout_fraction must be between 0 and 0.5",
            self.holdout_fraction,
        )

    def build(self, algorithm: Composable) -> LikelihoodFreeWeighting:
        """The living part; a default fast buffer that would not fit is clipped, with a note."""
        fast = self.fast_buffer_size
        capacity = ring_size(algorithm)
        if fast >= capacity and isinstance(fast, _Default):
            fast = max(capacity // 10, 1)
            warnings.warn(
                f"the default fast_buffer_size={int(self.fast_buffer_size)} does not fit into a "
                f"replay buffer of {capacity} transitions; using {fast}",
                stacklevel=2,
            )
        n_envs = algorithm.n_envs
        if -(-fast // n_envs) * n_envs >= capacity:
            raise ValueError(
                "fast_buffer_size must be smaller than the replay buffer, got "
                f"fast_buffer_size={fast} and room for {capacity} transitions "
                f"(buffer_size={algorithm.buffer_size}, n_envs={n_envs}); the weights compare the "
                "newest transitions with all: lower fast_buffer_size or raise buffer_size"
            )
        options = {**asdict(self), "fast_buffer_size": int(fast)}
        return LikelihoodFreeWeighting(LikelihoodFree(**options), algorithm)


def _positive(value: Any) -> bool:
    return isinstance(value, (int, float)) and 0 < value < math.inf


def _require(law_holds: bool, law: str, value: Any) -> None:
    if not law_holds:
        raise ValueError(f"LikelihoodFree: {law}, got {value!r}")


OPTIONS = tuple(field.name for field in fields(LikelihoodFree))
