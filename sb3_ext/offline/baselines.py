"""SB3's off-policy algorithms on a dataset alone: what offline methods are measured against."""

from __future__ import annotations

from sb3_ext.algorithms.dqn import DQN
from sb3_ext.algorithms.sac import SAC
from sb3_ext.algorithms.td3 import DDPG, TD3
from sb3_ext.offline.learning import Offline


class OfflineDDPG(Offline, DDPG):
    """DDPG on a dataset alone: the off-policy DDPG of Fujimoto et al. 2019, section 3.1.

    Takes the arguments of :class:`~sb3_ext.offline.learning.Offline` and those of
    ``stable_baselines3.DDPG`` that do not say how to collect transitions.
    """


class OfflineTD3(Offline, TD3):
    """TD3 on a dataset alone; arguments likewise."""


class OfflineSAC(Offline, SAC):
    """SAC on a dataset alone; arguments likewise."""


class OfflineDQN(Offline, DQN):
    """DQN on a dataset alone; arguments likewise. ``target_update_interval`` is in gradient steps.

    ``double_q=True`` makes it Double DQN, the limit of :class:`~sb3_ext.DiscreteBCQ` at a threshold
    of 0.
    """
