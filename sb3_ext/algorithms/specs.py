"""What the bases say about themselves."""

from dataclasses import replace

from sb3_ext.spec import Atom, Choice, Float, Int, Paper, PluginSpec

_COMMON: dict[str, Atom] = {
    "learning_rate": Float(1e-4, 3e-3, log=True),
    "buffer_size": Choice((50_000, 200_000, 1_000_000)),
    "learning_starts": Choice((100, 1_000, 10_000)),
    "batch_size": Choice((64, 128, 256, 512)),
    "gamma": Choice((0.95, 0.98, 0.99, 0.995, 0.999)),
    "train_freq": Choice((1, 4, 16, 64)),
    # -1: as many steps as there were in the environment, so the ratio stays one.
    "gradient_steps": Choice((-1, 1)),
}
_OFF_POLICY: dict[str, Atom] = {**_COMMON, "tau": Float(0.001, 0.05, log=True)}
_DISCRETE: dict[str, Atom] = {
    **_COMMON,
    "learning_rate": Float(1e-5, 3e-3, log=True),
    "batch_size": Choice((32, 64, 128, 256)),
    # The target is copied at these intervals, so tau stays at 1.
    "target_update_interval": Choice((1, 100, 1_000, 10_000)),
    "exploration_fraction": Float(0.01, 0.5),
    "exploration_final_eps": Float(0.01, 0.2),
}
_ENT_COEF = Choice(("auto", "auto_0.1", 0.2, 0.05, 0.01))

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
    search_space={**_OFF_POLICY, "ent_coef": _ENT_COEF},
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

TQC = PluginSpec(
    kind="algorithm",
    name="tqc",
    summary="SAC with distributional critics, whose highest quantiles are left out of the target.",
    target="sb3_ext.algorithms.tqc:TQC",
    paper=Paper(
        title="Controlling Overestimation Bias with Truncated Mixture of Continuous "
        "Distributional Quantile Critics",
        authors="Kuznetsov, Shvechikov, Grishin, Vetrov",
        year=2020,
        url="https://arxiv.org/abs/2005.04269",
    ),
    search_space={
        **_OFF_POLICY,
        "ent_coef": _ENT_COEF,
        "top_quantiles_to_drop_per_net": Int(0, 5),
    },
    action_spaces=("Box",),
    observation_spaces=("Box", "Dict"),
)

CROSSQ = PluginSpec(
    kind="algorithm",
    name="crossq",
    summary="SAC without target networks: batch normalisation over both ends of a transition.",
    target="sb3_ext.algorithms.crossq:CrossQ",
    paper=Paper(
        title="CrossQ: Batch Normalization in Deep Reinforcement Learning for Greater Sample "
        "Efficiency and Simplicity",
        authors="Bhatt, Palenicek, Belousov, Argus, Amiranashvili, Brox, Peters",
        year=2024,
        url="https://openreview.net/forum?id=PczQtTsTIX",
    ),
    search_space={**_COMMON, "ent_coef": _ENT_COEF, "policy_delay": Int(1, 5)},
    action_spaces=("Box",),
    # sb3-contrib has MlpPolicy only.
    observation_spaces=("Box",),
)

DQN = PluginSpec(
    kind="algorithm",
    name="dqn",
    summary="Deep Q-network for discrete actions, with double Q-learning if wanted.",
    target="sb3_ext.algorithms.dqn:DQN",
    paper=Paper(
        title="Human-level control through deep reinforcement learning",
        authors="Mnih, Kavukcuoglu, Silver, et al.",
        year=2015,
        url="https://www.nature.com/articles/nature14236",
    ),
    search_space={**_DISCRETE, "double_q": Choice((False, True))},
    action_spaces=("Discrete",),
    observation_spaces=("Box", "Dict"),
)

QRDQN = PluginSpec(
    kind="algorithm",
    name="qrdqn",
    summary="DQN that learns the quantiles of the return, not only its mean.",
    target="sb3_ext.algorithms.qrdqn:QRDQN",
    paper=Paper(
        title="Distributional Reinforcement Learning with Quantile Regression",
        authors="Dabney, Rowland, Bellemare, Munos",
        year=2018,
        url="https://arxiv.org/abs/1710.10044",
    ),
    search_space=_DISCRETE,
    action_spaces=("Discrete",),
    observation_spaces=("Box", "Dict"),
)

#: Searched online, and about collecting.
_COLLECTING = ("buffer_size", "learning_starts", "train_freq", "gradient_steps")


def _offline(base: PluginSpec) -> PluginSpec:
    """The same on a dataset alone."""
    space = {
        name: atom
        for name, atom in base.search_space.items()
        if name not in _COLLECTING and not name.startswith("exploration_")
    }
    return replace(
        base,
        name=f"offline_{base.name}",
        summary=f"Offline: {base.public_name} on a dataset alone, as a baseline.",
        target=f"sb3_ext.offline.baselines:Offline{base.public_name}",
        search_space=space,
        offline=True,
        also=(),
    )


SPECS = (SAC, TD3, DDPG, TQC, CROSSQ, DQN, QRDQN, *map(_offline, (SAC, TD3, DDPG, DQN)))
