"""Decoders: a canvas of masks to completions, one object a file."""

from dllm_jax.decoding import fixed, gated

# By the name that `rollout.decode` and `--decode` take.
DECODERS = {'fixed': fixed.Fixed, 'gated': gated.Gated}
