"""ERE's equations: the tables of replay.md section 2.3."""

import numpy as np
import pytest

from sb3_ext.plugins.ere.equations import age_probabilities, annealed_eta, window_size

N = 1_000_000


@pytest.mark.parametrize(
    ("n_updates", "eta", "expected"),
    [
        (1000, 0.996, [1_000_000, 996_000, 367_142, 134_793, 49_488, 18_242, 18_169]),
        (200, 0.996, [1_000_000, 980_159, 367_142, 134_793, 49_488, 18_537, 18_169]),
        (1000, 0.994, [1_000_000, 994_000, 222_124, 49_339, 10_959, 5_000, 5_000]),
        (77, 1.0, [N] * 7),
    ],
)
def test_windows(n_updates, eta, expected):
    k = n_updates
    places = [0, 1, k / 4, k / 2, 3 * k / 4, k - 1, k]
    assert [window_size(one, n_updates, N, eta, 5000) for one in places] == expected


def test_the_floor_is_reached_when_the_table_says():
    windows = [window_size(k, 1000, N, 0.994, 5000) for k in range(1000)]
    assert windows.index(5000) == 881


def test_no_window_is_larger_than_all():
    assert window_size(0, 10, 300, 0.996, 5000) == 300


def test_eta_is_linear_in_progress():
    found = [annealed_eta(t, 0.996, 1.0) for t in (0, 0.25, 0.5, 0.75, 1)]
    assert found == pytest.approx([0.996, 0.997, 0.998, 0.999, 1.0])


@pytest.mark.parametrize(
    ("size", "eta", "c_min", "newest_1", "newest_10", "mean_age"),
    [
        (1_000_000, 0.996, 5000, 0.1348, 0.6500, 0.1225),
        (1_000_000, 0.994, 5000, 0.3993, 0.7669, 0.0830),
        (10_000, 0.996, 500, 0.0979, 0.6499, 0.1248),
    ],
)
def test_the_law_of_ages(size, eta, c_min, newest_1, newest_10, mean_age):
    law = age_probabilities(size, eta, c_min)
    assert law.sum() == pytest.approx(1)
    assert law[: size // 100].sum() == pytest.approx(newest_1, abs=5e-4)
    assert law[: size // 10].sum() == pytest.approx(newest_10, abs=5e-4)
    assert (law * np.arange(1, size + 1)).sum() / size == pytest.approx(mean_age, abs=5e-4)


@pytest.mark.parametrize("c_min", [1, 50, 500, 2000])
def test_the_law_is_the_mixture_of_the_windows(c_min):
    size, n_updates = 2000, 20_000
    mixture = np.zeros(size)
    for k in range(n_updates):
        mixture[: window_size(k, n_updates, size, 0.996, c_min)] += 1 / window_size(
            k, n_updates, size, 0.996, c_min
        )
    distance = np.abs(mixture / n_updates - age_probabilities(size, 0.996, c_min)).sum() / 2
    assert distance < 0.003
    assert np.allclose(age_probabilities(size, 1.0, c_min), 1 / size)
