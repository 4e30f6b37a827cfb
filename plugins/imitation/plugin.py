"""What the plugin says about itself."""

from sb3_ext.spec import Choice, Float, Int, Paper, PluginSpec

_NEEDS = ("imitation", "tensorboard")
_INSTALL = 'pip install "sb3-ext[imitation]" && pip install --no-deps imitation==1.0.1'
_ADVERSARIAL: dict[str, Float | Int | Choice] = {
    "demo_batch_size": Choice((64, 128, 256, 512)),
    "n_disc_updates_per_round": Int(1, 16, log=True),
    "disc_learning_rate": Float(1e-4, 1e-2, log=True),
    "disc_normalize_inputs": Choice((False, True)),
    "normalize_rewards": Choice((False, True)),
    "generator_kwargs.learning_rate": Float(1e-5, 1e-3, log=True),
    "generator_kwargs.gamma": Choice((0.95, 0.98, 0.99, 0.995)),
}
_ACTIONS = ("Box", "Discrete", "MultiDiscrete", "MultiBinary")
_OBSERVATIONS = ("Box", "Discrete", "MultiDiscrete", "MultiBinary")

SPECS = (
    PluginSpec(
        kind="algorithm",
        name="gail",
        summary="Imitation: rewards from a discriminator of expert and generator, by imitation.",
        target="sb3_ext.plugins.imitation.algorithms:GAIL",
        paper=Paper(
            title="Generative Adversarial Imitation Learning",
            authors="Ho, Ermon",
            year=2016,
            url="https://arxiv.org/abs/1606.03476",
        ),
        search_space={**_ADVERSARIAL, "reward_form": Choice(("softplus", "logsigmoid"))},
        action_spaces=_ACTIONS,
        observation_spaces=_OBSERVATIONS,
        needs=_NEEDS,
        install_hint=_INSTALL,
    ),
    PluginSpec(
        kind="algorithm",
        name="airl",
        summary="Imitation: a discriminator that holds a reward of its own, by imitation.",
        target="sb3_ext.plugins.imitation.algorithms:AIRL",
        paper=Paper(
            title="Learning Robust Rewards with Adversarial Inverse Reinforcement Learning",
            authors="Fu, Luo, Levine",
            year=2018,
            url="https://arxiv.org/abs/1710.11248",
        ),
        search_space=_ADVERSARIAL,
        action_spaces=_ACTIONS,
        observation_spaces=_OBSERVATIONS,
        needs=_NEEDS,
        install_hint=_INSTALL,
    ),
)
