"""Trajectories with what drew their actions, and returns that say what they are worth now."""
