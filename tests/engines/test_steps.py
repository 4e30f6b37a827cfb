"""The fast step is the reference's, update by update, for every configuration that it serves."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stable_baselines3 as sb3
import torch as th

from sb3_ext.algorithms.dqn import DQN
from sb3_ext.algorithms.sac import SAC
from sb3_ext.algorithms.td3 import DDPG, TD3
from sb3_ext.engines.actor_critic import FusedStep
from sb3_ext.engines.products import Products
from sb3_ext.engines.sac import ROW_STEP
from sb3_ext.errors import NonFiniteError
from sb3_ext.plugins.lfiw.algorithms import LFIWDQN, LFIWSAC, LFIWTD3
from tests.environments import make_env

SMALL: dict[str, Any] = {"learning_starts": 30, "batch_size": 20, "buffer_size": 250, "seed": 3}
SETTINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "four steps a call": {"gradient_steps": 4},
    "schedule": {"learning_rate": lambda progress: 1e-3 * (0.1 + abs(progress))},
    "VecNormalize": {"env": {"normalize": True}},
    "Dict": {"env": {"kind": "dict"}, "policy": "MultiInputPolicy"},
    "3 envs": {"env": {"n_envs": 3}},
    "n_steps": {"n_steps": 3},
    "other widths": {"policy_kwargs": {"net_arch": {"pi": [9], "qf": [12, 7, 5]}}},
    "no hidden layer": {"policy_kwargs": {"net_arch": []}},
    "three critics": {"policy_kwargs": {"n_critics": 3}},
    "one critic": {"policy_kwargs": {"n_critics": 1}},
    "shared encoder": {"policy_kwargs": {"share_features_extractor": True}},
    "optimiser's options": {"policy_kwargs": {"optimizer_kwargs": {"betas": (0.8, 0.9)}}},
    "huber": {"critic_loss": "huber"},
    "PAL": {"critic_loss": "pal"},
    "PER": {"replay": "per"},
    "LAP": {"replay": "lap"},
    "ERE": {"replay": {"name": "ere", "c_min": 20}},
    "wide and many": {"policy_kwargs": {"net_arch": [160, 160]}, "batch_size": 140, "updates": 8},
}
OF_SAC: dict[str, dict[str, Any]] = {
    "target interval": {"target_update_interval": 3, "gradient_steps": 4},
    "fixed entropy": {"ent_coef": 0.1},
    "entropy from 0.3": {"ent_coef": "auto_0.3"},
}
CASES = [
    *(pytest.param(SAC, s, id=f"SAC-{n}") for n, s in (SETTINGS | OF_SAC).items()),
    *(pytest.param(TD3, s, id=f"TD3-{n}") for n, s in SETTINGS.items()),
    pytest.param(TD3, {"policy_delay": 3}, id="TD3-delay"),
    *(pytest.param(DDPG, SETTINGS[n], id=f"DDPG-{n}") for n in ("default", "Dict", "PER")),
    *(
        pytest.param(cls, {"fast_buffer_size": 20} | SETTINGS[n], id=f"{cls.__name__}-{n}")
        for cls in (LFIWSAC, LFIWTD3)
        for n in ("default", "VecNormalize", "Dict", "3 envs", "PER", "wide and many")
    ),
]

FAST: dict[Any, dict[str, Any]] = {LFIWSAC: {"fast_buffer_size": 20}}


def made(cls: Any, engine: str, **setting: Any) -> Any:
    setting = SMALL | setting
    env = make_env(**setting.pop("env", {}), discrete=cls in (DQN, LFIWDQN))
    policy = setting.pop("policy", "MlpPolicy")
    nets = {"net_arch": [16, 16]} | setting.pop("policy_kwargs", {})
    return cls(policy, env, policy_kwargs=nets, engine=engine, device="cpu", **setting)


def moments(model: Any) -> dict[str, th.Tensor]:
    """All tensors that an update changes, by name: parameters and optimisers' moments."""
    found = {}

    def take(name: str, state: Any) -> None:
        if isinstance(state, dict):
            for key, value in state.items():
                take(f"{name}/{key}", value)
        elif isinstance(state, th.Tensor):
            found[name] = state.detach().clone()
            if not state.is_floating_point():
                found[name] = found[name].float()

    take("", model.get_parameters())
    if getattr(model, "log_ent_coef", None) is not None:
        found["log_ent_coef"] = model.log_ent_coef.detach().clone()
    return found


def begin_alike(one: Any, other: Any) -> None:
    """The other goes on from where the one is, and draws what it draws."""
    # Copied, since torch's load_state_dict would let both optimisers share their moments.
    other.set_parameters(copy.deepcopy(one.get_parameters()))
    if getattr(one, "log_ent_coef", None) is not None:
        other.log_ent_coef.data = one.log_ent_coef.data.clone()
    if one.sampler is not None:
        other.sampler.load_state_dict(one.sampler.state_dict())
    other._n_updates = one._n_updates
    other._current_progress_remaining = one._current_progress_remaining


def require_the_references_updates(engine: str, cls: Any, setting: dict[str, Any]) -> None:
    """Each update of an engine, from the same state and with the same draws."""
    setting = dict(setting)
    updates = setting.pop("updates", 40)
    reference, fused = (made(cls, name, **setting) for name in ("reference", engine))
    reference.learn(90)
    fused._setup_learn(90)
    fused.replay_buffer = reference.replay_buffer
    fused._vec_normalize_env = reference._vec_normalize_env
    fused.tell_sampler()
    gradient_steps = setting.get("gradient_steps", 1)
    for update in range(updates // gradient_steps):
        begin_alike(reference, fused)
        before = moments(reference)
        for model in (reference, fused):
            np.random.seed(update)
            th.manual_seed(update)
            model.logger.name_to_value.clear()
            model.train(gradient_steps, model.batch_size)
        mine, theirs = moments(fused), moments(reference)
        assert mine.keys() == theirs.keys()
        for name, value in theirs.items():
            # Beside the step that was taken, or the moments' own size: 40 updates of drift in
            # float32 would hide a wrong term.
            error = (mine[name] - value).norm()
            size = value.norm() if "exp_avg" in name else (value - before[name]).norm()
            assert error <= 2e-3 * size + 1e-6, (update, name, error, size)
        for name, value in reference.logger.name_to_value.items():
            told = fused.logger.name_to_value[name]
            assert told == pytest.approx(value, rel=1e-4, abs=1e-5), name
    assert isinstance(fused.stepper(), FusedStep)
    assert reference.stepper() is reference
    if "lfiw/active" in fused.logger.name_to_value:
        assert fused.logger.name_to_value["lfiw/active"] == 1


@pytest.mark.parametrize(("cls", "setting"), CASES)
def test_an_update_is_the_references(cls: Any, setting: dict[str, Any]) -> None:
    require_the_references_updates("fused", cls, setting)


def test_a_tie_of_the_critics_goes_to_the_one_that_sb3_takes() -> None:
    """Twins that agree everywhere: torch's minimum names the first, so the second is not asked."""
    found = []
    for engine in ("reference", "fused"):
        model = made(SAC, engine)
        first, second = model.critic.q_networks
        second.load_state_dict(first.state_dict())
        found.append(moments(model.learn(31)))
    theirs, mine = found
    names = [name for name in theirs if name.startswith("/actor.optimizer") and "exp_avg" in name]
    assert len(names) == 16
    for name in names:
        th.testing.assert_close(mine[name], theirs[name], rtol=1e-3, atol=1e-7)


def test_products_have_few_shapes() -> None:
    """oneDNN makes and keeps a kernel for each: memory, and the time to make it."""
    shapes: set[tuple[int, ...]] = set()

    class Seen(Products):
        def input_gradient(self, gradient: th.Tensor, weight: th.Tensor) -> th.Tensor:
            shapes.add((*gradient.shape, *weight.shape))
            return super().input_gradient(gradient, weight)

    model = made(SAC, "fused", batch_size=100).learn(90)
    model.chosen_engine.fused.products = Seen()
    model.train(50, 100)
    rows = {shape[0] for shape in shapes}
    assert len(rows) > 2  # the split between the critics does change
    assert all(n == 100 or n % ROW_STEP == 0 for n in rows)


@pytest.mark.parametrize("cls", [SAC, TD3, LFIWSAC])
def test_a_run_is_repeatable_to_the_bit(cls: Any) -> None:
    runs = [moments(made(cls, "fused", **FAST.get(cls, {})).learn(120)) for _ in range(2)]
    assert all(th.equal(runs[0][name], value) for name, value in runs[1].items())


@pytest.mark.parametrize("cls", [SAC, TD3])
def test_a_thousand_updates_end_where_the_references_do(cls: Any) -> None:
    """Of the same fixed data: rounding grows, but both learn the same values of it."""
    models = [made(cls, engine) for engine in ("reference", "fused")]
    models[0].learn(250)
    models[1]._setup_learn(1)
    models[1].replay_buffer = models[0].replay_buffer
    begin_alike(*models)
    values = []
    for model in models:
        np.random.seed(0)
        th.manual_seed(0)
        model.train(1000, 20)
        buffer = model.replay_buffer
        rows = (
            buffer.to_torch(buffer.observations[:200, 0]),
            buffer.to_torch(buffer.actions[:200, 0]),
        )
        with th.no_grad():
            values.append(model.critic(*rows)[0])
    spread = values[0].std()
    assert (values[1] - values[0]).abs().mean() < 0.02 * spread
    assert spread > 0.1


# -- where it does not fit -------------------------------------------------------------------------


class OwnStep(SAC):
    def gradient_step(self, batch: Any, weights: th.Tensor) -> Any:
        return super().gradient_step(batch, weights)


class OwnOpinion(TD3):
    def together(self, q_values: tuple[th.Tensor, ...]) -> th.Tensor:
        return th.cat(q_values, dim=1).mean(1, keepdim=True)


OUTSIDE: list[tuple[Any, dict[str, Any], str]] = [
    (SAC, {"use_sde": True}, "use_sde=True"),
    (SAC, {"policy_kwargs": {"activation_fn": th.nn.Tanh}}, "Tanh where ReLU"),
    (TD3, {"policy_kwargs": {"activation_fn": th.nn.ELU}}, "ELU where ReLU"),
    (TD3, {"policy_kwargs": {"optimizer_class": th.optim.AdamW}}, "AdamW, not torch's Adam"),
    (SAC, {"policy_kwargs": {"optimizer_kwargs": {"weight_decay": 0.1}}}, "weight_decay=0.1"),
    (SAC, {"env": {"kind": "image"}, "policy": "CnnPolicy", "buffer_size": 60}, "NatureCNN"),
    (OwnStep, {}, "OwnStep has its own gradient_step"),
    (OwnOpinion, {}, "OwnOpinion has its own together"),
    (DQN, {}, "DQN has no fast step"),
]


@pytest.mark.parametrize(("cls", "setting", "why"), OUTSIDE)
def test_outside_of_it_the_reference_runs_and_says_so_once(
    cls: Any, setting: dict[str, Any], why: str, capsys: Any
) -> None:
    model = made(cls, "auto", verbose=1, **setting)
    model.learn(33, log_interval=None)
    said = capsys.readouterr().out
    # A class that has no fast step at all has nothing to tell.
    assert said.count("engine='auto' takes the reference engine: ") == (cls is not DQN)
    assert cls is DQN or why in said
    assert model.stepper() is model
    made(cls, "auto", verbose=0, **setting)
    assert "engine" not in capsys.readouterr().out
    with pytest.raises(ValueError, match=f"engine='fused' does not fit this .*{why}.*'auto'"):
        made(cls, "fused", **setting)


def test_what_it_serves_it_takes_without_a_word(capsys: Any) -> None:
    model = made(SAC, "auto", verbose=1)
    assert "engine" not in capsys.readouterr().out
    assert isinstance(model.stepper(), FusedStep)


def test_who_hooks_in_later_is_served_by_the_reference(capsys: Any) -> None:
    model = made(SAC, "auto", verbose=1).learn(40, log_interval=None)
    seen = []
    model.critic.qf0[0].weight.register_hook(lambda gradient: seen.append(gradient))
    model.learn(5, reset_num_timesteps=False, log_interval=None)
    assert len(seen) == 5
    assert capsys.readouterr().out.count("somebody hooked into a parameter") == 1
    strict = made(SAC, "fused").learn(40)
    strict.actor.mu.weight.requires_grad_(False)
    with pytest.raises(ValueError, match=r"a parameter is frozen.*engine='auto'"):
        strict.learn(5, reset_num_timesteps=False)


def changed_alike(change: Any, cls: Any = SAC, **setting: Any) -> list[Any]:
    """One model of each engine, changed after some updates by somebody who knows no engine."""
    models = []
    for engine in ("reference", "auto"):
        model = made(cls, engine, **setting)
        model.learn(50)
        np.random.seed(0)
        th.manual_seed(0)
        change(model)
        model.train(15, 20)
        models.append(model)
    return models


def with_fresh_optimisers(model: Any) -> None:
    model.critic.optimizer = th.optim.Adam(model.critic.parameters(), lr=1e-3)
    model.actor.optimizer = th.optim.Adam(model.actor.parameters(), lr=1e-3)


def reset_last_layers(model: Any) -> None:
    for net in model.critic.q_networks:
        net[-1] = th.nn.Linear(16, 1)
    model.actor.mu.weight = th.nn.Parameter(th.zeros_like(model.actor.mu.weight))
    with_fresh_optimisers(model)


def other_optimiser(model: Any) -> None:
    model.critic.optimizer = th.optim.SGD(model.critic.parameters(), lr=1e-3)


def dropout(model: Any) -> None:
    model.critic.qf0.insert(2, th.nn.Dropout(0.0))


def normalised_weights(model: Any) -> None:
    for critic in (model.critic, model.critic_target):
        th.nn.utils.parametrizations.spectral_norm(critic.qf0[0])


def no_more_tuning(model: Any) -> None:
    model.ent_coef_optimizer = None


def clipped(model: Any) -> None:
    step, critic = model.critic.optimizer.step, model.critic

    def clipping(*args: Any) -> Any:
        th.nn.utils.clip_grad_norm_(critic.parameters(), 1e-3)
        return step(*args)

    model.critic.optimizer.step = clipping


def scheduled(model: Any) -> None:
    th.optim.lr_scheduler.StepLR(model.critic.optimizer, 1)


def doubled_outputs(model: Any) -> None:
    forward = model.critic.forward
    model.critic.forward = lambda *args: tuple(2 * value for value in forward(*args))


def own_step_before(model: Any) -> None:
    model.critic.optimizer.zero_grad()
    model.critic.qf0[0].weight.square().sum().backward()
    model.critic.optimizer.step()


def own_step_of_all(model: Any) -> None:
    model.critic.optimizer.zero_grad()
    sum(one.square().sum() for one in model.critic.parameters()).backward()
    model.critic.optimizer.step()


def shared_memory(model: Any) -> None:
    model.policy.share_memory()


@pytest.mark.parametrize(
    ("change", "still"),
    [
        (with_fresh_optimisers, True),
        (reset_last_layers, True),
        (no_more_tuning, True),
        (own_step_of_all, True),
        (other_optimiser, False),
        (dropout, False),
        (normalised_weights, False),
        (clipped, False),
        (scheduled, False),
        (doubled_outputs, False),
        (own_step_before, False),
        (shared_memory, False),
    ],
)
def test_whatever_is_changed_inside_the_model_counts(change: Any, still: bool) -> None:
    """As under the reference: on the fast engine where it fits (still), or on the reference."""
    reference, auto = changed_alike(change)
    assert isinstance(auto.stepper(), FusedStep) is still
    theirs, mine = moments(reference), moments(auto)
    assert mine.keys() == theirs.keys()
    for name, value in theirs.items():
        # Both engines began at the same place up to rounding, and took 15 updates since.
        assert (mine[name] - value).norm() <= 2e-3 * value.norm() + 1e-5, name
    if change is shared_memory:
        assert all(one.is_shared() for one in auto.policy.parameters())
    if change is reset_last_layers:
        assert float(auto.critic.qf0[-1].weight.detach().abs().max()) > 0
        assert float(auto.actor.mu.weight.detach().abs().max()) > 0


def test_a_hook_of_all_modules_is_seen() -> None:
    model = made(SAC, "auto").learn(40)
    hook = th.nn.modules.module.register_module_forward_hook(lambda *_: None)
    try:
        assert model.stepper() is model
    finally:
        hook.remove()
    assert isinstance(model.stepper(), FusedStep)


def test_an_engine_that_was_asked_for_does_not_slip_away() -> None:
    model = made(SAC, "fused").learn(40)
    hook = model.critic.register_forward_hook(lambda *_: None)
    for _ in range(2):
        with pytest.raises(ValueError, match="hooked into ContinuousCritic"):
            model.learn(5, reset_num_timesteps=False)
    hook.remove()
    model.learn(5, reset_num_timesteps=False)
    assert isinstance(model.stepper(), FusedStep)


def test_gradients_can_be_looked_at_after_zero_grad() -> None:
    model = made(TD3, "fused").learn(40)
    model.critic.optimizer.zero_grad()
    model.train(2, 20)
    assert all(one.grad is not None and one.grad.any() for one in model.critic.parameters())


@pytest.mark.parametrize("door", ["weighted_error", "critic_error"])
def test_a_variants_loss_is_asked(door: str) -> None:
    model = made(type("Nothing", (SAC,), {door: lambda self, e, w: 0.0 * e.sum()}), "fused")
    before = {name: value.clone() for name, value in model.critic.state_dict().items()}
    model.learn(50)
    assert isinstance(model.stepper(), FusedStep)
    assert all(th.equal(value, before[name]) for name, value in model.critic.state_dict().items())


def test_who_moves_the_targets_otherwise_is_served_by_the_reference() -> None:
    class Stays(SAC):
        def _create_aliases(self) -> None:
            super()._create_aliases()
            self.follower = type("Nobody", (), {"follow": lambda self, tau: None})()

    model = made(Stays, "auto")
    before = {name: value.clone() for name, value in model.critic_target.state_dict().items()}
    model.learn(50)
    after = model.critic_target.state_dict()
    assert all(th.equal(after[name], value) for name, value in before.items())


def test_an_actor_of_nan_stops_before_anything_learns_from_it() -> None:
    model = made(SAC, "fused").learn(40)
    model.actor.mu.weight.data[:] = th.nan
    before = {name: value.clone() for name, value in model.critic.state_dict().items()}
    with pytest.raises(NonFiniteError, match=r"the actor gives NaN at update 11, step 40"):
        model.train(1, 20)
    assert all(th.equal(value, before[name]) for name, value in model.critic.state_dict().items())


def test_an_engine_that_is_changed_on_the_model_counts() -> None:
    model = made(TD3, "fused").learn(50)
    model.engine = "reference"
    model.learn(20, reset_num_timesteps=False)
    assert model.stepper() is model
    steps = {float(s["step"]) for s in model.critic.optimizer.state.values()}
    assert steps == {model._n_updates}
    model.engine = "fused"
    model.learn(20, reset_num_timesteps=False)
    assert {float(s["step"]) for s in model.critic.optimizer.state.values()} == {model._n_updates}
    model.engine = "warp"
    with pytest.raises(ValueError, match="engine must be one of"):
        model.learn(20, reset_num_timesteps=False)


def test_a_variants_target_is_asked() -> None:
    class Nought(SAC):
        asked = 0

        def bellman_target(self, batch: Any) -> th.Tensor:
            Nought.asked += 1
            return th.zeros_like(batch.rewards)

    model = made(Nought, "fused")
    model.learn(60)
    assert isinstance(model.stepper(), FusedStep)
    assert Nought.asked == model._n_updates


# -- the tensors stay the model's own --------------------------------------------------------------


@pytest.mark.parametrize("cls", [SAC, TD3, LFIWSAC])
def test_a_saved_model_goes_on_as_if_it_had_not_been_saved(cls: Any, tmp_path: Path) -> None:
    model = made(cls, "fused", **FAST.get(cls, {})).learn(60)
    model.save(tmp_path / "m")
    loaded = cls.load(tmp_path / "m", env=model.get_env())
    loaded.replay_buffer = model.replay_buffer
    loaded._setup_learn(1, reset_num_timesteps=False)
    for one in (model, loaded):
        np.random.seed(1)
        th.manual_seed(1)
        one.train(20, 20)
    theirs = moments(loaded)
    assert all(th.equal(value, theirs[name]) for name, value in moments(model).items())


@pytest.mark.parametrize(("ours", "stock"), [(SAC, sb3.SAC), (TD3, sb3.TD3)])
def test_stock_sb3_takes_the_zip(ours: Any, stock: Any, tmp_path: Path) -> None:
    model = made(ours, "fused").learn(60)
    model.save_for_sb3(tmp_path / "m")
    taken = stock.load(tmp_path / "m", env=make_env())
    names = taken.policy.state_dict()
    assert all(th.equal(value, names[name]) for name, value in model.policy.state_dict().items())
    taken.learn(110)


def test_the_zip_is_no_larger(tmp_path: Path) -> None:
    """Views of one memory are written once, and targets or moments do not drag others along."""
    sizes = []
    for engine in ("reference", "fused"):
        made(SAC, engine, policy_kwargs={"net_arch": [64, 64]}).learn(60).save(tmp_path / engine)
        sizes.append((tmp_path / f"{engine}.zip").stat().st_size)
    assert sizes[1] < 1.05 * sizes[0]


@pytest.mark.parametrize("cls", [SAC, TD3])
def test_a_pickled_policy_is_no_larger(cls: Any) -> None:
    """Or one that is sent to a worker process would drag all networks along with each tensor."""
    nets = {"policy_kwargs": {"net_arch": [64, 64]}}
    models = [made(cls, engine, **nets).learn(60) for engine in ("reference", "fused")]
    sizes = [len(pickle.dumps(model.policy)) for model in models]
    assert sizes[1] < 1.5 * sizes[0]  # gradients of critic and actor are there in both
    copied = pickle.loads(pickle.dumps(models[1].policy))
    for mine, theirs in zip(copied.parameters(), models[1].policy.parameters(), strict=True):
        assert th.equal(mine, theirs)


def test_an_optimiser_put_in_afterwards_is_stepped() -> None:
    model = made(TD3, "fused").learn(50)
    model.critic.optimizer = th.optim.Adam(model.critic.parameters(), lr=1e-3)
    model.learn(10, reset_num_timesteps=False)
    assert isinstance(model.stepper(), FusedStep)
    assert {float(s["step"]) for s in model.critic.optimizer.state.values()} == {10}


def test_a_variants_target_may_differentiate() -> None:
    class Differentiates(TD3):
        def bellman_target(self, batch: Any) -> th.Tensor:
            leaf = th.ones_like(batch.rewards, requires_grad=True)
            (gradient,) = th.autograd.grad((leaf * batch.rewards).sum(), leaf)
            return gradient * leaf

    made(Differentiates, "fused").learn(40)


def test_a_policy_put_in_afterwards_is_learned() -> None:
    model, other = made(SAC, "fused").learn(60), made(SAC, "fused", seed=4)
    kept = {name: value.clone() for name, value in model.policy.state_dict().items()}
    first = model.policy
    model.policy = other.policy
    model._create_aliases()
    before = {name: value.clone() for name, value in model.policy.state_dict().items()}
    model.learn(20, reset_num_timesteps=False)
    assert isinstance(model.stepper(), FusedStep)
    assert all(th.equal(value, kept[name]) for name, value in first.state_dict().items())
    assert not any(th.equal(v, before[n]) for n, v in model.policy.state_dict().items())


@pytest.mark.parametrize("cls", [SAC, TD3, LFIWSAC])
def test_bf16_is_another_result_and_learns(cls: Any) -> None:
    """The gate of its products, small networks: one wide enough that they are rounded."""
    wide = {"policy_kwargs": {"net_arch": [64, 64]}} | FAST.get(cls, {})
    exact, rough = (made(cls, engine, **wide).learn(60) for engine in ("fused", "fused_bf16"))
    mine, theirs = moments(rough), moments(exact)
    different = [n for n in mine if n.endswith("weight") and not th.equal(mine[n], theirs[n])]
    assert different
    for name in different:
        assert th.isfinite(mine[name]).all()
        assert (mine[name] - theirs[name]).norm() < 0.2 * theirs[name].norm()


@pytest.mark.parametrize("engine", ["auto", "reference"])
def test_the_ratio_network_of_another_base_follows_the_engine(engine: str) -> None:
    """LFIWDQN's step has one engine; its ratio network has two that agree."""
    model = made(LFIWDQN, engine, fast_buffer_size=20, train_freq=1).learn(70)
    assert (model.weigher._engine is not None) is (engine == "auto")
    assert model.logger.name_to_value["lfiw/active"] == 1
