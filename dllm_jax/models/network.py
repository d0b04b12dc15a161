"""Token ids to logits: embedding, blocks, norm and unembedding, as one module.

`ModelConfig` makes it LLaDA, Dream, LLaMA, Qwen or GPT-2. The blocks are
`params['layers']` (`models.stack`). Leaf names are Hugging Face's. Dims: B
rows, S canvas columns, Q queried or new columns, D model, V vocabulary.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from dllm_jax import types
from dllm_jax.models import attention, config, layers, parts, stack
from dllm_jax.models import cache as cache_lib
from dllm_jax.ops import schedules


class Transformer(nn.Module):
  """Token ids to float32 logits. No sampling, no loss, no randomness inside.

  Attributes:
    cfg: config of the part that this device computes
      (`parts.local_config`).
    layout: of the model; its parameters are gathered over `fsdp` already,
      except for those of its layers.
  """

  cfg: config.ModelConfig
  layout: parts.Layout = parts.WHOLE

  def setup(self):
    cfg = self.cfg
    self.embed_tokens = self.param(
      'embed_tokens',
      nn.initializers.normal(cfg.embed_init_std),
      (cfg.vocab_size, cfg.hidden_size),
      jnp.dtype(cfg.param_dtype),
    )
    if self.is_initializing():
      self.layers = self.param('layers', stack.init, cfg)
    else:  # `param` would check shapes, which are not gathered yet
      self.layers = self.get_variable('params', 'layers')
    if cfg.max_positions:
      self.embed_positions = self.param(
        'embed_positions',
        nn.initializers.normal(cfg.embed_init_std),
        (cfg.max_positions, cfg.hidden_size),
        jnp.dtype(cfg.param_dtype),
      )
    self.norm = layers.NORMS[cfg.norm](cfg)
    if not cfg.tie_embeddings:
      # The unembedding has no adapters.
      plain = dataclasses.replace(cfg, lora_rank=0)
      self.lm_head = layers.Linear(plain, cfg.vocab_size, wide=True)

  def hidden(
    self, tokens: Int[Array, 'B S'], attention_mask: Bool[Array, 'B S']
  ) -> Float[Array, 'B S D']:
    """States after the final norm, of every column."""
    states, _ = self.run_layers(self.embed(tokens), attention_mask, None)
    return self.norm(states)

  def read(
    self, tokens: Int[Array, 'B S'], attention_mask: Bool[Array, 'B S']
  ) -> tuple[Float[Array, 'B S D'], cache_lib.KeyValues]:
    """`hidden`, and the keys and values of every column and layer."""
    states, outputs = self.run_layers(
      self.embed(tokens), attention_mask, None, keep_kv=True
    )
    return self.norm(states), outputs.kv

  def read_window(
    self,
    tokens: Int[Array, 'B S'],
    attention_mask: Bool[Array, 'B S'],
    kv: cache_lib.KeyValues,
    column: Int[Array, 'B Q'],
  ) -> tuple[Float[Array, 'B Q D'], cache_lib.KeyValues]:
    """`hidden` of some columns, and `kv` with their keys and values anew.

    The other columns are as `kv` has them. Columns beyond either end of the
    canvas do not exist.
    """
    size = tokens.shape[1]
    exists = (column >= 0) & (column < size)
    place = jnp.where(exists, column, size)
    own = lambda x: jnp.take_along_axis(x, jnp.clip(column, 0, size - 1), 1)
    row = jnp.arange(len(tokens))[:, None]
    kept = attention_mask.at[row, place].set(False, mode='drop')
    positions = schedules.positions(attention_mask)
    mask, position = own(attention_mask) & exists, own(positions)
    allowed = attention.visible(
      position,
      jnp.concatenate([positions, position], axis=1),
      jnp.concatenate([kept, mask], axis=1),
      block=self.cfg.attention_block,
    )
    states, outputs = stack.run_layers(
      self.cfg,
      self.layers,
      self._at_positions(self.embed(own(tokens)), position),
      allowed,
      position,
      past=kv,
      keep_kv=True,
      layout=self.layout,
    )
    put = lambda old, new: old.at[:, row, place].set(new, mode='drop')
    return self.norm(states), jax.tree.map(put, kv, outputs.kv)

  def two_streams(
    self,
    context: Int[Array, 'B S'],
    tokens: Int[Array, 'B S'],
    attention_mask: Bool[Array, 'B S'],
  ) -> Float[Array, 'B R D']:
    """States of a clean row and of the same row noised, R = 2 S columns."""
    position = schedules.positions(attention_mask)
    twice = jnp.concatenate([position, position], axis=1)
    x = self.embed(jnp.concatenate([context, tokens], axis=1))
    states, _ = stack.run_layers(
      self.cfg,
      self.layers,
      self._at_positions(x, twice),
      attention.visible_to_streams(
        position, attention_mask, block=self.cfg.block_causal
      ),
      twice,
      layout=self.layout,
    )
    return self.norm(states)

  def routed(
    self,
    tokens: Int[Array, 'B S'],
    attention_mask: Bool[Array, 'B S'],
    override: types.RouterOverride | None,
  ) -> tuple[Float[Array, 'B S D'], types.RouterOutputs]:
    """`hidden` under an override, and what the routers said."""
    states, outputs = self.run_layers(
      self.embed(tokens), attention_mask, None, override=override
    )
    said = outputs.feed_forward
    return self.norm(states), types.RouterOutputs(
      said['logits'], said['chosen']
    )

  def extend(
    self,
    tokens: Int[Array, 'B Q'],
    attention_mask: Bool[Array, 'B Q'],
    cache: cache_lib.KVCache,
    is_empty: bool,
  ) -> tuple[Float[Array, 'B Q D'], cache_lib.KVCache]:
    """`hidden` of columns that follow those in the cache, and both as a cache.

    `is_empty` says that the cache holds no tokens, so that it is not read.
    """
    states, outputs = self.run_layers(
      self.embed(tokens),
      attention_mask,
      None if is_empty else cache,
      keep_kv=True,
    )
    cache = cache_lib.append(cache, outputs.kv, attention_mask)
    return self.norm(states), cache

  def embed(self, tokens: Int[Array, 'B Q']) -> Float[Array, 'B Q D']:
    """The input of layer 0, but for the table of positions."""
    return parts.look_up(self.embed_tokens, tokens, self.layout, self.cfg.dtype)

  def run_layers(
    self,
    x: Float[Array, 'B Q D'],
    attention_mask: Bool[Array, 'B Q'],
    cache: cache_lib.KVCache | None,
    *,
    override: types.RouterOverride | None = None,
    keep_kv: bool = False,
  ) -> tuple[Float[Array, 'B Q D'], stack.LayerOutputs]:
    """All layers on columns that follow those in the cache, if there is one."""
    allowed, position = self._reach(attention_mask, cache)
    return stack.run_layers(
      self.cfg,
      self.layers,
      self._at_positions(x, position),
      allowed,
      position,
      past=cache and cache.kv,
      override=override,
      keep_kv=keep_kv,
      layout=self.layout,
    )

  def run_range(
    self,
    x: Float[Array, 'B Q D'],
    attention_mask: Bool[Array, 'B Q'],
    cache: cache_lib.KVCache | None,
    start: types.Scalar,
    stop: types.Scalar,
  ) -> Float[Array, 'B Q D']:
    """The states of `run_layers` after layers [start, stop)."""
    allowed, position = self._reach(attention_mask, cache)
    if self.cfg.max_positions:
      # Ranges that follow each other may begin with an empty one.
      has_first = (jnp.asarray(start) == 0) & (jnp.asarray(stop) > 0)
      x = jnp.where(has_first, self._at_positions(x, position), x)
    return stack.run_range(
      self.cfg,
      self.layers,
      x,
      allowed,
      position,
      start,
      stop,
      past=cache and cache.kv,
      layout=self.layout,
    )

  def _at_positions(
    self, x: Float[Array, 'B Q D'], position: Int[Array, 'B Q']
  ) -> Float[Array, 'B Q D']:
    """The input of layer 0 and, if there is a table of positions, its rows."""
    if not self.cfg.max_positions:
      return x
    return x + self.embed_positions[position].astype(self.cfg.dtype)

  def _reach(
    self, attention_mask: Bool[Array, 'B Q'], cache: cache_lib.KVCache | None
  ) -> tuple[Bool[Array, 'B Q T'], Int[Array, 'B Q']]:
    """Which keys new columns read, the cache first; and their positions."""
    position = schedules.positions(attention_mask)
    key_position, key_mask = position, attention_mask
    if cache is not None:
      position += cache.length[:, None]
      slot, is_written = cache_lib.slots(cache)
      key_position = jnp.concatenate([slot, position], axis=1)
      key_mask = jnp.concatenate([is_written, attention_mask], axis=1)
    allowed = attention.visible(
      position, key_position, key_mask, block=self.cfg.attention_block
    )
    return allowed, position

  def read_out(self, x: Float[Array, 'B Q D']) -> Float[Array, 'B Q V']:
    """Float32 logits from the output of the last layer."""
    return self.unembed(self.norm(x))

  def unembed(self, hidden: Float[Array, 'B Q D']) -> Float[Array, 'B Q V']:
    """Float32 logits of the given states."""
    if self.cfg.tie_embeddings:
      table = self.embed_tokens.astype(hidden.dtype)
      logits = jnp.dot(hidden, table.T, preferred_element_type=jnp.float32)
    else:
      logits = self.lm_head(hidden)
    return parts.join(logits, self.layout)

  def __call__(
    self, tokens: Int[Array, 'B S'], attention_mask: Bool[Array, 'B S']
  ) -> Float[Array, 'B S V']:
    """Float32 logits of every column."""
    return self.unembed(self.hidden(tokens, attention_mask))


def init(key: Key[Array, ''], cfg: config.ModelConfig) -> types.Params:
  """Fresh parameters. `key` is consumed; jit this, eager init is slow."""
  # Parameters do not depend on it, and JAX's call of cuDNN does not keep the
  # mask under vmap over queries.
  cfg = dataclasses.replace(cfg, attention='xla')
  tokens = jnp.zeros((1, 2), jnp.int32)
  return Transformer(cfg).init(key, tokens, jnp.ones((1, 2), bool))['params']


def shapes(cfg: config.ModelConfig) -> types.Params:
  """Shape and dtype of every parameter; nothing is computed."""
  return jax.eval_shape(lambda: init(jax.random.key(0), cfg))
