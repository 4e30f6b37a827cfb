"""Numbers in images: a font of 3 by 5 pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

DIGIT_SHAPE = (5, 3)
_GLYPHS = (
    "111101101101111",
    "010110010010111",
    "111001111100111",
    "111001111001111",
    "101101111001001",
    "111100111001111",
    "111100111101111",
    "111001001001001",
    "111101111101111",
    "111101111001111",
)
_FONT = np.array([[int(bit) for bit in glyph] for glyph in _GLYPHS], bool).reshape(10, *DIGIT_SHAPE)


def draw_number(picture: NDArray[Any], number: int) -> None:
    """Draw a number into an image, white on black, below on the left.

    In 84 by 84 pixels a digit has 10 by 6.

    :param picture: ``[H, W, C]`` or ``[C, H, W]``, changed in place
    :param number: from 0 to 99
    """
    if not 0 <= number < 100:
        raise ValueError(f"numbers of at most two digits can be drawn, got {number}")
    # The channels are the shorter side, in front or at the end.
    channels_first = picture.ndim == 3 and picture.shape[0] < picture.shape[-1]
    canvas = picture.transpose(1, 2, 0) if channels_first else picture
    height, width = canvas.shape[:2]
    scale = max(1, min(height, width) // 40)
    digits = [_FONT[int(one)] for one in str(number).rjust(2)[-2:].strip()]
    gap = np.zeros((DIGIT_SHAPE[0], 1), bool)
    columns = [part for digit in digits for part in (gap, digit)]
    bits = np.concatenate([*columns, gap], axis=1)
    bits = np.pad(bits, ((1, 1), (0, 0)))
    bits = bits.repeat(scale, axis=0).repeat(scale, axis=1)
    wide = scale * (2 * DIGIT_SHAPE[1] + 3)  # of two digits, so that nothing is left of another
    box = np.zeros((bits.shape[0], wide), bool)
    box[:, : bits.shape[1]] = bits
    bottom, left = height - height // 8, width // 10
    target = canvas[bottom - box.shape[0] : bottom, left : left + wide]
    shade = box[: target.shape[0], : target.shape[1]]
    target[...] = np.where(shade, 255, 0).astype(picture.dtype)[..., None]
