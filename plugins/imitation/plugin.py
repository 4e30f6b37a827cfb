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
_CLONING: dict[str, Float | Int | Choice] = {
    "learning_rate": Float(1e-4, 1e-2, log=True),
    "batch_size": Choice((32, 64, 128, 256)),
    "ent_weight": Float(1e-5, 1e-1, log=True),
    "l2_weight": Choice((0.0, 1e-6, 1e-5, 1e-4)),
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
        demonstrations=True,
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
        demonstrations=True,
        needs=_NEEDS,
        install_hint=_INSTALL,
    ),
    PluginSpec(
        kind="algorithm",
        name="bc",
        summary="Imitation: behavioural cloning, by imitation.",
        target="sb3_ext.plugins.imitation.bc:BC",
        paper=Paper(
            title="ALVINN: An Autonomous Land Vehicle in a Neural Network",
            authors="Pomerleau",
            year=1988,
            url="https://papers.nips.cc/paper/95-alvinn",
        ),
        search_space={**_CLONING, "loss": Choice(("nll", "mse"))},
        action_spaces=_ACTIONS,
        observation_spaces=(*_OBSERVATIONS, "Dict"),
        offline=True,
        demonstrations=True,
        needs=_NEEDS,
        install_hint=_INSTALL,
    ),
    PluginSpec(
        kind="algorithm",
        name="dagger",
        summary="Imitation: the clone acts, and the expert says what it would have done.",
        target="sb3_ext.plugins.imitation.dagger:DAgger",
        paper=Paper(
            title="A Reduction of Imitation Learning and Structured Prediction to No-Regret Online "
            "Learning",
            authors="Ross, Gordon, Bagnell",
            year=2011,
            url="https://arxiv.org/abs/1011.0686",
        ),
        search_space={
            **_CLONING,
            "beta_rampdown_rounds": Int(1, 30, log=True),
            "n_epochs": Int(1, 16, log=True),
        },
        action_spaces=_ACTIONS,
        observation_spaces=_OBSERVATIONS,
        demonstrations=True,
        needs=_NEEDS,
        install_hint=_INSTALL,
    ),
)
