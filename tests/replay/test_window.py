"""Ring arithmetic against a plain list that forgets."""

from __future__ import annotations

from collections import deque

import numpy as np
import pytest

from sb3_ext.replay.window import Window


@pytest.mark.parametrize("n_envs", [1, 3, 4])
@pytest.mark.parametrize("fast", [1, 5, 8, 1000])
def test_newest_equals_a_separately_kept_fifo(n_envs: int, fast: int) -> None:
    capacity = 7
    rows = -(-fast // n_envs)
    fifo: deque[int] = deque(maxlen=min(rows, capacity) * n_envs)
    ring = np.full((capacity, n_envs), -1)
    stamp = 0
    for step in range(25):  # wraps three times
        row = step % capacity
        for env in range(n_envs):
            ring[row, env] = stamp
            fifo.append(stamp)
            stamp += 1
        window = Window((step + 1) % capacity, min(step + 1, capacity), capacity, n_envs)
        newest = window.newest(fast)
        assert ring.reshape(-1)[newest.indices()].tolist() == list(fifo)
        assert newest.size == len(fifo)
        everywhere = np.arange(capacity * n_envs)
        inside = newest.contains(everywhere)
        assert set(everywhere[inside]) == set(newest.indices())


def test_draws_are_uniform_over_the_window_and_never_outside() -> None:
    window = Window(head=2, length=5, capacity=8, n_envs=3)
    drawn = window.draw(60_000, np.random.default_rng(0))
    values, counts = np.unique(drawn, return_counts=True)
    assert sorted(values) == sorted(window.indices())
    # Chi-square with 14 degrees of freedom: 36.1 is its 0.999 quantile.
    assert ((counts - 4000) ** 2 / 4000).sum() < 36.1


def test_draws_leave_numpys_global_generator_alone() -> None:
    np.random.seed(0)
    before = np.random.get_state()[1].copy()
    Window(0, 3, 3).draw(10, np.random.default_rng(1))
    assert (np.random.get_state()[1] == before).all()


@pytest.mark.parametrize("n_envs", [1, 3])
def test_ages_count_backwards_from_the_newest_row(n_envs: int) -> None:
    window = Window(head=2, length=5, capacity=8, n_envs=n_envs)
    rows = window.of_age(np.arange(window.size)) // n_envs
    assert rows.tolist() == np.repeat([1, 0, 7, 6, 5], n_envs).tolist()
    assert sorted(window.of_age(np.arange(window.size))) == sorted(window.indices())
    for wrong in (-1, window.size):
        with pytest.raises(ValueError, match=f"between 0 and {window.size - 1}, got {wrong}"):
            window.of_age(np.array([wrong]))
    assert window.of_age(np.array([], dtype=np.int64)).size == 0


def test_an_empty_window_says_so() -> None:
    with pytest.raises(ValueError, match="cannot draw from an empty window"):
        Window(0, 0, 5).draw(1, np.random.default_rng(0))


@pytest.mark.parametrize("wrong", [(0, 6, 5), (5, 1, 5), (-1, 1, 5), (0, -1, 5)])
def test_impossible_windows_are_refused(wrong: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="must hold, but got length="):
        Window(*wrong)


def test_a_row_needs_an_environment() -> None:
    with pytest.raises(ValueError, match="n_envs must be at least 1"):
        Window(0, 1, 5, 0)
