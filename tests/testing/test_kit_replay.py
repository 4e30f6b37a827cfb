"""Our samplers under the kit that strangers use."""

from __future__ import annotations

import pytest

import sb3_ext
from sb3_ext.testing import SamplerConformance

RECENT = {"c_min": 10, "cycle": 9}


class TestPrioritized(SamplerConformance):
    config = sb3_ext.Prioritized()


class TestPrioritizedByTheBuffer(SamplerConformance):
    config = sb3_ext.Prioritized(normalize="buffer", max_priority="buffer", reduce="mean")
    base = sb3_ext.TD3


class TestLAP(SamplerConformance):
    config = sb3_ext.LAP()
    base = sb3_ext.DQN


class TestEmphasizeRecent(SamplerConformance):
    config = sb3_ext.EmphasizeRecent(**RECENT)


@pytest.mark.slow
class TestEmphasizeRecentByAge(SamplerConformance):
    config = sb3_ext.EmphasizeRecent(c_min=10, cycle="age")
    base = sb3_ext.DQN


@pytest.mark.slow
class TestRecentAndPrioritized(SamplerConformance):
    config = sb3_ext.EmphasizeRecent(**RECENT, inner="per")
