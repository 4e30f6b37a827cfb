"""The rule that plays Pong, on pictures made by hand; the picture itself; the slot."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest


def _load() -> ModuleType:
    path = Path(__file__).resolve().parents[2] / "examples" / "causal_pong.py"
    spec = importlib.util.spec_from_file_location("example_causal_pong", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up here
    spec.loader.exec_module(module)
    return module


pong = _load()
BALL, PADDLE = (4, 2, 236), (16, 4, 147)  # height, width, gray, on the screen


def screen(ball: tuple[int, int] | None, paddle: int) -> Any:
    """A screen of the game; rows and columns are of the upper left corners, in the field."""
    picture = np.full((210, 160), pong.BACKGROUND, np.uint8)
    picture[:34] = picture[194:] = 236  # the score and the border, which are cut off
    for (height, width, gray), where in ((PADDLE, (paddle, 140)), (BALL, ball)):
        if where is not None:
            row, column = 34 + where[0], where[1]
            picture[max(34, row) : min(194, row + height), column : column + width] = gray
    return picture


def decide(
    before: tuple[int, int] | None,
    now: tuple[int, int] | None,
    paddle: int = 72,
    last: int | None = None,
) -> int:
    frames = [
        pong.field_of(screen(before, paddle if last is None else last)),
        pong.field_of(screen(now, paddle)),
    ]
    actions = pong.follow_the_ball(np.concatenate(frames, axis=-1)[None])
    assert actions.shape == (1,)
    return int(actions[0])


def test_the_paddle_goes_where_the_ball_will_arrive() -> None:
    level = 78  # the middle row of a paddle at 72, for a ball at 78
    assert decide((level - 50, 90), (level - 50, 96)) == pong.UP
    assert decide((level + 50, 90), (level + 50, 96)) == pong.DOWN
    assert decide((level, 90), (level, 96)) == pong.STAY
    # Level with the paddle now, but it goes down 3 rows in 6 columns: 22 lower when it arrives.
    assert decide((level - 3, 90), (level, 96)) == pong.DOWN
    assert decide((level + 3, 90), (level, 96)) == pong.UP


def test_a_wall_sends_the_ball_back() -> None:
    # From row 25 up by 4 in 4 columns: 45 columns on it would be at -20, so it is at 24 or so.
    rising = (29, 91), (25, 95)
    assert decide(*rising, paddle=10) == pong.STAY
    assert decide(*rising, paddle=60) == pong.UP
    assert decide(*rising, paddle=-8) == pong.DOWN  # half of the paddle is beyond the border


def test_a_ball_that_leaves_or_is_not_seen_lets_it_rest() -> None:
    assert decide((20, 100), (20, 94)) == pong.STAY
    assert decide(None, None) == pong.STAY
    assert decide(None, (20, 94)) == pong.STAY
    assert decide((20, 94), None) == pong.STAY


def test_a_paddle_on_its_way_is_let_go() -> None:
    assert decide((98, 90), (98, 96), paddle=72) == pong.DOWN
    assert decide((98, 90), (98, 96), paddle=72, last=48) == pong.STAY


@pytest.mark.parametrize("row", [3, 40, 41, 42, 43, 44, 150])
@pytest.mark.parametrize("column", [70, 71, 72, 73, 74, 120])
def test_the_picture_keeps_where_the_ball_is(row: int, column: int) -> None:
    picture = pong.field_of(screen((row, column), 60))
    assert picture.shape == (32, 32, 1)
    assert picture.dtype == np.uint8
    rows, columns = pong.middles(picture[None, ..., 0], pong.BALL_FROM, pong.BALL_TO, pong.BALL)
    np.testing.assert_allclose([rows[0], columns[0]], [row + 2, column + 1], atol=0.1)
    paddle, _ = pong.middles(picture[None, ..., 0], pong.PADDLE_FROM, pong.PADDLE_TO, pong.PADDLE)
    np.testing.assert_allclose(paddle, [68], atol=0.1)


@pytest.mark.parametrize("column", [124, 128, 131, 134])
def test_a_ball_close_by_is_not_taken_for_the_paddle(column: int) -> None:
    picture = pong.field_of(screen((50, column), 72))[None, ..., 0]
    rows, _ = pong.middles(picture, pong.PADDLE_FROM, pong.PADDLE_TO, pong.PADDLE)
    np.testing.assert_allclose(rows, [80], atol=0.1)


def test_the_rule_does_not_see_the_number_and_takes_channels_in_front() -> None:
    from sb3_ext.plugins.causal.digits import draw_number

    frames = [pong.field_of(screen((28, 90), 72)), pong.field_of(screen((28, 96), 72))]
    seen = np.concatenate(frames, axis=-1)
    for number in (0, 1, 2):
        shown = [frame.copy() for frame in frames]
        for frame in shown:
            draw_number(frame, number)
        changed = np.concatenate(shown, axis=-1)
        assert not np.array_equal(changed, seen)
        both = pong.follow_the_ball(np.stack([seen, changed]))
        assert both.tolist() == [pong.UP, pong.UP]
        turned = pong.follow_the_ball(np.moveaxis(changed, -1, 0)[None])
        assert turned.tolist() == [pong.UP]


def test_budgets_end_with_all() -> None:
    assert pong.budgets(80) == [10, 20, 40, 80]
    assert pong.budgets(2) == [1, 2]
