"""ACER: actor-critic with experience replay, by SB3's off-policy loop."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import maybe_make_env
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule

from sb3_ext.algorithms.inputs import check_step
from sb3_ext.algorithms.loading import CheckedLoading
from sb3_ext.errors import NonFiniteError
from sb3_ext.plugins.acer.options import (
    SUPPORTED,
    fit_defaults,
    require_actions,
    require_buffer,
    require_options,
    require_policy,
    require_policy_arguments,
    warn_of_no_replay,
    with_optimizer,
)
from sb3_ext.plugins.acer.policies import ACERPolicy, CnnPolicy, MultiInputPolicy
from sb3_ext.plugins.acer.presets import constants
from sb3_ext.plugins.acer.statistics import statistics_of
from sb3_ext.plugins.acer.updates import Options, direction
from sb3_ext.trajectories.replay import TrajectoryReplayBuffer, Windows
from sb3_ext.updates import step_all_tensors_at_once


class ACER(CheckedLoading, OffPolicyAlgorithm):
    """Sample efficient actor-critic with experience replay (Wang et al. 2017).

    After each rollout one update on it, then a Poisson number of updates on windows of old steps:
    Retrace says what old actions are worth, truncated importance weights with a correction of
    their bias make the policy's gradient, and each step's gradient is held within a trust region
    around a slow average of the policy.

    What is None is the preset's.

    :param policy: ``"MlpPolicy"``, ``"CnnPolicy"`` or ``"MultiInputPolicy"``
    :param env: with Discrete, MultiDiscrete or Box actions
    :param learning_rate: of all networks; may be a schedule
    :param n_steps: steps of each environment in a rollout, and of a replayed window
    :param gamma: discount
    :param preset: ``"baselines"``, or ``"paper"``: the constants for all that is None
    :param replay_ratio: updates on old windows after each rollout, on average
    :param buffer_size: transitions of all environments that are kept
    :param replay_start: transitions in the buffer before anything is replayed
    :param batch_size: windows of an update on replay
    :param on_policy_updates: whether the rollout itself is learned from, before it is replayed
    :param correction_term: the c at which importance weights are cut
    :param bias_correction: whether what the cut leaves out is put back
    :param trust_region: whether gradients are projected
    :param delta: the bound of the linearised change of the KL
    :param trust_region_space: of Discrete and MultiDiscrete actions, whether it is the
        probabilities that are held (as in the paper) or the ``"logits"``
    :param average_decay: of the average policy, a step
    :param retrace_lambda: 1 is Retrace; 0 looks one step ahead
    :param n_dual_samples: actions of the policy against which an advantage is measured (Box and
        MultiDiscrete); 0 leaves the dueling out
    :param action_std: standard deviation of Box actions, which are scaled to [-1, 1]
    :param ent_coef: weight of the entropy; a Box policy's is constant, and nothing is added
    :param project_entropy: whether it is added before the projection (as in the baselines)
    :param vf_coef: weight of the critic's loss
    :param max_grad_norm: at which the gradient of all networks is clipped
    :param use_rms_prop: RMSProp, or else Adam
    :param rms_prop_eps: of RMSProp
    :param stats_window_size: as in SB3, like the rest
    """

    family: ClassVar[str] = "ACER"
    fixed_arguments: ClassVar[Mapping[str, str]] = {
        "preset": "a saved model has all its constants; name those that shall be others",
        **dict.fromkeys(
            ("use_rms_prop", "rms_prop_eps"), "the optimiser's state is that of the saved one"
        ),
        # Attributes that SB3 saves, too, and that would be dropped in silence.
        **dict.fromkeys(("policy", "policy_class"), "the networks are those of the saved one"),
        "train_freq": "a rollout is n_steps steps, which may be changed",
        "gradient_steps": "replay_ratio says how many updates there are",
        "learning_starts": "replay_start says when replay begins",
        "tau": "the average policy follows by average_decay",
        "action_noise": "the policy draws by itself, by action_std",
        **dict.fromkeys(
            ("replay_buffer_class", "replay_buffer_kwargs", "optimize_memory_usage"),
            "what is replayed are trajectories; buffer_size may be changed",
        ),
        **dict.fromkeys(
            ("use_sde", "sde_sample_freq", "use_sde_at_warmup"),
            "ACER's density ratios need a plain Gaussian",
        ),
    }
    resumed_attributes: ClassVar[tuple[str, ...]] = ("replay_rng",)
    supported_actions: ClassVar[tuple[type[spaces.Space[Any]], ...]] = SUPPORTED
    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": ACERPolicy,
        "CnnPolicy": CnnPolicy,
        "MultiInputPolicy": MultiInputPolicy,
    }
    policy: ACERPolicy
    replay_buffer: TrajectoryReplayBuffer
    replay_rng: np.random.Generator
    #: Where that stood when the model was saved, and the seed it came from.
    replay_state: Any = None
    replay_seed: int | None = None
    n_steps: int
    replay_ratio: float
    replay_start: int
    on_policy_updates: bool
    correction_term: float
    delta: float
    average_decay: float
    ent_coef: float
    vf_coef: float
    max_grad_norm: float

    def __init__(
        self,
        policy: str | type[ACERPolicy],
        env: GymEnv | str,
        learning_rate: float | Schedule | None = None,
        n_steps: int | None = None,
        gamma: float = 0.99,
        *,
        preset: str = "baselines",
        replay_ratio: float | None = None,
        buffer_size: int | None = None,
        replay_start: int | None = None,
        batch_size: int = 16,
        on_policy_updates: bool | None = None,
        correction_term: float | None = None,
        bias_correction: bool = True,
        trust_region: bool = True,
        delta: float | None = None,
        trust_region_space: str = "probabilities",
        average_decay: float | None = None,
        retrace_lambda: float = 1.0,
        n_dual_samples: int = 5,
        action_std: float = 0.3,
        ent_coef: float | None = None,
        project_entropy: bool = True,
        vf_coef: float | None = None,
        max_grad_norm: float | None = None,
        use_rms_prop: bool = True,
        rms_prop_eps: float = 1e-5,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
    ) -> None:
        if env is None and _init_setup_model:
            raise ValueError(
                "ACER needs an environment, got None: pass one, or its id. (ACER.load does without "
                "for a model that only predicts)"
            )
        require_policy(policy)
        made: Any = maybe_make_env(env, verbose) if env is not None else None
        require_actions(getattr(made, "action_space", None))
        given: dict[str, Any] = {
            "learning_rate": learning_rate,
            "n_steps": n_steps,
            "replay_ratio": replay_ratio,
            "buffer_size": buffer_size,
            "replay_start": replay_start,
            "on_policy_updates": on_policy_updates,
            "correction_term": correction_term,
            "delta": delta,
            "average_decay": average_decay,
            "ent_coef": ent_coef,
            "vf_coef": vf_coef,
            "max_grad_norm": max_grad_norm,
        }
        known = constants(preset, getattr(made, "action_space", None))
        chosen = {k: known[k] if value is None else value for k, value in given.items()}
        fit_defaults(chosen, given, getattr(made, "num_envs", 1))
        rate, size = chosen.pop("learning_rate"), chosen["buffer_size"]
        super().__init__(
            policy,
            made,
            rate,
            buffer_size=size,
            learning_starts=0,
            batch_size=batch_size,
            gamma=gamma,
            gradient_steps=1,
            policy_kwargs=with_optimizer(policy_kwargs, use_rms_prop, rms_prop_eps),
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            verbose=verbose,
            device=device,
            support_multi_env=True,
            seed=seed,
            sde_support=False,
        )
        for name, value in chosen.items():
            setattr(self, name, value)
        self.preset = preset
        self.bias_correction, self.project_entropy = bias_correction, project_entropy
        self.trust_region, self.trust_region_space = trust_region, trust_region_space
        self.retrace_lambda = retrace_lambda
        self.n_dual_samples, self.action_std = n_dual_samples, action_std
        self.use_rms_prop, self.rms_prop_eps = use_rms_prop, rms_prop_eps
        self.saved_by = type(self).__name__
        if _init_setup_model:
            self._setup_model()

    # -- set-up ------------------------------------------------------------------------------

    def _setup_model(self) -> None:
        require_options(self)
        chosen = self.policy_kwargs
        require_policy_arguments(chosen, self.action_space)
        self.policy_kwargs = {**chosen, "action_std": self.action_std}
        self.replay_buffer_class = TrajectoryReplayBuffer
        width = statistics_of(self.action_space, self.action_std).width
        self.replay_buffer_kwargs = {"behavior_dim": width}
        self.train_freq = int(self.n_steps)  # SB3 takes no NumPy scalars, here and below
        if isinstance(self.learning_rate, np.generic):
            self.learning_rate = float(self.learning_rate)
        # To SB3, n_steps above 1 means n-step returns of transitions.
        n_steps, self.n_steps = self.n_steps, 1
        super()._setup_model()
        self.n_steps, self.policy_kwargs = n_steps, chosen
        if self.replay_state is not None and self.seed == self.replay_seed:
            # A loaded model goes on with it, unless load was given another seed.
            self.replay_rng.bit_generator.state = self.replay_state

    def set_random_seed(self, seed: int | None = None) -> None:
        """As in SB3; it also decides how often and what is replayed."""
        super().set_random_seed(seed)
        self.replay_rng = np.random.default_rng(seed)  # no plain value: save() writes its state

    # -- acting ------------------------------------------------------------------------------

    def _sample_action(
        self, learning_starts: int, action_noise: Any = None, n_envs: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        """What to do, and what to store: the action as it was drawn, beside what drew it."""
        obs, _ = self.policy.obs_to_tensor(self._last_obs)  # type: ignore[arg-type]
        with th.no_grad():
            drawn, behavior = self.policy.behave(obs)
        stored = th.cat([drawn.to(behavior.dtype), behavior], dim=1).cpu().numpy()
        actions = drawn.cpu().numpy().reshape(n_envs, *(self.action_space.shape or ()))
        if isinstance(self.action_space, spaces.Box):
            actions = self.policy.unscale_action(np.clip(actions, -1, 1))
        return actions, stored

    def _store_transition(
        self,
        replay_buffer: ReplayBuffer,
        buffer_action: np.ndarray,
        new_obs: Any,
        reward: np.ndarray,
        dones: np.ndarray,
        infos: list[dict[str, Any]],
    ) -> None:
        check_step(self, new_obs, reward, infos, buffer_action)
        super()._store_transition(replay_buffer, buffer_action, new_obs, reward, dones, infos)

    # -- learning ----------------------------------------------------------------------------

    def _setup_learn(self, total_timesteps: int, *args: Any, **kwargs: Any) -> Any:
        warn_of_no_replay(self, total_timesteps)
        return super()._setup_learn(total_timesteps, *args, **kwargs)

    def train(self, gradient_steps: int, batch_size: int) -> None:
        """The updates after one rollout.

        :param gradient_steps: of SB3's loop, always 1
        :param batch_size: windows of an update on replay
        """
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        step_all_tensors_at_once([self.policy.optimizer])
        env, buffer = self._vec_normalize_env, self.replay_buffer
        if self.on_policy_updates and buffer.n_windows(self.n_steps):
            self._update(buffer.newest(self.n_steps, env), "on_policy")
        if buffer.size() * self.n_envs >= self.replay_start:
            updates = self.replay_rng.poisson(self.replay_ratio)
            self.logger.record_mean("acer/replay/updates", updates)
            for _ in range(updates):
                windows = buffer.sample_windows(batch_size, self.n_steps, self.replay_rng, env)
                self._update(windows, "replay")
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")

    def _update(self, windows: Windows, kind: str) -> None:
        found = direction(self.policy, windows, self.options)
        self.policy.optimizer.zero_grad()
        found.backward()
        learned = self.policy.optimizer.param_groups[0]["params"]
        norm = th.nn.utils.clip_grad_norm_(learned, self.max_grad_norm)
        told = dict(
            zip(found.metrics, th.stack(list(found.metrics.values())).tolist(), strict=True)
        )
        if not math.isfinite(float(norm)):
            raise NonFiniteError(
                f"the gradient of update {self._n_updates + 1} is not finite ({norm:.3g}, with "
                f"targets around {told['q_ret']:.3g}), and was not applied: lower learning_rate, "
                "max_grad_norm or the scale of the rewards (VecNormalize)"
            )
        self.policy.optimizer.step()
        self.policy.follow(self.average_decay)
        self._n_updates += 1
        self.logger.record_mean("train/value_loss", told.pop("value_loss"))
        self.logger.record_mean("train/entropy", told.pop("entropy"))
        self.logger.record_mean("train/grad_norm", float(norm))
        for name, value in told.items():
            self.logger.record_mean(f"acer/{kind}/{name}", value)

    @property
    def options(self) -> Options:
        """What an update needs to know."""
        names = Options.__dataclass_fields__
        return Options(**{name: getattr(self, name) for name in names})

    # -- files -------------------------------------------------------------------------------

    def save(self, *args: Any, **kwargs: Any) -> None:
        """As in SB3; the replay buffer by ``save_replay_buffer``."""
        self.replay_state, self.replay_seed = self.replay_rng.bit_generator.state, self.seed
        super().save(*args, **kwargs)

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "replay_rng"]

    def load_replay_buffer(self, path: Any, truncate_last_traj: bool = True) -> None:
        """As in SB3.

        :raises ValueError: if it is another algorithm's, of other environments or spaces, or too
            small for a window or for ``replay_start``
        """
        made = self.replay_buffer
        try:
            super().load_replay_buffer(path, truncate_last_traj)
            found = self.replay_buffer
        finally:
            self.replay_buffer = made
        require_buffer(self, found, path)
        self.replay_buffer = found

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        return ["policy", "policy.optimizer"], []
