"""The laws of an algorithm that learns from a dataset."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pytest
from stable_baselines3.common.vec_env import VecEnv

from sb3_ext.offline import OfflineDataset, episode_starts_after
from sb3_ext.testing.algorithms import AlgorithmConformance
from sb3_ext.testing.environments import kit_env
from sb3_ext.trees import same, snapshot


def kit_dataset(env: VecEnv, n: int = 60) -> OfflineDataset:
    """``n`` transitions of the first environment, by random actions."""
    one: Any = env.envs[0].unwrapped  # type: ignore[attr-defined]
    rng = np.random.default_rng(0)
    one.action_space.seed(0)
    rows: dict[str, list[Any]] = {}
    observation, _ = one.reset(seed=0)
    for _ in range(n):
        action = one.action_space.sample()
        following, reward, terminated, truncated, _ = one.step(action)
        row = {"observations": observation, "actions": action, "rewards": reward}
        row |= {"next_observations": following, "terminated": terminated, "truncated": truncated}
        for name, value in row.items():
            rows.setdefault(name, []).append(value)
        observation = following
        if terminated or truncated:
            observation, _ = one.reset(seed=int(rng.integers(1000)))
    arrays: Any = {name: _stacked(values) for name, values in rows.items()}
    ends = arrays["terminated"] | arrays["truncated"]
    return OfflineDataset(
        **arrays,
        episode_starts=episode_starts_after(ends),
        observation_space=one.observation_space,
        action_space=one.action_space,
    )


def _stacked(values: list[Any]) -> Any:
    if isinstance(values[0], dict):
        return {key: np.stack([value[key] for value in values]) for key in values[0]}
    return np.stack([np.asarray(value) for value in values])


class OfflineConformance(AlgorithmConformance):
    """For a class on :class:`~sb3_ext.offline.Offline`, or on
    :class:`~sb3_ext.offline.FromDemonstrations`: all laws of an algorithm, and

    * it learns without an environment, as many gradient steps as asked for;
    * it leaves the data alone, and refuses to learn without any.

    The data are given as the argument that the class names in ``data_argument``.
    """

    kwargs: ClassVar[dict[str, Any]] = {"batch_size": 16}
    steps: ClassVar[int] = 40

    def make(self, env: VecEnv | str | None = None, **changes: Any) -> Any:
        """A new model; with data of the environment."""
        assert not isinstance(env, str)
        env = kit_env(**next(self.spaces())) if env is None else env
        changes.setdefault(self.algorithm.data_argument, kit_dataset(env))
        return super().make(env, **changes)

    def test_learns_without_an_environment(self) -> None:
        dataset = kit_dataset(kit_env(**next(self.spaces())))
        small = {"policy_kwargs": {"net_arch": [16, 16]}, "seed": 1, "device": "cpu"}
        policy = "MultiInputPolicy" if isinstance(dataset.observations, dict) else "MlpPolicy"
        before = snapshot_of(dataset)
        data: dict[str, Any] = {self.algorithm.data_argument: dataset}
        model = self.algorithm(policy, **data, **small, **self.kwargs)
        parameters = snapshot(model)
        model.learn(self.steps)
        assert model.num_timesteps == model._n_updates == self.steps, (
            f"{self.name}.learn({self.steps}) did {model._n_updates} gradient steps and counted "
            f"{model.num_timesteps}"
        )
        assert not same(parameters, snapshot(model)), f"{self.name} learns nothing from a dataset"
        assert same(before, snapshot_of(dataset)), f"{self.name} changes the dataset"

    def test_refuses_to_learn_without_data(self) -> None:
        model = self.algorithm(
            "MultiInputPolicy"
            if "Box" not in self.declared("observation_spaces", ("Box",))
            else "MlpPolicy",
            kit_env(**next(self.spaces())),
            device="cpu",
        )
        with pytest.raises(ValueError, match="no data"):
            model.learn(1)

    def test_learns_on_after_load(self, tmp_path: Any) -> None:
        model = self.learned()
        model.save(tmp_path / "model")
        name = self.algorithm.data_argument
        data: dict[str, Any] = {name: getattr(model, name)}
        loaded = self.algorithm.load(tmp_path / "model", device="cpu", **data)
        before, steps = snapshot(loaded), loaded.num_timesteps
        loaded.learn(self.steps, reset_num_timesteps=False)
        assert loaded.num_timesteps == steps + self.steps, (
            f"learn(reset_num_timesteps=False) of {self.name} does not count on after load"
        )
        assert not same(before, snapshot(loaded)), f"{self.name} learns nothing after load"

    def test_nan_is_not_hidden(self) -> None:
        """Data with NaN do not get as far as the algorithm."""
        with pytest.raises(ValueError, match="must be finite"):
            self.make(kit_env(nan_at=self.steps // 2, **next(self.spaces())))


def snapshot_of(dataset: OfflineDataset) -> dict[str, Any]:
    """A copy of its arrays."""
    held: Any = {name: value for name, value in vars(dataset).items() if name != "source"}
    return {
        name: {key: part.copy() for key, part in value.items()}
        if isinstance(value, dict)
        else value.copy()
        for name, value in held.items()
        if isinstance(value, (dict, np.ndarray))
    }
