"""STEVE and MVE on TD3 (or nearer to DDPG), and STEVE on SAC."""

from __future__ import annotations

from typing import Any, ClassVar, Unpack

from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv
from stable_baselines3.sac.policies import SACPolicy
from stable_baselines3.td3.policies import Actor, TD3Policy
from torch import Tensor

from sb3_ext.algorithms.sac import SAC
from sb3_ext.algorithms.td3 import TD3
from sb3_ext.inference import run
from sb3_ext.plugins.steve.expansion import ExpansionArguments, ModelBased, WorldArguments

#: TD3 without what it has beyond DDPG; the least of several critics is for critic_reduction to say.
_BASES: dict[str, dict[str, Any]] = {
    "td3": {},
    "ddpg": {"policy_delay": 1, "target_policy_noise": 0.0},
}


class OnTD3(ModelBased, TD3):
    """TD3 with an expanded target, and an actor that raises what the target believes.

    :param policy: as in SB3
    :param env: as in SB3
    :param base: ``"td3"``, or ``"ddpg"``, nearer to the paper's agent: no delay, no target noise
    :param kwargs: :class:`~sb3_ext.plugins.steve.expansion.ModelBased`'s and TD3's
    """

    family = "TD3"
    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"MlpPolicy": TD3Policy}

    def __init__(
        self,
        policy: Any,
        env: GymEnv | str | None,
        *args: Any,
        base: str = "td3",
        **kwargs: Unpack[ExpansionArguments],
    ) -> None:
        if not isinstance(base, str) or base not in _BASES:
            raise ValueError(f"base must be one of {', '.join(map(repr, _BASES))}, got {base!r}")
        self.base = base
        given: Any = {**_BASES[base], **kwargs}
        super().__init__(policy, env, *args, **given)

    def next_actions(self, observations: Tensor | dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """As in TD3, the faster way where the actor is SB3's own."""
        actor: Any = self.actor_target
        if self.horizon == 0 or type(actor) is not Actor:
            return super().next_actions(observations)
        features = actor.extract_features(observations, actor.features_extractor)
        return self.smoothed(run(actor.mu, features))

    def actor_value(self, observations: Tensor | dict[str, Tensor], actions: Tensor) -> Tensor:
        """The mean over critics where that is the target's, too; else TD3's first critic."""
        if self.critic_reduction == "min":
            return super().actor_value(observations, actions)
        return self.together(self.critic(observations, actions))


class STEVE(OnTD3):
    """Stochastic ensemble value expansion (Buckman et al. 2018) on TD3.

    The target is a mean over 0 to H imagined steps, by M models of the dynamics, N of the reward
    and L critics; each horizon counts by how much these agree about it, sample by sample.

    Takes the options of :class:`~sb3_ext.plugins.steve.expansion.ModelBased`, ``base`` (``"td3"``
    or ``"ddpg"``) and all arguments of ``stable_baselines3.TD3``.
    """


class MVE(OnTD3):
    """Model-based value expansion (Feinberg et al. 2018) on TD3: H imagined steps, always.

    STEVE with one model, one reward model and TD3's two critics, whose last horizon is the target.

    :param policy: as in SB3
    :param env: as in SB3
    :param kwargs: as for :class:`STEVE`
    """

    def __init__(
        self,
        policy: Any,
        env: GymEnv | str | None,
        *args: Any,
        n_models: int = 1,
        n_rewards: int = 1,
        n_critics: int = 2,
        horizon_weights: str = "last",
        critic_reduction: str = "min",
        critic_subsets: bool = False,
        base: str = "td3",
        **kwargs: Unpack[WorldArguments],
    ) -> None:
        own: Any = {
            "n_models": n_models,
            "n_rewards": n_rewards,
            "n_critics": n_critics,
            "horizon_weights": horizon_weights,
            "critic_reduction": critic_reduction,
            "critic_subsets": critic_subsets,
            "base": base,
        }
        super().__init__(policy, env, *args, **own, **kwargs)


class STEVESAC(ModelBased, SAC):
    """Stochastic ensemble value expansion on SAC: imagined steps earn their entropy, too.

    Takes the options of :class:`~sb3_ext.plugins.steve.expansion.ModelBased` and all arguments of
    ``stable_baselines3.SAC``.
    """

    family = "SAC"
    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"MlpPolicy": SACPolicy}
