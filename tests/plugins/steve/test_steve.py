"""The expanded target in front of TD3 and SAC: its limits, what it composes with, what it keeps."""

from __future__ import annotations

import copy
import inspect
from typing import Any, get_type_hints

import gymnasium as gym
import numpy as np
import pytest
import stable_baselines3 as sb3
import torch as th
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.policies import ContinuousCritic
from stable_baselines3.common.vec_env import VecNormalize
from stable_baselines3.td3.policies import TD3Policy

from sb3_ext import MVE, SAC, STEVE, STEVESAC, TD3
from sb3_ext.algorithms.arguments import BaseArguments
from sb3_ext.errors import CheckpointError, NonFiniteError
from sb3_ext.plugins.steve.equations import alive, expanded_values
from sb3_ext.plugins.steve.expansion import ExpansionArguments, ModelBased, WorldArguments
from sb3_ext.plugins.steve.learner import flat, horizon_errors
from sb3_ext.td import td_target
from sb3_ext.trees import same
from sb3_ext.updates import Clock
from tests.environments import make_env

SMALL: dict[str, Any] = {"seed": 0, "device": "cpu", "learning_starts": 20, "batch_size": 16}
SMALL |= {"buffer_size": 300, "policy_kwargs": {"net_arch": [16, 16]}}
MODEL: dict[str, Any] = {"horizon": 2, "model_net_arch": (16, 16), "n_models": 2, "n_rewards": 3}
ALL = pytest.mark.parametrize("cls", [STEVE, MVE, STEVESAC])


def made(cls: Any, env: Any = None, **given: Any) -> Any:
    return cls("MlpPolicy", env or make_env(), **copy.deepcopy({**SMALL, **MODEL, **given}))


def drawn(model: Any, n: int = 16) -> Any:
    np.random.seed(1)
    return model.replay_view.draw(n, Clock(0, 1, 0.5)).samples


def target(model: Any, batch: Any) -> th.Tensor:
    th.manual_seed(3)
    return model.bellman_target(batch)


# -- limits ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("cls", "stock"), [(STEVE, sb3.TD3), (MVE, sb3.TD3), (STEVESAC, sb3.SAC)])
def test_with_a_horizon_of_zero_it_ends_with_sb3_s_bits(cls: Any, stock: Any) -> None:
    plain = {"critic_reduction": "min", "critic_subsets": False, "n_critics": 2, "horizon": 0}
    ours = made(cls, **plain).learn(120)
    theirs = stock("MlpPolicy", make_env(), **copy.deepcopy(SMALL)).learn(120)
    assert same(ours.policy.state_dict(), theirs.policy.state_dict())


@ALL
def test_without_a_horizon_it_is_the_mean_of_td_targets(cls: Any) -> None:
    model = made(cls, horizon=0, critic_reduction="mean", n_critics=3).learn(40)
    batch = drawn(model)
    found = target(model, batch)
    th.manual_seed(3)
    with th.no_grad():
        actions, bonus = model.next_actions(batch.next_observations)
        q_next = th.cat(model.critic_target(batch.next_observations, actions), 1)
        expected = batch.rewards + 0.99 * (1 - batch.dones) * (q_next.mean(1, True) + bonus)
    th.testing.assert_close(found, expected)


def test_with_one_of_each_steve_is_mve() -> None:
    one = {"n_models": 1, "n_rewards": 1, "n_critics": 1}
    steve = made(STEVE, **one).learn(80)
    mve = made(MVE, **one, critic_subsets=True, critic_reduction="mean").learn(80)
    assert same(steve.policy.state_dict(), mve.policy.state_dict())


@ALL
@pytest.mark.parametrize(("n", "n_steps"), [(100, 3), (300, 1)])  # few rows, and oneDNN's
@pytest.mark.parametrize("reduction", ["mean", "min"])
@pytest.mark.parametrize("weights", ["inverse_variance", "uniform", "last"])
def test_the_target_from_the_parts(
    cls: Any, reduction: str, weights: str, n: int, n_steps: int
) -> None:
    """Paths by the world model, Q-values critic by critic, and NumPy for the rest."""
    options = {"critic_reduction": reduction, "horizon_weights": weights, "n_steps": n_steps}
    model = made(cls, n_critics=3, gamma=0.9, **options).learn(60)
    batch = drawn(model, n)
    discounts = 0.9 if batch.discounts is None else batch.discounts.T
    assert n_steps == 1 or len(discounts.unique()) > 1  # some were cut short by an end
    found = target(model, batch)
    th.manual_seed(3)
    with th.no_grad():
        path = model.world.network.rollout(
            flat(batch.next_observations), lambda s: _flat(model.next_actions(s)), 2
        )
        q_values = th.stack(
            [
                th.stack(
                    [th.cat(model.critic_target(s, a), 1).T for s, a in zip(ss, aa, strict=True)]
                )
                for ss, aa in zip(path.observations, path.actions, strict=True)
            ]
        ).transpose(1, 2)  # [H + 1, L, M, B]
        values = expanded_values(path.rewards, path.continues, q_values, 0.9, path.bonus)
        every = td_target(batch.rewards.T, batch.dones.T, discounts, values).flatten(1, 3).numpy()
        least = expanded_values(
            path.rewards, path.continues, q_values.amin(1, keepdim=True), 0.9, path.bonus
        )
        chosen = td_target(batch.rewards.T, batch.dones.T, discounts, least).flatten(1, 3).numpy()
    means = (every if reduction == "mean" else chosen).mean(1)
    share = {
        "inverse_variance": 1 / (every.var(1) + 1e-8),
        "uniform": np.ones_like(means),
        "last": np.array([0, 0, 1])[:, None] * np.ones_like(means),
    }[weights]
    expected = (share / share.sum(0) * means).sum(0)
    assert found.flatten().numpy() == pytest.approx(expected, rel=1e-4, abs=1e-4)


def _flat(found: tuple[th.Tensor, th.Tensor]) -> tuple[th.Tensor, th.Tensor]:
    return found[0], found[1].squeeze(1)


def test_sac_s_imagined_steps_earn_their_entropy() -> None:
    """With rewards and values of 0, a state is worth the discounted entropy of its path."""
    bonus = th.tensor([0.5, 0.25, 1.0]).view(3, 1, 1)
    values = expanded_values(
        th.zeros(2, 1, 1, 1), alive(th.zeros(2, 1, 1)), th.zeros(3, 1, 1, 1), 0.5, bonus
    )
    assert values.flatten().tolist() == [0.5, 0.5 + 0.125, 0.5 + 0.125 + 0.25]


@ALL
def test_a_real_end_is_worth_its_reward(cls: Any) -> None:
    model = made(cls).learn(60)
    batch = drawn(model)._replace(dones=th.ones(16, 1))
    th.testing.assert_close(target(model, batch), batch.rewards)


@ALL
def test_no_gradient_reaches_the_target_or_the_world_model(cls: Any) -> None:
    model = made(cls).learn(60)
    assert not target(model, drawn(model)).requires_grad
    model.world.network.zero_grad()
    model.world.learn = lambda *_: None  # which would train it by its own losses
    model.gradient_step(drawn(model), th.ones(16, 1))
    assert all(one.grad is None for one in model.world.network.parameters())


def test_a_noisy_model_hands_the_weight_back_to_horizon_0() -> None:
    """Models that disagree about everything: their horizons count for little."""
    model = made(STEVE, n_models=4, n_critics=4).learn(80)
    with th.no_grad():
        for weight in model.world.network.transitions.weights:
            weight += 3 * th.randn_like(weight)
    batch = drawn(model)
    target(model, batch)
    assert model._figures["steve/weight_h0"][-1] > 0.9


# -- learning --------------------------------------------------------------------------------------


def test_each_critic_learns_from_its_own_part() -> None:
    model = made(STEVE, n_critics=4).learn(40)
    batch, wanted = drawn(model), th.randn(16, 1)
    found = model.critic_errors(batch, wanted)
    every = th.cat(model.critic(batch.observations, batch.actions), 1) - wanted  # [B, L]
    whose = (every - found[0]).abs().argmin(1)
    th.testing.assert_close(every.gather(1, whose[:, None]), found[0])
    assert whose.bincount().tolist() == [4, 4, 4, 4]
    model.critic.zero_grad()
    model.weighted_error(found, th.ones(16, 1)).backward()
    for number, network in enumerate(model.critic.q_networks):
        alone = every[whose == number, number].square().sum() / 16
        (expected,) = th.autograd.grad(alone, network[-1].bias, retain_graph=True)
        th.testing.assert_close(network[-1].bias.grad, expected)


def test_the_world_model_learns_single_steps_whatever_n_steps() -> None:
    """With n-step returns it would learn to jump, and to add rewards up."""
    model = made(STEVE, n_steps=3).learn(60)
    view, indices = model.replay_view, model.replay_view.window.indices()[:-3]
    one, three = view.single_steps(indices), view.gather(indices)
    buffer = model.replay_buffer
    assert np.array_equal(one.next_observations.numpy(), buffer.next_observations[indices, 0])
    assert np.array_equal(one.rewards.numpy(), buffer.rewards[indices])
    assert not th.equal(one.rewards, three.rewards)
    assert target(model, drawn(model)).shape == (16, 1)


def test_time_limits_are_no_ends() -> None:
    class Endless(gym.Env[Any, Any]):
        observation_space = gym.spaces.Box(-1, 1, (2,))
        action_space = gym.spaces.Box(-1, 1, (1,))

        def reset(self, *, seed: Any = None, options: Any = None) -> Any:
            super().reset(seed=seed)
            return self.np_random.uniform(-1, 1, 2).astype(np.float32), {}

        def step(self, action: Any) -> Any:
            return self.np_random.uniform(-1, 1, 2).astype(np.float32), 0.0, False, False, {}

    model = made(STEVE, gym.wrappers.TimeLimit(Endless(), 5), model_pretraining=400)
    model.learn(60)
    batch = drawn(model)
    with th.no_grad():
        _, _, ends = model.world.network.predict(flat(batch.observations), batch.actions)
    assert ends.mean() < 0.05  # of the steps, a fifth met the limit


@ALL
@pytest.mark.parametrize(
    "given",
    [
        {"replay": "per"},
        {"replay": "ere"},
        {"weighting": {"name": "lfiw", "fast_buffer_size": 20}},
        {"critic_loss": "huber"},
        {"critic_loss": "pal"},
        {"batch_size": 2, "n_critics": 4},  # a critic that gets nothing
        {"n_steps": 3},
        {"gradient_steps": 3, "model_updates": 2, "model_batch_size": 8},
    ],
    ids=str,
)
def test_it_composes(cls: Any, given: dict[str, Any]) -> None:
    model = made(cls, **given).learn(60)
    assert all(th.isfinite(p).all() for p in model.policy.parameters())


def test_several_environments_with_vec_normalize() -> None:
    env = VecNormalize(make_vec_env("Pendulum-v1", 3))
    model = made(STEVE, env).learn(90)
    assert model.world.updates > 0
    assert model.predict(env.reset())[0].shape == (3, 1)


def test_observations_of_more_axes_are_flattened() -> None:
    class Square(gym.ObservationWrapper[Any, Any, Any]):
        observation_space = gym.spaces.Box(-np.inf, np.inf, (3, 1), np.float64)

        def observation(self, observation: Any) -> Any:
            return observation[:, None].astype(np.float64)

    made(STEVE, Square(gym.make("Pendulum-v1"))).learn(60)


def test_errors_on_paths_that_were_held_out() -> None:
    """A model that knows the system has no error; the paths keep to episodes and to the slice."""

    class Line(gym.Env[Any, Any]):
        observation_space = gym.spaces.Box(-9, 9, (1,))
        action_space = gym.spaces.Box(-1, 1, (1,))

        def reset(self, *, seed: Any = None, options: Any = None) -> Any:
            super().reset(seed=seed)
            self.at = self.np_random.uniform(-5, 5, 1).astype(np.float32)
            return self.at, {}

        def step(self, action: Any) -> Any:
            self.at = self.at + action
            return self.at, 0.0, False, False, {}

    env = make_vec_env(lambda: gym.wrappers.TimeLimit(Line(), 7), 2)
    model = made(STEVE, env, buffer_size=200, learning_starts=1000).learn(500)
    network = model.world.network
    for parameter in network.parameters():
        parameter.data.zero_()
    network.differences_seen.mean.fill_(0.5)  # whatever the action, 0.5 to the right
    network.observations_seen.variance.fill_(4.0)
    view, rng = model.replay_view, np.random.default_rng(0)
    found = horizon_errors(network, view, 3, 0.3, 10, rng)
    buffer = model.replay_buffer
    expected = [[] for _ in range(3)]
    head = buffer.pos
    for age in range(99, 1, -1):  # rows from the oldest on whose two followers are there
        rows = (head - 1 - age + np.arange(3)) % 100
        for env in range(2):
            out = ((rows // 10 + 1) * 0.6180339887498949) % 1 < 0.3
            if out.all() and not buffer.dones[rows[:2], env].any():
                moved = np.cumsum(buffer.actions[rows, env, 0])
                for step in range(3):
                    expected[step].append(((0.5 * (step + 1) - moved[step]) / 2) ** 2)
    # Paths are drawn with replacement, so the errors are those of all up to chance.
    for step in range(3):
        error = np.sqrt(np.mean(expected[step]))
        assert found[step].item() == pytest.approx(error, rel=0.15)
    assert horizon_errors(network, view, 9, 0.3, 10, rng) is None  # longer than any episode


@ALL
def test_the_log_tells_of_weights_variances_and_errors(cls: Any) -> None:
    model = made(cls, model_pretraining=250, learning_starts=150, model_holdout=0.3).learn(180)
    told = model.logger.name_to_value
    weights = [told[f"steve/weight_h{i}"] for i in range(3)]
    assert sum(weights) == pytest.approx(1, abs=1e-5)
    assert told["steve/model_use"] == pytest.approx(1 - weights[0], abs=1e-5)
    for name in ("variance_h2", "transition_loss", "reward_loss", "termination_loss"):
        assert told[f"steve/{name}"] >= 0
    assert told["steve/model_error_h2"] > 0


# -- saving ----------------------------------------------------------------------------------------


@ALL
def test_a_loaded_model_has_its_world_model_and_goes_on(cls: Any, tmp_path: Any) -> None:
    model = made(cls).learn(60)
    model.save(tmp_path / "m")
    loaded = cls.load(tmp_path / "m", env=make_env())
    for part in ("network", "optimizer", "updates", "rng", "generator"):
        assert same(model.world.state_dict()[part], loaded.world.state_dict()[part]), part
    loaded.learn(40)
    assert loaded.world.updates > model.world.updates
    longer = cls.load(tmp_path / "m", env=make_env(), horizon=3).learn(40)
    assert "steve/weight_h3" in longer.logger.name_to_value


@pytest.mark.parametrize(
    ("cls", "stock", "base"), [(STEVE, sb3.TD3, TD3), (STEVESAC, sb3.SAC, SAC)]
)
def test_stock_zips_warm_start_it_and_it_leaves_stock_zips(
    cls: Any, stock: Any, base: Any, tmp_path: Any
) -> None:
    theirs = stock("MlpPolicy", make_env(), **copy.deepcopy(SMALL)).learn(60)
    theirs.save(tmp_path / "stock")
    ours = cls.load(tmp_path / "stock", env=make_env())
    assert ours.n_critics == 2
    assert same(ours.policy.state_dict(), theirs.policy.state_dict())
    ours.learn(60)
    ours.save_for_sb3(tmp_path / "back")
    back = stock.load(tmp_path / "back")
    assert same(back.policy.state_dict(), ours.policy.state_dict())
    assert ours.world.updates > 0
    base("MlpPolicy", make_env(), **copy.deepcopy(SMALL)).learn(40).save(tmp_path / "base")
    cls.load(tmp_path / "base", env=make_env()).learn(40)


def test_what_load_overrides_takes_effect(tmp_path: Any) -> None:
    made(STEVE).learn(40).save(tmp_path / "m")
    loaded = STEVE.load(
        tmp_path / "m", env=make_env(), model_learning_rate=1e-7, model_weight_decay=0.5
    )
    loaded.learn(40)
    (group,) = loaded.world.optimizer.param_groups
    assert (group["lr"], group["weight_decay"]) == (1e-7, 0.5)
    loaded.model_learning_rate = 1e-5  # as a callback would
    loaded.learn(10, reset_num_timesteps=False)
    assert loaded.world.optimizer.param_groups[0]["lr"] == 1e-5


def test_a_warm_start_chooses_its_world_model(tmp_path: Any) -> None:
    sb3.TD3("MlpPolicy", make_env(), **copy.deepcopy(SMALL)).save(tmp_path / "stock")
    ours = STEVE.load(tmp_path / "stock", env=make_env(), n_models=3, model_net_arch=(8,))
    assert ours.world.network.transitions.n_members == 3
    assert ours.world.network.transitions.weights[0].shape[2] == 8
    with pytest.raises(TypeError, match="cannot change n_critics"):
        STEVE.load(tmp_path / "stock", n_critics=4)


def test_a_zip_for_sb3_has_nothing_of_ours(tmp_path: Any) -> None:
    import json
    import zipfile

    made(STEVE).save_for_sb3(tmp_path / "m")
    with zipfile.ZipFile(tmp_path / "m.zip") as archive:
        data = json.loads(archive.read("data"))
    assert not {"world", "horizon", "n_models", "_figures"} & set(data)


def test_a_critic_of_somebody_s_own_is_asked_as_it_wishes() -> None:
    class Doubled(ContinuousCritic):
        def forward(self, obs: Any, actions: Any) -> Any:
            return tuple(2 * one for one in super().forward(obs, actions))

    class Policy(TD3Policy):
        def make_critic(self, features_extractor: Any = None) -> Any:
            given = self._update_features_extractor(self.critic_kwargs, features_extractor)
            return Doubled(**given).to(self.device)

    model = STEVE(Policy, make_env(), **copy.deepcopy({**SMALL, **MODEL}), n_critics=4).learn(40)
    batch, wanted = drawn(model), th.zeros(16, 1)
    found = model.critic_errors(batch, wanted)
    every = th.cat(model.critic(batch.observations, batch.actions), 1)
    whose = (every - found[0]).abs().argmin(1)
    th.testing.assert_close(every.gather(1, whose[:, None]), found[0])
    assert whose.bincount(minlength=4).tolist() == [4, 4, 4, 4]


def test_another_horizon_is_logged_as_such() -> None:
    model = made(STEVE, horizon=3, learning_starts=150, model_pretraining=250, model_holdout=0.3)
    model.learn(160)
    assert "steve/model_error_h3" in model.logger.name_to_value
    model.horizon = 1
    model.model_updates = 250  # which reaches the next look
    model.learn(2, reset_num_timesteps=False)
    told = model.logger.name_to_value
    assert "steve/model_error_h1" in told
    assert not any(name.endswith(("_h2", "_h3")) for name in told)


def test_the_paper_s_base() -> None:
    model = made(STEVE, base="ddpg")
    assert (model.policy_delay, model.target_policy_noise) == (1, 0.0)
    assert made(STEVE, base="ddpg", policy_delay=3).policy_delay == 3


# -- mistakes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"horizon": -1}, "horizon must be an integer >= 0"),
        ({"horizon": 2.0}, "horizon must be an integer >= 0"),
        ({"n_models": 0}, "n_models must be an integer >= 1"),
        ({"n_critics": 0}, "n_critics must be"),
        ({"n_critics": 1}, "n_critics must be at least 2 with horizon_weights"),
        ({"model_pretraining": 0.0}, "model_pretraining must be None or an integer"),
        ({"horizon_weights": "best"}, "horizon_weights must be one of"),
        ({"critic_reduction": "max"}, "critic_reduction must be one of"),
        ({"model_net_arch": 64}, "a list of widths"),
        ({"model_net_arch": ()}, "a list of widths"),
        ({"model_learning_rate": 0}, "model_learning_rate must be > 0"),
        ({"model_updates": 0}, "model_updates must be"),
        ({"model_holdout": 0.9}, "model_holdout must be 0, or in"),
        ({"base": "sac"}, "base must be one of 'td3', 'ddpg'"),
        ({"optimize_memory_usage": True}, "no observation in which an episode ended"),
    ],
    ids=str,
)
def test_options_that_cannot_work(given: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        made(STEVE, **given)


def test_names_that_are_wrong() -> None:
    with pytest.raises(TypeError, match="did you mean 'horizon'"):
        made(STEVE, horizn=3)
    with pytest.raises(TypeError, match="n_critics: give it to STEVE itself"):
        made(STEVE, policy_kwargs={"n_critics": 3})


def test_spaces_that_it_cannot_model() -> None:
    for policy in ("MultiInputPolicy", "MlpPolicy"):
        with pytest.raises(ValueError, match=r"vectors \(Box\), got .*flatten them"):
            STEVE(policy, make_env("dict"), **copy.deepcopy(SMALL))
    image = gym.wrappers.TransformObservation(
        gym.make("Pendulum-v1"),
        lambda _: np.zeros((36, 36, 1), np.uint8),
        gym.spaces.Box(0, 255, (36, 36, 1), np.uint8),
    )
    with pytest.raises(ValueError, match="got images"):
        STEVE("CnnPolicy", image, **copy.deepcopy(SMALL))
    with pytest.raises((ValueError, AssertionError), match="Discrete"):
        STEVE("MlpPolicy", "CartPole-v1")


def test_a_world_model_that_diverges_stops_in_words() -> None:
    model = made(STEVE).learn(40)
    with th.no_grad():
        model.world.network.rewards.weights[0].fill_(th.nan)
    before = copy.deepcopy(model.policy.state_dict())
    statistics = copy.deepcopy(dict(model.world.network.named_buffers()))
    with pytest.raises(
        NonFiniteError, match=r"diverged at step 4\d, its update \d+: .*model_learning_rate"
    ):
        model.learn(20, reset_num_timesteps=False)
    assert same(before, model.policy.state_dict())
    assert same(statistics, dict(model.world.network.named_buffers()))


def test_a_reward_beyond_all_bounds_is_named_and_leaves_no_trace() -> None:
    model = made(STEVE).learn(40)
    model.replay_buffer.rewards[:40:2] = 1e20
    with pytest.raises(NonFiniteError, match=r"observation or reward of its batch is 1e\+20"):
        model.learn(20, reset_num_timesteps=False)
    assert model.world.network.rewards_seen.variance.isfinite().all()


def test_what_a_callback_changes_is_checked() -> None:
    model = made(STEVE).learn(40)
    model.horizon_weights = "lsat"
    with pytest.raises(ValueError, match="horizon_weights must be one of"):
        model.learn(10, reset_num_timesteps=False)


def test_imagined_states_that_diverge_stop_in_words() -> None:
    model = made(STEVE).learn(40)
    model.world.network.differences_seen.mean.fill_(th.inf)
    for n in (16, 300):
        with pytest.raises(NonFiniteError, match=r"at step 40, gradient .*shorter horizon"):
            target(model, drawn(model, n))
    critics = made(STEVE).learn(40)
    critics.critic_target.q_networks[0][0].weight.data.fill_(th.nan)
    for n in (16, 300):
        with pytest.raises(NonFiniteError, match="the critics have diverged"):
            target(critics, drawn(critics, n))


def test_what_load_cannot_change(tmp_path: Any) -> None:
    made(STEVE).save(tmp_path / "m")
    with pytest.raises(TypeError, match="load cannot change n_models: the networks are those"):
        STEVE.load(tmp_path / "m", n_models=7)
    with pytest.raises(TypeError, match="cannot change base: it only chooses defaults"):
        STEVE.load(tmp_path / "m", base="ddpg")
    sb3.TD3("MlpPolicy", make_env()).save(tmp_path / "stock")
    with pytest.raises(TypeError, match="give policy_delay= and target_policy_noise="):
        STEVE.load(tmp_path / "stock", base="ddpg")
    with pytest.raises(CheckpointError, match=r"saved by STEVE.*STEVE\.load"):
        TD3.load(tmp_path / "m")


def test_without_a_seed_world_models_differ_and_torch_s_seed_decides_them() -> None:
    def weights() -> th.Tensor:
        return next(made(STEVE, seed=None).world.network.parameters()).detach()

    th.manual_seed(5)
    first, second = weights(), weights()
    th.manual_seed(5)
    assert th.equal(weights(), first) and not th.equal(first, second)


def test_type_checkers_know_the_options() -> None:
    """The typed dictionaries repeat the signature that has the defaults; they must not drift."""
    named = dict(inspect.signature(ModelBased.__init__).parameters)
    own = {n: p.annotation for n, p in named.items() if p.kind is p.KEYWORD_ONLY}
    base = set(BaseArguments.__annotations__)
    told = {n: a for n, a in get_type_hints(ExpansionArguments).items() if n not in base}
    assert told == {n: get_type_hints(ModelBased.__init__)[n] for n in own}
    fixed = {
        n for n, p in inspect.signature(MVE.__init__).parameters.items() if p.kind is p.KEYWORD_ONLY
    }
    assert fixed - {"base"} == set(told) - (set(get_type_hints(WorldArguments)) - base)
