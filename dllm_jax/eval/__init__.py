"""Accuracy, steps and speed of a policy on held-out rows."""
