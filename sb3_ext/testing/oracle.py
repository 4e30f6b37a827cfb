"""An independent answer to "what should a weighted gradient step do?".

Stock SB3 is left as it is, and the gradient that flows back into each critic is scaled sample by
sample. Since the critic's loss is a mean of per-sample terms, that *is* the weighted loss. It is
no way to build a library, because it fails in silence where a critic is called differently; it is
a good way to test one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch as th
from stable_baselines3 import SAC, TD3
from torch import Tensor

WeightFunction = Callable[[Any], Tensor]


@contextmanager
def weighted_critic(model: SAC | TD3, weigh: WeightFunction) -> Iterator[None]:
    """Within the block, a stock model's critic learns with weights.

    :param model: stock SB3's SAC, TD3 or DDPG
    :param weigh: from SB3's batch to weights ``[B, 1]``
    """
    buffer = model.replay_buffer
    if buffer is None:
        raise ValueError("the model must have a replay buffer")
    drawn: dict[str, Any] = {}
    sample = buffer.sample

    def remembering_sample(*args: Any, **kwargs: Any) -> Any:
        batch = sample(*args, **kwargs)
        drawn["batch"], drawn["weights"] = batch, weigh(batch)
        return batch

    def scale(module: th.nn.Module, inputs: Any, outputs: tuple[Tensor, ...]) -> None:
        # The critic's own pass is the one that gets the batch's very actions; the actor's pass
        # gets the policy's, and the target network is another module.
        if inputs[1] is drawn["batch"].actions:
            for q_values in outputs:
                q_values.register_hook(lambda gradient: gradient * drawn["weights"])

    buffer.sample = remembering_sample  # type: ignore[method-assign]
    hook = model.critic.register_forward_hook(scale)
    try:
        yield
    finally:
        hook.remove()
        buffer.sample = sample  # type: ignore[method-assign]
