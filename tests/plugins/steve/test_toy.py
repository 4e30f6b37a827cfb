"""The chain of Buckman et al. (2018): a wrong sign, index or variance would show here."""

import numpy as np
import pytest

UPDATES = 10_000


@pytest.fixture
def toy(import_benchmark):
    return import_benchmark("steve_toy")


def curves(toy, name, updates=UPDATES):
    return toy.run(toy.VARIANTS[name], trials=3, updates=updates).numpy()


def first(curve):
    return int(np.flatnonzero(curve < 1)[0]) if (curve < 1).any() else UPDATES


def test_without_a_model_it_takes_long(toy):
    found = curves(toy, "TD, eight tables")
    assert all(first(one) > 9_000 for one in found.T)
    assert (found[-1] < 100).all()  # it gets there, late


def test_with_the_true_model_both_are_fast(toy):
    for name in ("MVE, oracle", "STEVE, oracle"):
        assert all(first(one) < 3_500 for one in curves(toy, name, 3_600).T)


def test_a_noisy_model_ruins_mve_and_not_steve(toy):
    assert (curves(toy, "MVE, noisy model")[-1] > 500).all()
    assert all(first(one) < 9_000 for one in curves(toy, "STEVE, noisy model").T)
