"""What the plugin says about itself; it is read to list plugins, so it imports nothing heavy."""

from sb3_ext.spec import Float, PluginSpec

SPEC = PluginSpec(
    kind="weighting",
    name="reward_softmax",
    summary="Transitions with large rewards count more.",
    target="sb3_ext_reward_softmax.weighting:RewardSoftmax",
    search_space={"temperature": Float(0.5, 10.0, log=True)},
    action_spaces=("Box",),
    observation_spaces=("Box", "Dict"),
)
