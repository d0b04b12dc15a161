"""The blocks of a transformer, stacked, and runs of them.

Every leaf of the parameters has a leading [num_layers] axis, so a run of layers
is a slice, and `lax.scan` compiles one block. Dims: N layers, B rows, S slots
of a cache, Q columns, T key columns, D model.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from dllm_jax import types
from dllm_jax.models import (
  attention,
  cache,
  config,
  feed_forward,
  layers,
  parts,
)

# What the backward pass keeps of a block's forward pass, beside its input.
REMAT = {
  'block': jax.checkpoint_policies.nothing_saveable,
  'dots': jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


class LayerOutputs(NamedTuple):
  """What blocks give beside their states; stacked, with a leading [N] axis.

  Attributes:
    kv: keys and values of the columns that the block read; None where they
      were not asked for.
    feed_forward: arrays of the feed-forward part, by name.
  """

  kv: cache.KeyValues | None
  feed_forward: dict[str, Array]


class Block(nn.Module):
  """Pre-norm attention and feed-forward, each with a residual.

  Attributes:
    cfg: config of the part that this device computes.
    layout: how the model is divided over devices.
  """

  cfg: config.ModelConfig
  layout: parts.Layout = parts.WHOLE

  @nn.compact
  def __call__(
    self,
    x: Float[Array, 'B Q D'],
    allowed: Bool[Array, 'B Q T'],
    position: Int[Array, 'B Q'],
    past: cache.KeyValues | None = None,
    override: types.RouterOverride | None = None,
  ) -> tuple[Float[Array, 'B Q D'], LayerOutputs]:
    cfg = self.cfg
    norm = layers.NORMS[cfg.norm]
    normed = norm(cfg, name='input_layernorm')(x)
    mixed, kv = attention.Attention(cfg, name='self_attn')(
      normed, allowed, position, past
    )
    x += parts.add(mixed, self.layout)
    normed = norm(cfg, name='post_attention_layernorm')(x)
    part = feed_forward.FEED_FORWARD[cfg.feed_forward](cfg, name='mlp')
    if cfg.num_experts:
      y, beside = part(normed, _is_real(allowed), override)
    else:
      y, beside = part(normed)
    return x + parts.add(y, self.layout), LayerOutputs(kv, beside)


def _is_real(allowed: Bool[Array, 'B Q T']) -> Bool[Array, 'B Q']:
  """Columns that read themselves: those that are not padding."""
  size, num_keys = allowed.shape[1:]
  own = jnp.arange(num_keys - size, num_keys).reshape(1, -1, 1)
  return jnp.take_along_axis(allowed, own, axis=2)[..., 0]


def init(key: Key[Array, ''], cfg: config.ModelConfig) -> types.Params:
  """Initial parameters of all blocks, stacked on a leading axis."""
  x = jnp.zeros((1, 1, cfg.hidden_size), cfg.dtype)
  allowed = jnp.ones((1, 1, 1), bool)
  position = jnp.zeros((1, 1), jnp.int32)

  def one(key):
    block = Block(cfg, parent=None)
    return block.init(key, x, allowed, position)['params']

  return jax.vmap(one)(jax.random.split(key, cfg.num_layers))


def run_layers(
  cfg: config.ModelConfig,
  params: types.Params,
  x: Float[Array, 'B Q D'],
  allowed: Bool[Array, 'B Q T'],
  position: Int[Array, 'B Q'],
  start: int = 0,
  stop: int | None = None,
  *,
  past: cache.KeyValues | None = None,
  override: types.RouterOverride | None = None,
  keep_kv: bool = False,
  layout: parts.Layout = parts.WHOLE,
) -> tuple[Float[Array, 'B Q D'], LayerOutputs]:
  """Applies blocks [start, stop) by `lax.scan` over the stacked parameters.

  Args:
    cfg: config of the part that this device computes; `cfg.remat` says what the
      backward pass recomputes.
    params: the stacked blocks, `model_params['layers']`.
    x: input of block `start`.
    allowed: which keys each query reads: those of `past`, then those of `x`.
    position: position ids of the columns of `x`.
    start: first block.
    stop: one past the last; None for all.
    past: keys and values of earlier columns, of all layers; they are read, and
      not changed.
    override: which experts tokens go to, in all layers.
    keep_kv: whether to return the keys and values of the columns of `x`.
    layout: how the model is divided over devices.

  Returns:
    States after block `stop` - 1, and the stacked outputs of blocks
    [start, stop).
  """

  def body(x, layer):
    block_params, past, override = layer
    block_params = parts.gather(block_params, layout, cfg.dtype, of_layer=True)
    y, outputs = Block(cfg, layout, parent=None).apply(
      {'params': block_params}, x, allowed, position, past, override
    )
    return y, outputs if keep_kv else outputs._replace(kv=None)

  if cfg.remat != 'none':
    # A scan keeps the compiler from undoing it.
    body = jax.checkpoint(body, policy=REMAT[cfg.remat], prevent_cse=False)
  segment = jax.tree.map(
    lambda leaf: leaf[start:stop], (params, past, override)
  )
  return jax.lax.scan(body, x, segment)


def run_range(
  cfg: config.ModelConfig,
  params: types.Params,
  x: Float[Array, 'B Q D'],
  allowed: Bool[Array, 'B Q T'],
  position: Int[Array, 'B Q'],
  start: types.Scalar,
  stop: types.Scalar,
  *,
  past: cache.KeyValues | None = None,
  layout: parts.Layout = parts.WHOLE,
) -> Float[Array, 'B Q D']:
  """The states of `run_layers`, with bounds that may be traced.

  One block is compiled, however many ranges of layers are run in a loop. It
  cannot be differentiated.
  """

  def body(i, x):
    take = lambda leaf: jax.lax.dynamic_index_in_dim(leaf, i, keepdims=False)
    block_params, own_past = jax.tree.map(take, (params, past))
    block_params = parts.gather(block_params, layout, cfg.dtype, of_layer=True)
    y, _ = Block(cfg, layout, parent=None).apply(
      {'params': block_params}, x, allowed, position, own_past
    )
    return y

  return jax.lax.fori_loop(start, stop, body, x)
