"""A known answer, and the laws that every weighting keeps."""

import math

import pytest
import torch
from sb3_ext_reward_softmax.equations import softmax_weights
from sb3_ext_reward_softmax.weighting import RewardSoftmax
from sb3_ext import registry
from sb3_ext.testing import WeightingConformance


def test_a_reward_that_is_larger_by_the_temperature_counts_e_times_as_much():
    weights = softmax_weights(torch.tensor([[0.0], [2.0]]), temperature=2.0)
    assert weights.mean().item() == pytest.approx(1.0)
    assert (weights[1] / weights[0]).item() == pytest.approx(math.e)


def test_a_temperature_of_zero_is_refused():
    with pytest.raises(ValueError, match="above 0"):
        RewardSoftmax(temperature=0.0)


def test_sb3_ext_finds_it():
    row, spec = registry.find("reward_softmax")
    assert row.status == "ok", row.cause
    assert registry.load("reward_softmax") is RewardSoftmax
    assert spec.kind == "weighting"


class TestConformance(WeightingConformance):
    config = RewardSoftmax(temperature=2.0)
