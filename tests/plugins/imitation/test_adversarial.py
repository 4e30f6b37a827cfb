"""GAIL and AIRL against imitation's own loops, hand values, and tasks that a wrong sign fails."""

import math
import tempfile
from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3
import torch as th
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback, EvalCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_ext import AIRL, GAIL, SAC, CompactReplayBuffer
from sb3_ext.errors import CheckpointError
from sb3_ext.offline import OfflineDataset
from sb3_ext.plugins.imitation import equations
from sb3_ext.plugins.imitation.rounds import GeneratedSamples
from sb3_ext.resume import ResumableCheckpoint
from sb3_ext.testing.environments import kit_env
from sb3_ext.testing.offline import kit_dataset
from sb3_ext.trees import same, snapshot

ON_POLICY: dict[str, Any] = {"n_steps": 16, "batch_size": 16, "n_epochs": 2}


def small() -> dict[str, Any]:
    """New each time: SB3's SAC writes into the policy_kwargs that it is given."""
    return {"policy_kwargs": {"net_arch": [16]}, "seed": 0, "device": "cpu"}


class Bandit(gym.Env[Any, Any]):
    """Ten steps in one place; nothing that an action does can be seen, and no reward is given."""

    def __init__(self) -> None:
        self.observation_space = spaces.Box(-1, 1, (1,), np.float32)
        self.action_space = spaces.Box(-2.0, 2.0, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> Any:
        self.t += 1
        return np.zeros(1, np.float32), 0.0, False, self.t == 10, {}


def bandit(n_envs: int = 4) -> DummyVecEnv:
    return DummyVecEnv([lambda: Monitor(Bandit()) for _ in range(n_envs)])


def expert(n: int = 200, action: float = 1.2, length: int = 10) -> OfflineDataset:
    """Who takes one action, and a little more or less."""
    state = np.zeros((n, 1), np.float32)
    actions = action + np.random.default_rng(0).normal(0, 0.1, (n, 1))
    ends = np.arange(1, n + 1) % length == 0
    return OfflineDataset(
        observations=state,
        actions=actions.astype(np.float32),
        rewards=np.zeros(n, np.float32),
        next_observations=state,
        terminated=np.zeros(n, bool),
        truncated=ends,
        episode_starts=np.arange(0, n, length),
        observation_space=Bandit().observation_space,
        action_space=Bandit().action_space,
    )


# -- hand values ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("form", "at_0", "at_log_3"),
    [
        # D = 1/2 and 3/4: -log(1 - D), and log D.
        ("softplus", math.log(2), math.log(4)),
        ("logsigmoid", -math.log(2), math.log(3 / 4)),
    ],
)
def test_rewards_by_hand(form: str, at_0: float, at_log_3: float) -> None:
    logits = th.tensor([0.0, math.log(3)])
    assert equations.REWARD_FORMS[form](logits).tolist() == pytest.approx([at_0, at_log_3])


def test_softplus_is_imitations_reward() -> None:
    from imitation.algorithms.adversarial.gail import RewardNetFromDiscriminatorLogit

    model = GAIL("MlpPolicy", bandit(), demonstrations=expert(), **small())
    theirs = RewardNetFromDiscriminatorLogit(model.discriminator._reward_net)
    batch = [np.zeros((5, 1)), np.linspace(-2, 2, 5)[:, None], np.zeros((5, 1)), np.zeros(5)]
    assert np.array_equal(model.reward_net.predict(*batch), theirs.predict(*batch))


def test_the_sign_of_each_form() -> None:
    batch = [np.zeros((5, 1)), np.linspace(-2, 2, 5)[:, None], np.zeros((5, 1)), np.zeros(5)]
    for form, sign in (("softplus", 1), ("logsigmoid", -1)):
        model = GAIL("MlpPolicy", bandit(), demonstrations=expert(), reward_form=form, **small())
        assert (sign * model.reward_net.predict(*batch) > 0).all()


def test_normalised_rewards_have_mean_0_and_deviation_1() -> None:
    """imitation's own GAIL does not heed a NormalizedRewardNet."""
    model = GAIL("MlpPolicy", bandit(), demonstrations=expert(), normalize_rewards=True, **small())
    actions = np.random.default_rng(0).normal(size=(256, 1)).astype(np.float32)
    batch = [np.zeros((256, 1), np.float32), actions, np.zeros((256, 1)), np.zeros(256)]
    model.reward_net.predict_processed(*batch)
    rewards = model.reward_net.predict_processed(*batch)
    assert rewards.mean() == pytest.approx(0, abs=1e-4)
    assert rewards.std() == pytest.approx(1, abs=0.05)


def test_generated_samples_are_a_ring() -> None:
    ring = GeneratedSamples(3, spaces.Box(-9, 9, (1,)), spaces.Discrete(5))
    for t in range(2):
        rows = np.array([[2.0 * t], [2.0 * t + 1]])
        ring.add(rows, np.array([t, t]), rows + 1, np.array([False, True]))
    assert ring.size == 3
    assert ring.arrays[0].flatten().tolist() == [3, 1, 2]
    assert ring.arrays[1].tolist() == [1, 0, 1]
    assert ring.arrays[3].tolist() == [True, True, False]
    assert set(ring.sample(50)["obs"].flatten()) == {1, 2, 3}


# -- imitation's own loop ------------------------------------------------------------------------


def batches_of(model: Any) -> Iterator[dict[str, Any]]:
    """The minibatches that a model of ours would draw."""
    drawn, size = 0, model.batch_of_demonstrations
    while True:
        rows = model.minibatches.rows(model.stream_seed, drawn, size)
        drawn += size
        yield {name: held[rows] for name, held in model.expert.items()}


class Batches:
    """imitation looks at the first one, and then begins anew."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return batches_of(self.model)


@pytest.mark.parametrize(
    ("kind", "generator", "action"),
    [
        ("gail", "ppo", "Box"),
        ("airl", "ppo", "Box"),
        ("gail", "sac", "Box"),
        ("gail", "ppo", "MultiDiscrete"),
        ("airl", "ppo", "MultiDiscrete"),
        ("airl", "ppo", "Discrete"),
    ],
)
def test_it_ends_with_the_bits_of_imitations_own_loop(
    kind: str, generator: str, action: str, tmp_path: Any
) -> None:
    from imitation.algorithms.adversarial import airl, gail
    from imitation.rewards import reward_nets
    from imitation.util import logger, networks

    data = kit_dataset(kit_env(action=action))
    options: dict[str, Any] = dict(ON_POLICY)
    more: dict[str, Any] = {"gen_replay_buffer_capacity": 16}
    if generator == "sac":
        # Its rounds have no length of their own, and imitation leaves old rewards in the buffer.
        options = {"learning_starts": 8, "batch_size": 8}
        more |= {"gen_train_timesteps": 16, "relabel_rewards": False}
    stock = {"ppo": PPO, "sac": stable_baselines3.SAC}[generator]
    ours = {"gail": GAIL, "airl": AIRL}[kind](
        "MlpPolicy",
        kit_env(action=action),
        demonstrations=data,
        generator=stock,
        generator_kwargs=options,
        demo_batch_size=16,
        allow_variable_horizon=True,
        **more,
        **small(),
    )
    ours.get_env().reset()  # as imitation does when it wraps the environment
    ours.learn(96)

    env = kit_env(action=action)
    algorithm: Any = stock("MlpPolicy", env, **options, **small())
    norm = {"normalize_input_layer": networks.RunningNorm}
    net: Any
    if kind == "gail":
        net = reward_nets.BasicRewardNet(env.observation_space, env.action_space, **norm)
    else:
        net = reward_nets.BasicShapedRewardNet(
            env.observation_space,
            env.action_space,
            reward_hid_sizes=[32, 32],
            potential_hid_sizes=[32, 32],
            discount_factor=0.99,
            **norm,
        )
    theirs = {"gail": gail.GAIL, "airl": airl.AIRL}[kind](
        demonstrations=Batches(ours),
        demo_batch_size=16,
        venv=env,
        gen_algo=algorithm,
        reward_net=net,
        gen_train_timesteps=16,
        custom_logger=logger.configure(str(tmp_path), []),
        allow_variable_horizon=True,
    )
    theirs.train(96)

    assert ours.num_timesteps == algorithm.num_timesteps == 96
    for name, state in algorithm.get_parameters().items():
        assert same(state, ours.get_parameters()[name]), name
    assert same(net.state_dict(), ours.discriminator._reward_net.state_dict())
    assert same(theirs._disc_opt.state_dict(), ours.discriminator_optimizer.state_dict())


# -- learning ------------------------------------------------------------------------------------

LEARNING: dict[str, Any] = {
    "generator_kwargs": {"n_steps": 50, "batch_size": 50, "n_epochs": 10, "learning_rate": 1e-2},
    "n_disc_updates_per_round": 8,
    "disc_learning_rate": 3e-3,
}


def acts_near(model: Any) -> float:
    return float(model.predict(np.zeros(1, np.float32), deterministic=True)[0][0])


@pytest.mark.parametrize("cls", [GAIL, pytest.param(AIRL, marks=pytest.mark.slow)])
def test_it_finds_the_experts_action(cls: Any) -> None:
    model = cls("MlpPolicy", bandit(), demonstrations=expert(), **LEARNING, **small())
    assert abs(acts_near(model) - 1.2) > 0.8
    model.learn(4000)
    assert acts_near(model) == pytest.approx(1.2, abs=0.4)


def test_the_wrong_sign_flees_the_expert(monkeypatch: Any) -> None:
    monkeypatch.setitem(equations.REWARD_FORMS, "softplus", lambda x: -th.nn.functional.softplus(x))  # type: ignore[arg-type]
    model = GAIL("MlpPolicy", bandit(), demonstrations=expert(), **LEARNING, **small()).learn(2000)
    assert abs(acts_near(model) - 1.2) > 0.8


@pytest.mark.slow
def test_an_off_policy_generator_of_ours_finds_it() -> None:
    model = GAIL(
        "MlpPolicy",
        bandit(1),
        demonstrations=expert(),
        generator="SAC",
        generator_kwargs={"learning_starts": 50, "replay": "per", "learning_rate": 3e-3},
        gen_train_timesteps=20,
        n_disc_updates_per_round=4,
        **small(),
    )
    model.learn(700)
    assert acts_near(model) == pytest.approx(1.2, abs=0.4)


def test_its_reward_prefers_the_expert() -> None:
    model = GAIL("MlpPolicy", bandit(), demonstrations=expert(), **LEARNING, **small()).learn(1000)
    still = np.zeros((2, 1), np.float32)
    told = model.learned_reward(still, np.array([[1.2], [-1.2]], np.float32), still, np.zeros(2))
    assert told[0] > told[1]


# -- what surrounds it ---------------------------------------------------------------------------


class Rewards(BaseCallback):
    """What the generator is given."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Any] = []

    def _on_step(self) -> bool:
        self.seen.append(np.array(self.locals["rewards"]))
        return True


@pytest.mark.parametrize("generator", ["PPO", "SAC"])
def test_under_vec_normalize_it_sees_what_the_environment_says(generator: str) -> None:
    """Rewards are learned ones in the buffer, too, where SB3 stores them before normalisation."""
    options = ON_POLICY if generator == "PPO" else {"learning_starts": 10, "batch_size": 8}
    env = VecNormalize(kit_env())
    data = kit_dataset(kit_env())
    model = GAIL(
        "MlpPolicy",
        env,
        demonstrations=data,
        generator=generator,
        generator_kwargs=options,
        allow_variable_horizon=True,
        relabel_rewards=False,
        gen_train_timesteps=16,
        **small(),
    )
    given: list[Any] = []
    asked = model.rewards_for_step

    def spy(*transition: Any) -> Any:
        given.append((transition, asked(*transition)))
        return given[-1][1]

    model.rewards_for_step = spy  # type: ignore[method-assign]
    seen = Rewards()
    model.learn(32, callback=seen)
    assert env.venv.__class__ is DummyVecEnv  # it is left as it was
    observations = np.concatenate([transition[0] for transition, _ in given])
    n = model.generated.size
    assert np.array_equal(model.generated.arrays[0][:n], observations[-n:])
    assert np.allclose(env.obs_rms.mean, observations.mean(axis=0), atol=0.3)
    learned = np.array([rewards[0] for _, rewards in given])
    if generator == "SAC":
        assert np.array_equal(model.replay_buffer.rewards[:32, 0], learned)  # type: ignore[attr-defined]
    # Normalised by VecNormalize, whose statistics are those of learned returns: all positive.
    assert (learned > 0).all() and (np.array(seen.seen) > 0).all()
    assert env.ret_rms.mean > 0


@pytest.mark.parametrize("stored", [{}, {"replay_buffer_class": CompactReplayBuffer}])
def test_relabelling_gives_todays_rewards(stored: Any) -> None:
    env = bandit(2)
    model = GAIL(
        "MlpPolicy",
        env,
        demonstrations=expert(),
        generator="SAC",
        generator_kwargs={"learning_starts": 10, "batch_size": 8, "buffer_size": 60, **stored},
        gen_train_timesteps=20,
        **small(),
    )
    model.learn(40)
    buffer: Any = model.replay_buffer  # type: ignore[attr-defined]
    actions = 2 * buffer.actions[:20].reshape(-1, 1)  # the environment's go from -2 to 2
    still = np.zeros((40, 1), np.float32)
    today = model.reward_net.predict(still, actions, still, np.zeros(40))
    assert np.allclose(buffer.rewards[:20].flatten(), today, atol=1e-6)


def test_callbacks_see_the_environment_that_was_given(tmp_path: Any) -> None:
    env = bandit()
    model = GAIL("MlpPolicy", env, demonstrations=expert(), generator_kwargs=ON_POLICY, **small())
    evaluating = EvalCallback(bandit(1), eval_freq=16, n_eval_episodes=1, verbose=0, warn=False)
    saving = CheckpointCallback(16, str(tmp_path), name_prefix="gail")
    model.learn(128, callback=[evaluating, saving], progress_bar=False)
    assert model.get_env() is env
    assert evaluating.last_mean_reward == 0.0  # the environment's own
    loaded = GAIL.load(tmp_path / "gail_128_steps", env=env, demonstrations=expert())
    assert isinstance(loaded, GAIL) and isinstance(loaded, PPO)
    loaded.learn(64, reset_num_timesteps=False)
    assert loaded.num_timesteps == 192


def test_it_logs_generator_and_discriminator(tmp_path: Any) -> None:
    model = GAIL(
        "MlpPolicy",
        bandit(),
        demonstrations=expert(),
        generator_kwargs=ON_POLICY,
        tensorboard_log=str(tmp_path),
        **small(),
    )
    model.learn(192)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "GAIL_1")).Reload()
    keys = set(events.Tags()["scalars"])
    assert {"discriminator/loss", "discriminator/acc", "train/loss"} <= keys
    assert {"rollout/ep_rew_mean", "rollout/ep_rew_learned_mean"} <= keys


def test_the_generator_alone_is_the_generators_zip(tmp_path: Any) -> None:
    for generator, cls in (
        ("PPO", PPO),
        ("SAC", SAC),
        (stable_baselines3.SAC, stable_baselines3.SAC),
    ):
        model = GAIL(
            "MlpPolicy", bandit(1), demonstrations=expert(), generator=generator, **small()
        )
        model.save_generator(tmp_path / "generator")
        loaded = cls.load(tmp_path / "generator", device="cpu")
        assert type(loaded) is cls
        assert same(loaded.policy.state_dict(), model.policy.state_dict())


def test_zips_of_others_are_refused(tmp_path: Any) -> None:
    PPO("MlpPolicy", bandit(), **small()).save(tmp_path / "ppo")
    with pytest.raises(CheckpointError, match="was saved by PPO, not by GAIL"):
        GAIL.load(tmp_path / "ppo")
    GAIL("MlpPolicy", bandit(), demonstrations=expert(), generator="SAC", **small()).save(
        tmp_path / "gail"
    )
    with pytest.raises(CheckpointError, match=r"GAIL\.load"):
        SAC.load(tmp_path / "gail")
    with pytest.raises(CheckpointError, match="saved by GAIL, not by AIRL"):
        AIRL.load(tmp_path / "gail")


def test_arguments_can_be_changed_on_load(tmp_path: Any) -> None:
    model = GAIL("MlpPolicy", bandit(), demonstrations=expert(), generator_kwargs=ON_POLICY)
    model.save(tmp_path / "model")
    loaded = GAIL.load(tmp_path / "model", n_disc_updates_per_round=7, ent_coef=0.5)
    assert (loaded.n_disc_updates_per_round, loaded.ent_coef) == (7, 0.5)  # type: ignore[attr-defined]
    with pytest.raises(TypeError, match="did you mean 'n_disc_updates_per_round'"):
        GAIL.load(tmp_path / "model", n_disc_update_per_round=7)


def test_a_callback_that_stops_leaves_it_fit_to_go_on() -> None:
    class Stop(BaseCallback):
        def _on_step(self) -> bool:
            return self.n_calls < 21

    model = GAIL(
        "MlpPolicy", bandit(1), demonstrations=expert(), generator_kwargs=ON_POLICY, **small()
    )
    model.learn(100, callback=Stop())
    before = snapshot(model)
    model.learn(64, reset_num_timesteps=False)
    assert not same(before, snapshot(model))


def test_a_run_that_was_done_goes_on_as_if_more_had_been_asked_for(tmp_path: Any) -> None:
    """Its last checkpoint is from before the discriminator's turn, which is then still due."""

    def made() -> Any:
        return GAIL(
            "MlpPolicy", bandit(1), demonstrations=expert(), generator_kwargs=ON_POLICY, **small()
        )

    whole = made().learn(64)
    made().learn(32, callback=ResumableCheckpoint(tmp_path, every=1000))
    resumed = made()
    resumed.learn(64, callback=ResumableCheckpoint(tmp_path, every=1000))
    assert same(snapshot(whole), snapshot(resumed))
    assert (whole.samples_drawn, whole.round_steps) == (resumed.samples_drawn, resumed.round_steps)


# -- what is worked around in imitation ----------------------------------------------------------


def test_imitation_makes_no_folders_and_prints_nothing(
    tmp_path: Any, monkeypatch: Any, capfd: Any
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    GAIL(
        "MlpPolicy", bandit(1), demonstrations=expert(), generator_kwargs=ON_POLICY, **small()
    ).learn(32)
    # SB3's own logger makes its folder.
    assert [one.name for one in tmp_path.iterdir() if not one.name.startswith("SB3-")] == []
    assert capfd.readouterr() == ("", "")


def test_airls_probabilities_are_of_the_policy_as_it_acts() -> None:
    """Behind VecNormalize, though the discriminator sees what the environment says."""
    env = VecNormalize(kit_env(), training=False)
    env.obs_rms.update(np.random.default_rng(0).normal(3, 5, (100, 3)))
    model = AIRL(
        "MlpPolicy",
        env,
        demonstrations=kit_dataset(kit_env()),
        allow_variable_horizon=True,
        **small(),
    )
    model.policy.action_net.weight.data.fill_(0.5)  # type: ignore[attr-defined]
    observations, actions = th.randn(6, 3), th.zeros(6, 2)
    found = model.discriminator._get_log_policy_act_prob(observations, actions)
    normal = th.as_tensor(env.normalize_obs(observations.numpy()))
    _, expected, _ = model.policy.evaluate_actions(normal, actions)  # type: ignore[attr-defined]
    assert th.allclose(found, expected)
    _, without, _ = model.policy.evaluate_actions(observations, actions)  # type: ignore[attr-defined]
    assert not th.allclose(found, without)


def test_imitation_does_not_take_the_environment_from_the_model() -> None:
    env = bandit(1)
    model = GAIL("MlpPolicy", env, demonstrations=expert(), **small())
    assert model.env is env
    assert model.discriminator.gen_algo.env is not env
