"""The offline suite on what is right."""

from typing import Any, ClassVar

import pytest

import sb3_ext
from sb3_ext.testing import OfflineConformance
from sb3_ext.testing.environments import kit_env
from sb3_ext.testing.offline import kit_dataset


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


def test_bcq_takes_a_weighting() -> None:
    dataset = kit_dataset(kit_env())
    options: dict[str, Any] = {
        "replay": "per",
        "weighting": {"name": "lfiw", "fast_buffer_size": 20},
    }
    small: dict[str, Any] = {"policy_kwargs": {"net_arch": [16]}, "seed": 0, "device": "cpu"}
    model = sb3_ext.BCQ("MlpPolicy", dataset=dataset, batch_size=16, **options, **small)
    assert model.learn(5).num_timesteps == 5
