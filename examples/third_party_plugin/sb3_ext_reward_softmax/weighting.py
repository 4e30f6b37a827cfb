"""The config that users write, and the part that works."""

from dataclasses import dataclass

from sb3_ext import Composable, Draw, Replay, Weighting
from torch import Tensor

from sb3_ext_reward_softmax.equations import softmax_weights


@dataclass(frozen=True)
class RewardSoftmax:
    """Transitions with large rewards count more in the critic's loss.

    :param temperature: in the unit of the rewards; a high one makes all weights alike
    """

    temperature: float = 1.0

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"temperature must be above 0, got {self.temperature}")

    def build(self, algorithm: Composable) -> "RewardSoftmaxWeighting":
        """Make the part that works, for an algorithm whose policy and buffer exist already."""
        return RewardSoftmaxWeighting(self)


class RewardSoftmaxWeighting(Weighting):
    """The part that works; docs/plugin-authors.md has one that learns."""

    def __init__(self, config: RewardSoftmax) -> None:
        self.config = config
        self.largest = 1.0

    def weigh(self, draw: Draw, replay: Replay) -> Tensor:
        """The weights of a batch, [B, 1]."""
        weights = softmax_weights(draw.samples.rewards, self.config.temperature)
        self.largest = weights.max().item()
        return weights

    def metrics(self) -> dict[str, float]:
        """What is logged after each round of updates."""
        return {"reward_softmax/weight_max": self.largest}
