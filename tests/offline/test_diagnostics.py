"""Value estimates and true values: closed forms, and training that goes on bit for bit."""

from __future__ import annotations

import warnings

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3 as sb3
import torch as th
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit
from sb3_contrib import QRDQN, TQC, CrossQ
from scipy import integrate, stats
from stable_baselines3.common.callbacks import CallbackList
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

import sb3_ext
from sb3_ext.offline.diagnostics import ValueDiagnostic, compare
from sb3_ext.offline.rollouts import Evaluated
from sb3_ext.offline.value_plots import plot_value_estimates
from sb3_ext.offline.values import q_estimate
from sb3_ext.resume import ResumableCheckpoint
from sb3_ext.trees import same, snapshot
from tests.environments import Drift, make_env

SMALL = {"learning_starts": 20, "batch_size": 8, "buffer_size": 200, "seed": 3, "device": "cpu"}


class Chain(gym.Env):
    """States 0, 1, 2, ...: reward state + 1 for action 1, else 0; ends after ``length`` steps."""

    action_space = spaces.Discrete(2)

    def __init__(self, length: int = 4) -> None:
        self.length = length
        self.observation_space = spaces.Discrete(length)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.state = 0
        return 0, {}

    def step(self, action):
        reward = float((self.state + 1) * (action == 1))
        self.state += 1
        return min(self.state, self.length - 1), reward, self.state == self.length, False, {}


class Ones(gym.Env):
    """Reward 1 in each step, for ever; actions do nothing, or are the reward."""

    observation_space = spaces.Box(-1, 1, (1,))

    def __init__(self, reward_is_action: bool = False) -> None:
        self.reward_is_action = reward_is_action
        self.action_space = spaces.Box(-2, 4, (1,))

    def reset(self, *, seed=None, options=None):
        return np.zeros(1, np.float32), {}

    def step(self, action):
        reward = float(action[0]) if self.reward_is_action else 1.0
        return np.zeros(1, np.float32), reward, False, False, {}


def ready(model, callback):
    """As ``learn`` makes them, without training."""
    model.set_logger(configure(None, []))
    callback.init_callback(model)
    return callback


def chain_dqn(q_of_action_1: list[float], steps: int = 0):
    """A DQN whose table of Q is set by hand, after training: greedy in action 1."""
    model = sb3.DQN("MlpPolicy", Chain(), gamma=0.5, policy_kwargs={"net_arch": []}, **SMALL)
    if steps:
        model.learn(steps)
    layer = model.q_net.q_net[0]
    with th.no_grad():
        layer.weight.zero_()
        layer.bias.zero_()
        layer.weight[0] = -1.0
        layer.weight[1] = th.tensor(q_of_action_1)
    return model


def test_estimates_and_truth_of_a_chain_by_hand():
    """gamma 1/2, rewards 1, 2, 3, 4: returns 3.25, 4.5, 5, 4 from the four states."""
    model = chain_dqn([10.0, 5.0, 5.0, 2.0], steps=40)
    callback = ready(model, ValueDiagnostic(Chain(), n_eval_episodes=3, n_pairs=50_000))
    metrics = callback.evaluate()
    assert metrics["estimate_start"] == pytest.approx(10)
    assert metrics["true_start"] == pytest.approx(1 + 2 / 2 + 3 / 4 + 4 / 8) == pytest.approx(3.25)
    assert metrics["overestimation"] == pytest.approx(6.75)
    assert metrics["estimate_visited"] == pytest.approx((10 + 5 + 5 + 2) / 4)
    assert metrics["true_visited"] == pytest.approx((3.25 + 4.5 + 5 + 4) / 4)
    assert metrics["overestimation_visited"] == pytest.approx(5.5 - 16.75 / 4)
    assert metrics["neglected"] == 0, "these episodes terminate"
    # The buffer holds both actions.
    buffer = model.replay_buffer
    states, actions = buffer.observations[:40, 0].ravel(), buffer.actions[:40, 0].ravel()
    table = np.array([[-1, 10], [-1, 5], [-1, 5], [-1, 2]])
    mean = table[states.astype(int), actions.astype(int)].mean()
    assert metrics["estimate_buffer"] == pytest.approx(mean, abs=0.15)
    assert "entropy_bonus" not in metrics


def linear_td3(weights: tuple[float, float, float], env=None):
    """A TD3 with Q = w_s * s + w_a * a + b, and the policy a = 1 / 2 in [-1, 1]."""
    model = sb3.TD3(
        "MlpPolicy", TimeLimit(Ones(True), 5) if env is None else env, gamma=0.5,
        policy_kwargs={"net_arch": []}, **SMALL,
    )  # fmt: skip
    with th.no_grad():
        critic, actor = model.critic.q_networks[0][0], model.actor.mu[0]
        critic.weight[:] = th.tensor(weights[:2])
        critic.bias.fill_(weights[2])
        actor.weight.zero_()
        actor.bias.fill_(np.arctanh(0.5))
    return model


def test_a_time_limit_neglects_what_follows_and_says_so():
    """Action 1/2 of [-1, 1] is 2.5 in [-2, 4]. Five of its rewards, and 1/32 of all later ones."""
    model = linear_td3((0.0, 2.0, 3.0))
    made = ValueDiagnostic(TimeLimit(Ones(True), 5), n_eval_episodes=2, max_neglected=0.25)
    metrics = ready(model, made).evaluate()
    assert metrics["estimate_start"] == pytest.approx(2 * 0.5 + 3), "of the action in [-1, 1]"
    assert metrics["true_start"] == pytest.approx(2.5 * (2 - 2 / 32), rel=1e-5)
    assert metrics["neglected"] == pytest.approx(0.5**5)
    # Of five steps, those with at least two to go neglect no more than 1/4: four steps.
    returns = [2.5 * (2 - 2 * 0.5**left) for left in (5, 4, 3, 2)]
    assert metrics["true_visited"] == pytest.approx(np.mean(returns), rel=1e-5)
    assert np.isnan(metrics["estimate_buffer"]), "nothing is in it"

    strict = ready(model, ValueDiagnostic(TimeLimit(Ones(True), 5), max_neglected=0.01))
    with pytest.warns(UserWarning, match=r"neglect 0\.031 \(gamma \*\* T, mean\)"):
        metrics = strict.evaluate()
    assert np.isnan(metrics["true_visited"]) and np.isnan(metrics["estimate_visited"])
    strict.evaluate()  # once is enough
    assert len(strict.history["timesteps"]) == 2


def test_the_entropy_bonus_of_a_soft_q_by_an_integral():
    """Three steps, alpha 0.3: the bonus is alpha * H * (gamma + gamma ** 2), H by quadrature."""

    class Short(Ones):
        def reset(self, **kwargs):
            self.t = 0
            return super().reset(**kwargs)

        def step(self, action):
            self.t += 1
            observation, reward, _, _, info = super().step(action)
            return observation, reward, self.t == 3, False, info

    model = sb3.SAC(
        "MlpPolicy", Short(), gamma=0.5, ent_coef=0.3, policy_kwargs={"net_arch": []}, **SMALL
    )
    with th.no_grad():
        for layer, bias in ((model.actor.mu, 0.4), (model.actor.log_std, -0.7)):
            layer.weight.zero_()
            layer.bias.fill_(bias)
        model.critic.q_networks[0][0].weight.zero_()
        model.critic.q_networks[0][0].bias.fill_(9.0)
    law = stats.norm(0.4, np.exp(-0.7))
    entropy = integrate.quad(
        lambda x: law.pdf(x) * (np.log(1 - np.tanh(x) ** 2 + 1e-6) - law.logpdf(x)), -4, 5
    )[0]
    wanted = 0.3 * entropy * (0.5 + 0.25)
    many = DummyVecEnv([Short] * 100)
    metrics = ready(model, ValueDiagnostic(many, n_eval_episodes=4000)).evaluate()
    assert metrics["entropy_bonus"] == pytest.approx(wanted, abs=0.01)
    assert abs(wanted) > 0.05, "or nothing was tested"
    assert metrics["true_start"] == pytest.approx(1.75 + metrics["entropy_bonus"])
    assert metrics["overestimation"] == pytest.approx(9 - metrics["true_start"])
    plain = ready(model, ValueDiagnostic(Short(), include_entropy=False)).evaluate()
    assert plain["true_start"] == pytest.approx(1.75)
    calm = ready(model, ValueDiagnostic(Short(), deterministic=True)).evaluate()
    assert calm["entropy_bonus"] == 0 and calm["true_start"] == pytest.approx(1.75)


def test_compare_by_hand():
    cut = Evaluated(np.array([1.0, 2.0]), np.array([5.0, 6.0]), np.array([8.0, 4.0]), True)
    ended = Evaluated(np.array([3.0]), np.array([1.0]), np.array([2.0]), False)
    found = compare([cut, ended], 0.5, max_neglected=0.3, entropy=True)
    assert found == {
        "estimate_start": 3.0,
        "true_start": (1 + 1 + 0.5 * 4 + 3) / 2,
        "neglected": 0.25 / 2,
        "return": 3.0,
        "estimate_visited": 3.0,  # the second step of the first neglects 1/2
        "true_visited": 3.5,
        "overestimation": -0.5,
        "overestimation_visited": -0.5,
        "entropy_bonus": 1.0,
    }


def test_rewards_and_observations_are_in_the_units_that_q_is_learned_in():
    env = VecNormalize(DummyVecEnv([lambda: TimeLimit(Ones(), 5)]), gamma=0.5)
    model = linear_td3((0.0, 0.0, 1.0), env)
    model.learn(30)
    spread = float(np.sqrt(env.ret_rms.var + env.epsilon))
    means = env.obs_rms.mean.copy()
    outside = VecNormalize(DummyVecEnv([lambda: TimeLimit(Ones(), 5)]))
    callback = ready(model, ValueDiagnostic(outside, max_neglected=1.0))
    metrics = callback.evaluate()
    assert metrics["true_start"] == pytest.approx((2 - 2 / 32) / spread, rel=1e-4)
    assert spread != pytest.approx(1, abs=0.05)
    assert (env.obs_rms.mean == means).all()
    below = sb3.common.vec_env.VecFrameStack(VecNormalize(make_env()), 2)
    with pytest.raises(ValueError, match="below another wrapper"):
        ValueDiagnostic(below)


def test_environments_share_the_episodes():
    env = DummyVecEnv([lambda n=n: Chain(4) for n in range(3)])
    model = chain_dqn([10.0, 5.0, 5.0, 2.0])
    metrics = ready(model, ValueDiagnostic(env, n_eval_episodes=4)).evaluate()
    assert metrics["true_visited"] == pytest.approx(16.75 / 4)


# -- whose Q ---------------------------------------------------------------------------------------

CONTINUOUS = [sb3.SAC, sb3.TD3, sb3.DDPG, TQC, CrossQ, sb3_ext.SAC, sb3_ext.TQC]
DISCRETE = [sb3.DQN, QRDQN, sb3_ext.DQN]


def make(algorithm, env=None, **options):
    discrete = algorithm in DISCRETE
    env = make_env(discrete=discrete, n_envs=2) if env is None else env
    return algorithm("MlpPolicy", env, policy_kwargs={"net_arch": [8]}, **{**SMALL, **options})


@pytest.mark.parametrize(
    "algorithm", CONTINUOUS + DISCRETE, ids=lambda a: a.__module__ + a.__name__
)
def test_the_estimate_is_the_first_critic_s_value(algorithm):
    model = make(algorithm)
    model.policy.set_training_mode(False)
    observations = th.randn(6, 3)
    with th.no_grad():
        if algorithm in DISCRETE:
            actions = th.arange(6)[:, None] % 3
            if algorithm is QRDQN:
                table = model.quantile_net.quantile_net(observations).view(6, -1, 3).mean(1)
            else:
                table = model.q_net.q_net(observations)
            expected = th.stack([table[i, i % 3] for i in range(6)])
        else:
            actions = th.rand(6, 2) * 2 - 1
            inputs = th.cat([observations, actions], dim=1)
            expected = model.critic.q_networks[0](inputs).mean(dim=1)
        found = q_estimate(model)(observations, actions)
    assert found.shape == (6,)
    th.testing.assert_close(found, expected)


def test_an_algorithm_may_offer_its_own_estimate():
    class Own(sb3.PPO):
        replay_buffer = None

        def estimated_value(self, observations, actions):
            return observations[:, 0] * 0 + 7.0

    model = Own("MlpPolicy", make_env(), n_steps=8, batch_size=8)
    metrics = ready(model, ValueDiagnostic(Drift(), max_neglected=1.0)).evaluate()
    assert metrics["estimate_start"] == pytest.approx(7)


def test_what_cannot_work_is_refused_before_training():
    with pytest.raises(TypeError, match=r"PPO has no Q function.*estimated_value"):
        ready(sb3.PPO("MlpPolicy", make_env(), n_steps=8, batch_size=8), ValueDiagnostic(Drift()))

    class Odd(sb3.SAC):
        def estimated_value(self, observations, actions):
            return th.zeros(len(actions), 3)

    with pytest.raises(TypeError, match=r"one number a row, \[1\] for one row, got \[1, 3\]"):
        ready(make(Odd), ValueDiagnostic(Drift()))

    class Broken(sb3.SAC):
        def estimated_value(self, observations):
            return 0

    with pytest.raises(TypeError, match=r"cannot be called .* offer it as the method"):
        ready(make(Broken), ValueDiagnostic(Drift()))
    model = make(sb3.SAC)
    with pytest.raises(ValueError, match="the environment that is trained in"):
        ready(model, ValueDiagnostic(model.get_env()))
    with pytest.raises(ValueError, match="the environment that is trained in"):
        ready(model, ValueDiagnostic(model.get_env().envs[0]))
    with pytest.raises(ValueError, match="eval_env has the actions Discrete"):
        ready(model, ValueDiagnostic(Drift(discrete=True)))
    with pytest.raises(ValueError, match="eval_env has the observations"):
        ready(model, ValueDiagnostic(TimeLimit(Longer(), 5)))
    for options in ({"eval_freq": 0}, {"n_eval_episodes": 1.5}, {"n_pairs": True}):
        with pytest.raises(ValueError, match="must be an integer >= 1"):
            ValueDiagnostic(Drift(), **options)
    with pytest.raises(ValueError, match="max_neglected must lie in"):
        ValueDiagnostic(Drift(), max_neglected=0)


class Longer(Drift):
    def __init__(self):
        super().__init__()
        self.observation_space = spaces.Box(-5, 5, (7,))


# -- training is left alone ------------------------------------------------------------------------


def trained(algorithm, callback, **options):
    model = make(algorithm, **options)
    model.set_logger(configure(None, []))
    model.learn(100, callback=callback)
    return model


@pytest.mark.parametrize(
    ("algorithm", "options"),
    [
        (sb3.SAC, {}),
        (sb3.SAC, {"use_sde": True, "train_freq": 9}),  # noise is held for nine steps
        (sb3.TD3, {}),
        (sb3.DQN, {"exploration_fraction": 1.0}),
        (QRDQN, {}),
        (TQC, {}),
        (CrossQ, {}),
        (sb3_ext.SAC, {"replay": "per"}),
    ],
    ids=["sac", "sac-sde", "td3", "dqn", "qrdqn", "tqc", "crossq", "per"],
)
def test_training_ends_with_the_same_bits(algorithm, options):
    plain = trained(algorithm, None, **options)
    drawn = np.random.random(), float(th.rand(1))
    discrete = algorithm in DISCRETE
    callback = ValueDiagnostic(
        make_env(discrete=discrete), eval_freq=7, n_eval_episodes=2, seed=1, max_neglected=1.0
    )
    watched = trained(algorithm, callback, **options)
    assert drawn == (np.random.random(), float(th.rand(1)))
    assert len(callback.history["timesteps"]) == 7
    assert same(snapshot(plain), snapshot(watched))
    modes = [layer.training for layer in plain.policy.modules()]
    assert modes == [layer.training for layer in watched.policy.modules()]


def test_layers_modes_and_noise_are_put_back():
    model = make(sb3.SAC, use_sde=True)
    model.policy.actor.train()
    model.policy.actor.mu.eval()
    model.actor.reset_noise()
    modes = [layer.training for layer in model.policy.modules()]
    noise = model.actor.action_dist.exploration_mat.clone()
    assert len(set(modes)) == 2
    ready(model, ValueDiagnostic(Drift(), max_neglected=1.0)).evaluate()
    assert modes == [layer.training for layer in model.policy.modules()]
    assert th.equal(noise, model.actor.action_dist.exploration_mat)


def test_with_a_seed_every_evaluation_has_the_same_starts():
    env = make_env()
    model = make(sb3.TD3)
    for seed, equal in ((5, True), (None, False)):
        callback = ready(model, ValueDiagnostic(env, seed=seed, max_neglected=1.0))
        first, second = callback.evaluate(), callback.evaluate()
        assert (first["true_start"] == second["true_start"]) == equal


# -- what is kept ----------------------------------------------------------------------------------


def test_metrics_are_logged_kept_and_saved(tmp_path):
    path = tmp_path / "deep" / "values.npz"
    callback = ValueDiagnostic(
        Drift(), eval_freq=10, n_eval_episodes=1, max_neglected=1.0, save_path=path
    )
    model = make(sb3.SAC, make_env())
    model.set_logger(configure(str(tmp_path), ["csv"]))
    model.learn(40, callback=CallbackList([callback]))
    model.logger.close()
    names = {"start", "visited"}
    wanted = {f"{kind}_{name}" for kind in ("estimate", "true") for name in names}
    wanted |= {"estimate_buffer", "overestimation", "overestimation_visited", "neglected"}
    wanted |= {"return"}
    header = (tmp_path / "progress.csv").read_text().splitlines()[0].split(",")
    assert {f"value/{name}" for name in wanted | {"entropy_bonus"}} <= set(header)
    with np.load(path) as stored:
        assert set(stored) == wanted | {"timesteps", "entropy_bonus"}
        assert stored["timesteps"].tolist() == [10, 20, 30, 40]
        for name in stored:
            np.testing.assert_array_equal(stored[name], callback.history[name])


def test_a_resumed_run_goes_on_with_its_history(tmp_path):
    histories = []
    for steps in (40, 80):
        model = make(sb3.SAC, make_env())
        model.set_logger(configure(None, []))
        callback = ValueDiagnostic(
            Drift(), eval_freq=10, n_eval_episodes=1, seed=1, max_neglected=1.0
        )
        model.learn(steps, callback=[callback, ResumableCheckpoint(tmp_path, every=20)])
        histories.append(callback.history)
    assert histories[1]["timesteps"] == [10, 20, 30, 40, 50, 60, 70, 80]
    for name, values in histories[0].items():
        np.testing.assert_array_equal(histories[1][name][: len(values)], values)


def test_the_picture_has_a_line_for_each_seed_and_bold_means(tmp_path, monkeypatch):
    import sb3_ext.plots

    drawn = []
    save = sb3_ext.plots._save
    monkeypatch.setattr(
        "sb3_ext.plots._save", lambda figure, path: (drawn.append(figure), save(figure, path))[1]
    )
    steps = [10.0, 20.0, 30.0]
    runs = [
        {"timesteps": steps, "estimate_start": [1, 5, e], "true_start": [1, 2, float("nan")]}
        for e in (50, 70)
    ]
    saved = tmp_path / "one.npz"
    np.savez(saved, **runs[1])
    path = plot_value_estimates([runs[0], saved], tmp_path / "a.png", xlabel="gradient steps")
    assert path.stat().st_size > 10_000
    (axes,) = drawn[0].axes
    assert axes.get_xlabel() == "gradient steps"
    thin = [line for line in axes.lines if line.get_linewidth() < 1]
    assert [line.get_ydata().tolist() for line in thin] == [[1, 5, 50], [1, 5, 70], [1, 2], [1, 2]]
    bold = {line.get_label(): line.get_ydata().tolist() for line in axes.lines if line not in thin}
    assert bold == {"estimate": [1, 5, 60], "true": [1, 2]}
    plot_value_estimates({"TD3": [saved], "BCQ": runs[:1]}, tmp_path / "b.png", yscale="symlog")
    labels = [text.get_text() for text in drawn[1].axes[0].get_legend().get_texts()]
    assert labels == ["TD3: estimate", "TD3: true", "BCQ: estimate", "BCQ: true"]
    for options, words in (
        ({"of": "end"}, "of must be"),
        ({"of": "visited"}, "has no 'estimate_v"),
    ):
        with pytest.raises(ValueError, match=words):
            plot_value_estimates([saved], tmp_path / "c.png", **options)


def test_no_warning_is_left_over():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ready(chain_dqn([1.0, 1, 1, 1]), ValueDiagnostic(Chain())).evaluate()
