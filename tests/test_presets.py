"""Presets in RL Zoo's format: what they hold, how they are read, what is refused."""

import importlib.util
from pathlib import Path

import pytest
import yaml

from sb3_ext import LFIWSAC, cli, registry
from sb3_ext.errors import UsageError
from sb3_ext.running import TrainOptions, run_options
from sb3_ext.running.hyperparameters import require_arguments
from sb3_ext.running.presets import (
    is_presets,
    literal,
    options_of_preset,
    preset_file,
    read_preset,
)
from sb3_ext.spec import PluginSpec

SHIPPED = ("lfiw_sac", "lfiw_td3", "lfiw_dqn")
SMALL = ["--steps", "150", "--eval-every", "0", "--checkpoint-every", "0", "--no-progress"]
NET = ["--set", "policy_kwargs.net_arch=[8]", "--set", "ratio_net_arch=[8]"]


def fails(capsys, *words: str) -> str:
    """The one sentence that a mistake gets."""
    capsys.readouterr()
    assert cli.main(["train", *words]) == 2
    told = capsys.readouterr()
    assert told.err.count("\n") == 1
    return told.err


@pytest.mark.parametrize("name", SHIPPED)
def test_every_preset_that_we_ship_is_one_that_the_algorithm_takes(name):
    path = preset_file(name)
    cls = registry.load(name)
    entries = yaml.safe_load(path.read_text())
    assert {"default", "Pendulum-v1" if name != "lfiw_dqn" else "CartPole-v1"} <= set(entries)
    for env in entries:
        options = TrainOptions.from_mapping(
            {"algorithm": name, **read_preset(path, env)}, f"{path}, {env}"
        )
        require_arguments(cls, options.hyperparameters)
        assert options.hyperparameters["temperature"] == 5
        fast = options.hyperparameters["fast_buffer_size"]
        assert fast < min(options.hyperparameters.get("buffer_size", 1_000_000), options.steps)


def test_a_public_name_finds_the_same_file_and_a_base_brings_none():
    assert preset_file("LFIWSAC") == preset_file("lfiw_sac")
    assert preset_file("SAC") is None


@pytest.mark.parametrize("module", ["__main__", "nowhere.at_all"])
def test_a_plugin_without_a_file_brings_none(module):
    spec = PluginSpec(kind="algorithm", name="toy", summary="Toy.", target=f"{module}:Toy")
    registry.register(spec)
    try:
        assert preset_file("toy") is None
    finally:
        registry.unregister(spec)


def test_the_zoos_keys_become_our_options():
    presets = {
        "A-v0": {
            "n_timesteps": 2e4,
            "n_envs": 4,
            "normalize": True,
            "policy": "MlpPolicy",
            "env_wrapper": None,
            "env_kwargs": {"g": 9.8},
            "noise_type": " normal ",
            "noise_std": 0.1,
            "learning_rate": "lin_7.3e-4",
            "policy_kwargs": "dict(net_arch=dict(pi=[64], qf=[32]), activation_fn=nn.ReLU)",
        }
    }
    assert is_presets(presets)
    assert options_of_preset(presets, "A-v0", "here") == {
        "env": "A-v0",
        "steps": 2e4,
        "n_envs": 4,
        "normalize": True,
        "policy": "MlpPolicy",
        "env_kwargs": {"g": 9.8},
        "hyperparameters": {
            "action_noise": {"type": "normal", "std": 0.1},
            "learning_rate": "lin_7.3e-4",
            "policy_kwargs": {"net_arch": {"pi": [64], "qf": [32]}, "activation_fn": "relu"},
        },
    }


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("dict(log_std_init=-3.67, use_expln=True)", {"log_std_init": -3.67, "use_expln": True}),
        ("{'norm_obs': True, 'x': (1, None)}", {"norm_obs": True, "x": [1, None]}),
        ("dict(activation_fn=torch.nn.Tanh)", {"activation_fn": "tanh"}),
        (" dict() ", {}),
        ("dict(\n  a='future',\n  b=4\n)", {"a": "future", "b": 4}),
    ],
)
def test_what_is_written_as_python_is_read_where_it_is_plain(text, value):
    assert literal(text, "policy_kwargs") == value


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('touch run')",
        "dict(a=open('run', 'w'))",
        "dict([('a', 1)])",
        "dict(**{'a': 1})",
        "{**{}, 'a': 1}",
        "{[]: 1}",
        "dict(activation_fn=nn.Module)",
        "dict(optimizer_class=RMSpropTFLike)",
        "dict(a=(lambda: 1)())",
        "dict(a=2 ** 9)",
        "dict(a",
        "(" * 10_000,
        "",
    ],
)
def test_anything_else_is_refused_and_never_run(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"^f\.yml: policy_kwargs must be plain values"):
        literal(text, "f.yml: policy_kwargs")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("entry", "told"),
    [
        ({"env_wrapper": ["gymnasium.wrappers.X"]}, "env_wrapper has no option in `sb3-ext train`"),
        ({"frame_stack": 4}, "frame_stack has no option"),
        ({"normalize": "dict(norm_reward=False)"}, "normalize can be true or false in"),
    ],
)
def test_what_only_the_zoo_can_do_is_said(entry, told):
    with pytest.raises(UsageError, match=r"^f, A-v0: ") as raised:
        options_of_preset({"A-v0": entry}, "A-v0", "f")
    assert told in str(raised.value)
    assert "sb3-ext zoo train" in str(raised.value)


def test_an_environment_without_an_entry_gets_the_default_or_a_sentence():
    presets = {"default": {"n_timesteps": 5}, "Hopper-v5": {}}
    assert options_of_preset(presets, "A-v0", "f")["steps"] == 5
    del presets["default"]
    with pytest.raises(UsageError, match=r"no entry for 'Hoper-v5' .* did you mean 'Hopper-v5'\?"):
        options_of_preset(presets, "Hoper-v5", "f")
    with pytest.raises(UsageError, match="give --env"):
        options_of_preset(presets, None, "f")


def test_our_own_configs_are_not_taken_for_presets():
    assert not is_presets({"hyperparameters": {"gamma": 0.9}})
    assert not is_presets({"algorithm": "SAC", "env": "A-v0"})
    assert not is_presets({})


def test_train_with_the_presets_of_the_plugin(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["LFIWSAC", "--env", "Pendulum-v1", "--preset", "--set", "fast_buffer_size=60"]
    assert cli.main(["train", *words, *SMALL, *NET]) == 0
    options = run_options(Path("runs/lfiw_sac/Pendulum-v1_1"))
    assert options.steps == 150
    assert options.policy == "MlpPolicy"
    given = {"learning_rate": 0.001, "temperature": 5.0, "fast_buffer_size": 60}
    assert given.items() <= options.hyperparameters.items()


def test_train_with_a_file_of_the_zoo(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("td3.yml").write_text(
        "Pendulum-v1:\n  n_timesteps: !!float 1e5\n  policy: MlpPolicy\n  noise_type: normal\n"
        '  noise_std: 0.1\n  learning_starts: 10\n  policy_kwargs: "dict(net_arch=[8])"\n'
    )
    assert cli.main(["train", "TD3", "--env", "Pendulum-v1", "--config", "td3.yml", *SMALL]) == 0
    options = run_options(Path("runs/td3/Pendulum-v1_1"))
    assert options.hyperparameters["policy_kwargs"] == {"net_arch": [8]}
    assert options.hyperparameters["action_noise"] == {"type": "normal", "std": 0.1}


def test_mistakes_get_one_sentence(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    pendulum = ("--env", "Pendulum-v1")
    told = fails(capsys, "SAC", *pendulum, "--preset")
    assert "SAC brings no presets (LFIWDQN, LFIWSAC, LFIWTD3 do); --config" in told
    assert "sb3:PPO brings no presets" in fails(capsys, "sb3:PPO", *pendulum, "--preset")
    assert "--preset needs ALGO and --env" in fails(capsys, "LFIWSAC", "--preset")
    Path("p.yml").write_text("Pendulum-v1: {policy_kwargs: 'dict(a=exit())'}\n")
    both = ("LFIWSAC", *pendulum, "--preset", "--config", "p.yml")
    assert "give one of them" in fails(capsys, *both)
    told = fails(capsys, "SAC", *pendulum, "--config", "p.yml")
    assert "p.yml, Pendulum-v1: policy_kwargs must be plain values" in told
    assert "--resume takes all settings" in fails(capsys, "--resume", "x", "--preset")
    assert not Path("runs").exists()


def test_the_zoos_own_values_are_what_the_presets_say_they_are():
    """Where the Zoo is installed: all but LFIW's options, and but versions of MuJoCo's tasks."""
    found = importlib.util.find_spec("rl_zoo3")  # an import would patch Gymnasium for all tests
    if found is None:
        # It reads RL Zoo's own files; `make install`, and so CI, brings them.
        pytest.skip('rl_zoo3, whose values are compared, is missing: pip install "sb3-ext[zoo]"')
    for name in SHIPPED:
        base = name.removeprefix("lfiw_")
        theirs = yaml.safe_load(
            (Path(found.origin).parent / "hyperparams" / f"{base}.yml").read_text()
        )
        for env, entry in yaml.safe_load(preset_file(name).read_text()).items():
            for option in ("temperature", "fast_buffer_size"):
                assert option in LFIWSAC.__init__.__kwdefaults__
                del entry[option]
            assert entry == theirs[env.replace("-v5", "-v4")], (name, env)
