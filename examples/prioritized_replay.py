"""Replay that is not uniform, in one argument: PER, LAP, ERE, or ERE around PER, under DQN.

``replay=`` takes an object, a name, or a mapping as in a YAML; any base takes it. Try each of them
on the same seed, and look at the figures that say what it did.

    python examples/prioritized_replay.py --replay per
    python examples/prioritized_replay.py --replay ere_per --seed 1
"""

import argparse

import torch
from stable_baselines3.common.evaluation import evaluate_policy

from sb3_ext import DQN, Prioritized

REPLAY = {
    "uniform": None,  # SB3's own
    "per": Prioritized(alpha=0.6, beta=0.4),
    "lap": "lap",
    "ere": {"name": "ere", "c_min": 100},
    "ere_per": {"name": "ere", "c_min": 100, "inner": {"name": "per", "alpha": 0.6}},
}


def main() -> None:
    """Train on CartPole, then print the evaluation and what the sampler logged last."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--replay", choices=REPLAY, default="per")
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)  # on a busy machine, two that wait for each other are far slower

    # ERE's windows are parts of the buffer: one that the run never fills would make it uniform.
    model = DQN(
        "MlpPolicy",
        "CartPole-v1",
        replay=REPLAY[arguments.replay],
        buffer_size=arguments.steps,
        learning_rate=1e-3,
        exploration_fraction=0.3,
        target_update_interval=100,
        train_freq=2,
        seed=arguments.seed,
    )
    model.learn(arguments.steps)
    mean, std = evaluate_policy(model, model.get_env(), n_eval_episodes=5)
    print(f"return after {arguments.steps} steps: {mean:.0f} +/- {std:.0f} (5 episodes)")
    for name, figure in ({} if model.sampler is None else model.sampler.metrics()).items():
        print(f"{name:28}{figure:.3g}")


if __name__ == "__main__":
    main()
