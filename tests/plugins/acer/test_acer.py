"""The algorithm around its update: rollouts, replay, presets, files, and whether it learns."""

import json
import zipfile
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3 import A2C, DQN
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_ext import ACER
from sb3_ext.errors import CheckpointError, NonFiniteError
from sb3_ext.plugins.acer.presets import PRESETS
from sb3_ext.testing.environments import kit_env
from sb3_ext.trees import same, snapshot

SMALL: dict[str, Any] = {
    "n_steps": 8,
    "replay_start": 16,
    "buffer_size": 200,
    "batch_size": 4,
    "device": "cpu",
    "seed": 0,
}


def small(env: Any = None, **changes: Any) -> ACER:
    kwargs = {"net_arch": [16]}
    env = kit_env(2, action="Discrete") if env is None else env
    return ACER("MlpPolicy", env, **{**SMALL, "policy_kwargs": kwargs, **changes})


# -- what is stored, and what is replayed ------------------------------------------------------


@pytest.mark.parametrize("action", ["Discrete", "MultiDiscrete", "Box"])
def test_what_drew_an_action_is_stored_with_it(action: str) -> None:
    """Without an update in between, the policy of now is the behaviour: all ratios are 1."""
    env = kit_env(2, action=action)
    model = small(env, learning_rate=0.0, replay_ratio=0.0, action_std=1.0)
    model.learn(64)
    windows = model.replay_buffer.newest(8)
    family = model.policy.statistics
    with th.no_grad():
        parameters = family.parameters(model.policy.heads(windows.observations)[0])
    assert th.allclose(parameters, windows.behavior, atol=1e-6)
    if action == "Box":
        assert windows.actions.abs().max() > 1  # as drawn; what the environment got is clipped
        given = [one for env in model.get_env().envs for one, _ in env.unwrapped.given]
        bounds = model.action_space
        assert all((one >= bounds.low).all() and (one <= bounds.high).all() for one in given)


def test_box_actions_are_scaled_to_the_bounds() -> None:
    model = small(kit_env(1, action="Box"))
    model.policy.action_net.weight.data.zero_()
    middle = (model.action_space.low + model.action_space.high) / 2
    for mean, expected in ((0.0, middle), (1.0, model.action_space.high)):
        model.policy.action_net.bias.data.fill_(mean)
        seen = model.get_env().reset()
        assert np.allclose(model.predict(seen, deterministic=True)[0][0], expected)
    model.policy.action_net.bias.data.fill_(9.0)
    assert np.allclose(model.predict(seen, deterministic=True)[0][0], model.action_space.high)


class Straight(gym.Env[Any, Any]):
    """Counts its steps; ends after five by a time limit, or by itself."""

    observation_space = spaces.Box(-np.inf, np.inf, (1,))
    action_space = spaces.Discrete(2)

    def __init__(self, truncates: bool) -> None:
        self.truncates, self.at = truncates, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.at = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> Any:
        self.at += 1
        ended = self.at == 5
        seen = np.full(1, self.at, np.float32)
        return seen, 1.0, ended and not self.truncates, ended and self.truncates, {}


@pytest.mark.parametrize("truncates", [True, False])
def test_a_time_limit_is_no_end_and_an_end_is(truncates: bool) -> None:
    """The step before a time limit is worth gamma V(last observation) more, valued now."""
    from sb3_ext.plugins.acer.updates import _window

    model = small(DummyVecEnv([lambda: Straight(truncates)]), learning_rate=0.0)
    model.learn(16)
    windows = model.replay_buffer.newest(8)
    ends = windows.truncated if truncates else windows.terminated
    assert ends[:, 0].tolist() == [step in (1, 6) for step in range(8)]  # steps 8 to 15
    assert (windows.terminated | windows.truncated).sum() == 2
    zeros = th.zeros(8)
    held = _window(model.policy, windows, zeros, zeros, model.options)
    fifth = model.policy.predict_values(th.full((1, 1), 5.0)).item()
    expected = [fifth if truncates and step in (1, 6) else 0.0 for step in range(8)]
    assert held["truncation_values"][:, 0].tolist() == pytest.approx(expected)


def test_how_often_it_replays_is_poisson_and_seeded() -> None:
    """After each of 40 rollouts one update, and 3 +- 4 standard errors more on average."""
    counts = []
    for seed in (1, 1, 2):
        model = small(seed=seed, replay_ratio=3.0, n_steps=2, replay_start=4)
        model.learn(160)
        counts.append(model._n_updates)
    rollouts = 40
    assert counts[0] == counts[1] != counts[2]
    assert abs(counts[0] - rollouts - 3 * rollouts) < 4 * (3 * rollouts) ** 0.5
    without = small(replay_ratio=0.0, n_steps=2, replay_start=4).learn(160)
    assert without._n_updates == rollouts


def test_replay_begins_when_there_is_enough() -> None:
    model = small(replay_start=100, replay_ratio=50.0)
    with pytest.warns(UserWarning, match="nothing is replayed in these 96 steps"):
        model.learn(96)
    assert model._n_updates == 6
    model.learn(16, reset_num_timesteps=False)
    assert model._n_updates > 20


def test_one_environment_still_replays_many_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    from sb3_ext.trajectories.replay import TrajectoryReplayBuffer

    drawn = []
    original = TrajectoryReplayBuffer.sample_windows

    def counting(self: Any, n: int, *rest: Any) -> Any:
        drawn.append(n)
        return original(self, n, *rest)

    monkeypatch.setattr(TrajectoryReplayBuffer, "sample_windows", counting)
    small(kit_env(1, action="Discrete"), batch_size=7).learn(64)
    assert drawn and set(drawn) == {7}


def test_the_average_follows_by_hand() -> None:
    model = small(average_decay=0.75, replay_ratio=0.0)
    model.learn(16)
    before = [one.clone() for one in model.policy.average.parameters()]
    model.train(1, 4)
    actor = [p for one in model.policy._actor() for p in one.parameters()]
    for old, new, now in zip(before, model.policy.average.parameters(), actor, strict=True):
        assert th.allclose(new, 0.75 * old + 0.25 * now, atol=1e-6)
        assert not th.equal(old, new)


def test_running_statistics_of_the_average_are_copied() -> None:
    model = small()
    for net in (model.policy.action_net, model.policy.average[2]):
        net.register_buffer("seen", th.zeros(1))
    model.policy.action_net.seen.fill_(5.0)
    model.policy.follow(0.99)
    assert model.policy.average[2].seen.item() == 5.0


def test_the_optimiser_leaves_the_average_and_sigma_alone() -> None:
    model = small(kit_env(1, action="Box"))
    learned = {id(one) for one in model.policy.optimizer.param_groups[0]["params"]}
    assert not learned & {id(one) for one in model.policy.average.parameters()}
    assert not hasattr(model.policy, "log_std")


# -- constants -------------------------------------------------------------------------------


def test_presets_are_those_of_their_sources() -> None:
    """Wang et al. 2017, sections 4 and 5.1, and OpenAI's baselines."""
    model = ACER("MlpPolicy", kit_env(1, action="Discrete"), device="cpu")
    told = (model.n_steps, model.replay_ratio, model.correction_term, model.delta)
    assert told == (20, 4.0, 10.0, 1.0)
    assert (model.average_decay, model.ent_coef, model.vf_coef) == (0.99, 0.01, 0.5)
    paper = ACER("MlpPolicy", kit_env(1, action="Box"), preset="paper", device="cpu")
    told = (paper.n_steps, paper.correction_term, paper.average_decay, paper.action_std)
    assert told == (50, 5.0, 0.995, 0.3)
    assert (paper.n_dual_samples, paper.buffer_size, paper.on_policy_updates) == (5, 5_000, False)
    mine = ACER("MlpPolicy", kit_env(1, action="Box"), preset="paper", n_steps=7, device="cpu")
    assert (mine.n_steps, mine.correction_term) == (7, 5.0)
    optimizer = model.policy.optimizer
    assert isinstance(optimizer, th.optim.RMSprop) and optimizer.defaults["eps"] == 1e-5
    assert isinstance(small(use_rms_prop=False).policy.optimizer, th.optim.Adam)
    assert set(PRESETS) == {"baselines", "paper"}


def test_without_on_policy_updates_the_rollout_is_only_stored() -> None:
    model = small(kit_env(2, action="Box"), preset="paper", replay_start=100)
    before = snapshot(model)
    with pytest.warns(UserWarning, match="nothing is replayed in these 96 steps"):
        model.learn(96)
    assert same(before["policy"], snapshot(model)["policy"]) and model._n_updates == 0
    model.learn(64, reset_num_timesteps=False)
    assert model._n_updates > 0


# -- files -----------------------------------------------------------------------------------


def test_load_goes_on_with_the_generator_and_takes_overrides(tmp_path: Any) -> None:
    model = small(delta=2.0).learn(64)
    model.save(tmp_path / "model")
    model.save_replay_buffer(tmp_path / "buffer")
    env = kit_env(2, action="Discrete")
    loaded = ACER.load(tmp_path / "model", env=env, device="cpu", correction_term=3.0, n_steps=4)
    assert (loaded.delta, loaded.correction_term, loaded.n_steps) == (2.0, 3.0, 4)
    assert loaded.replay_rng.integers(10**9) == model.replay_rng.integers(10**9)
    loaded.load_replay_buffer(tmp_path / "buffer")
    assert loaded.replay_buffer.n_windows(8) == model.replay_buffer.n_windows(8) > 0
    loaded.learn(32, reset_num_timesteps=False)
    with pytest.raises(ValueError, match="delta must be above 0"):
        ACER.load(tmp_path / "model", delta=-1.0)
    for given, told in (({"preset": "paper"}, "name those"), ({"use_rms_prop": False}, "state")):
        with pytest.raises(TypeError, match=f"load cannot change {next(iter(given))}.*{told}"):
            ACER.load(tmp_path / "model", **given)
    with pytest.raises(TypeError, match="did you mean 'correction_term'"):
        ACER.load(tmp_path / "model", corection_term=1.0)
    A2C("MlpPolicy", "CartPole-v1").save(tmp_path / "a2c")
    with pytest.raises(CheckpointError, match="saved by stable_baselines3's A2C"):
        ACER.load(tmp_path / "a2c")


def test_a_buffer_of_others_is_refused(tmp_path: Any) -> None:
    model = small().learn(16)
    model.save_replay_buffer(tmp_path / "two")
    one = small(kit_env(1, action="Discrete"))
    held = one.replay_buffer
    with pytest.raises(ValueError, match=r"of 2 environments and 3 numbers.*has 1 and 3"):
        one.load_replay_buffer(tmp_path / "two")
    assert one.replay_buffer is held
    DQN("MlpPolicy", kit_env(1, action="Discrete"), buffer_size=10).save_replay_buffer(
        tmp_path / "dqn"
    )
    with pytest.raises(ValueError, match="is no trajectory replay"):
        one.load_replay_buffer(tmp_path / "dqn")


def test_nothing_of_ours_in_a_zip_is_pickled_but_classes(tmp_path: Any) -> None:
    """The generator's state is plain numbers."""
    small().learn(16).save(tmp_path / "model")
    with zipfile.ZipFile(tmp_path / "model.zip") as archive:
        data = json.loads(archive.read("data"))
    assert data["replay_state"]["bit_generator"] == "PCG64"
    pickled = {name for name, one in data.items() if ":serialized:" in str(one)}
    stock = {"policy_class", "observation_space", "action_space", "lr_schedule", "train_freq"}
    stock |= {"replay_buffer_class", "policy_kwargs", "_last_obs", "_last_episode_starts"}
    assert pickled <= stock | {"_last_original_obs", "ep_info_buffer", "ep_success_buffer"}


def test_a_second_learn_cuts_the_episode_off() -> None:
    """``learn`` resets the environment: no window may run on from the old episode into the new."""
    model = small(DummyVecEnv([lambda: Straight(False)]), replay_start=8)
    model.learn(8)  # ends in the midst of the second episode
    model.learn(8)
    steps = model.replay_buffer.newest(16)
    at = steps.observations[:, 0]
    ends = (steps.terminated | steps.truncated)[:-1, 0]
    for before, after, ended in zip(at[:-1], at[1:], ends, strict=True):
        assert ended or after == before + 1


# -- bad input -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"correction_term": -1.0}, "correction_term must be at least 0"),
        ({"delta": 0.0}, "delta must be above 0.*trust_region=False"),
        ({"delta": "1"}, "delta must be a number"),
        ({"average_decay": 1.0}, "average_decay must be at least 0 and below 1"),
        ({"retrace_lambda": 1.5}, "retrace_lambda must be from 0 to 1"),
        ({"replay_ratio": -1}, "replay_ratio must be at least 0"),
        ({"action_std": 0.0}, "action_std must be above 0"),
        ({"n_steps": 0}, "n_steps must be a whole number of at least 1"),
        ({"batch_size": 1.5}, "batch_size must be a whole number"),
        ({"n_dual_samples": -1}, "n_dual_samples must be a whole number, 0 or more"),
        ({"trust_region": 1}, "trust_region must be True or False"),
        ({"trust_region_space": "means"}, "one of 'probabilities', 'logits'"),
        ({"preset": "papers"}, "preset must be one of 'baselines', 'paper'"),
        ({"buffer_size": 16}, r"holds 8 steps of each of 2 .* at least 18"),
        ({"replay_start": 201}, r"and buffer_size=200"),
        ({"replay_ratio": 0, "on_policy_updates": False}, "learns from nothing"),
        ({"policy_kwargs": {"action_std": 0.1}}, "give it to ACER itself"),
        ({"policy_kwargs": {"log_std_init": -1.0}}, "so give action_std to ACER itself"),
        ({"policy_kwargs": {"use_sde": True}}, "need a plain Gaussian"),
    ],
)
def test_options_that_cannot_work(given: dict[str, Any], told: str) -> None:
    with pytest.raises((ValueError, TypeError), match=told):
        small(**given)


def test_spaces_that_cannot_work() -> None:
    with pytest.raises(ValueError, match=r"MultiDiscrete\(\[2\] \* n\) says the same"):
        small(kit_env(action="MultiBinary"))
    with pytest.raises(ValueError, match=r"logits.*is for Discrete"):
        small(kit_env(action="Box"), trust_region_space="logits")

    class Unbounded(Straight):
        action_space = spaces.Box(-np.inf, np.inf, (1,))  # type: ignore[assignment]

    with pytest.raises(ValueError, match="must be finite"):
        small(DummyVecEnv([lambda: Unbounded(True)]))


def test_actions_that_are_numbered_from_elsewhere() -> None:
    class Late(Straight):
        action_space = spaces.Discrete(2, start=1)

    with pytest.raises(ValueError, match="numbers Discrete actions from 0"):
        small(DummyVecEnv([lambda: Late(True)]))


def test_rewards_out_of_scale_stop_it() -> None:
    class Huge(Straight):
        def step(self, action: Any) -> Any:
            return (self.observation_space.sample() * 0, 1e38, False, False, {})

    model = small(DummyVecEnv([lambda: Huge(True)]))
    before = snapshot(model)
    with pytest.raises(NonFiniteError, match=r"was not applied.*VecNormalize"):
        model.learn(64)
    assert same(before["policy"], snapshot(model)["policy"])


# -- whether it learns -----------------------------------------------------------------------


class Follow(gym.Env[Any, Any]):
    """Ten steps; the best action says where the observation is, which is drawn anew each step."""

    observation_space = spaces.Box(-1, 1, (1,), np.float32)

    def __init__(self, kind: str, sign: float = 1.0) -> None:
        self.kind, self.sign = kind, sign
        self.action_space = {
            "Box": spaces.Box(-2, 2, (1,), np.float32),
            "Discrete": spaces.Discrete(3),
            "MultiDiscrete": spaces.MultiDiscrete([3, 3]),
        }[kind]

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.at = 0
        return self._seen(), {}

    def _seen(self) -> np.ndarray:
        self.state = self.np_random.uniform(-1, 1, 1).astype(np.float32)
        return self.state

    def step(self, action: Any) -> Any:
        if self.kind == "Box":
            miss = abs(action[0] / 2 - 0.8 * self.state[0])
        else:
            right = round(self.state[0] + 1)
            parts = np.atleast_1d(action)
            wanted = [right, 2 - right][: len(parts)]
            miss = np.abs(parts - wanted).mean()
        self.at += 1
        return self._seen(), -self.sign * float(miss), False, self.at == 10, {}


@pytest.mark.parametrize(
    ("kind", "preset"),
    [
        ("Discrete", "baselines"),
        ("MultiDiscrete", "baselines"),
        ("Box", "paper"),
        pytest.param("Box", "baselines", marks=pytest.mark.slow),
        pytest.param("Discrete", "paper", marks=pytest.mark.slow),
        pytest.param("MultiDiscrete", "paper", marks=pytest.mark.slow),
    ],
)
def test_it_learns_to_follow(kind: str, preset: str) -> None:
    """Random actions miss by 0.5 to 0.9 a step, -5 to -9 an episode; half of that at most."""
    env = make_vec_env(lambda: Follow(kind), 4, seed=0)
    options: dict[str, Any] = {"learning_rate": 2e-3, "gamma": 0.8, "delta": 2.0}
    model = ACER(
        "MlpPolicy",
        env,
        n_steps=10,
        replay_start=400,
        preset=preset,
        seed=0,
        device="cpu",
        policy_kwargs={"net_arch": [32]},
        **options,
    )
    model.learn(3_000)
    found, _ = evaluate_policy(model, make_vec_env(lambda: Follow(kind), 4, seed=9), 40)
    assert found > -2.5


def test_the_wrong_sign_flees() -> None:
    """Paid for what it misses, it is worse than chance: the learning test can fail."""
    env = make_vec_env(lambda: Follow("Discrete", -1.0), 4, seed=0)
    model = ACER("MlpPolicy", env, 2e-3, 10, 0.8, replay_start=400, seed=0, device="cpu")
    model.learn(2_000)
    found, _ = evaluate_policy(model, make_vec_env(lambda: Follow("Discrete"), 4, seed=9), 40)
    assert found < -10


def test_it_learns_under_vec_normalize() -> None:
    env = VecNormalize(make_vec_env(lambda: Follow("Discrete"), 4, seed=0), gamma=0.8)
    model = ACER("MlpPolicy", env, 2e-3, 10, 0.8, replay_start=400, seed=0, device="cpu")
    model.learn(3_000)
    env.training = env.norm_reward = False
    assert evaluate_policy(model, env, 40)[0] > -2.5
