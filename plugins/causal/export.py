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
    stock: ActorCriticPolicy = kind(
        policy.observation_space,
        policy.action_space,
        schedule,
        net_arch=policy.net_arch,
        activation_fn=policy.activation_fn,
        ortho_init=policy.ortho_init,
        log_std_init=policy.log_std_init,
        normalize_images=policy.normalize_images,
        optimizer_class=policy.optimizer_class,
        optimizer_kwargs=policy.optimizer_kwargs,
    )
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
