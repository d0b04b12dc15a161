"""Decoding of causal models token by token."""

from dllm_jax.decoding import fields, rounds


@fields.decoder
class Autoregressive(rounds.CausalDecoder):
  """Commits one token a call, greedily or sampled; a `types.Decoder`.

  Tokens are drawn from softmax(logits / temperature) of the `top_k` most
  probable ones, of which then those of the nucleus `top_p` remain.
  """
