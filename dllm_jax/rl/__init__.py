"""Reinforcement-learning mathematics: pure functions on arrays."""
