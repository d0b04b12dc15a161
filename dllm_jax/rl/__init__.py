"""The mathematics of reinforcement learning: pure functions on arrays."""
