"""One transformer for LLaDA, Dream, LLaMA and Qwen, by `ModelConfig`.

The blocks are one `Block`, stacked: every leaf of `params['layers']` has a
leading [num_layers] axis, and a run of layers is a slice of it. Leaf names are
Hugging Face's. Dims: B rows, S columns, Q queried columns, D model, V
vocabulary.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from dllm_jax import types
from dllm_jax.models import attention, config, layers
from dllm_jax.ops import schedules


class Block(nn.Module):
  """Pre-norm attention and SwiGLU, each with a residual."""

  cfg: config.ModelConfig

  @nn.compact
  def __call__(
    self,
    x: Float[Array, 'B S D'],
    allowed: Bool[Array, 'B S S'],
    position: Int[Array, 'B S'],
  ) -> Float[Array, 'B S D']:
    cfg = self.cfg
    normed = layers.RMSNorm(cfg, name='input_layernorm')(x)
    x += attention.Attention(cfg, name='self_attn')(normed, allowed, position)
    normed = layers.RMSNorm(cfg, name='post_attention_layernorm')(x)
    return x + layers.SwiGLU(cfg, name='mlp')(normed)


def _stacked_blocks(key: Key[Array, ''], cfg: config.ModelConfig):
  """Initial parameters of all blocks, stacked on a leading axis."""
  x = jnp.zeros((1, 1, cfg.hidden_size), cfg.dtype)
  allowed = jnp.ones((1, 1, 1), bool)
  position = jnp.zeros((1, 1), jnp.int32)

  def one(key):
    return Block(cfg, parent=None).init(key, x, allowed, position)['params']

  return jax.vmap(one)(jax.random.split(key, cfg.num_layers))


def run_layers(
  cfg: config.ModelConfig,
  params: types.Params,
  x: Float[Array, 'B S D'],
  allowed: Bool[Array, 'B S S'],
  position: Int[Array, 'B S'],
  start: int = 0,
  stop: int | None = None,
) -> Float[Array, 'B S D']:
  """Applies blocks [start, stop) by `lax.scan` over the stacked parameters.

  Args:
    cfg: the model's record; `cfg.remat` recomputes blocks in the backward pass.
    params: the stacked blocks, `model_params['layers']`.
    x: input of block `start`.
    allowed: which key each query may read.
    position: position ids.
    start: first block.
    stop: one past the last; None for all.

  Returns:
    Output of block `stop` - 1.
  """

  def body(x, block_params):
    y = Block(cfg, parent=None).apply(
      {'params': block_params}, x, allowed, position
    )
    return y, None

  if cfg.remat:
    body = jax.checkpoint(body, prevent_cse=False)  # scan forbids it anyway
  segment = jax.tree.map(lambda leaf: leaf[start:stop], params)
  x, _ = jax.lax.scan(body, x, segment)
  return x


class Transformer(nn.Module):
  """Token ids to float32 logits. No sampling, no loss, no randomness inside."""

  cfg: config.ModelConfig

  def setup(self):
    cfg = self.cfg
    self.embed_tokens = self.param(
      'embed_tokens',
      nn.initializers.normal(cfg.embed_init_std),
      (cfg.vocab_size, cfg.hidden_size),
      jnp.dtype(cfg.param_dtype),
    )
    self.layers = self.param('layers', _stacked_blocks, cfg)
    self.norm = layers.RMSNorm(cfg)
    if not cfg.tie_embeddings:
      # The unembedding is no target of the adapters.
      plain = dataclasses.replace(cfg, lora_rank=0)
      self.lm_head = layers.Linear(plain, cfg.vocab_size, wide=True)

  def hidden(
    self, tokens: Int[Array, 'B S'], attention_mask: Bool[Array, 'B S']
  ) -> Float[Array, 'B S D']:
    """States after the final norm, of every column."""
    cfg = self.cfg
    allowed = attention.visible(attention_mask, causal=cfg.causal)
    position = schedules.positions(attention_mask)
    x = self.embed_tokens[tokens].astype(cfg.dtype)
    return self.norm(run_layers(cfg, self.layers, x, allowed, position))

  def unembed(self, hidden: Float[Array, 'B Q D']) -> Float[Array, 'B Q V']:
    """Float32 logits of the given states."""
    if self.cfg.tie_embeddings:
      table = self.embed_tokens.astype(hidden.dtype)
      return jnp.dot(hidden, table.T, preferred_element_type=jnp.float32)
    return self.lm_head(hidden)

  def __call__(
    self, tokens: Int[Array, 'B S'], attention_mask: Bool[Array, 'B S']
  ) -> Float[Array, 'B S V']:
    """Float32 logits of every column."""
    return self.unembed(self.hidden(tokens, attention_mask))


def _previous_real(
  attention_mask: Bool[Array, 'B S'], query: Int[Array, 'B Q']
) -> Int[Array, 'B Q']:
  """The nearest real column before each query; column 0 where there is none."""
  columns = jnp.broadcast_to(
    jnp.arange(attention_mask.shape[1])[None], attention_mask.shape
  )
  latest = jax.lax.cummax(jnp.where(attention_mask, columns, 0), axis=1)
  return jnp.take_along_axis(latest, jnp.maximum(query - 1, 0), axis=1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransformerDenoiser:
  """`types.Denoiser` of a bidirectional transformer.

  Only the queried columns are unembedded. Where the model's logits are
  shifted (Dream), column k is read from the state of the token before it.
  """

  cfg: config.ModelConfig

  def __call__(
    self,
    params: types.Params,
    tokens: Int[Array, 'B S'],
    attention_mask: Bool[Array, 'B S'],
    query: Int[Array, 'B Q'],
  ) -> Float[Array, 'B Q V']:
    return self.unembed(
      params, self.states(params, tokens, attention_mask, query)
    )

  def states(
    self,
    params: types.Params,
    tokens: Int[Array, 'B S'],
    attention_mask: Bool[Array, 'B S'],
    query: Int[Array, 'B Q'],
  ) -> Float[Array, 'B Q D']:
    """What the logits of the queried columns are made of."""
    hidden = Transformer(self.cfg).apply(
      {'params': params}, tokens, attention_mask, method=Transformer.hidden
    )
    if self.cfg.logit_shift:
      query = _previous_real(attention_mask, query)
    return jnp.take_along_axis(hidden, query[..., None], axis=1)

  def unembed(
    self, params: types.Params, states: Float[Array, 'B Q D']
  ) -> Float[Array, 'B Q V']:
    """The logits of `states`."""
    return Transformer(self.cfg).apply(
      {'params': params}, states, method=Transformer.unembed
    )


def init(key: Key[Array, ''], cfg: config.ModelConfig) -> types.Params:
  """Fresh parameters. `key` is consumed; jit this, eager init is slow."""
  tokens = jnp.zeros((1, 2), jnp.int32)
  return Transformer(cfg).init(key, tokens, jnp.ones((1, 2), bool))['params']


def shapes(cfg: config.ModelConfig) -> types.Params:
  """Shape and dtype of every parameter; nothing is computed."""
  return jax.eval_shape(lambda: init(jax.random.key(0), cfg))
