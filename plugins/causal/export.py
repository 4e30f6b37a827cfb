"""A policy under a fixed graph as one of stock SB3's, equal in every state."""

from __future__ import annotations

from typing import Any

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import Schedule
from torch import nn

from sb3_ext.plugins.causal.networks import GraphExtractor


def fold_graph(policy: ActorCriticPolicy, kind: Any, schedule: Schedule) -> ActorCriticPolicy:
    """The same policy without a mask.

    A layer ``W [X * G, G] + b`` under a fixed G is ``(W_x * G) X + (W_g G + b)``.

    :param policy: on a ``GraphExtractor``
    :param kind: SB3's class of it
    """
    extractor: Any = policy.pi_features_extractor
    assert isinstance(extractor, GraphExtractor)
    same = policy._get_constructor_parameters()  # as SB3's own load makes it again
    own = ("features_extractor_class", "features_extractor_kwargs", "lr_schedule")
    same = {name: value for name, value in same.items() if name not in own}
    stock: ActorCriticPolicy = kind(lr_schedule=schedule, **same)
    graph = extractor.graph
    mask = graph.index_select(0, extractor.factor_of)
    first = {id(_first_layer(policy, head)) for head in ("policy", "value")}
    theirs = dict(stock.named_modules())
    with th.no_grad():
        for name, module in policy.named_modules():
            if not isinstance(module, nn.Linear) or name not in theirs:
                continue
            target: Any = theirs[name]
            weight: th.Tensor = module.weight
            bias: th.Tensor = module.bias
            if id(module) in first:
                bias = bias + weight[:, len(mask) :] @ graph
                weight = weight[:, : len(mask)] * mask
            target.weight.copy_(weight)
            target.bias.copy_(bias)
        if hasattr(policy, "log_std"):
            stock.log_std.copy_(policy.log_std)
    return stock


def _first_layer(policy: ActorCriticPolicy, head: str) -> nn.Module:
    layers = getattr(policy.mlp_extractor, f"{head}_net")
    last = policy.action_net if head == "policy" else policy.value_net
    found: nn.Module = next((one for one in layers if isinstance(one, nn.Linear)), last)
    return found
