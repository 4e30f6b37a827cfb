"""What the plugin says about itself."""

from sb3_ext.spec import Choice, Float, Int, Paper, PluginSpec

SPECS = (
    PluginSpec(
        kind="algorithm",
        name="bcq",
        summary="Offline: Q-learning among actions that the data could have taken.",
        target="sb3_ext.plugins.bcq.algorithm:BCQ",
        paper=Paper(
            title="Off-Policy Deep Reinforcement Learning without Exploration",
            authors="Fujimoto, Meger, Precup",
            year=2019,
            url="https://arxiv.org/abs/1812.02900",
        ),
        search_space={
            "phi": Float(0.01, 0.5, log=True),
            "q_mix_lambda": Float(0.5, 1.0),
            "n_sampled_actions": Int(2, 50, log=True),
            "learning_rate": Float(1e-4, 3e-3, log=True),
            "batch_size": Choice((64, 100, 256)),
            "tau": Float(1e-3, 2e-2, log=True),
            "gamma": Choice((0.95, 0.98, 0.99, 0.995)),
        },
        action_spaces=("Box",),
        observation_spaces=("Box", "Dict", "Discrete"),
        offline=True,
    ),
    PluginSpec(
        kind="algorithm",
        name="discrete_bcq",
        summary="Offline: Double DQN among actions that the behaviour takes often enough.",
        target="sb3_ext.plugins.bcq.discrete:DiscreteBCQ",
        paper=Paper(
            title="Benchmarking Batch Deep Reinforcement Learning Algorithms",
            authors="Fujimoto, Conti, Ghavamzadeh, Pineau",
            year=2019,
            url="https://arxiv.org/abs/1910.01708",
        ),
        search_space={
            "threshold": Float(0.0, 1.0),
            "learning_rate": Float(1e-5, 1e-3, log=True),
            "batch_size": Choice((32, 64, 128, 256)),
            "tau": Float(1e-3, 2e-2, log=True),
            "gamma": Choice((0.95, 0.98, 0.99, 0.995)),
        },
        action_spaces=("Discrete",),
        observation_spaces=("Box", "Dict", "Discrete"),
        offline=True,
    ),
)
