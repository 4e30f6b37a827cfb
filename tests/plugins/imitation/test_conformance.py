"""GAIL and AIRL keep the laws of an SB3 algorithm, with generators of several kinds."""

from typing import Any, ClassVar

import pytest

from sb3_ext import AIRL, GAIL
from sb3_ext.testing import AlgorithmConformance
from sb3_ext.testing.environments import kit_env
from sb3_ext.testing.offline import kit_dataset
from sb3_ext.trees import finite, same, snapshot

ON_POLICY = {"n_steps": 16, "batch_size": 16, "n_epochs": 2}


class Imitating(AlgorithmConformance):
    """With demonstrations of the kit's environment, whose episodes end by themselves."""

    def make(self, env: Any = None, **changes: Any) -> Any:
        env = kit_env(**next(self.spaces())) if env is None else env
        if "demonstrations" not in changes:
            changes["demonstrations"] = kit_dataset(env)
        changes.setdefault("allow_variable_horizon", True)
        return super().make(env, **changes)

    def test_learns_on_after_load(self, tmp_path: Any) -> None:
        model = self.learned()
        model.save(tmp_path / "model")
        env = kit_env(**next(self.spaces()))
        loaded = self.algorithm.load(tmp_path / "model", env=env)
        with pytest.raises(ValueError, match="no demonstrations"):
            loaded.learn(1)
        loaded.set_demonstrations(model.demonstrations)
        before, steps = snapshot(loaded), loaded.num_timesteps
        loaded.learn(self.steps, reset_num_timesteps=False)
        assert loaded.num_timesteps >= steps + self.steps
        assert not same(before, snapshot(loaded))

    def test_nan_is_not_hidden(self) -> None:
        """The environment's rewards are not looked at, so one that is NaN does no harm."""
        spaces = next(self.spaces())
        data = kit_dataset(kit_env(**spaces))
        model = self.make(kit_env(nan_at=self.steps // 2, **spaces), demonstrations=data)
        model.learn(self.steps)
        assert finite(snapshot(model))


class TestGAIL(Imitating):
    algorithm = GAIL
    kwargs: ClassVar[dict[str, Any]] = {"generator_kwargs": ON_POLICY}


class TestAIRL(Imitating):
    algorithm = AIRL
    kwargs: ClassVar[dict[str, Any]] = {"generator_kwargs": ON_POLICY}


@pytest.mark.slow
class TestGAILOfSAC(Imitating):
    """Ours, with a sampler by name."""

    algorithm = GAIL
    action_spaces = ("Box",)
    observation_spaces = ("Box",)
    kwargs: ClassVar[dict[str, Any]] = {
        "generator": "SAC",
        "generator_kwargs": {"learning_starts": 20, "batch_size": 16, "replay": "per"},
        "gen_train_timesteps": 10,
    }


@pytest.mark.slow
class TestGAILOfTRPO(Imitating):
    algorithm = GAIL
    action_spaces = ("Box", "Discrete")
    observation_spaces = ("Box",)
    kwargs: ClassVar[dict[str, Any]] = {
        "generator": "TRPO",
        "generator_kwargs": {"n_steps": 16, "batch_size": 16},
    }

    def test_refuses_undeclared_action_spaces(self) -> None:
        """TRPO takes all of them; two are enough to try."""


@pytest.mark.slow
class TestAIRLOfSAC(Imitating):
    algorithm = AIRL
    action_spaces = ("Box",)
    observation_spaces = ("Box",)
    kwargs: ClassVar[dict[str, Any]] = {
        "generator": "sb3:SAC",
        "generator_kwargs": {"learning_starts": 20, "batch_size": 16},
        "gen_train_timesteps": 10,
    }
