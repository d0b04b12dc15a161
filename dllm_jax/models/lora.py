"""LoRA adapters as trees: split off, new, merged. See `layers.Linear`."""

import dataclasses
from typing import Any

import flax
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from dllm_jax import types
from dllm_jax.models import config, transformer

Adapters = dict[str, Any]  # arrays, by '/'-joined path


def split(params: types.Params) -> tuple[Adapters, types.Params]:
  """(adapters by path, the parameters without them)."""
  flat = flax.traverse_util.flatten_dict(params, sep='/')
  adapters = {k: v for k, v in flat.items() if _is_adapter(k)}
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
    cfg: of the model, lora_rank > 0.

  Raises:
    ValueError: the rank is 0.
  """
  if not cfg.lora_rank:
    raise ValueError('lora_rank is 0, so there are no adapters')
  return split(transformer.init(key, cfg))[0]


def merge(
  params: types.Params, cfg: config.ModelConfig, *, donate: bool = False
) -> tuple[types.Params, config.ModelConfig]:
  """W + (alpha / rank) A B in every kernel, and the config of such a model.

  Computed in float32, a layer at a time, and rounded once to the kernel's
  dtype.

  Args:
    params: of the adapted model.
    cfg: its config.
    donate: whether the kernels are updated in place, so that memory never holds
      two models; those of `params` are deleted.
  """
  adapters, plain = split(params)
  if not adapters:
    return plain, dataclasses.replace(cfg, lora_rank=0)
  flat = flax.traverse_util.flatten_dict(plain, sep='/')
  layer, put = jax.jit(_merged_layer), jax.jit(_put, donate_argnums=0)
  for path in [k for k in adapters if k.endswith('/lora_a')]:
    linear = path.removesuffix('/lora_a')
    kernel = flat[f'{linear}/kernel']
    kernel = kernel if donate else jnp.copy(kernel)
    factors = adapters[path], adapters[f'{linear}/lora_b']
    # Separate calls: in one program XLA turns the cast of a layer into a cast
    # of the whole kernel, which takes as much memory again.
    for i in range(kernel.shape[0]):
      scale = cfg.lora_alpha / cfg.lora_rank
      kernel = put(kernel, i, layer(kernel, i, *factors, scale))
    flat[f'{linear}/kernel'] = kernel
  merged = flax.traverse_util.unflatten_dict(flat, sep='/')
  return merged, dataclasses.replace(cfg, lora_rank=0)


def _is_adapter(path: str) -> bool:
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
