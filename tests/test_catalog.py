"""Names of algorithms."""

import importlib

import pytest
import stable_baselines3
from stable_baselines3.common.base_class import BaseAlgorithm

import sb3_ext
from sb3_ext.catalog import STOCK, algorithm_names, find_algorithm
from sb3_ext.errors import UsageError


@pytest.mark.parametrize("home", STOCK)
def test_the_stock_names_are_those_of_the_installed_version(home):
    module, names = STOCK[home]
    found = vars(importlib.import_module(module)).values()
    classes = {one.__name__ for one in found if isinstance(one, type)}
    algorithms = {
        one.__name__ for one in found if isinstance(one, type) and issubclass(one, BaseAlgorithm)
    }
    assert set(names) == algorithms <= classes


def test_every_name_leads_to_an_algorithm():
    for name in algorithm_names():
        canonical, cls = find_algorithm(name)
        assert issubclass(cls, BaseAlgorithm)
        assert find_algorithm(canonical) == (canonical, cls)


def test_ours_wins_and_the_stock_class_has_a_prefix():
    assert find_algorithm("SAC")[1] is find_algorithm("sac")[1] is sb3_ext.SAC
    assert find_algorithm("sb3:sac") == ("sb3:SAC", stable_baselines3.SAC)


@pytest.mark.parametrize(
    ("name", "told"),
    [("PP0", "did you mean 'PPO'"), ("sb4:SAC", "before the colon stands one of sb3, contrib")],
)
def test_an_unknown_name_is_told(name, told):
    with pytest.raises(UsageError, match=told):
        find_algorithm(name)
