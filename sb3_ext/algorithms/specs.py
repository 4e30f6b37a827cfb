"""What the bases say about themselves."""

from sb3_ext.spec import Atom, Choice, Float, Int, Paper, PluginSpec

_OFF_POLICY: dict[str, Atom] = {
    "learning_rate": Float(1e-4, 3e-3, log=True),
    "buffer_size": Choice((50_000, 200_000, 1_000_000)),
    "learning_starts": Choice((100, 1_000, 10_000)),
    "batch_size": Choice((64, 128, 256, 512)),
    "tau": Float(0.001, 0.05, log=True),
    "gamma": Choice((0.95, 0.98, 0.99, 0.995, 0.999)),
    "train_freq": Choice((1, 4, 16, 64)),
    # -1: as many steps as there were in the environment, so the ratio stays one.
    "gradient_steps": Choice((-1, 1)),
}

SAC = PluginSpec(
    kind="algorithm",
    name="sac",
    summary="Soft actor-critic: off-policy, with a stochastic actor that is paid for its entropy.",
    target="sb3_ext.algorithms.sac:SAC",
    paper=Paper(
        title="Soft Actor-Critic: Off-Policy Maximum Entropy Deep Reinforcement Learning "
        "with a Stochastic Actor",
        authors="Haarnoja, Zhou, Abbeel, Levine",
        year=2018,
        url="https://arxiv.org/abs/1801.01290",
    ),
    search_space={**_OFF_POLICY, "ent_coef": Choice(("auto", "auto_0.1", 0.2, 0.05, 0.01))},
    action_spaces=("Box",),
    observation_spaces=("Box", "Dict"),
)

TD3 = PluginSpec(
    kind="algorithm",
    name="td3",
    summary="Twin delayed DDPG: the smaller of two critics, smoothed targets, a slower actor.",
    target="sb3_ext.algorithms.td3:TD3",
    paper=Paper(
        title="Addressing Function Approximation Error in Actor-Critic Methods",
        authors="Fujimoto, van Hoof, Meger",
        year=2018,
        url="https://arxiv.org/abs/1802.09477",
    ),
    search_space={
        **_OFF_POLICY,
        "policy_delay": Int(1, 4),
        "target_policy_noise": Float(0.05, 0.4),
        "target_noise_clip": Float(0.2, 0.8),
    },
    action_spaces=("Box",),
    observation_spaces=("Box", "Dict"),
)

DDPG = PluginSpec(
    kind="algorithm",
    name="ddpg",
    summary="Deep deterministic policy gradient: one critic and a deterministic actor.",
    target="sb3_ext.algorithms.td3:DDPG",
    paper=Paper(
        title="Continuous control with deep reinforcement learning",
        authors="Lillicrap, Hunt, Pritzel, Heess, Erez, Tassa, Silver, Wierstra",
        year=2016,
        url="https://arxiv.org/abs/1509.02971",
    ),
    search_space=_OFF_POLICY,
    action_spaces=("Box",),
    observation_spaces=("Box", "Dict"),
)

SPECS = (SAC, TD3, DDPG)
