"""LFIWSAC, LFIWTD3, LFIWDQN: a base with ``LikelihoodFree`` built in, its options as arguments."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Unpack

from stable_baselines3.common.type_aliases import GymEnv

from sb3_ext.algorithms.arguments import BaseArguments
from sb3_ext.algorithms.composable import Composable
from sb3_ext.algorithms.dqn import DQN
from sb3_ext.algorithms.sac import SAC
from sb3_ext.algorithms.td3 import TD3
from sb3_ext.plugins.lfiw.config import DEFAULT_FAST_BUFFER_SIZE, OPTIONS, LikelihoodFree
from sb3_ext.plugins.lfiw.weighting import LikelihoodFreeWeighting
from sb3_ext.weighting import WeightingConfig


class WithLikelihoodFree(Composable):
    """A base whose weighting is LFIW. The options are plain attributes, as users of SB3 expect.

    They are saved as such, so ``load(path, temperature=9)`` overrides one, and one that is changed
    on the model takes effect at the next update.

    :param policy: as in SB3
    :param env: as in SB3
    :param temperature: T > 0; the larger, the nearer to uniform (paper: 5 everywhere)
    :param fast_buffer_size: newest transitions that count as on-policy (paper: 10_000)
    :param divergence: ``"js"`` (paper), ``"kl"``, ``"chi2"`` or ``"hellinger"``
    :param weight_form: ``"ratio"`` (paper) or ``"prob"`` (the authors' code, milder)
    :param ratio_net_arch: widths of the ratio network's hidden layers
    :param ratio_learning_rate: its learning rate; None follows the value network's
    :param ratio_updates: its steps for each gradient step
    :param logit_clip: bound of its logit; ``"auto"`` is ln(slow / fast), None no bound
    :param normalize_inputs: whether it standardises its inputs; ``"auto"`` decides
    :param holdout_fraction: share of the fast window that it never trains on
    :param kwargs: the base's arguments
    """

    def __init__(
        self,
        policy: Any,
        env: GymEnv | str | None,
        *args: Any,
        temperature: float = 5.0,
        fast_buffer_size: int = DEFAULT_FAST_BUFFER_SIZE,
        divergence: str = "js",
        weight_form: str = "ratio",
        ratio_net_arch: tuple[int, ...] = (256, 256),
        ratio_learning_rate: float | None = None,
        ratio_updates: int = 1,
        logit_clip: float | str | None = "auto",
        normalize_inputs: bool | str = "auto",
        holdout_fraction: float = 0.1,
        **kwargs: Unpack[BaseArguments],
    ) -> None:
        self.temperature = temperature
        self.fast_buffer_size = fast_buffer_size
        self.divergence = divergence
        self.weight_form = weight_form
        self.ratio_net_arch = ratio_net_arch
        self.ratio_learning_rate = ratio_learning_rate
        self.ratio_updates = ratio_updates
        self.logit_clip = logit_clip
        self.normalize_inputs = normalize_inputs
        self.holdout_fraction = holdout_fraction
        self.weighting_config()  # wrong options fail before the environment is made
        super().__init__(policy, env, *args, **kwargs)

    @classmethod
    def check_arguments(cls, given: Mapping[str, Any], where: str, saved: Iterable[str]) -> None:
        """A weighting of one's own is refused too."""
        super().check_arguments(given, where, saved)
        if given.get("weighting") is not None:
            raise TypeError(
                f"{where} takes no weighting=: {cls.__name__} brings its own, and temperature and "
                "its other options are arguments; for another weighting use the base class"
            )

    @classmethod
    def inherit_weighting(
        cls, saved: Mapping[str, Any] | None, overrides: dict[str, Any]
    ) -> dict[str, Any]:
        """A base that was saved with LFIW brings its options along."""
        if saved is None:
            return overrides
        options = {name: saved[name] for name in OPTIONS} if saved["name"] == "lfiw" else {}
        return {**options, **overrides, "weighting": None}

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        """As in SB3; an option changed meanwhile (``model.temperature = 9``) takes effect."""
        if isinstance(self.weigher, LikelihoodFreeWeighting):
            self.weigher.reconfigure(self.weighting_config())
        super().train(gradient_steps, batch_size)

    def weighting_config(self) -> LikelihoodFree:
        """The config that the plain attributes make."""
        return LikelihoodFree(**{name: getattr(self, name) for name in OPTIONS})

    def keep_weighting_config(self, config: WeightingConfig) -> None:
        """The plain attributes follow, such as a default that had to shrink."""
        for name in OPTIONS:
            setattr(self, name, getattr(config, name))


class LFIWSAC(WithLikelihoodFree, SAC):
    """SAC with likelihood-free importance weights (Sinha et al. 2022).

    ``SAC(..., weighting=LikelihoodFree(...))`` under one name. Takes the options of
    :class:`WithLikelihoodFree` and all arguments of ``stable_baselines3.SAC``.
    """


class LFIWTD3(WithLikelihoodFree, TD3):
    """TD3 with likelihood-free importance weights (Sinha et al. 2022).

    ``TD3(..., weighting=LikelihoodFree(...))`` under one name. Takes the options of
    :class:`WithLikelihoodFree` and all arguments of ``stable_baselines3.TD3``.
    """


class LFIWDQN(WithLikelihoodFree, DQN):
    """DQN with likelihood-free importance weights (Sinha et al. 2022).

    ``DQN(..., weighting=LikelihoodFree(...))`` under one name. Takes the options of
    :class:`WithLikelihoodFree` and all arguments of :class:`~sb3_ext.algorithms.dqn.DQN`. The ratio
    network sees an action as a one-hot vector. The paper's Atari agent is Double DQN:
    ``double_q=True``.
    """
