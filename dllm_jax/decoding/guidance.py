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
  wrapped = GuidedDenoiser(
    denoiser=denoiser, gen_length=gen_length, mask_token=vocab.need_mask()
  )
  return wrapped, {'model': params, 'cfg_scale': jnp.float32(cfg_scale)}
