"""PER by SB3's own door: ``replay_buffer_class=PrioritizedReplayBuffer``."""

from __future__ import annotations

from sb3_ext.plugins.per.config import Prioritized
from sb3_ext.replay.buffers import SamplerReplayBuffer


class PrioritizedReplayBuffer(SamplerReplayBuffer):
    """Prioritised replay for any base of ours, ``replay=Prioritized(...)`` in SB3's spelling.

    ``replay_buffer_kwargs`` takes the options of :class:`Prioritized`. Stock classes hand out no TD
    errors, so under them it refuses to work.
    """

    config = Prioritized
