"""The laws of a sampler."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch as th

from sb3_ext.algorithms.composable import Composable
from sb3_ext.algorithms.sac import SAC
from sb3_ext.testing.parts import (
    declared_observations,
    require_quiet_build,
    require_search_space,
    small_env,
    small_model,
)
from sb3_ext.testing.runs import lost_by_a_kill
from sb3_ext.trees import same, snapshot
from sb3_ext.updates import Clock


class SamplerConformance:
    """Inherit, give a config, and run with pytest::

    class TestMine(SamplerConformance):
        config = MySampler(alpha=0.6)
    """

    config: ClassVar[Any]
    """What users pass as ``replay=``."""
    base: ClassVar[type[Composable]] = SAC
    steps: ClassVar[int] = 80

    def make(self, observation: str = "Box", **changes: Any) -> Any:
        """A model with the sampler."""
        return small_model(self.base, observation, **{"replay": self.config, **changes})

    def learned(self, **changes: Any) -> Any:
        """A model that has learned for ``steps``."""
        return self.make(**changes).learn(self.steps)

    @property
    def name(self) -> str:
        """The config's name, for the sentences."""
        return type(self.config).__name__

    def test_building_it_leaves_the_generators_alone(self) -> None:
        require_quiet_build(self.config, self.make(replay=None), self.name)

    def test_search_space_names_arguments(self) -> None:
        require_search_space(self.config)

    def test_learns_on_every_declared_space(self) -> None:
        for observation in declared_observations(self.config):
            model = self.make(observation)
            before = snapshot(model)
            model.learn(self.steps)
            assert not same(before["policy"], snapshot(model)["policy"]), (
                f"a run with {self.name} learns nothing from {observation} observations"
            )

    def test_draws_what_the_buffer_holds(self) -> None:
        for size in (500, 30):  # the smaller ring has wrapped around
            model = self.learned(buffer_size=size)
            window = model.replay_view.window
            for n in (1, 16, 64):
                drawn = model.sampler.draw(n, window, Clock(0, 1, 0.5))
                indices = np.asarray(drawn.indices)
                assert indices.shape == (n,) and np.issubdtype(indices.dtype, np.integer), (
                    f"{self.name}.draw({n}, ...) must give {n} integers, got {indices.dtype} of "
                    f"shape {indices.shape}"
                )
                assert window.contains(indices).all(), (
                    f"{self.name} draws transitions that the window does not hold: "
                    f"{indices[~window.contains(indices)][:5]}"
                )

    def test_weights_are_a_column(self) -> None:
        model = self.learned()
        weights = model.sampler.draw(16, model.replay_view.window, Clock(0, 1, 0.5)).weights
        if weights is None:
            return
        assert isinstance(weights, th.Tensor) and weights.shape == (16, 1), (
            f"{self.name} must give weights of shape [n, 1], here [16, 1], or None; got "
            f"{getattr(weights, 'shape', type(weights).__name__)}"
        )
        assert bool(((weights >= 0) & th.isfinite(weights)).all()), (
            f"{self.name} gives weights between {weights.min()} and {weights.max()}; they must be "
            "finite and >= 0"
        )

    def test_takes_what_it_is_told(self) -> None:
        model = self.learned()
        drawn = model.sampler.draw(16, model.replay_view.window, Clock(0, 1, 0.5))
        model.sampler.observe(drawn.indices, th.full((16, 2), 1e3))
        model.sampler.observe(drawn.indices, th.zeros(16, 1))
        model.sampler.added(drawn.indices)
        again = model.sampler.draw(16, model.replay_view.window, Clock(0, 1, 0.5))
        assert model.replay_view.window.contains(np.asarray(again.indices)).all(), (
            f"{self.name} draws outside of the window after observe and added"
        )

    def test_the_batch_is_what_was_drawn(self) -> None:
        model = self.learned()
        draw = model.replay_view.draw(16, Clock(0, 1, 0.5))
        rows, envs = np.divmod(draw.indices, model.n_envs)
        rewards = model.replay_buffer.rewards[rows, envs]
        assert np.array_equal(draw.samples.rewards.squeeze(1).numpy(), rewards), (
            f"the batch of {self.name} is not made of the transitions that it drew"
        )

    def test_a_killed_run_goes_on_exactly(self, tmp_path: Any) -> None:
        lost = lost_by_a_kill(self.make, self.steps, tmp_path)
        assert not lost, (
            f"a run with {self.name} does not go on as before after a kill: {', '.join(lost)} "
            "ended otherwise than in an unstopped run. Put into state_dict all that draw uses"
        )

    def test_same_seed_same_parameters(self) -> None:
        assert same(snapshot(self.learned()), snapshot(self.learned())), (
            f"two runs with {self.name} and the same seed end with other parameters: draw from "
            "NumPy's or torch's global generator, or from one that is seeded from algorithm.seed"
        )

    def test_learns_on_after_load(self, tmp_path: Any) -> None:
        model = self.learned()
        model.save(tmp_path / "model")
        model.save_replay_buffer(tmp_path / "buffer")
        loaded: Any = self.base.load(tmp_path / "model", env=small_env(self.base), device="cpu")
        loaded.load_replay_buffer(tmp_path / "buffer")
        before = snapshot(loaded)
        loaded.learn(self.steps, reset_num_timesteps=False)
        assert not same(before, snapshot(loaded)), (
            f"a model with {self.name} learns nothing after load"
        )
