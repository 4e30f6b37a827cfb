"""What LFIW says about itself."""

from sb3_ext.spec import Atom, Choice, Float, Int, Paper, PluginSpec

PAPER = Paper(
    title="Experience Replay with Likelihood-free Importance Weights",
    authors="Sinha, Song, Garg, Ermon",
    year=2022,
    url="https://proceedings.mlr.press/v168/sinha22a.html",
)

SEARCH_SPACE: dict[str, Atom] = {
    "temperature": Float(1.0, 20.0, log=True),
    "fast_buffer_size": Int(1_000, 100_000, log=True),
    "divergence": Choice(("js", "kl", "chi2", "hellinger")),
    "weight_form": Choice(("ratio", "prob")),
    "ratio_learning_rate": Float(1e-5, 1e-3, log=True),
    "ratio_updates": Int(1, 4),
}

LFIW_SAC = PluginSpec(
    kind="algorithm",
    name="lfiw_sac",
    summary="SAC whose critics believe transitions by how likely the current policy visits them.",
    target="sb3_ext.plugins.lfiw.algorithms:LFIWSAC",
    paper=PAPER,
    search_space=SEARCH_SPACE,
    action_spaces=("Box",),
    observation_spaces=("Box", "Dict"),
)

LFIW_TD3 = PluginSpec(
    kind="algorithm",
    name="lfiw_td3",
    summary="TD3 whose critics believe transitions by how likely the current policy visits them.",
    target="sb3_ext.plugins.lfiw.algorithms:LFIWTD3",
    paper=PAPER,
    search_space=SEARCH_SPACE,
    action_spaces=("Box",),
    observation_spaces=("Box", "Dict"),
)

LFIW_DQN = PluginSpec(
    kind="algorithm",
    name="lfiw_dqn",
    summary="DQN that believes transitions by how likely the current policy visits them.",
    target="sb3_ext.plugins.lfiw.algorithms:LFIWDQN",
    paper=PAPER,
    search_space=SEARCH_SPACE,
    action_spaces=("Discrete",),
    observation_spaces=("Box", "Dict"),
)

LFIW = PluginSpec(
    kind="weighting",
    name="lfiw",
    summary="Weighs transitions by a learned ratio of recent to all experience.",
    target="sb3_ext.plugins.lfiw.config:LikelihoodFree",
    paper=PAPER,
    search_space=SEARCH_SPACE,
    action_spaces=("Box", "Discrete"),
    observation_spaces=("Box", "Dict"),
)

SPECS = (LFIW_SAC, LFIW_TD3, LFIW_DQN, LFIW)
