"""Offline reinforcement learning: data, learning from them, and judging what was learned."""
