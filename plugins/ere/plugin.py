"""What ERE says about itself; see the README beside this file."""

from sb3_ext.spec import Choice, Float, Int, Paper, PluginSpec

SPECS = PluginSpec(
    kind="sampler",
    name="ere",
    summary="Draws the more from the newest transitions the later in a round of updates.",
    target="sb3_ext.plugins.ere.config:EmphasizeRecent",
    also=("sb3_ext.plugins.ere.buffer:EREReplayBuffer",),
    paper=Paper(
        title="Boosting Soft Actor-Critic: Emphasizing Recent Experience without Forgetting the "
        "Past",
        authors="Wang, Ross",
        year=2019,
        url="https://arxiv.org/abs/1906.04009",
    ),
    search_space={
        "eta": Float(0.99, 0.9999),
        "c_min": Int(100, 5_000, log=True),
        "size": Choice(("capacity", "current")),
    },
    action_spaces=("Box", "Discrete"),
    observation_spaces=("Box", "Dict"),
)
