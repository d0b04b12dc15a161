"""The blocks of a transformer, stacked, and runs of them.

Every leaf of the parameters has a leading [num_layers] axis, so a run of layers
is a slice, and `lax.scan` compiles one block. Where only some layers have
experts (`ModelConfig.sparse_every`) there are two stacks, 'dense' and 'sparse',
and `lax.scan` compiles a group: dense layers and the sparse one that follows
them. Dims: N layers, G groups, B rows, S slots of a cache, Q columns, T key
columns, D model.
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
from dllm_jax.ops import quantize

# What the backward pass keeps of a block's forward pass, beside its input.
REMAT = {
  'block': jax.checkpoint_policies.nothing_saveable,
  'dots': jax.checkpoint_policies.save_from_both_policies(
    jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    # A product with its own rule of differentiation is no dot to a policy.
    jax.checkpoint_policies.save_only_these_names(quantize.PRODUCT),
  ),
}


class LayerOutputs(NamedTuple):
  """What blocks give beside their states, stacked on a leading axis.

  Attributes:
    kv: keys and values of the columns that the block read; None where they
      were not asked for.
    feed_forward: arrays of the feed-forward part, by name; of the layers with
      experts alone, if there are any.
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

  def stacked(cfg, keys):
    block = Block(cfg, parent=None)
    one = lambda key: block.init(key, x, allowed, position)['params']
    return jax.vmap(one)(keys)

  keys = jax.random.split(key, cfg.num_layers)
  if cfg.sparse_every == 1:
    return stacked(cfg, keys)
  keys = keys.reshape(-1, cfg.sparse_every)
  return {
    'dense': stacked(cfg.dense(), keys[:, :-1].reshape(-1)),
    'sparse': stacked(cfg, keys[:, -1]),
  }


def divide(
  layers: types.Params, sparse_every: int
) -> tuple[types.Params, types.Params]:
  """One stack as two: the layers that would be dense, and the others."""
  by_group = lambda leaf: leaf.reshape(-1, sparse_every, *leaf.shape[1:])
  first = lambda leaf: by_group(leaf)[:, :-1].reshape(-1, *leaf.shape[1:])
  last = lambda leaf: by_group(leaf)[:, -1]
  return jax.tree.map(first, layers), jax.tree.map(last, layers)


def unstack(layers: types.Params) -> tuple[types.Params, ...]:
  """The blocks of one stack as arrays of their own; `run_layers` takes both.

  In a loop of calls XLA copies every weight out of the stack in each iteration.
  A product with few rows is bound by reading its weights, which a copy reads
  and writes once more.
  """
  num_layers = len(jax.tree.leaves(layers)[0])
  return tuple(_layer(layers, i) for i in range(num_layers))


def _layer(tree, i):
  return jax.tree.map(lambda leaf: leaf[i], tree)


def run_layers(
  cfg: config.ModelConfig,
  params: types.Params | tuple[types.Params, ...],
  x: Float[Array, 'B Q D'],
  allowed: Bool[Array, 'B Q T'],
  position: Int[Array, 'B Q'],
  *,
  past: cache.KeyValues | None = None,
  override: types.RouterOverride | None = None,
  keep_kv: bool = False,
  layout: parts.Layout = parts.WHOLE,
) -> tuple[Float[Array, 'B Q D'], LayerOutputs]:
  """Applies blocks by `lax.scan` over the stacked parameters.

  Unrolled, parameters and saved states are not copied out of and into their
  stacks. With `cfg.remat` it stays a loop, which keeps the compiler from
  undoing it.

  Args:
    cfg: config of the part that this device computes; `cfg.remat` says what the
      backward pass recomputes, `cfg.unroll` which models are no loop.
    params: the stacked blocks, `model_params['layers']`, of which a slice (of
      one stack) is a run of layers; or `unstack` of them, for which `cfg.remat`
      is not read.
    x: input of the first block.
    allowed: which keys each query reads: those of `past`, then those of `x`.
    position: position ids of the columns of `x`.
    past: keys and values of earlier columns, of all layers; they are read, and
      not changed.
    override: which experts tokens go to, in all layers that have some.
    keep_kv: whether to return the keys and values of the columns of `x`.
    layout: how the model is divided over devices.

  Returns:
    States after the last block, and the stacked outputs of all.
  """

  def block(cfg, params, x, past, override=None):
    y, outputs = _apply(
      cfg, layout, params, x, allowed, position, past, override
    )
    return y, outputs if keep_kv else outputs._replace(kv=None)

  def body(x, layer):
    params, past, override = layer
    return block(cfg, params, x, past, override)

  def group(x, layers):
    params, past, override = layers
    kv = []
    for i in range(cfg.sparse_every - 1):
      own, own_past = _layer((params['dense'], past), i)
      x, outputs = block(cfg.dense(), own, x, own_past)
      kv.append(outputs.kv)
    x, outputs = block(cfg, params['sparse'], x, _layer(past, -1), override)
    kv = jax.tree.map(lambda *leaves: jnp.stack(leaves), *kv, outputs.kv)
    return x, outputs._replace(kv=kv)

  if isinstance(params, tuple):
    by_layer = []
    for i, own in enumerate(params):
      x, outputs = block(cfg, own, x, *_layer((past, override), i))
      by_layer.append(outputs)
    return x, jax.tree.map(lambda *leaves: jnp.stack(leaves), *by_layer)
  if cfg.sparse_every > 1:
    body = group
  unroll = cfg.remat == 'none' and cfg.num_layers <= cfg.unroll
  if cfg.remat != 'none':
    body = jax.checkpoint(body, policy=REMAT[cfg.remat], prevent_cse=False)
  if cfg.sparse_every == 1:
    return jax.lax.scan(body, x, (params, past, override), unroll=unroll)
  num_groups = cfg.num_layers // cfg.sparse_every
  by_group = lambda leaf: leaf.reshape(num_groups, -1, *leaf.shape[1:])
  dense, past = jax.tree.map(by_group, (params['dense'], past))
  groups = {**params, 'dense': dense}, past, override
  x, outputs = jax.lax.scan(body, x, groups, unroll=unroll)
  flat = lambda leaf: leaf.reshape(-1, *leaf.shape[2:])
  return x, outputs._replace(kv=jax.tree.map(flat, outputs.kv))


def _apply(cfg, layout, params, x, allowed, position, past, override=None):
  """One block, with its parameters gathered."""
  params = parts.gather(params, layout, cfg.dtype, of_layer=True)
  return Block(cfg, layout, parent=None).apply(
    {'params': params}, x, allowed, position, past, override
  )


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

  One block is compiled, or one of each stack, however many ranges of layers are
  run in a loop. It cannot be differentiated.
  """

  def take(leaves, i):
    one = lambda leaf: jax.lax.dynamic_index_in_dim(leaf, i, keepdims=False)
    return jax.tree.map(one, leaves)

  def body(i, x):
    if cfg.sparse_every == 1:
      own, own_past = take((params, past), i)
      return _apply(cfg, layout, own, x, allowed, position, own_past)[0]
    own_past = take(past, i)
    group, place = i // cfg.sparse_every, i % cfg.sparse_every

    def sparse(x):
      own = take(params['sparse'], group)
      return _apply(cfg, layout, own, x, allowed, position, own_past)[0]

    def dense(x):
      own = take(params['dense'], group * (cfg.sparse_every - 1) + place)
      return _apply(cfg.dense(), layout, own, x, allowed, position, own_past)[0]

    return jax.lax.cond(place == cfg.sparse_every - 1, sparse, dense, x)

  return jax.lax.fori_loop(start, stop, body, x)
