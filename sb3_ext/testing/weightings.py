"""The laws of a weighting."""

from __future__ import annotations

import copy
from typing import Any, ClassVar

import numpy as np
import torch as th

from sb3_ext.algorithms.composable import Composable
from sb3_ext.algorithms.sac import SAC
from sb3_ext.testing.parts import (
    declared_observations,
    require_plain_state,
    require_quiet_build,
    require_search_space,
    small_model,
)
from sb3_ext.testing.runs import lost_by_a_kill
from sb3_ext.trees import same, snapshot
from sb3_ext.updates import Clock, Draw
from sb3_ext.weighting import Weighting


class WeightingConformance:
    """Inherit, give a config, and run with pytest::

    class TestMine(WeightingConformance):
        config = MyWeighting(strength=2.0)
    """

    config: ClassVar[Any]
    """What users pass as ``weighting=``; made for a small budget: active after ``steps``."""
    base: ClassVar[type[Composable]] = SAC
    steps: ClassVar[int] = 80
    mean_is_one: ClassVar[bool] = True
    """Whether the weights have mean 1 over a batch, so that the learning rate keeps its meaning."""

    def make(self, observation: str = "Box", **changes: Any) -> Any:
        """A model with the weighting."""
        return small_model(self.base, observation, **{"weighting": self.config, **changes})

    def learned(self) -> Any:
        """A model that has learned for ``steps``."""
        return self.make().learn(self.steps)

    def drawn(self, model: Any) -> Draw:
        """A batch of the model's replay buffer."""
        np.random.seed(3)
        return model.replay_view.draw(16, Clock(0, 1, 0.5))  # type: ignore[no-any-return]

    @property
    def name(self) -> str:
        """The config's name, for the sentences."""
        return type(self.config).__name__

    def weighed(self) -> tuple[Any, Any]:
        """Weights of a batch, and what gave them, which was built after the model has learned.

        A faulty weighting cannot end the learning before its own law is looked at.
        """
        model = self.make(weighting=None).learn(self.steps)
        weigher = self.config.build(model)
        assert Weighting in type(weigher).__mro__, (
            f"{self.name}.build must return an object whose class inherits from sb3_ext.Weighting, "
            f"got {type(weigher).__name__}"
        )
        return weigher.weigh(self.drawn(model), model.replay_view), weigher

    def test_building_it_leaves_the_generators_alone(self) -> None:
        require_quiet_build(self.config, self.make(weighting=None), self.name)

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

    def test_weights_are_a_column(self) -> None:
        weights, _ = self.weighed()
        assert isinstance(weights, th.Tensor) and weights.shape == (16, 1), (
            f"{self.name} must give a tensor of shape [B, 1], here [16, 1]; got "
            f"{getattr(weights, 'shape', type(weights).__name__)}. A flat [B] would broadcast"
        )

    def test_weights_are_finite_and_not_negative(self) -> None:
        for _ in range(3):
            weights, _ = self.weighed()
            assert bool(((weights >= 0) & th.isfinite(weights)).all()), (
                f"{self.name} gives weights between {weights.min()} and {weights.max()}; they must "
                "be finite and >= 0"
            )

    def test_weights_carry_no_gradient(self) -> None:
        weights, _ = self.weighed()
        assert not weights.requires_grad, (
            f"{self.name} gives weights with a gradient: detach them, or the critic's loss trains "
            "whatever makes them"
        )

    def test_weights_have_mean_one(self) -> None:
        if not self.mean_is_one:
            return
        model = self.learned()
        draw = self.drawn(model)
        mean = (model.weigher.weigh(draw, model.replay_view) * draw.weights).mean().item()
        assert abs(mean - 1) < 1e-3, (
            f"the weights of {self.name} have mean {mean:.4f} over a batch: divide by their "
            "mean, or set mean_is_one = False and say in its docs what that does to the step size"
        )

    def test_the_batch_and_the_buffer_are_left_alone(self) -> None:
        model = self.learned()
        draw = self.drawn(model)
        batch = copy.deepcopy(tuple(draw.samples))
        buffer = {
            name: value.copy()
            for name, value in vars(model.replay_buffer).items()
            if isinstance(value, np.ndarray)
        }
        model.weigher.weigh(draw, model.replay_view)
        assert same(batch, tuple(draw.samples)), f"{self.name} changes the batch that it weighs"
        for name, value in buffer.items():
            assert same(value, getattr(model.replay_buffer, name)), (
                f"{self.name} changes the replay buffer's {name}"
            )

    def test_the_state_is_all_there_is(self) -> None:
        """Two weightings of equal state give equal weights, now and after more updates."""
        # Of another seed: what is random when it is built is a part of its state, too.
        model, other = self.learned(), self.make(seed=2)
        require_plain_state(model.weigher.state_dict(), self.name)
        other.replay_buffer = copy.deepcopy(model.replay_buffer)
        try:
            other.set_parameters(snapshot(model))
        except KeyError as error:
            raise AssertionError(
                f"load_state_dict of {self.name} looks for {error}, which state_dict did not give"
            ) from error
        for _ in range(3):
            weights = []
            for one in (model, other):
                th.manual_seed(5)
                np.random.seed(5)
                weights.append(one.weigher.weigh(self.drawn(one), one.replay_view))
            assert same(*weights), (
                f"two {self.name} with the same state_dict give other weights: put into state_dict "
                "all that weigh uses (networks, frozen ones too, optimisers, counters, generators)"
            )

    def test_saves_and_loads(self, tmp_path: Any) -> None:
        model = self.learned()
        model.save(tmp_path / "model")
        loaded = self.base.load(tmp_path / "model", device="cpu")
        assert same(model.weigher.state_dict(), loaded.weigher.state_dict()), (  # type: ignore[union-attr]
            f"{self.name} loses its state on save and load"
        )
        assert loaded.weighting_config() == model.weighting_config(), (
            f"{self.name} comes back as {loaded.weighting_config()!r}, not as "
            f"{model.weighting_config()!r}"
        )

    def test_a_killed_run_goes_on_exactly(self, tmp_path: Any) -> None:
        lost = lost_by_a_kill(self.make, self.steps, tmp_path)
        assert not lost, (
            f"a run with {self.name} does not go on as before after a kill: {', '.join(lost)} "
            "ended otherwise than in an unstopped run. Put into state_dict all that weigh uses"
        )

    def test_same_seed_same_parameters(self) -> None:
        assert same(snapshot(self.learned()), snapshot(self.learned())), (
            f"two runs with {self.name} and the same seed end with other parameters: draw from "
            "NumPy's or torch's global generator, or from one that is seeded from algorithm.seed"
        )

    def test_it_changes_what_is_learned(self) -> None:
        model = self.learned()
        draws = (self.drawn(model) for _ in range(5))
        weights = [model.weigher.weigh(draw, model.replay_view) for draw in draws]
        assert any(bool((each - 1).abs().max() > 1e-6) for each in weights), (
            f"{self.name} gives no weight other than one after {self.steps} steps, so it changes "
            "nothing; raise steps or make the config start earlier"
        )

    def test_metrics_are_numbers(self) -> None:
        for key, value in self.learned().weigher.metrics().items():
            assert "/" in key, f"{self.name} logs {key!r}: put its name in front, as in lfiw/active"
            assert isinstance(value, (int, float)), (
                f"{self.name} logs {key} as a {type(value).__name__}; give a float"
            )
