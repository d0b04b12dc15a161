"""What decoders and losses see of a transformer (`models.network`).

Dims: B rows, S canvas columns, Q queried or new columns, D model, V vocabulary.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, Key

from dllm_jax import errors, types
from dllm_jax.models import cache as cache_lib
from dllm_jax.models import config, feed_forward, network, parts, stack
from dllm_jax.ops import quantize, schedules
from dllm_jax.runtime import sharding


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransformerDenoiser:
  """`types.Denoiser` of a transformer.

  Only the queried columns are unembedded. Where the model's logits are
  shifted (Dream), column k is read from the state of the token before it.

  Attributes:
    cfg: the model.
    layout: how the model is divided over devices.
  """

  cfg: config.ModelConfig
  layout: parts.Layout = parts.WHOLE

  sharding_rules = sharding.RULES

  @classmethod
  def from_config(
    cls, values: Mapping[str, Any], vocab: types.Vocabulary
  ) -> 'TransformerDenoiser':
    """The model that the config group `model` describes.

    Raises:
      ValueError: a value is out of its range.
      TypeError: a key is missing, or `ModelConfig` has no such field.
    """
    values = dict(values)
    if isinstance(scaling := values.get('rope_scaling'), Mapping):
      values['rope_scaling'] = config.RopeScaling(**scaling)
    cfg = config.ModelConfig(**values, vocab_size=vocab.size)
    if cfg.feed_forward not in feed_forward.FEED_FORWARD:
      raise ValueError(
        f'feed_forward {cfg.feed_forward!r}: expected one of '
        f'{tuple(feed_forward.FEED_FORWARD)}'
      )
    return of_config(cfg)

  def init(self, key: Key[Array, '']) -> types.Params:
    """See `types.Trainable`."""
    return network.init(key, self.cfg)

  def part(self, mesh: Mesh) -> 'TransformerDenoiser':
    """See `types.Divisible`."""
    layout = parts.layout_on(mesh, self.cfg)
    return dataclasses.replace(self, layout=layout)

  def placed(self, mesh: Mesh) -> 'TransformerDenoiser':
    """See `types.Divisible`."""
    return dataclasses.replace(self, layout=parts.Layout(mesh=mesh))

  def unstack(self, params: types.Params) -> types.Params:
    """See `types.Stacked`; only for models of at most `cfg.unroll` layers."""
    cfg, layers = self.cfg, params['layers']
    is_looped = cfg.num_layers > cfg.unroll or cfg.sparse_every > 1
    if is_looped or isinstance(layers, tuple):
      return params
    return {**params, 'layers': stack.unstack(layers)}

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
    """See `types.SplitDenoiser`."""
    hidden = self._apply('hidden', params, tokens, attention_mask)
    return self._of_columns(hidden, attention_mask, query)

  def read(
    self,
    params: types.Params,
    tokens: Int[Array, 'B S'],
    attention_mask: Bool[Array, 'B S'],
    query: Int[Array, 'B Q'],
  ) -> tuple[Float[Array, 'B Q D'], cache_lib.KeyValues]:
    """See `types.CachedDenoiser`."""
    hidden, kv = self._apply('read', params, tokens, attention_mask)
    return self._of_columns(hidden, attention_mask, query), kv

  def read_window(
    self,
    params: types.Params,
    tokens: Int[Array, 'B S'],
    attention_mask: Bool[Array, 'B S'],
    query: Int[Array, 'B Q'],
    cache: cache_lib.KeyValues,
    start: Int[Array, ' B'],
    width: int,
  ) -> tuple[Float[Array, 'B Q D'], cache_lib.KeyValues]:
    """See `types.CachedDenoiser`.

    Where the logits are shifted, the window has one more column, from whose
    state its first token is read.
    """
    if self._is_shifted:
      query = schedules.previous_real(attention_mask, query)
      start, width = start - 1, width + 1
    column = start[:, None] + jnp.arange(width)[None]
    hidden, cache = self._apply(
      'read_window', params, tokens, attention_mask, cache, column
    )
    place = jnp.clip(query - start[:, None], 0, width - 1)
    return jnp.take_along_axis(hidden, place[..., None], axis=1), cache

  def put(
    self,
    cache: cache_lib.KeyValues,
    new: cache_lib.KeyValues,
    rows: Int[Array, ' b'],
  ) -> cache_lib.KeyValues:
    """See `types.CachedDenoiser`."""
    put = lambda old, new: old.at[:, rows].set(new, mode='drop')
    return jax.tree.map(put, cache, new)

  @property
  def block_causal(self) -> int:
    """See `types.BlockCausal`."""
    return self.cfg.block_causal

  def two_stream_states(
    self,
    params: types.Params,
    context: Int[Array, 'B S'],
    tokens: Int[Array, 'B S'],
    attention_mask: Bool[Array, 'B S'],
    query: Int[Array, 'B Q'],
  ) -> Float[Array, 'B Q D']:
    """See `types.BlockCausal`.

    With shifted logits, the first column of a block is read from the clean
    column before it, as when blocks are decoded one after the other.
    """
    hidden = self._apply('two_streams', params, context, tokens, attention_mask)
    source = query
    if self._is_shifted:
      source = schedules.previous_real(attention_mask, query)
    number = schedules.positions(attention_mask) // self.cfg.block_causal
    number_at = lambda column: jnp.take_along_axis(number, column, axis=1)
    is_noised = number_at(source) == number_at(query)
    column = source + jnp.where(is_noised, tokens.shape[1], 0)
    return jnp.take_along_axis(hidden, column[..., None], axis=1)

  def routed_states(
    self,
    params: types.Params,
    tokens: Int[Array, 'B S'],
    attention_mask: Bool[Array, 'B S'],
    query: Int[Array, 'B Q'],
    override: types.RouterOverride | None = None,
  ) -> tuple[Float[Array, 'B Q D'], types.RouterOutputs]:
    """See `types.Routed`."""
    hidden, routers = self._apply(
      'routed', params, tokens, attention_mask, override
    )
    return self._of_columns(hidden, attention_mask, query), routers

  @property
  def num_experts(self) -> int:
    """See `types.Routed`."""
    return self.cfg.num_experts

  @property
  def num_sparse_layers(self) -> int:
    """See `types.Routed`."""
    if not self.cfg.num_experts:
      return 0
    return self.cfg.num_layers // self.cfg.sparse_every

  def with_routers(
    self, params: types.Params, other: types.Params
  ) -> types.Params:
    """See `types.Routed`."""

    def with_own(blocks, other):
      mlp = {**blocks['mlp'], 'gate': other['mlp']['gate']}
      return {**blocks, 'mlp': mlp}

    blocks, others = params['layers'], other['layers']
    if 'sparse' in blocks:
      sparse = with_own(blocks['sparse'], others['sparse'])
      return {**params, 'layers': {**blocks, 'sparse': sparse}}
    return {**params, 'layers': with_own(blocks, others)}

  def _of_columns(
    self,
    hidden: Float[Array, 'B S D'],
    attention_mask: Bool[Array, 'B S'],
    query: Int[Array, 'B Q'],
  ) -> Float[Array, 'B Q D']:
    """The states that the tokens at columns `query` are read from."""
    if self._is_shifted:
      query = schedules.previous_real(attention_mask, query)
    return jnp.take_along_axis(hidden, query[..., None], axis=1)

  def unembed(
    self, params: types.Params, states: Float[Array, 'B Q D']
  ) -> Float[Array, 'B Q V']:
    """See `types.SplitDenoiser`."""
    return self._apply('unembed', params, states)

  @property
  def _is_shifted(self) -> bool:
    return self.cfg.logit_shift

  def _apply(self, method: str, params: types.Params, *args: Any) -> Any:
    """`method` of the network, with its parameters gathered but for layers."""
    model = network.Transformer(
      parts.local_config(self.cfg, self.layout), self.layout
    )
    outer = {k: v for k, v in params.items() if k != 'layers'}
    outer = parts.gather(outer, self.layout, self.cfg.dtype)
    variables = {'params': {**outer, 'layers': params['layers']}}
    return model.apply(variables, *args, method=method)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransformerCausalLM(TransformerDenoiser):
  """`types.LayeredLM` of a transformer with a causal mask.

  Also a `types.Denoiser`, which reads every column from the state of the token
  before it and keeps no cache.
  """

  def __post_init__(self):
    if not self.cfg.causal:
      raise ValueError('the model is not causal: its config has causal=False')

  @property
  def _is_shifted(self) -> bool:
    return True

  def init_cache(self, num_rows: int, num_slots: int) -> cache_lib.KVCache:
    """See `types.CausalLM`; inside `jax.shard_map`, of this device's heads."""
    cfg = parts.local_config(self.cfg, self.layout)
    return cache_lib.init(cfg, num_rows, num_slots)

  def truncate(
    self, cache: cache_lib.KVCache, length: Int[Array, ' B']
  ) -> cache_lib.KVCache:
    """See `types.CausalLM`."""
    return cache_lib.truncate(cache, length)

  def take(
    self, cache: cache_lib.KVCache, rows: Int[Array, ' b']
  ) -> cache_lib.KVCache:
    """See `types.CausalLM`."""
    return cache_lib.take(cache, rows)

  def prefill(
    self,
    params: types.Params,
    tokens: Int[Array, 'B Q'],
    attention_mask: Bool[Array, 'B Q'],
    cache: cache_lib.KVCache,
  ) -> tuple[Float[Array, 'B Q V'], cache_lib.KVCache]:
    """See `types.CausalLM`."""
    cache = self.truncate(cache, jnp.zeros_like(cache.length))
    return self._extend(params, tokens, attention_mask, cache, is_empty=True)

  def extend(
    self,
    params: types.Params,
    tokens: Int[Array, 'B Q'],
    attention_mask: Bool[Array, 'B Q'],
    cache: cache_lib.KVCache,
  ) -> tuple[Float[Array, 'B Q V'], cache_lib.KVCache]:
    """See `types.CausalLM`."""
    return self._extend(params, tokens, attention_mask, cache, is_empty=False)

  def _extend(self, params, tokens, attention_mask, cache, *, is_empty):
    states, cache = self._apply(
      'extend', params, tokens, attention_mask, cache, is_empty
    )
    return self.unembed(params, states), cache

  @property
  def num_layers(self) -> int:
    """See `types.LayeredLM`."""
    return self.cfg.num_layers

  def embed(
    self, params: types.Params, tokens: Int[Array, 'B Q']
  ) -> Float[Array, 'B Q D']:
    """See `types.LayeredLM`."""
    return self._apply('embed', params, tokens)

  def run_layers(
    self,
    params: types.Params,
    states: Float[Array, 'B Q D'],
    attention_mask: Bool[Array, 'B Q'],
    cache: cache_lib.KVCache | None,
    start: types.Scalar,
    stop: types.Scalar,
  ) -> Float[Array, 'B Q D']:
    """See `types.LayeredLM`."""
    return self._apply(
      'run_range', params, states, attention_mask, cache, start, stop
    )

  def read_out(
    self, params: types.Params, states: Float[Array, 'B Q D']
  ) -> Float[Array, 'B Q V']:
    """See `types.LayeredLM`."""
    return self._apply('read_out', params, states)

  def compress(self, params: types.Params, how: str) -> types.Params:
    """See `types.LayeredLM`; replaces the kernels of all layers.

    Raises:
      errors.UserError: the model has experts.
    """
    if self.cfg.num_experts:
      raise errors.UserError(
        'models with experts cannot be compressed: decode without draft or '
        'fractal'
      )
    # Only layers go through jit, which would copy the other parameters.
    return {**params, 'layers': quantize.compress(params['layers'], how)}


def of_config(cfg: config.ModelConfig) -> TransformerDenoiser:
  """The model of a config; a causal one is a `types.CausalLM` too."""
  return (TransformerCausalLM if cfg.causal else TransformerDenoiser)(cfg=cfg)


def config_of(denoiser: types.Denoiser) -> config.ModelConfig | None:
  """The config of one of this module's models; None for any other model."""
  is_own = type(denoiser) in (TransformerDenoiser, TransformerCausalLM)
  return denoiser.cfg if is_own else None
