"""What PER and LAP say about themselves; see the README beside this file."""

from sb3_ext.spec import Choice, Float, Paper, PluginSpec

PER = PluginSpec(
    kind="sampler",
    name="per",
    summary="Draws transitions in proportion to their TD errors, and weighs the bias away.",
    target="sb3_ext.plugins.per.config:Prioritized",
    also=("sb3_ext.plugins.per.buffer:PrioritizedReplayBuffer",),
    paper=Paper(
        title="Prioritized Experience Replay",
        authors="Schaul, Quan, Antonoglou, Silver",
        year=2016,
        url="https://arxiv.org/abs/1511.05952",
    ),
    search_space={
        "alpha": Float(0.2, 1.0),
        "beta": Float(0.0, 1.0),
        "normalize": Choice(("batch", "buffer")),
        "max_priority": Choice(("running", "buffer")),
        "reduce": Choice(("max", "mean")),
    },
    action_spaces=("Box", "Discrete"),
    observation_spaces=("Box", "Dict"),
)

LAP = PluginSpec(
    kind="sampler",
    name="lap",
    summary="Draws by clipped TD errors under Huber's loss, which needs no weights.",
    target="sb3_ext.plugins.per.config:LAP",
    paper=Paper(
        title="An Equivalence between Loss Functions and Non-Uniform Sampling in Experience Replay",
        authors="Fujimoto, Meger, Precup",
        year=2020,
        url="https://arxiv.org/abs/2007.06049",
    ),
    search_space={
        "alpha": Float(0.2, 1.0),
        "min_priority": Float(0.01, 10.0, log=True),
        "max_priority": Choice(("running", "buffer")),
    },
    action_spaces=("Box", "Discrete"),
    observation_spaces=("Box", "Dict"),
)

SPECS = (PER, LAP)
