"""What the plugin says about itself."""

from sb3_ext.spec import Atom, Choice, Float, Int, Paper, PluginSpec

_STEVE = Paper(
    title="Sample-Efficient Reinforcement Learning with Stochastic Ensemble Value Expansion",
    authors="Buckman, Hafner, Tucker, Brevdo, Lee",
    year=2018,
    url="https://arxiv.org/abs/1807.01675",
)
_MVE = Paper(
    title="Model-Based Value Estimation for Efficient Model-Free Reinforcement Learning",
    authors="Feinberg, Wan, Stoica, Jordan, Gonzalez, Levine",
    year=2018,
    url="https://arxiv.org/abs/1803.00101",
)
_SPACE: dict[str, Atom] = {
    "horizon": Int(1, 5),
    "model_learning_rate": Float(1e-4, 3e-3, log=True),
    "model_updates": Int(1, 4),
    "learning_rate": Float(1e-4, 3e-3, log=True),
    "batch_size": Choice((64, 128, 256)),
    "gradient_steps": Choice((1, 2, 4)),
    "tau": Float(1e-3, 2e-2, log=True),
    "gamma": Choice((0.95, 0.98, 0.99, 0.995)),
}
_WEIGHTS: dict[str, Atom] = {"critic_reduction": Choice(("mean", "min"))}


def _spec(name: str, summary: str, target: str, paper: Paper, space: dict[str, Atom]) -> PluginSpec:
    return PluginSpec(
        kind="algorithm",
        name=name,
        summary=summary,
        target=f"sb3_ext.plugins.steve.algorithms:{target}",
        paper=paper,
        search_space=space,
        action_spaces=("Box",),
        observation_spaces=("Box",),
    )


SPECS = (
    _spec(
        "steve",
        "TD3 whose targets look ahead in a learned model, as far as its ensembles agree.",
        "STEVE",
        _STEVE,
        {**_SPACE, **_WEIGHTS},
    ),
    _spec(
        "steve_sac",
        "SAC whose targets look ahead in a learned model, as far as its ensembles agree.",
        "STEVESAC",
        _STEVE,
        {**_SPACE, **_WEIGHTS},
    ),
    _spec(
        "mve",
        "TD3 whose targets look a fixed number of steps ahead in a learned model.",
        "MVE",
        _MVE,
        _SPACE,
    ),
)
