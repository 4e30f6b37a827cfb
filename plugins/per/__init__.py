"""Prioritised experience replay (Schaul et al. 2016) and LAP (Fujimoto et al. 2020)."""
