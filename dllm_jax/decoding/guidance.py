"""Classifier-free guidance as a denoiser around a denoiser.

  l = l_u + (s + 1) (l_c - l_u)

where l_c are the logits of the canvas and l_u those of the canvas with every
prompt token masked. Both come from one call on twice the rows, which a decoder
counts as one. The result is a denoiser, so any decoder and estimator takes it.

References:
  Nie et al. 2025, LLaDA, arXiv:2502.09992 (`generate.py`,
  `get_log_likelihood.py`).
"""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from dllm_jax import types


@dataclasses.dataclass(frozen=True, kw_only=True)
class GuidedDenoiser:
  """`types.Denoiser` with guidance; `guided` makes its parameters.

  Attributes:
    denoiser: the model.
    gen_length: completion columns; the columns before them are the prompt.
    mask_token: id of [MASK].
  """

  denoiser: types.Denoiser
  gen_length: int
  mask_token: int

  def __call__(
    self,
    params: types.Params,
    tokens: Int[Array, 'B S'],
    attention_mask: Bool[Array, 'B S'],
    query: Int[Array, 'B Q'],
  ) -> Float[Array, 'B Q V']:
    logits = self.denoiser(
      params['model'], *self._pairs(tokens, attention_mask, query)
    )
    return self._mix(params, logits)

  def _pairs(
    self,
    tokens: Int[Array, 'B S'],
    attention_mask: Bool[Array, 'B S'],
    query: Int[Array, 'B Q'],
  ) -> tuple[Array, Array, Array]:
    """Twice the rows: each, and the same with every prompt token masked."""
    blank = tokens.at[:, : -self.gen_length].set(self.mask_token)
    pairs = jnp.stack([tokens, blank], axis=1).reshape(-1, tokens.shape[1])
    return pairs, jnp.repeat(attention_mask, 2, 0), jnp.repeat(query, 2, 0)

  def _mix(
    self, params: types.Params, logits: Float[Array, 'B2 Q V']
  ) -> Float[Array, 'B Q V']:
    given, free = logits[::2], logits[1::2]
    return free + (params['cfg_scale'] + 1.0) * (given - free)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CachedGuidedDenoiser(GuidedDenoiser):
  """`types.CachedDenoiser` with guidance.

  A row's states are those of both its canvases, side by side; its cache is
  that of two rows.
  """

  denoiser: types.CachedDenoiser

  def states(
    self,
    params: types.Params,
    tokens: Int[Array, 'B S'],
    attention_mask: Bool[Array, 'B S'],
    query: Int[Array, 'B Q'],
  ) -> Float[Array, 'B Q D2']:
    """See `types.SplitDenoiser`."""
    pairs = self._pairs(tokens, attention_mask, query)
    return _side_by_side(self.denoiser.states(params['model'], *pairs))

  def read(
    self,
    params: types.Params,
    tokens: Int[Array, 'B S'],
    attention_mask: Bool[Array, 'B S'],
    query: Int[Array, 'B Q'],
  ) -> tuple[Float[Array, 'B Q D2'], types.Cache]:
    """See `types.CachedDenoiser`."""
    pairs = self._pairs(tokens, attention_mask, query)
    states, cache = self.denoiser.read(params['model'], *pairs)
    return _side_by_side(states), cache

  def read_window(
    self,
    params: types.Params,
    tokens: Int[Array, 'B S'],
    attention_mask: Bool[Array, 'B S'],
    query: Int[Array, 'B Q'],
    cache: types.Cache,
    start: Int[Array, ' B'],
    width: int,
  ) -> tuple[Float[Array, 'B Q D2'], types.Cache]:
    """See `types.CachedDenoiser`."""
    pairs = self._pairs(tokens, attention_mask, query)
    start = jnp.repeat(start, 2)
    states, cache = self.denoiser.read_window(
      params['model'], *pairs, cache, start, width
    )
    return _side_by_side(states), cache

  def put(
    self, cache: types.Cache, new: types.Cache, rows: Int[Array, ' b']
  ) -> types.Cache:
    """See `types.CachedDenoiser`."""
    pairs = jnp.stack([2 * rows, 2 * rows + 1], axis=1).reshape(-1)
    return self.denoiser.put(cache, new, pairs)

  def unembed(
    self, params: types.Params, states: Float[Array, 'B Q D2']
  ) -> Float[Array, 'B Q V']:
    """See `types.SplitDenoiser`."""
    pairs = jnp.stack(jnp.split(states, 2, axis=-1), axis=1)
    pairs = pairs.reshape(-1, *pairs.shape[2:])
    return self._mix(params, self.denoiser.unembed(params['model'], pairs))


def _side_by_side(states: Float[Array, 'B2 Q D']) -> Float[Array, 'B Q D2']:
  return jnp.concatenate([states[::2], states[1::2]], axis=-1)


def guided(
  denoiser: types.Denoiser,
  params: types.Params,
  cfg_scale: types.Scalar | None,
  *,
  gen_length: int,
  vocab: types.Vocabulary,
) -> tuple[types.Denoiser, types.Params]:
  """A denoiser and its parameters, with guidance unless `cfg_scale` is None.

  Args:
    denoiser: the model.
    params: its parameters.
    cfg_scale: s >= 0; traced, so that a sweep compiles once.
    gen_length: completion columns of the canvases.
    vocab: special ids.

  Raises:
    ValueError: guidance is on and the vocabulary has no [MASK].
  """
  if cfg_scale is None:
    return denoiser, params
  is_cached = isinstance(denoiser, types.CachedDenoiser)
  wrapped = (CachedGuidedDenoiser if is_cached else GuidedDenoiser)(
    denoiser=denoiser, gen_length=gen_length, mask_token=vocab.need_mask()
  )
  return wrapped, {'model': params, 'cfg_scale': jnp.float32(cfg_scale)}
