"""What the plugin says about itself."""

from sb3_ext.spec import Choice, Float, Paper, PluginSpec

SPEC = PluginSpec(
    kind="algorithm",
    name="acer",
    summary="Actor-critic that replays whole trajectories, with Retrace and a trust region.",
    target="sb3_ext.plugins.acer.algorithm:ACER",
    paper=Paper(
        title="Sample Efficient Actor-Critic with Experience Replay",
        authors="Wang, Bapst, Heess, Mnih, Munos, Kavukcuoglu, de Freitas",
        year=2017,
        url="https://arxiv.org/abs/1611.01224",
    ),
    search_space={
        "learning_rate": Float(1e-4, 3e-3, log=True),
        "n_steps": Choice((5, 10, 20, 50)),
        "replay_ratio": Choice((1.0, 2.0, 4.0, 8.0)),
        "correction_term": Float(1.0, 20.0, log=True),
        "delta": Float(0.1, 10.0, log=True),
        "average_decay": Choice((0.9, 0.99, 0.995)),
        "ent_coef": Float(1e-4, 0.1, log=True),
        "gamma": Choice((0.95, 0.98, 0.99, 0.995)),
    },
    action_spaces=("Discrete", "MultiDiscrete", "Box"),
    observation_spaces=("Box", "Dict", "Discrete", "MultiDiscrete", "MultiBinary"),
)
