import optuna
import pytest

import sb3_ext
from sb3_ext import registry, tuning
from sb3_ext.algorithms.inputs import resolve_config
from sb3_ext.spec import Choice, Float, Int, PluginSpec


class Toy:
    """Stands in for an algorithm, so that this test needs no torch."""


SPEC = PluginSpec(
    kind="algorithm",
    name="toy",
    summary="A toy.",
    target=f"{__name__}:Toy",
    search_space={
        "temperature": Float(1.0, 20.0, log=True),
        "clip": Float(0.0, 1.0, step=0.25),
        "updates": Int(2, 8, step=2),
        "divergence": Choice(("js", None)),
    },
)


@pytest.fixture(autouse=True)
def toy():
    registry.register(SPEC)
    yield
    registry.unregister(SPEC)


def test_a_trial_fills_the_whole_declared_space():
    wanted = {"temperature": 5.0, "clip": 0.5, "updates": 4, "divergence": None}
    assert tuning.suggest(optuna.trial.FixedTrial(wanted), "toy") == wanted


def test_the_class_and_both_of_its_names_declare_the_same_space():
    wanted = {"temperature": 5.0, "clip": 0.5, "updates": 4, "divergence": "js"}
    for algorithm in (Toy, "toy", "Toy"):
        assert tuning.suggest(optuna.trial.FixedTrial(wanted), algorithm) == wanted


def test_optuna_learns_the_bounds_the_scale_and_the_step():
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    trial = study.ask()
    drawn = tuning.suggest(trial, "toy")
    assert trial.params == drawn
    assert trial.distributions == {
        "temperature": optuna.distributions.FloatDistribution(1.0, 20.0, log=True),
        "clip": optuna.distributions.FloatDistribution(0.0, 1.0, step=0.25),
        "updates": optuna.distributions.IntDistribution(2, 8, step=2),
        "divergence": optuna.distributions.CategoricalDistribution(("js", None)),
    }


def test_only_leaves_the_other_hyperparameters_at_their_defaults():
    drawn = tuning.suggest(optuna.trial.FixedTrial({"updates": 2}), "toy", only=["updates"])
    assert drawn == {"updates": 2}


def test_an_unknown_name_in_only_is_answered_with_the_near_miss():
    with pytest.raises(
        ValueError,
        match=r"Toy has no 'temprature' in its search space; did you mean 'temperature'\?",
    ):
        tuning.suggest(optuna.trial.FixedTrial({}), "toy", only=["temprature"])


def test_a_bare_string_for_only_is_not_read_letter_by_letter():
    with pytest.raises(ValueError, match=r"got the str 'clip'; try \['clip'\]"):
        tuning.suggest(optuna.trial.FixedTrial({}), "toy", only="clip")


def test_a_class_without_a_spec_is_refused_in_words():
    with pytest.raises(ValueError, match=r"declares a search space, got <class 'dict'>"):
        tuning.suggest(optuna.trial.FixedTrial({}), dict)
    with pytest.raises(ValueError, match="give its class or its name, 'toy'"):
        tuning.suggest(optuna.trial.FixedTrial({}), Toy())


def test_a_sampler_s_parameters_keep_apart_from_an_algorithm_s():
    trial = optuna.trial.FixedTrial({"per.alpha": 0.7, "per.beta": 0.5})
    for plugin in ("per", "Prioritized", sb3_ext.Prioritized):
        drawn = tuning.suggest(trial, plugin, only=["alpha", "beta"])
        assert drawn == {"name": "per", "alpha": 0.7, "beta": 0.5}
    assert resolve_config("sampler", drawn) == sb3_ext.Prioritized(alpha=0.7, beta=0.5)


def test_all_that_is_declared_by_ours_can_be_drawn():
    rows = [row.spec for row in registry.plugins() if row.distribution == registry.OWN_DISTRIBUTION]
    specs = [spec for spec in rows if spec]
    assert {"sac", "dqn", "crossq", "lfiw_dqn", "per", "ere", "lfiw"} <= {one.name for one in specs}
    for spec in specs:
        study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
        drawn = tuning.suggest(study.ask(), spec.name)
        assert drawn
        if spec.kind != "algorithm":
            assert resolve_config(spec.kind, drawn)
