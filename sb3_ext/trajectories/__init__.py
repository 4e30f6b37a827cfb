"""Learning from trajectories of other policies: returns that say what they are worth now."""
