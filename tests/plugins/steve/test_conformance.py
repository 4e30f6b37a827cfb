"""STEVE, MVE and STEVESAC as SB3's users rely on them."""

from typing import Any, ClassVar

from sb3_ext import MVE, STEVE, STEVESAC
from sb3_ext.testing import AlgorithmConformance

SMALL: dict[str, Any] = {
    "learning_starts": 20,
    "batch_size": 16,
    "buffer_size": 300,
    "horizon": 2,
    "model_net_arch": (16,),
}


class TestSTEVE(AlgorithmConformance):
    algorithm = STEVE
    kwargs: ClassVar[dict[str, Any]] = {**SMALL, "n_models": 2, "n_rewards": 2, "n_critics": 3}


class TestMVE(AlgorithmConformance):
    algorithm = MVE
    kwargs: ClassVar[dict[str, Any]] = SMALL


class TestSTEVESAC(AlgorithmConformance):
    algorithm = STEVESAC
    kwargs: ClassVar[dict[str, Any]] = {**SMALL, "n_models": 2, "n_rewards": 2, "n_critics": 3}
