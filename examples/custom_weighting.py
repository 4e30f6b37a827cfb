"""Your own weighting in forty lines: large rewards count more. An illustration, no paper's method.

A weighting answers one question about a batch: how much does each transition count in the critic's
loss? It is written in two parts. A frozen dataclass is what users write and what ``save`` keeps;
its ``build`` makes the part that works. Pass it to any base: ``SAC``, ``TD3``, ...

    python examples/custom_weighting.py --steps 2000
"""

import argparse
from dataclasses import dataclass

import torch
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_ext import SAC, Draw, Weighting


@dataclass(frozen=True)
class RewardSoftmax:
    """Weights proportional to exp(reward / temperature), with mean 1 over the batch."""

    temperature: float = 10.0

    def build(self, algorithm: SAC) -> "RewardSoftmaxWeighting":
        return RewardSoftmaxWeighting(self)


class RewardSoftmaxWeighting(Weighting):
    """The working part; one that learns would hold its network here (see ``state_dict``)."""

    def __init__(self, config: RewardSoftmax) -> None:
        self.config = config

    def weigh(self, draw: Draw, replay: object) -> torch.Tensor:
        scaled = draw.samples.rewards / self.config.temperature  # [B, 1]
        weights = torch.exp(scaled - scaled.max())
        # Under a sampler such as PER, draw.weights turn the batch's mean into the replay's.
        return weights / (weights * draw.weights).mean() * draw.weights.mean()


def main() -> None:
    """Train on Pendulum and print the evaluation."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # on a busy machine, two that wait for each other are far slower

    model = SAC("MlpPolicy", "Pendulum-v1", weighting=RewardSoftmax(), seed=arguments.seed)
    model.learn(arguments.steps)
    mean, std = evaluate_policy(model, model.get_env(), n_eval_episodes=5)
    print(f"return after {arguments.steps} steps: {mean:.0f} +/- {std:.0f} (5 episodes)")


if __name__ == "__main__":
    main()
