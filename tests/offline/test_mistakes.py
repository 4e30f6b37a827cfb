"""Slips that fresh readers made: each is answered by a sentence that says what to do."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import stable_baselines3 as sb3
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from sb3_ext import BCQ, SAC, DiscreteBCQ, OfflineSAC, cli
from sb3_ext.errors import UsageError
from sb3_ext.offline import (
    OfflineDataset,
    ValueDiagnostic,
    evaluate_policy_offline,
    from_policy,
    load_dataset,
    record_final_buffer,
)
from sb3_ext.testing.environments import kit_env
from sb3_ext.testing.offline import kit_dataset


def small() -> dict[str, Any]:
    """Anew each time: SB3 writes into the policy_kwargs that it is given."""
    return {"policy_kwargs": {"net_arch": [8]}, "seed": 0, "device": "cpu"}


def pendulum(n: int = 60) -> OfflineDataset:
    return from_policy(sb3.TD3("MlpPolicy", "Pendulum-v1", device="cpu"), n_steps=n, seed=0)


def test_arrays_of_one_s_own_are_told_from_imitation_s(tmp_path: Any) -> None:
    path = tmp_path / "mine.npz"
    np.savez(path, observations=np.zeros((3, 1)), actions=np.zeros((3, 1)))
    with pytest.raises(UsageError, match=r"holds actions, observations. OfflineDataset\("):
        load_dataset(path)


def test_a_model_is_no_data(tmp_path: Any) -> None:
    sb3.TD3("MlpPolicy", "Pendulum-v1", device="cpu").save(tmp_path / "model.zip")
    with pytest.raises(UsageError, match="a model that SB3 saved, not data"):
        load_dataset(tmp_path / "model.zip")


@pytest.mark.parametrize("text", ["", "minari:"])
def test_no_name_at_all(text: str) -> None:
    with pytest.raises(UsageError, match="names no dataset"):
        load_dataset(text)


def test_a_loop_over_files_may_allow_pickles_of_all(tmp_path: Any) -> None:
    path = pendulum().save(tmp_path / "ours.npz")
    assert len(load_dataset(path, allow_pickle=True)) == 60
    with pytest.raises(UsageError, match=r"OfflineDataset\.load, which reads"):
        load_dataset(path, time_limit=3)


@pytest.mark.parametrize("data", ["data.npz", "minari:a/b-v0", "dataset"])
def test_data_in_the_place_of_the_environment(data: Any) -> None:
    given = pendulum() if data == "dataset" else data
    with pytest.raises(TypeError, match="give them as dataset="):
        BCQ("MlpPolicy", given)


def test_an_environment_s_id_will_do() -> None:
    data = pendulum()
    data.require_fits("Pendulum-v1")
    with pytest.raises(ValueError, match="do not fit each other"):
        data.require_fits("CartPole-v1")
    with pytest.raises(TypeError, match="an environment, its id"):
        data.require_fits(None)
    model = OfflineSAC("MlpPolicy", dataset=data, batch_size=4, **small())
    values = ValueDiagnostic("Pendulum-v1", eval_freq=2, n_eval_episodes=1, max_neglected=1.0)
    model.learn(2, callback=values)
    assert values.history["timesteps"] == [2.0]


def test_a_file_is_no_dataset_to_the_estimators() -> None:
    with pytest.raises(TypeError, match="load_dataset reads one"):
        evaluate_policy_offline(lambda s, a: a, "data.npz")  # type: ignore[arg-type]


def test_only_data_of_one_environment_is_joined() -> None:
    other = kit_dataset(kit_env())
    with pytest.raises(ValueError, match="Only data of one environment can be joined"):
        OfflineDataset.concatenate([pendulum(), other])


def test_on_policy_algorithms_have_no_buffer_to_record() -> None:
    with pytest.raises(TypeError, match="PPO has no replay buffer to keep"):
        record_final_buffer(sb3.PPO("MlpPolicy", "Pendulum-v1", device="cpu"), 10)  # type: ignore[arg-type]


def test_a_greedy_policy_is_judged_by_fitted_q_as_it_is() -> None:
    data = kit_dataset(kit_env(action="Discrete"))
    model = DiscreteBCQ("MlpPolicy", dataset=data, **small())
    told = evaluate_policy_offline(
        model, data, methods=("fqe",), q_options={"model": "network", "n_steps": 5}
    )
    exact = evaluate_policy_offline(
        model, data, methods=("fqe",), epsilon=0.0, q_options={"model": "network", "n_steps": 5}
    )
    assert told["fqe"].value == exact["fqe"].value
    with pytest.raises(ValueError, match="say epsilon"):
        evaluate_policy_offline(model, data, methods=("is",))


@pytest.mark.parametrize(
    "wrong", [{"batch_size": 0}, {"n_steps": 0}, {"tau": 5.0}, {"gamma": 2.0}, {"gamma": "lin_1"}]
)
def test_numbers_that_teach_nothing(wrong: dict[str, Any]) -> None:
    name = next(iter(wrong))
    with pytest.raises(ValueError, match=f"{name} must be"):
        BCQ("MlpPolicy", dataset=pendulum(), **small(), **wrong)
    with pytest.raises(ValueError, match=f"{name} must be"):
        SAC("MlpPolicy", "Pendulum-v1", **small(), **wrong)


def test_numpy_s_whole_numbers_are_whole_numbers() -> None:
    model = BCQ("MlpPolicy", dataset=pendulum(), n_eval_actions=np.int64(3), **small())  # type: ignore[arg-type]
    assert type(model.n_eval_actions) is int


def test_arguments_without_effect_are_refused() -> None:
    with pytest.raises(TypeError, match="acts by candidates"):
        BCQ("MlpPolicy", dataset=pendulum(), use_sde=True, **small())
    data = kit_dataset(kit_env(action="Discrete"))
    with pytest.raises(TypeError, match="always that of Double DQN"):
        DiscreteBCQ("MlpPolicy", dataset=data, double_q=False, **small())


def test_info_lists_no_argument_that_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["info", "DiscreteBCQ"]) == 0
    told = capsys.readouterr().out
    assert "threshold" in told and "double_q" not in told


@pytest.mark.parametrize(("truncated", "asked"), [(False, True), (True, False)])
def test_a_report_asks_about_time_limits_called_terminations(truncated: bool, asked: bool) -> None:
    ends = np.arange(10) % 5 == 4
    data = pendulum(10)
    parts = {**vars(data), "episode_starts": np.array([0, 5])}
    parts |= {"terminated": ends & ~truncated, "truncated": ends & truncated}
    assert ("is that a time limit?" in str(OfflineDataset(**parts).report())) == asked


def test_moved_and_pickled_data_on_the_command_line(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    behaviour = sb3.TD3("MlpPolicy", "Pendulum-v1", learning_starts=60, seed=0, device="cpu")
    behaviour.learn(50).save_replay_buffer("data.pkl")
    run = ["train", "BCQ", "--env", "Pendulum-v1", "--run-dir", "run", "--eval-every", "0"]
    run += ["--set", "policy_kwargs.net_arch=[8]", "--steps", "4", "--checkpoint-every", "2"]
    assert cli.main([*run, "--replay-buffer", "data.pkl", "--set", "dataset=data.pkl"]) == 2
    assert "--allow-pickle" in capsys.readouterr().err
    trusted = [*run, "--allow-pickle", "--set", "dataset=data.pkl"]
    with pytest.warns(UserWarning, match="runs whatever code"):
        assert cli.main([*trusted, "--replay-buffer", "data.pkl"]) == 2
    assert "give --set dataset=data.pkl" in capsys.readouterr().err
    with pytest.warns(UserWarning, match="runs whatever code"):
        assert cli.main(trusted) == 0
    (tmp_path / "data.pkl").rename(tmp_path / "moved.pkl")
    resume = ["train", "--resume", "run", "--steps", "6", "--allow-pickle"]
    assert cli.main([*resume, "--set", "batch_size=7"]) == 2
    assert "data that were moved" in capsys.readouterr().err
    with pytest.warns(UserWarning, match="runs whatever code"):
        assert cli.main([*resume, "--set", "dataset=moved.pkl"]) == 0
    pendulum().save("other.npz")
    before = (tmp_path / "run" / "options.yaml").read_text()
    assert cli.main([*resume[:3], "--steps", "8", "--set", "dataset=other.npz"]) == 2
    told = capsys.readouterr().err
    assert "other data" in told and "moved.pkl" in told
    assert (tmp_path / "run" / "options.yaml").read_text() == before  # so that it can go on
    (tmp_path / "moved.pkl").rename(tmp_path / "again.pkl")
    assert cli.main([*resume[:3], "--steps", "8"]) == 2
    assert "goes on with --set dataset=FILE" in capsys.readouterr().err


def test_what_cannot_be_read_leaves_no_run(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path(pendulum().save("whole.npz"))
    (tmp_path / "cut.npz").write_bytes(path.read_bytes()[:3000])
    run = ["train", "BCQ", "--env", "Pendulum-v1", "--run-dir", "run", "--steps", "4"]
    for name, words in (("cut.npz", "is damaged"), ("minari:none/none-v0", "no Minari dataset")):
        assert cli.main([*run, "--set", f"dataset={name}"]) == 2
        told = capsys.readouterr().err
        assert words in told and "once there is room" not in told
        assert not (tmp_path / "run").exists()
    assert cli.main([*run, "--set", "dataset=whole.npz", "--normalize"]) == 2
    assert "leave it out" in capsys.readouterr().err


def test_a_pickle_is_known_by_what_it_holds(tmp_path: Any) -> None:
    behaviour = sb3.TD3("MlpPolicy", "Pendulum-v1", learning_starts=60, seed=0, device="cpu")
    behaviour.learn(20).save_replay_buffer(tmp_path / "buffer")
    (tmp_path / "buffer.pkl").rename(tmp_path / "buffer.dat")
    with pytest.raises(ValueError, match="runs its author's code"):
        BCQ("MlpPolicy", dataset=tmp_path / "buffer.dat", **small())


def test_actions_of_more_than_one_axis() -> None:
    data = pendulum(12)
    space = spaces.Box(-2, 3, (2, 2))
    actions = np.stack([space.sample() for _ in range(12)])
    data = OfflineDataset(**{**vars(data), "action_space": space, "actions": actions})
    model = BCQ("MlpPolicy", dataset=data, batch_size=4, **small()).learn(2)
    assert model.replay_buffer is not None
    expected = 2 * (actions.reshape(12, 4) + 2) / 5 - 1
    np.testing.assert_allclose(model.replay_buffer.actions[:, 0], expected, atol=1e-6)
    assert model.predict(data.observations[:3])[0].shape == (3, 2, 2)  # type: ignore[index]


def test_statistics_that_were_learned_under_are_asked_for(tmp_path: Any) -> None:
    data = pendulum()
    env = VecNormalize(make_vec_env("Pendulum-v1"), training=False, norm_reward=False)
    env.obs_rms.update(data.observations)
    BCQ("MlpPolicy", env, dataset=data, **small()).learn(1).save(tmp_path / "model")
    loaded = BCQ.load(tmp_path / "model", dataset=data)
    loaded.predict(data.observations[:1])  # type: ignore[index]
    with pytest.raises(ValueError, match="learned under VecNormalize"):
        loaded.learn(1)
    BCQ.load(tmp_path / "model", env=env, dataset=data).learn(1)


def test_evaluations_count_gradient_steps_whatever_the_environments(tmp_path: Any) -> None:
    path = pendulum().save(tmp_path / "data.npz")
    run = ["train", "BCQ", "--env", "Pendulum-v1", "--set", f"dataset={path}", "--n-envs", "3"]
    run += ["--set", "policy_kwargs.net_arch=[8]", "--steps", "6", "--eval-every", "3"]
    assert cli.main([*run, "--eval-episodes", "1", "--run-dir", str(tmp_path / "run")]) == 0
    assert np.load(tmp_path / "run" / "evaluations.npz")["timesteps"].tolist() == [3, 6]


@pytest.mark.parametrize(
    ("cls", "action", "kwargs", "words"),
    [
        (BCQ, "Box", {"net_arch": [8], "phi": 0.3}, "give them to BCQ itself"),
        (BCQ, "Box", {"net_arch": 16}, "must be a list of widths"),
        (BCQ, "Box", {"net_arch": {"pi": 4, "qf": [4], "vae": [4]}}, "must be a list of widths"),
        (DiscreteBCQ, "Discrete", {"net_arch": [8], "threshold": 0.1}, "to DiscreteBCQ itself"),
        (DiscreteBCQ, "Discrete", {"net_arch": "small"}, "must be a list of widths"),
    ],
)
def test_policy_kwargs_that_would_be_lost_or_mean_nothing(
    cls: Any, action: str, kwargs: dict[str, Any], words: str
) -> None:
    with pytest.raises((TypeError, ValueError), match=words):
        cls("MlpPolicy", dataset=kit_dataset(kit_env(action=action)), policy_kwargs=kwargs)


def test_one_dict_of_policy_kwargs_serves_all_baselines() -> None:
    data, kwargs = pendulum(), {"net_arch": [8]}
    OfflineSAC("MlpPolicy", dataset=data, policy_kwargs=kwargs)
    BCQ("MlpPolicy", dataset=data, policy_kwargs=kwargs)
    assert kwargs == {"net_arch": [8]}


def test_the_behaviour_s_epsilon_has_a_name_of_its_own() -> None:
    data = kit_dataset(kit_env(action="Discrete"))
    model = DiscreteBCQ("MlpPolicy", dataset=data, **small())
    with pytest.raises(ValueError, match=r"behavior_epsilon=0\.05"):
        evaluate_policy_offline(model, data, methods="is", epsilon=0.1, behavior=model)
