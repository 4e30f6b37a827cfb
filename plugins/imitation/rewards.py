"""imitation's discriminators, with the form of the reward that was asked for."""

from __future__ import annotations

from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.vec_env import VecNormalize
from stable_baselines3.sac.policies import SACPolicy

from sb3_ext.offline.spaces import Space
from sb3_ext.offline.spaces_only import spaces_only_env
from sb3_ext.plugins.imitation import compat
from sb3_ext.plugins.imitation.equations import REWARD_FORMS

compat.require()

from imitation.algorithms.adversarial import airl, gail  # noqa: E402
from imitation.rewards import reward_nets  # noqa: E402
from imitation.util import networks  # noqa: E402


class FormedReward(reward_nets.RewardNet):  # type: ignore[misc]
    """The generator's reward, from the discriminator's logits.

    :param base: gives logits, high for experts
    :param form: a key of ``REWARD_FORMS``
    """

    def __init__(self, base: Any, form: str) -> None:
        super().__init__(base.observation_space, base.action_space, base.normalize_images)
        self.base, self.form = base, form

    def forward(self, *transition: th.Tensor) -> th.Tensor:
        """``[B]``."""
        return REWARD_FORMS[self.form](self.base(*transition))


class GAILDiscriminator(gail.GAIL):  # type: ignore[misc]
    """imitation's GAIL without its loop.

    :param form: of the reward
    :param normalize: whether the generator's rewards get mean 0 and deviation 1. imitation's own
        GAIL takes a ``NormalizedRewardNet`` and does not normalise, since it puts the logarithm
        around it; here the norm is around the logarithm
    """

    def __init__(self, *, form: str, normalize: bool, reward_net: Any, **options: Any) -> None:
        super().__init__(reward_net=reward_net, **options)
        formed = FormedReward(reward_net, form)
        self._processed_reward = _normalized(formed) if normalize else formed

    def _get_log_policy_act_prob(self, obs_th: Any, acts_th: Any) -> None:
        """Not asked for: GAIL's logits do not depend on it."""


class AIRLDiscriminator(airl.AIRL):  # type: ignore[misc]
    """imitation's AIRL without its loop."""

    def _get_log_policy_act_prob(self, obs_th: Any, acts_th: Any) -> Any:
        """Of the policy as it acts, behind ``VecNormalize`` if there is one; of int8, too."""
        normalizer: VecNormalize | None = self.gen_algo.model.get_vec_normalize_env()
        if normalizer is not None:
            normal: Any = normalizer.normalize_obs(obs_th.cpu().numpy())
            obs_th = th.as_tensor(normal, device=obs_th.device)
        if acts_th.dtype == th.int8:  # MultiBinary, of which a Bernoulli wants floats
            acts_th = acts_th.float()
        return super()._get_log_policy_act_prob(obs_th, acts_th)


def make_discriminator(
    kind: str,
    model: Any,
    observation_space: Space,
    *,
    net_arch: list[int],
    normalize_inputs: bool,
    normalize_rewards: bool,
    learning_rate: float,
    batch_size: int,
    form: str = "softplus",
    state_only: bool = False,
    gamma: float = 0.99,
) -> Any:
    """What imitation calls a trainer; its ``train_disc`` is one update of the discriminator.

    :param kind: ``"gail"`` or ``"airl"``
    :param model: the generator
    """
    inputs = networks.RunningNorm if normalize_inputs else None
    made = (observation_space, model.action_space)
    net: Any
    if kind == "airl":
        net = reward_nets.BasicShapedRewardNet(
            *made,
            reward_hid_sizes=net_arch,
            potential_hid_sizes=net_arch,
            use_action=not state_only,
            discount_factor=gamma,
            normalize_input_layer=inputs,
        )
        if normalize_rewards:
            net = _normalized(net)
    elif is_image_space(observation_space) and isinstance(model.action_space, spaces.Discrete):
        net = reward_nets.CnnRewardNet(*made, hwc_format=False)
    else:
        net = reward_nets.BasicRewardNet(*made, hid_sizes=net_arch, normalize_input_layer=inputs)
    options: dict[str, Any] = {
        "demonstrations": None,  # they are handed over batch by batch
        "demo_batch_size": batch_size,
        "venv": spaces_only_env(*made),
        "gen_algo": compat.Acting(model),
        "reward_net": net,
        "gen_train_timesteps": 1,
        "gen_replay_buffer_capacity": 1,
        "disc_opt_kwargs": {"lr": learning_rate},
        "custom_logger": compat.Silence(),
        "allow_variable_horizon": True,  # refused elsewhere, in time and in words
    }
    if kind == "airl":
        return AIRLDiscriminator(**options)
    discriminator = GAILDiscriminator(form=form, normalize=normalize_rewards, **options)
    discriminator.reward_train.to(model.device)
    return discriminator


def require_density(generator: Any, policy: Any) -> None:
    """Refuse a generator whose actions have no probability to compare with.

    :param generator: its class
    :param policy: a name of the generator's, or a class
    :raises TypeError: naming those that have
    """
    known = generator.policy_aliases
    # An unknown name is told later; whether it can be had at all is told first.
    kind = policy if isinstance(policy, type) else known.get(policy, next(iter(known.values())))
    recurrent = "Recurrent" in kind.__name__
    if recurrent or not issubclass(kind, (ActorCriticPolicy, SACPolicy)):
        raise TypeError(
            "AIRL compares the reward with the probability of the generator's actions, and "
            f"{generator.__name__}'s {kind.__name__} does not tell it: take generator='PPO', "
            "'A2C', 'TRPO' or 'SAC', or GAIL"
        )


def _normalized(net: Any) -> Any:
    return reward_nets.NormalizedRewardNet(net, networks.RunningNorm)
