"""The bases: one gradient step each, on top of the classes of Stable-Baselines3."""
