"""LoRA adapters as trees: split off, new, merged. See `layers.Linear`."""

from collections.abc import Iterator
from typing import Any

import flax
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from dllm_jax import types
from dllm_jax.models import config, network

Adapters = dict[str, Any]  # arrays, by '/'-joined path


def split(params: types.Params) -> tuple[Adapters, types.Params]:
  """(adapters by path, the parameters without them)."""
  flat = flax.traverse_util.flatten_dict(params, sep='/')
  adapters = {k: v for k, v in flat.items() if is_adapter(k)}
  plain = {k: v for k, v in flat.items() if k not in adapters}
  return adapters, flax.traverse_util.unflatten_dict(plain, sep='/')


def join(params: types.Params, adapters: Adapters) -> types.Params:
  """The inverse of `split`."""
  flat = flax.traverse_util.flatten_dict(params, sep='/')
  return flax.traverse_util.unflatten_dict({**flat, **adapters}, sep='/')


def fresh(key: Key[Array, ''], cfg: config.ModelConfig) -> Adapters:
  """New adapters of a model with `cfg.lora_rank`; their product is zero.

  Jit this with `cfg` static, so that the rest of the model is not computed.

  Args:
    key: consumed.
    cfg: config of the model, with lora_rank > 0.

  Raises:
    ValueError: the rank is 0.
  """
  if not cfg.lora_rank:
    raise ValueError('lora_rank is 0, so there are no adapters')
  return split(network.init(key, cfg))[0]


def merge_leaves(
  leaves: Iterator[tuple[str, Array]],
  adapters: Adapters,
  cfg: config.ModelConfig,
) -> Iterator[tuple[str, Array]]:
  """W + (alpha / rank) A B in every kernel, of leaves that come one by one.

  They are changed in place. Sums and products are float32, a layer at a time;
  the result is rounded once to the kernel's dtype.

  Args:
    leaves: (path, leaf) of the model without its adapters; kernels with an
      adapter are donated.
    adapters: adapter leaves by path.
    cfg: config of the adapted model.
  """
  layer, put = jax.jit(_merged_layer), jax.jit(_put, donate_argnums=0)
  for path, leaf in leaves:
    stem = path.removesuffix('kernel')
    if f'{stem}lora_a' in adapters:
      factors = adapters[f'{stem}lora_a'], adapters[f'{stem}lora_b']
      scale = cfg.lora_alpha / cfg.lora_rank
      # Calls of their own: in one program XLA makes of a layer's cast one of
      # the kernel, in memory beside it.
      for i in range(leaf.shape[0]):
        leaf = put(leaf, i, layer(leaf, i, *factors, scale))
    yield path, leaf
    del leaf  # before the next one comes


def is_adapter(path: str) -> bool:
  """Whether a '/'-joined path is that of an adapter's leaf."""
  return path.rsplit('/', 1)[-1] in ('lora_a', 'lora_b')


def _merged_layer(
  kernel: Float[Array, 'N i o'],
  index: int | Int[Array, ''],
  a: Float[Array, 'N i r'],
  b: Float[Array, 'N r o'],
  scale: float | Float[Array, ''],
) -> Float[Array, 'i o']:
  old = kernel[index]
  change = jnp.matmul(a[index], b[index], precision=jax.lax.Precision.HIGHEST)
  return (old.astype(jnp.float32) + scale * change).astype(kernel.dtype)


def _put(
  kernel: Float[Array, 'N i o'],
  index: int | Int[Array, ''],
  layer: Float[Array, 'i o'],
) -> Float[Array, 'N i o']:
  return jax.lax.dynamic_update_index_in_dim(kernel, layer, index, 0)
