"""A small task of images for benchmarks/acer.py: catch what falls."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

CELLS, PIXELS, BALLS = 8, 5, 5


class Catch(gym.Env[np.ndarray, np.int64]):
    """A ball falls from a random column, perhaps slanting; the paddle below moves left or right.

    Five balls make an episode; each is worth 1 if it is caught, and -1 if not.
    """

    observation_space = spaces.Box(0, 255, (CELLS * PIXELS, CELLS * PIXELS, 1), np.uint8)
    action_space = spaces.Discrete(3)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.paddle, self.left = CELLS // 2, BALLS
        self._drop()
        return self._seen(), {}

    def _drop(self) -> None:
        self.row, self.column = 0, int(self.np_random.integers(CELLS))
        self.drift = int(self.np_random.integers(-1, 2))

    def step(self, action: np.int64) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.paddle = min(max(self.paddle + int(action) - 1, 0), CELLS - 1)
        self.row += 1
        self.column += self.drift
        if not 0 <= self.column < CELLS:  # off the walls
            self.drift = -self.drift
            self.column += 2 * self.drift
        reward = 0.0
        if self.row == CELLS - 1:
            reward = 1.0 if self.column == self.paddle else -1.0
            self.left -= 1
            self._drop()
        return self._seen(), reward, self.left == 0, False, {}

    def _seen(self) -> np.ndarray:
        board = np.zeros((CELLS, CELLS), np.uint8)
        board[self.row, self.column] = 255
        board[CELLS - 1, self.paddle] = 128
        return np.kron(board, np.ones((PIXELS, PIXELS), np.uint8))[:, :, None]


gym.register("Catch-v0", Catch)
