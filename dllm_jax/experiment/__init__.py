"""Whole runs: the stages, their order, and their results."""
