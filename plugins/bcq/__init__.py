"""BCQ, batch-constrained Q-learning (Fujimoto et al. 2019), continuous and discrete."""
