"""GAIL, AIRL, BC and DAgger of the package imitation, as SB3 algorithms."""
