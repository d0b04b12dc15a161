"""Classifier-free guidance as a denoiser around a denoiser.

  l = l_u + (s + 1) (l_c - l_u)

where l_c are the logits of the canvas and l_u those of the canvas with every
prompt token masked. Both come from one call on twice the rows, which a decoder
counts as one. Being a denoiser, it works with every decoder and estimator.

References:
  Nie et al. 2025, LLaDA, arXiv:2502.09992 (`generate.py`,
  `get_log_likelihood.py`).
"""

import dataclasses

import jax.numpy as jnp
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from dllm_jax import types
from dllm_jax.runtime import sharding


@dataclasses.dataclass(frozen=True, kw_only=True)
class GuidedDenoiser:
  """`types.Denoiser` with guidance; its parameters are those of `guided`.

  Attributes:
    denoiser: the model.
    gen_length: L; the columns before the last L are the prompt.
    mask_token: id of [MASK].
  """

  denoiser: types.Denoiser
  gen_length: int
  mask_token: int

  @property
  def sharding_rules(self) -> tuple[tuple[str, PartitionSpec], ...]:
    """See `types.Divisible`; a scalar needs no rule."""
    return sharding.rules_of(self.denoiser)

  def part(self, mesh: Mesh) -> 'GuidedDenoiser':
    """See `types.Divisible`."""
    if not isinstance(self.denoiser, types.Divisible):
      return self
    return dataclasses.replace(self, denoiser=self.denoiser.part(mesh))

  def placed(self, mesh: Mesh) -> 'GuidedDenoiser':
    """See `types.Divisible`."""
    if not isinstance(self.denoiser, types.Divisible):
      return self
    return dataclasses.replace(self, denoiser=self.denoiser.placed(mesh))

  def __call__(
    self,
    params: types.Params,
    tokens: Int[Array, 'B S'],
    attention_mask: Bool[Array, 'B S'],
    query: Int[Array, 'B Q'],
  ) -> Float[Array, 'B Q V']:
    blank = tokens.at[:, : -self.gen_length].set(self.mask_token)
    twice = lambda x: jnp.concatenate([x, x])
    logits = self.denoiser(
      params['model'],
      jnp.concatenate([tokens, blank]),
      twice(attention_mask),
      twice(query),
    )
    given, free = jnp.split(logits.astype(jnp.float32), 2)
    return free + (params['cfg_scale'] + 1.0) * (given - free)


def guided(
  denoiser: types.Denoiser,
  params: types.Params,
  cfg_scale: float,
  *,
  gen_length: int,
  vocab: types.Vocabulary,
) -> tuple[types.Denoiser, types.Params]:
  """A denoiser and its parameters, with guidance where it is on.

  Args:
    denoiser: the model.
    params: its parameters.
    cfg_scale: s >= 0; 0 is off, and returns the arguments. Other scales are
      traced, and share one compilation.
    gen_length: L of the canvases.
    vocab: special ids.

  Raises:
    ValueError: the scale is negative or not finite, or guidance is on and the
      vocabulary has no [MASK].
  """
  if not 0.0 <= cfg_scale < float('inf'):
    raise ValueError(f'cfg_scale {cfg_scale} is not a number of 0 or more')
  if not cfg_scale:
    return denoiser, params
  wrapped = GuidedDenoiser(
    denoiser=denoiser, gen_length=gen_length, mask_token=vocab.need_mask()
  )
  return wrapped, {'model': params, 'cfg_scale': jnp.float32(cfg_scale)}
