"""Flax Linen models: tokens in, hidden states and logits out."""
