"""GAIL and AIRL, by name."""

from __future__ import annotations

from typing import Any

from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv

from sb3_ext.plugins.imitation import compat
from sb3_ext.plugins.imitation.adversarial import Adversarial
from sb3_ext.plugins.imitation.equations import REWARD_FORMS


class GAIL(Adversarial):
    """Generative adversarial imitation learning (Ho and Ermon 2016), by the package imitation.

    :param policy: the generator's, as in SB3
    :param env: where it learns; its rewards are not looked at
    :param demonstrations: what the expert did: an ``OfflineDataset``, a file, ``minari:ID``, or
        imitation's trajectories; not saved with the model
    :param generator: the algorithm that acts: ``"PPO"``, ``"TRPO"`` (the paper's), ``"SAC"``, any
        other of SB3's, contrib's or ours by name, or a class
    :param generator_kwargs: its arguments, such as ``{"n_steps": 512}``
    :param demo_batch_size: expert transitions in an update of the discriminator, and as many of the
        generator; None is 128, or all there are
    :param n_disc_updates_per_round: updates of the discriminator after a round (imitation: 2)
    :param gen_train_timesteps: steps of a round; None is a rollout of an on-policy generator, and
        250 of another one
    :param gen_replay_buffer_capacity: newest steps of the generator that the discriminator draws
        from; None is a round's, and at least 1,000 of an off-policy generator
    :param reward_form: ``"softplus"``, the paper's and imitation's, at least 0; or
        ``"logsigmoid"``, at most 0, where ending early is the goal
    :param disc_learning_rate: of the discriminator's Adam
    :param disc_net_arch: its hidden layers
    :param disc_normalize_inputs: whether its inputs get mean 0 and deviation 1
    :param normalize_rewards: whether the generator's rewards do; that takes their sign away
    :param relabel_rewards: whether an off-policy generator's replay buffer gets the newest rewards
        after each round (imitation leaves the old ones)
    :param allow_variable_horizon: whether episodes may differ in length
    """

    kind = "gail"

    def __init__(
        self,
        policy: str | type[BasePolicy],
        env: GymEnv | str | None = None,
        *,
        reward_form: str = "softplus",
        **kwargs: Any,
    ) -> None:
        self.require_arguments(kwargs)
        self.reward_form = reward_form
        super().__init__(policy, env, **kwargs)

    def _make_discriminator(self, **options: Any) -> Any:
        if self.reward_form not in REWARD_FORMS:
            raise ValueError(
                f"reward_form must be one of {', '.join(REWARD_FORMS)}, got {self.reward_form!r}"
            )
        return super()._make_discriminator(form=self.reward_form, **options)


class AIRL(Adversarial):
    """Adversarial inverse reinforcement learning (Fu et al. 2018), by the package imitation.

    Its reward can be reused: ``learned_reward`` gives it without the shaping. Arguments are
    :class:`GAIL`'s but for ``reward_form``, and

    :param state_only: reward states, not actions, as the paper does for a reward that transfers
    """

    kind = "airl"

    def __init__(
        self,
        policy: str | type[BasePolicy],
        env: GymEnv | str | None = None,
        *,
        state_only: bool = False,
        **kwargs: Any,
    ) -> None:
        compat.require()
        from sb3_ext.plugins.imitation.rewards import require_density

        self.require_arguments(kwargs)
        require_density(self.generator_class, policy)
        self.state_only = state_only
        super().__init__(policy, env, **kwargs)

    def _make_discriminator(self, **options: Any) -> Any:
        gamma = getattr(self, "gamma", 0.99)
        return super()._make_discriminator(state_only=self.state_only, gamma=gamma, **options)
