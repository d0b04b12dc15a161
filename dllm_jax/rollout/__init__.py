"""Rollouts: prompts to completions to rewards to batches."""
