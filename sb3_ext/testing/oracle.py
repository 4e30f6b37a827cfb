"""An independent answer to "what should a weighted gradient step do?".

Stock SB3 is left as it is, and the gradient that flows back into the outputs of its critic is
scaled sample by sample. Since the critic's loss is a mean of per-sample terms, that *is* the
weighted loss, whatever its form: squared, Huber or over quantiles. It is no way to build a library,
because it fails in silence where a critic is called differently; it is a good way to test one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch as th
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from torch import Tensor

WeightFunction = Callable[[Any], Tensor]

_VALUE_NETWORKS = ("critic", "q_net", "quantile_net")


@contextmanager
def weighted_critic(model: OffPolicyAlgorithm, weigh: WeightFunction) -> Iterator[None]:
    """Within the block, a stock model's critic learns with weights.

    :param model: SB3's SAC, TD3, DDPG or DQN, or sb3-contrib's TQC, QRDQN or CrossQ
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

    def scale(module: th.nn.Module, inputs: Any, outputs: Tensor | tuple[Tensor, ...]) -> None:
        weights = _weights_of_rows(inputs, drawn) if "batch" in drawn else None
        if weights is None:
            return
        for values in (outputs,) if isinstance(outputs, Tensor) else outputs:
            if values.requires_grad:
                # One weight a row, whatever a row is: a value, quantiles, quantiles by critics.
                column = weights.reshape(-1, *[1] * (values.ndim - 1))
                values.register_hook(lambda gradient, column=column: gradient * column)

    buffer.sample = remembering_sample  # type: ignore[method-assign]
    network = next(getattr(model, name) for name in _VALUE_NETWORKS if hasattr(model, name))
    hook = network.register_forward_hook(scale)
    try:
        yield
    finally:
        hook.remove()
        buffer.sample = sample  # type: ignore[method-assign]


def _weights_of_rows(inputs: Any, drawn: dict[str, Any]) -> Tensor | None:
    """The weight of each row of a pass, or None if it is not the pass that the critic learns by."""
    batch, weights = drawn["batch"], drawn["weights"]
    if len(inputs) == 1:  # a network that gives the values of all actions
        return weights if inputs[0] is batch.observations else None
    # The critic's own pass is the one that gets the batch's very actions; the actor's pass
    # gets the policy's, and the target network is another module.
    actions, n = inputs[1], len(batch.actions)
    if actions is batch.actions:
        return weights  # type: ignore[no-any-return]
    # CrossQ lays the next states under the states; no gradient comes back for them.
    if len(actions) == 2 * n and th.equal(actions[:n], batch.actions):
        return th.cat([weights, th.ones_like(weights)])
    return None
