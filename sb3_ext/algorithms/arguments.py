"""The constructor arguments that our bases pass on to SB3, for editors and type checkers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

import torch as th
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.type_aliases import Schedule

from sb3_ext.losses import CriticLoss
from sb3_ext.replay.sampler import SamplerConfig
from sb3_ext.weighting import WeightingConfig


class CommonArguments(TypedDict, total=False):
    """What every off-policy algorithm of SB3 and sb3-contrib takes, and what our bases add."""

    learning_rate: float | Schedule
    buffer_size: int
    learning_starts: int
    batch_size: int
    gamma: float
    train_freq: int | tuple[int, str]
    gradient_steps: int
    replay_buffer_class: type[ReplayBuffer] | None
    replay_buffer_kwargs: dict[str, Any] | None
    optimize_memory_usage: bool
    n_steps: int
    stats_window_size: int
    tensorboard_log: str | None
    policy_kwargs: dict[str, Any] | None
    verbose: int
    seed: int | None
    device: th.device | str
    _init_setup_model: bool

    replay: SamplerConfig | Mapping[str, Any] | str | None
    weighting: WeightingConfig | Mapping[str, Any] | str | None
    critic_loss: CriticLoss | Mapping[str, Any] | str | None
    engine: str


class OffPolicyArguments(CommonArguments, total=False):
    """What those with an actor and target networks take."""

    tau: float
    action_noise: ActionNoise | None


class EntropyArguments(TypedDict, total=False):
    """What those with a paid entropy take."""

    ent_coef: str | float
    target_entropy: str | float
    use_sde: bool
    sde_sample_freq: int
    use_sde_at_warmup: bool


class SACArguments(OffPolicyArguments, EntropyArguments, total=False):
    """What SB3's SAC takes."""

    target_update_interval: int


class TQCArguments(SACArguments, total=False):
    """What sb3-contrib's TQC takes."""

    top_quantiles_to_drop_per_net: int


class CrossQArguments(CommonArguments, EntropyArguments, total=False):
    """What sb3-contrib's CrossQ takes; without a target network there is no ``tau``."""

    action_noise: ActionNoise | None
    policy_delay: int


class TD3Arguments(OffPolicyArguments, total=False):
    """What SB3's TD3 takes."""

    policy_delay: int
    target_policy_noise: float
    target_noise_clip: float


class DQNArguments(CommonArguments, total=False):
    """What SB3's DQN and sb3-contrib's QR-DQN take."""

    tau: float
    target_update_interval: int
    exploration_fraction: float
    exploration_initial_eps: float
    exploration_final_eps: float
    max_grad_norm: float | None


class BaseArguments(SACArguments, TD3Arguments, DQNArguments, total=False):
    """What a class that goes in front of several bases passes on; the base refuses the rest."""

    double_q: bool
