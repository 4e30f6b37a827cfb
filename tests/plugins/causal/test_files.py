"""Files that an intervention goes on from, and data that a loaded model is given."""

from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3 import SAC

from sb3_ext import BC, CausalBC
from sb3_ext.errors import CheckpointError
from sb3_ext.offline import OfflineDataset, from_policy
from sb3_ext.plugins.causal.confounding import make_with_previous_action
from sb3_ext.plugins.causal.posterior import Posterior

SMALL: dict[str, Any] = {"seed": 0, "device": "cpu"}


class Line(gym.Env[Any, Any]):
    """Five steps of noise in three dimensions, of which the reward tells nothing."""

    observation_space = spaces.Box(-4, 4, (3,), np.float32)
    action_space = spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.t = 0
        return self._seen(), {}

    def _seen(self) -> Any:
        return self.np_random.normal(size=3).clip(-4, 4).astype(np.float32)

    def step(self, action: Any) -> Any:
        self.t += 1
        return self._seen(), float(action), False, self.t == 5, {}


def first(seen: Any) -> Any:
    """An expert who looks at the first number."""
    return np.digitize(seen[:, 0], [-0.5, 0.5])


@pytest.fixture(scope="module")
def data() -> OfflineDataset:
    return from_policy(first, Line(), n_episodes=20, seed=0)


@pytest.fixture
def model(data: OfflineDataset) -> CausalBC:
    return CausalBC("MlpPolicy", demonstrations=data, **SMALL).learn(30)


# -- demonstrations for a loaded model -------------------------------------------------------------


@pytest.mark.parametrize("kind", ["a file", "trajectories", "a dataset"])
def test_a_loaded_model_takes_demonstrations_in_every_form(
    kind: str, data: OfflineDataset, model: CausalBC, tmp_path: Any
) -> None:
    model.save(tmp_path / "model")
    rows = [next(data.episodes()), *list(data.episodes())[1:]]
    given: Any = {
        "a file": data.save(tmp_path / "data"),
        "a dataset": data,
        "trajectories": [
            SimpleNamespace(
                obs=np.concatenate([data.observations[row], data.next_observations[row][-1:]]),  # type: ignore[index]
                acts=data.actions[row],
                infos=None,
                terminal=True,
            )
            for row in rows
        ],
    }[kind]
    loaded = CausalBC.load(tmp_path / "model", demonstrations=given, device="cpu")
    assert isinstance(loaded.demonstrations, OfflineDataset)
    expected = model.learn(20, reset_num_timesteps=False).policy.state_dict()
    for name, one in loaded.learn(20, reset_num_timesteps=False).policy.state_dict().items():
        assert (one == expected[name]).all(), name


@pytest.mark.parametrize("cls", [CausalBC, BC])
def test_a_loaded_model_takes_a_replay_buffer(cls: Any, tmp_path: Any) -> None:
    sac = SAC("MlpPolicy", "Pendulum-v1", learning_starts=100, buffer_size=60, **SMALL).learn(60)
    cls("MlpPolicy", demonstrations=sac.replay_buffer, **SMALL).learn(3).save(tmp_path / "m")
    loaded = cls.load(tmp_path / "m", demonstrations=sac.replay_buffer, device="cpu")
    assert loaded.learn(3, reset_num_timesteps=False).num_timesteps == 6


# -- the file of an intervention -------------------------------------------------------------------


def test_one_kind_of_intervention_does_not_write_over_the_other(
    model: CausalBC, tmp_path: Any
) -> None:
    played, asked = tmp_path / "played.json", tmp_path / "asked.json"
    model.intervene(Line(), episodes=3, path=str(played))
    model.query(first, Line(), queries=5, n_states=20, path=str(asked))
    before = played.read_text(), asked.read_text()

    def nobody(seen: Any) -> Any:
        raise AssertionError("nobody shall be asked")

    with pytest.raises(CheckpointError, match=r"another kind.*policy execution.*by expert query"):
        model.query(nobody, Line(), queries=5, n_states=20, path=str(played))
    with pytest.raises(CheckpointError, match=r"another kind.*expert query.*by policy execution"):
        model.intervene(Line(), episodes=4, path=str(asked))
    assert (played.read_text(), asked.read_text()) == before


def test_answers_of_two_functions_are_not_mixed(model: CausalBC, tmp_path: Any) -> None:
    path = tmp_path / "answers.json"
    model.query(first, Line(), queries=5, n_states=20, path=str(path))
    before = path.read_text()
    for queries in (5, 10):  # also where there is nothing left to ask
        with pytest.raises(CheckpointError, match="answers of another expert: it says"):
            model.query(lambda seen: 2 - first(seen), Line(), queries, n_states=20, path=str(path))
    assert path.read_text() == before
    assert model.query(first, Line(), 10, n_states=20, path=str(path)).cost == 10


def test_a_model_is_known_by_its_parameters(
    model: CausalBC, data: OfflineDataset, tmp_path: Any
) -> None:
    one, other = (BC("MlpPolicy", demonstrations=data, seed=s, device="cpu") for s in (1, 2))
    path = str(tmp_path / "answers.json")
    model.query(one, Line(), 5, n_states=20, path=path)
    with pytest.raises(CheckpointError, match="another expert"):
        model.query(other, Line(), 5, n_states=20, path=path)
    one.save(tmp_path / "one")
    again = BC.load(tmp_path / "one", device="cpu")
    assert model.query(again, Line(), 7, n_states=20, path=path).cost == 7


@pytest.mark.parametrize("contents", ["{", "[1, 2]", '{"kind": "expert query"}', "\x00\xff"])
def test_a_file_of_something_else_is_told(model: CausalBC, contents: str, tmp_path: Any) -> None:
    path = tmp_path / "found.json"
    path.write_bytes(contents.encode("latin-1"))
    for call in (
        lambda: model.intervene(Line(), episodes=2, path=str(path)),
        lambda: model.query(first, Line(), 5, n_states=20, path=str(path)),
    ):
        with pytest.raises(CheckpointError, match="no file that an intervention wrote"):
            call()
    assert path.read_bytes() == contents.encode("latin-1")


def test_a_folder_is_no_file(model: CausalBC, tmp_path: Any) -> None:
    with pytest.raises(ValueError, match=r"must name a file.*is a folder.*found\.json"):
        model.intervene(Line(), episodes=2, path=str(tmp_path))


def test_the_file_of_a_finished_intervention_is_a_posterior(model: CausalBC, tmp_path: Any) -> None:
    path = str(tmp_path / "found.json")
    found = model.intervene(Line(), episodes=3, path=path)
    assert Posterior.load(path).to_dict() == found.to_dict()


# -- bad input -------------------------------------------------------------------------------------


def test_states_that_are_not_finite_are_told_before_anybody_is_asked(model: CausalBC) -> None:
    def nobody(seen: Any) -> Any:
        raise AssertionError("nobody shall be asked")

    states = np.zeros((5, 3), np.float32)
    states[2, 1], states[4] = np.nan, np.inf
    with pytest.raises(ValueError, match=r"2 of 5 hold NaN or infinity, first state 2: \[ *0"):
        model.query(nobody, states, queries=5)


def test_no_graph_is_told(model: CausalBC) -> None:
    none: Any = None
    with pytest.raises(TypeError, match=r"x0, x1, x2.*got None; \[1, 1, 1\] is all factors"):
        model.fix(none)
    assert model.fix(dict.fromkeys(("x0", "x1", "x2"), True).keys()).graph["x1"]  # type: ignore[arg-type]


def test_a_previous_action_of_nothing_is_told(model: CausalBC) -> None:
    with pytest.raises(ValueError, match=r"nothing says of which.*gym\.make"):
        model.intervene("sb3_ext.plugins.causal.confounding:PreviousAction-v0")
    assert make_with_previous_action("CartPole-v1").observation_space.shape == (5,)
