"""Flax Linen models: tokens in, hidden states and logits out."""

from dllm_jax.models import transformer

# What the config key model.name chooses: classes with
# `from_config(values, vocab) -> types.Trainable`, where `values` are the other
# keys of the config group `model`.
MODELS = {
  'transformer': transformer.TransformerDenoiser,
}
