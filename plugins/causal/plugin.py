"""What the plugin says about itself."""

from sb3_ext.spec import Choice, Float, Paper, PluginSpec

SPECS = PluginSpec(
    kind="algorithm",
    name="causal_bc",
    summary="Imitation: clones under every choice of inputs, and intervenes to find the expert's.",
    target="sb3_ext.plugins.causal.algorithm:CausalBC",
    paper=Paper(
        title="Causal Confusion in Imitation Learning",
        authors="de Haan, Jayaraman, Levine",
        year=2019,
        url="https://arxiv.org/abs/1905.11979",
    ),
    search_space={
        "keep_probability": Float(0.2, 0.9),
        "learning_rate": Float(1e-4, 3e-3, log=True),
        "batch_size": Choice((32, 64, 128, 256)),
    },
    action_spaces=("Box", "Discrete", "MultiDiscrete", "MultiBinary"),
    observation_spaces=("Box", "Dict"),
    offline=True,
    demonstrations=True,
    also=(
        "sb3_ext.plugins.causal.confounding:PreviousAction",
        "sb3_ext.plugins.causal.confounding:RichStart",
        "sb3_ext.plugins.causal.confounding:with_previous_action",
    ),
)
