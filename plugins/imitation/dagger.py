"""DAgger: the clone acts more and more, and the expert says what it would have done."""

from __future__ import annotations

import uuid
import warnings
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any, ClassVar, Self

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import MaybeCallback
from stable_baselines3.common.utils import safe_mean
from stable_baselines3.common.vec_env import VecNormalize

from sb3_ext.offline import OfflineDataset
from sb3_ext.offline.demonstrations import resolve_demonstrations
from sb3_ext.plugins.imitation import compat
from sb3_ext.plugins.imitation.bc import BC
from sb3_ext.plugins.imitation.demonstrations import read_demonstrations, with_channels_of
from sb3_ext.plugins.imitation.experts import Expert, resolve_expert


class Aggregated:
    """All that the expert said, episode by episode."""

    def __init__(self) -> None:
        self.observations: list[Any] = []
        self.actions: list[Any] = []
        self.terminal: list[bool] = []

    def add(self, trajectory: Any) -> None:
        """Append one of imitation's trajectories."""
        self.observations.append(np.array(trajectory.obs))
        self.actions.append(np.array(trajectory.acts))
        self.terminal.append(bool(trajectory.terminal))


class DAgger(BC):
    """Dataset aggregation (Ross et al. 2011), with collector and schedule of the package imitation.

    A round: at least ``round_min_episodes`` whole episodes and ``round_min_timesteps`` steps are
    played; each action is the expert's with probability beta, else the clone's, and the expert
    labels every observation. Then the clone learns for ``n_epochs`` from all that was ever
    labelled, as :class:`BC` does. ``learn(total_timesteps)`` counts steps in the environment, and
    ends with the round that reaches them. ``rollout/ep_rew_mean`` is the return of what was played,
    by expert and clone in turn; ``dagger/clone_ep_rew_mean`` is the clone's, of rounds that it
    played alone.

    :param policy: as in :class:`BC`
    :param env: where it is played. Under ``VecNormalize`` the expert sees what the environment says
    :param expert: a model or policy of SB3's; a run directory of ``sb3-ext train``; a zip of SB3's,
        with ``allow_pickle=True``; a function of observations ``[n, ...]`` that returns actions
        ``[n, ...]``; or ``"human"``, who is asked at the keyboard. Not saved with the model; nor is
        what it said, which ``labelled().save(path)`` keeps for ``load(..., demonstrations=path)``
    :param demonstrations: of the expert, to begin with
    :param beta_rampdown_rounds: rounds in which beta falls from 1 to 0 (imitation: 15)
    :param beta_decay: instead of this, beta is ``beta_decay ** round``; 0 asks the expert alone in
        the first round, and plays the clone in all others
    :param round_min_episodes: see above (imitation: 3)
    :param round_min_timesteps: see above (imitation: 500)
    :param n_epochs: see above (imitation: 4)
    :param allow_pickle: whether a zip that ``expert`` names is trusted
    :param kwargs: as in :class:`BC`
    """

    family = "DAgger"
    data_argument = "expert"
    learn_counts = "environment steps"
    #: Of its episodes' returns, which pictures then do not call the clone's.
    episodes_played_by: ClassVar[str] = "expert and clone in turn"
    resumed_attributes: ClassVar[tuple[str, ...]] = ("aggregated", "rng")

    def __init__(
        self,
        policy: str | type[ActorCriticPolicy],
        env: Any = None,
        *,
        expert: Any = None,
        demonstrations: Any = None,
        beta_rampdown_rounds: int = 15,
        beta_decay: float | None = None,
        round_min_episodes: int = 3,
        round_min_timesteps: int = 500,
        n_epochs: int = 4,
        allow_pickle: bool = False,
        **kwargs: Any,
    ) -> None:
        settled = kwargs.get("_init_setup_model", True)
        if env is None and demonstrations is None and settled:
            raise ValueError("DAgger plays in an environment, and asks there: pass env=")
        self.expert = expert
        self.allow_pickle = allow_pickle
        self.beta_rampdown_rounds, self.beta_decay = beta_rampdown_rounds, beta_decay
        self.round_min_episodes, self.round_min_timesteps = round_min_episodes, round_min_timesteps
        self.n_epochs = n_epochs
        #: Rounds done, and observations that the expert was asked about.
        self.rounds, self.expert_queries = 0, 0
        self.ask: Expert | None = None
        super().__init__(policy, env, demonstrations=demonstrations, **kwargs)

    # -- set-up ------------------------------------------------------------------------------

    def _setup_model(self) -> None:
        for name in (
            "beta_rampdown_rounds",
            "round_min_episodes",
            "round_min_timesteps",
            "n_epochs",
        ):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, got {value!r}")
        if self.beta_decay is not None and not 0 <= self.beta_decay <= 1:
            raise ValueError(f"beta_decay must lie between 0 and 1, got {self.beta_decay}")
        if isinstance(getattr(self, "observation_space", None), spaces.Dict):
            raise ValueError(
                "DAgger's collector takes observations that are one array, and this environment "
                "gives a Dict: wrap it in gymnasium.wrappers.FlattenObservation"
            )
        self.aggregated = Aggregated()
        super()._setup_model()
        self.rng = np.random.default_rng([self.stream_seed or 0, 2])
        if self.expert is not None:
            self.set_expert(self.expert)

    def set_expert(self, expert: Any) -> None:
        """Ask this one from now on, or any at all after ``load``.

        :param expert: as the constructor takes it
        :raises ValueError: if it is of other spaces
        """
        made = (self.observation_space, self.action_space)
        self.ask = resolve_expert(expert, *made, allow_pickle=self.allow_pickle)
        self.expert = expert

    def set_demonstrations(self, demonstrations: Any) -> None:
        """Learn from these beside what the expert says."""
        found = read_demonstrations(demonstrations, (self.observation_space, self.action_space))
        super().set_demonstrations(found)

    def has_data(self) -> bool:
        """Whether there is an expert."""
        if self.ask is None:
            raise ValueError(
                "this DAgger has no expert to ask: pass expert= to it or to load, or call "
                "set_expert first"
            )
        return True

    def _unsettled(self) -> str:
        return (
            "would change its statistics from round to round, and what was learned before would "
            "mean something else: take those of the expert's own training (VecNormalize.load), or "
            "give them by env.obs_rms.update(from_policy(expert, env_id, n_episodes=10)"
            ".observations), of sb3_ext.offline"
        )

    def beta(self) -> float:
        """The share of steps in which the expert acts, in the next round; imitation's schedules."""
        schedules = compat.dagger()
        if self.beta_decay is None:
            made: Callable[[int], float] = schedules.LinearBetaSchedule(self.beta_rampdown_rounds)
        elif self.beta_decay == 0:
            return float(self.rounds == 0)
        else:
            made = schedules.ExponentialBetaSchedule(self.beta_decay)
        return float(made(self.rounds))

    # -- learning ----------------------------------------------------------------------------

    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 1,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """As in SB3.

        :param total_timesteps: steps in the environment
        :param log_interval: rounds between two rows of the log
        """
        if self.env is None or not hasattr(self.env, "step"):
            raise ValueError("DAgger plays in an environment: pass env= to it or to load")
        return super().learn(
            total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar
        )

    def _learn_until(self, total_timesteps: int, root: BaseCallback, log_interval: int) -> None:
        if self.expert_queries and not self.aggregated.actions and self.demonstrations is None:
            warnings.warn(
                f"a zip does not hold what the expert said, here in {self.rounds} rounds, and this "
                "DAgger begins without it: save it by labelled().save(path), and give "
                "demonstrations=path to load",
                stacklevel=2,
            )
        while self.num_timesteps < total_timesteps:
            if not self.collect_rollouts(self.env, root):
                break
            self._update_current_progress_remaining(self.num_timesteps, total_timesteps)
            self.train()
            if log_interval and self.rounds % log_interval == 0:
                self._log_round()

    def collect_rollouts(self, env: Any, callback: BaseCallback, *_: Any, **__: Any) -> Any:
        """A round's episodes, through imitation's collector.

        :return: whether training goes on
        """
        dagger = compat.dagger()
        self.policy.set_training_mode(False)
        callback.on_rollout_start()
        normalizer = env if isinstance(env, VecNormalize) else None
        assert self.ask is not None
        folder = PurePosixPath("/dagger") / uuid.uuid4().hex
        collector = dagger.InteractiveTrajectoryCollector(
            env if normalizer is None else normalizer.venv,
            self._robot(normalizer),
            self.beta(),
            folder,
            self.rng,
        )
        observations, starts = collector.reset(), np.ones(env.num_envs, dtype=np.bool_)
        active, episodes, steps = np.ones(env.num_envs, dtype=np.bool_), 0, 0
        wanted = max(self.round_min_timesteps, self.batch_size)
        returns, totals = [], np.zeros(env.num_envs)
        alone = self.beta() == 0  # who plays all of every episode
        goes_on = True
        whole = False
        try:
            while active.any() and goes_on:
                actions = self.ask(observations, starts)
                self.expert_queries += len(actions)
                observations, rewards, dones, infos = collector.step(actions)
                self.num_timesteps += env.num_envs
                steps += env.num_envs
                episodes += int((dones & active).sum())
                starts = dones
                totals += rewards
                returns += totals[dones & active].tolist()
                totals[dones] = 0
                self._update_info_buffer(infos, dones)
                callback.update_locals(locals())
                goes_on = callback.on_step()
                if episodes >= self.round_min_episodes and steps >= wanted:
                    active &= ~dones
            whole = goes_on
            if alone and returns:
                self.logger.record_mean("dagger/clone_ep_rew_mean", float(np.mean(returns)))
        finally:  # a human's answers are not thrown away, whatever ended the round
            for trajectory in dagger.serialize.pop(folder):
                self.aggregated.add(trajectory)
            if not whole:
                self._keep_unfinished(collector.traj_accum)
        if goes_on:
            callback.on_rollout_end()
        return goes_on

    def _keep_unfinished(self, episodes: Any) -> None:
        """Keep the labels of episodes that were under way."""
        for env, steps in list(episodes.partial_trajectories.items()):
            if len(steps) > 1:  # the first is the observation after the reset
                self.aggregated.add(episodes.finish_trajectory(env, terminal=False))

    def _robot(self, normalizer: VecNormalize | None) -> Callable[[Any], Any]:
        def act(observations: Any) -> Any:
            seen = observations if normalizer is None else normalizer.normalize_obs(observations)
            return self.policy.predict(seen)[0]

        return act

    def train(self) -> None:
        """The epochs of a round, over all that was labelled so far."""
        held = self.minibatches
        data = self.labelled()
        self.minibatches = self._minibatches_of(data)
        for _ in range(self.n_epochs * max(1, len(data) // self.batch_size)):
            self.one_gradient_step()
        self.minibatches = held
        self.logger.record("dagger/beta", self.beta())  # that the round was played with
        self.rounds += 1

    def labelled(self) -> OfflineDataset:
        """All that the clone learns from: the demonstrations, and the expert's labels.

        :raises ValueError: if there is nothing yet
        """
        found = []
        if self.demonstrations is not None:
            found.append(with_channels_of(self.demonstrations, self.observation_space))
        held = self.aggregated
        if held.actions:
            trajectories = [
                _Trajectory(*one)
                for one in zip(held.observations, held.actions, held.terminal, strict=True)
            ]
            made = (self.observation_space, self.action_space)
            found.append(resolve_demonstrations(trajectories, made))
        if not found:
            raise ValueError("nothing is labelled yet: learn first")
        return found[0] if len(found) == 1 else OfflineDataset.concatenate(found)

    def _log_round(self) -> None:
        self.logger.record("dagger/round", self.rounds)
        self.logger.record("dagger/expert_queries", self.expert_queries)
        for name, key in (("ep_rew_mean", "r"), ("ep_len_mean", "l")):
            if self.ep_info_buffer:
                told = [info[key] for info in self.ep_info_buffer]
                self.logger.record(f"rollout/{name}", safe_mean(told))
        self._log_progress()

    # -- files -------------------------------------------------------------------------------

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "expert", "ask", "aggregated", "rng"]


class _Trajectory:
    """What the readers of trajectories take."""

    infos = None

    def __init__(self, obs: Any, acts: Any, terminal: bool) -> None:
        self.obs, self.acts, self.terminal = obs, acts, terminal
