"""A slice of the ring that is not trained on, with runs of one length while the buffer grows."""

import numpy as np
import pytest

from sb3_ext.replay.split import draw_split, held_out
from sb3_ext.replay.window import Window


@pytest.mark.parametrize("fraction", [0.1, 0.3])
def test_rows_keep_their_side_while_the_buffer_grows(fraction):
    sides = []
    for length in (60, 500, 2000):
        window = Window(length % 2000, length, 2000, n_envs=2)
        sides.append(held_out(np.arange(120), window, fraction, run=25))
    assert (sides[0] == sides[1]).all() and (sides[1] == sides[2]).all()


def test_the_first_run_is_trained_on_and_the_share_is_kept():
    window = Window(0, 5000, 5000)
    out = held_out(window.indices(), window, 0.1, run=50)
    assert not out[:50].any()
    assert out.mean() == pytest.approx(0.1, abs=0.02)
    edges = np.flatnonzero(np.diff(out.astype(int))) + 1
    assert (edges % 50 == 0).all()


def test_neither_side_gets_the_other_s():
    window, rng = Window(0, 5000, 5000), np.random.default_rng(0)
    for out in (True, False):
        drawn = draw_split(window, 3000, rng, 0.1, out, run=50)
        assert (held_out(drawn, window, 0.1, run=50) == out).all()
