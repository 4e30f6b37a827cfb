"""The offline suite on what is right."""

from typing import ClassVar

import pytest

import sb3_ext
from sb3_ext.testing import OfflineConformance


class TestBCQ(OfflineConformance):
    algorithm = sb3_ext.BCQ
    kwargs: ClassVar = {"batch_size": 16, "n_sampled_actions": 3, "n_eval_actions": 5}


class TestDiscreteBCQ(OfflineConformance):
    algorithm = sb3_ext.DiscreteBCQ


class TestOfflineTD3(OfflineConformance):
    algorithm = sb3_ext.OfflineTD3


@pytest.mark.slow
class TestOfflineDDPG(OfflineConformance):
    algorithm = sb3_ext.OfflineDDPG


@pytest.mark.slow
class TestOfflineSAC(OfflineConformance):
    algorithm = sb3_ext.OfflineSAC


@pytest.mark.slow
class TestOfflineDQN(OfflineConformance):
    algorithm = sb3_ext.OfflineDQN
    kwargs: ClassVar = {"batch_size": 16, "target_update_interval": 10}
