"""The laws of an algorithm: what every script of an SB3 user relies on."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.vec_env import VecEnv

from sb3_ext import registry
from sb3_ext.algorithms.composable import Composable
from sb3_ext.signatures import constructor_arguments
from sb3_ext.testing.environments import ACTIONS, OBSERVATIONS, kit_env
from sb3_ext.testing.runs import lost_by_a_kill
from sb3_ext.trees import finite, same, snapshot
from sb3_ext.updates import Clock


class AlgorithmConformance:
    """Inherit, name your class, and run with pytest::

        class TestMine(AlgorithmConformance):
            algorithm = MyAlgorithm
            kwargs = {"learning_starts": 20, "batch_size": 16}

    Which spaces are tried is what the plugin's spec declares; for a class without one, say it in
    ``action_spaces`` and ``observation_spaces``.
    """

    algorithm: ClassVar[Any]
    """The class."""
    kwargs: ClassVar[dict[str, Any]] = {}
    """Its arguments, for a small budget: it must have updated its networks after ``steps``."""
    steps: ClassVar[int] = 80
    action_spaces: ClassVar[tuple[str, ...] | None] = None
    observation_spaces: ClassVar[tuple[str, ...] | None] = None

    # -- what the laws are tried on ----------------------------------------------------------

    def declared(self, axis: str, known: tuple[str, ...]) -> tuple[str, ...]:
        """The kinds of spaces that the class says it takes."""
        said = getattr(self, axis)
        spec = registry.spec_of(self.algorithm)
        if said is None and spec is not None:
            said = getattr(spec, axis) or known
        assert said, (
            f"{self.algorithm.__name__} has no spec, so the suite must say {axis}, "
            f'such as {axis} = ("Box",)'
        )
        return tuple(kind for kind in said if kind in known)

    def spaces(self) -> Iterator[dict[str, Any]]:
        """All combinations that the class takes, as arguments of the environment."""
        for action in self.declared("action_spaces", ACTIONS):
            for observation in self.declared("observation_spaces", OBSERVATIONS):
                yield {"action": action, "observation": observation}

    def make(self, env: VecEnv | str | None = None, **changes: Any) -> Any:
        """A new model; on the first declared space unless ``env`` says otherwise."""
        env = kit_env(**next(self.spaces())) if env is None else env
        space = getattr(env, "observation_space", None)
        small = {"policy_kwargs": {"net_arch": [16, 16]}, "seed": 1, "device": "cpu"}
        given = {**small, **copy.deepcopy(self.kwargs), **changes}
        policy = "MlpPolicy"
        if isinstance(space, gym.spaces.Dict):
            policy = "MultiInputPolicy"
        elif is_image_space(space) if space is not None else False:
            policy = "CnnPolicy"
            given["policy_kwargs"] = {
                "features_extractor_kwargs": {"features_dim": 16},
                **given["policy_kwargs"],
            }
        return self.algorithm(policy, env, **given)

    def learned(self, env: VecEnv | None = None, **changes: Any) -> Any:
        """A model that has learned for ``steps``."""
        return self.make(env, **changes).learn(self.steps)

    @property
    def name(self) -> str:
        """The class's name, for the sentences."""
        return str(self.algorithm.__name__)

    # -- the laws ----------------------------------------------------------------------------

    def test_is_an_sb3_algorithm(self) -> None:
        assert isinstance(self.algorithm, type) and issubclass(self.algorithm, BaseAlgorithm), (
            f"{self.algorithm!r} must be a class that inherits from one of SB3's algorithms"
        )

    def test_takes_sb3_arguments(self) -> None:
        known = constructor_arguments(self.algorithm)
        for argument in ("policy", "env", "seed", "device", "verbose", "tensorboard_log"):
            assert argument in known, f"{self.name} must take {argument}=, as SB3's algorithms do"
        assert list(known)[:2] == ["policy", "env"], (
            f"{self.name} must take policy and env first, got {list(known)[:2]}"
        )

    def test_search_space_names_arguments(self) -> None:
        spec = registry.spec_of(self.algorithm)
        known = constructor_arguments(self.algorithm)
        for key in spec.search_space if spec else ():
            assert key.partition(".")[0] in known, (
                f"the search space of {self.name} has {key!r}, which is no argument of it"
            )

    def test_learns_on_every_declared_space(self) -> None:
        for spaces in self.spaces():
            for n_envs in (1, 2):
                env = kit_env(n_envs, **spaces)
                model = self.make(env)
                before = snapshot(model)
                model.learn(self.steps)
                where = f"{spaces['observation']} observations and {spaces['action']} actions"
                assert model.num_timesteps >= self.steps, (
                    f"{self.name} stopped after {model.num_timesteps} of {self.steps} steps with "
                    f"{where}, {n_envs} environments"
                )
                assert not same(before, snapshot(model)), (
                    f"{self.name} changed no parameter in {self.steps} steps with {where}: raise "
                    "steps, or lower learning_starts in kwargs"
                )
                assert finite(snapshot(model)), f"{self.name} has NaN parameters with {where}"

    def test_learns_from_images(self) -> None:
        """Where SB3's network for images is on offer, it works."""
        boxes = "Box" in self.declared("observation_spaces", OBSERVATIONS)
        if not boxes or "CnnPolicy" not in self.algorithm.policy_aliases:
            return
        action = self.declared("action_spaces", ACTIONS)[0]
        model = self.make(kit_env(action=action, observation="Image"))
        before = snapshot(model)
        model.learn(self.steps)
        assert not same(before, snapshot(model)), f"{self.name} learns nothing from images"
        assert finite(snapshot(model)), f"{self.name} has NaN parameters with images"

    def test_refuses_undeclared_action_spaces(self) -> None:
        for kind in set(ACTIONS) - set(self.declared("action_spaces", ACTIONS)):
            told = None
            try:
                self.make(kit_env(action=kind))
            except (ValueError, TypeError, AssertionError) as error:
                told = str(error)
            assert told is not None, (
                f"{self.name} does not declare {kind} actions and must refuse them when it is "
                "made; it took them"
            )
            assert told, f"{self.name} refuses {kind} actions without a word"

    def test_same_seed_same_parameters(self) -> None:
        one, other = snapshot(self.learned()), snapshot(self.learned())
        assert same(one, other), (
            f"two runs of {self.name} with the same seed end with other parameters: draw all "
            "randomness from generators that set_random_seed or the seed argument sets"
        )

    def test_other_seed_other_parameters(self) -> None:
        one, other = self.learned(seed=1), self.learned(seed=2)
        assert not same(snapshot(one)["policy"], snapshot(other)["policy"]), (
            f"{self.name} ends with the same parameters for seeds 1 and 2: it ignores its seed"
        )

    def test_predicts_in_the_action_space(self) -> None:
        for spaces in self.spaces():
            env = kit_env(2, **spaces)
            model = self.make(env)
            for deterministic in (True, False):
                actions, _ = model.predict(env.reset(), deterministic=deterministic)
                shape = (2, *(env.action_space.shape or ()))
                assert actions.shape == shape, (
                    f"{self.name}.predict gives actions of shape {actions.shape} for 2 "
                    f"environments with {spaces['action']} actions, expected {shape}"
                )
                for action in actions:
                    assert env.action_space.contains(action.astype(env.action_space.dtype)), (
                        f"{self.name}.predict gives {action}, which is not in {env.action_space}"
                    )

    def test_deterministic_predictions_repeat(self) -> None:
        model = self.learned()
        obs = model.get_env().reset()
        one, other = (model.predict(obs, deterministic=True)[0] for _ in range(2))
        assert np.array_equal(one, other), (
            f"{self.name}.predict(deterministic=True) gives two answers to one observation"
        )

    def test_observations_and_arguments_are_left_alone(self) -> None:
        kwargs = copy.deepcopy(self.kwargs)
        env = kit_env(**next(self.spaces()))
        model = self.make(env).learn(self.steps)
        obs = env.reset()
        before = copy.deepcopy(obs)
        model.predict(obs)
        assert same(before, obs), f"{self.name}.predict changes the observation that it is given"
        assert kwargs == self.kwargs, f"{self.name} changes the arguments that it is given"
        for given, copied in env.envs[0].unwrapped.given:  # type: ignore[attr-defined]
            assert np.array_equal(given, copied), (
                f"{self.name} changes an action after it gave it to the environment"
            )

    def test_saves_and_loads(self, tmp_path: Any) -> None:
        model = self.learned()
        model.save(tmp_path / "model")
        # With another seed: what is drawn anew then cannot look like what was saved.
        loaded = self.algorithm.load(tmp_path / "model", device="cpu", seed=2)
        told = "keep it in get_parameters or _get_torch_save_params"
        one, other = snapshot(model), snapshot(loaded)
        lost = sorted(name for name in one if name not in other or not same(one[name], other[name]))
        assert not lost, f"{self.name} loses {', '.join(lost)} on save and load: {told}"
        for name, part in vars(model).items():
            if isinstance(part, (th.nn.Module, th.optim.Optimizer)):
                found: Any = getattr(loaded, name, None)
                kept = type(found) is type(part) and same(part.state_dict(), found.state_dict())
                assert kept, f"{self.name} loses {name} on save and load: {told}"
        obs = model.get_env().reset()
        one, other = (each.predict(obs, deterministic=True)[0] for each in (model, loaded))
        assert np.array_equal(one, other), (
            f"{self.name} acts in another way after save and load: something that predict uses is "
            f"not saved; {told}"
        )

    def test_the_target_heeds_ends_and_discounts(self) -> None:
        """A terminal step is worth its reward, and so is any if nothing later counts."""
        if not issubclass(self.algorithm, Composable):
            return  # SB3's classes have no bellman_target
        model = self.learned()
        samples: Any = model.replay_view.draw(16, Clock(0, 1, 0.5)).samples
        zeros, ones = th.zeros_like(samples.rewards), th.ones_like(samples.rewards)
        ended, cut = samples._replace(dones=ones), samples._replace(dones=zeros, discounts=zeros)
        for batch, told in (
            (ended, "beyond the end of an episode: multiply what comes later by 1 - dones"),
            (cut, "at gamma where batch.discounts says otherwise, as it does where n_steps > 1"),
        ):
            target = model.bellman_target(batch)
            assert len(target.shape) == 2 and len(target) == 16, (
                f"{self.name}.bellman_target must give a column [B, 1], here [16, 1]; got "
                f"{list(target.shape)}"
            )
            assert not target.requires_grad, (
                f"{self.name}.bellman_target gives a target with a gradient: use torch.no_grad()"
            )
            assert th.allclose(target, samples.rewards.expand_as(target), atol=1e-5), (
                f"{self.name}.bellman_target looks {told}"
            )

    def test_learns_on_after_load(self, tmp_path: Any) -> None:
        self.learned().save(tmp_path / "model")
        loaded = self.algorithm.load(tmp_path / "model", env=kit_env(**next(self.spaces())))
        before, steps = snapshot(loaded), loaded.num_timesteps
        loaded.learn(self.steps, reset_num_timesteps=False)
        assert loaded.num_timesteps >= steps + self.steps, (
            f"learn(reset_num_timesteps=False) of {self.name} does not count on after load"
        )
        assert not same(before, snapshot(loaded)), f"{self.name} learns nothing after load"

    def test_a_killed_run_goes_on_exactly(self, tmp_path: Any) -> None:
        if not hasattr(self.algorithm, "collect_rollouts"):
            return  # ResumableCheckpoint refuses it
        lost = lost_by_a_kill(self.make, self.steps, tmp_path)
        assert not lost, (
            f"{self.name} does not go on as before after a kill: {', '.join(lost)} ended otherwise "
            "than in an unstopped run. Keep all that training changes in get_parameters, or as "
            "plain attributes of the model: numbers, arrays, tensors, lists, dicts and deques of "
            "these, random generators"
        )

    def test_replay_buffer_goes_through_a_file(self, tmp_path: Any) -> None:
        model = self.learned()
        if not isinstance(model, OffPolicyAlgorithm):
            return
        model.save_replay_buffer(tmp_path / "buffer")
        other = self.make()
        other.load_replay_buffer(tmp_path / "buffer")
        assert model.replay_buffer is not None and other.replay_buffer is not None
        one, two = model.replay_buffer, other.replay_buffer
        assert one.size() == two.size() and same(one.rewards, two.rewards), (
            f"{self.name} does not get its replay buffer back from a file"
        )

    def test_parameters_can_be_set(self) -> None:
        model, other = self.learned(), self.make(seed=5)
        other.set_parameters(snapshot(model))
        assert same(snapshot(model), snapshot(other)), (
            f"{self.name}: set_parameters(get_parameters()) does not carry everything over"
        )

    def test_a_callback_can_stop_it(self) -> None:
        class Stop(BaseCallback):
            def _on_step(self) -> bool:
                return self.n_calls < 5

        model = self.make().learn(self.steps, callback=Stop())
        assert model.num_timesteps < self.steps, (
            f"{self.name} goes on after a callback returned False"
        )

    def test_logs(self) -> None:
        class Memory(KVWriter):
            keys: ClassVar[set[str]] = set()

            def write(self, key_values: Any, key_excluded: Any, step: int = 0) -> None:
                self.keys.update(key_values)

            def close(self) -> None:
                pass

        writer = Memory()
        model = self.make()
        model.set_logger(Logger(None, [writer]))
        model.learn(self.steps, log_interval=1)
        assert any(key.startswith("time/") for key in writer.keys), (
            f"{self.name} logs nothing under time/; call dump_logs, or SB3's learn"
        )

    def test_nan_is_not_hidden(self) -> None:
        spaces = next(self.spaces())
        model = self.make(kit_env(nan_at=self.steps // 2, **spaces))
        try:
            model.learn(self.steps)
        except (ValueError, RuntimeError, FloatingPointError, AssertionError):
            return
        assert finite(snapshot(model)), (
            f"a reward was NaN and {self.name} has trained on it in silence: its parameters are "
            "NaN. Raise an error when the environment returns NaN"
        )
