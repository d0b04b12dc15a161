"""Estimators of the token log-probabilities of a completion.

The likelihood of a masked diffusion model is intractable, so every estimator
asks the model about one or more *views* of a row: a partly masked canvas, the
tokens that are credited in it, and a weight. Estimators differ in the views
alone; `read_views` reads the log-probabilities of any. Views are a function of
(key, row number), so old, reference and new policies see the same.

Dims: B rows, K views a row, Q credited slots of a view, C slots of a chunk,
L completion columns, S canvas columns, P prompt columns, V vocabulary, D model.
"""

import dataclasses
from typing import NamedTuple, Protocol, runtime_checkable

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from dllm_jax import types
from dllm_jax.ops import sampling, schedules, streams

# Slots whose logits exist at a time, where a model can be asked so.
CHUNK = 64


class Views(NamedTuple):
  """What to ask the model about each row.

  Attributes:
    tokens: canvases.
    attention_mask: real tokens of the canvases.
    slot: completion column of each credited slot.
    target: the token there.
    credit: True where the slot counts.
    weight: of every slot of the view, so that the credited sum estimates the
      sum over all counted tokens.
  """

  tokens: Int[Array, 'B K S']
  attention_mask: Bool[Array, 'B K S']
  slot: Int[Array, 'B K Q']
  target: Int[Array, 'B K Q']
  credit: Bool[Array, 'B K Q']
  weight: Float[Array, 'B K']


class Reading(NamedTuple):
  """What the model says about the credited slots, nats; 0 elsewhere.

  Attributes:
    logp: log-probability of the target.
    entropy: of the distribution that the target is from; a constant.
  """

  logp: Float[Array, 'B K Q']
  entropy: Float[Array, 'B K Q']


@runtime_checkable
class Estimator(Protocol):
  """Makes the views of a batch. Hashable: it is a static argument."""

  def __call__(
    self,
    key: Key[Array, ''],
    batch: types.RolloutBatch,
    vocab: types.Vocabulary,
  ) -> Views: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class OneStep:
  """diffu-GRPO's mean-field estimate: the whole completion from one forward.

  lp_k = log softmax(f([q' ; M^L]))_k [o_k], where q' is the prompt with each
  content token masked independently with probability `mask_prob`.

  References:
    Zhao et al. 2025, d1, section 3.2 (arXiv:2504.12216).
  """

  mask_prob: float = 0.15

  def __post_init__(self):
    if not 0.0 <= self.mask_prob <= 1.0:
      raise ValueError(f'mask_prob {self.mask_prob} is outside [0, 1]')

  def __call__(
    self,
    key: Key[Array, ''],
    batch: types.RolloutBatch,
    vocab: types.Vocabulary,
  ) -> Views:
    rows, length = batch.tokens.shape
    size = batch.prompt_ids.shape[1]
    draw = lambda key: jax.random.uniform(key, (size,))
    uniform = jax.vmap(draw)(streams.row_keys(key, batch.row_id))
    # From the right, where prompts end: the padding's width moves no draw.
    uniform = uniform[:, ::-1]
    hide = batch.maskable & (uniform < self.mask_prob)
    prompt = jnp.where(hide, vocab.need_mask(), batch.prompt_ids)
    blank = jnp.full_like(batch.tokens, vocab.need_mask())
    slot = jnp.broadcast_to(jnp.arange(length)[None], (rows, length))
    return Views(
      tokens=jnp.concatenate([prompt, blank], 1)[:, None],
      attention_mask=_canvas_mask(batch)[:, None],
      slot=slot[:, None],
      target=batch.tokens[:, None],
      credit=batch.completion_mask[:, None],
      weight=jnp.ones((rows, 1)),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class SampledSteps:
  """The trajectory estimate: some of the denoising steps, as they happened.

  `num_steps` steps t of the row are drawn without replacement; view t is the
  canvas that step t read, rebuilt from `commit_step`, and credits the tokens
  that it committed:

    lp_k = log softmax(f([q ; where(c < t, o, M)]))_k [o_k],   c_k = t

  Each step is drawn with probability n/T, hence the weight T/n: the weighted
  sum is unbiased for the sum over all the row's steps.

  Attributes:
    num_steps: n, views of a row; rows of T <= n steps show all of theirs.
    max_commits: slots of a view, the most tokens that a step commits
      (`rollout.RolloutConfig.largest_commit`): of no other are logits made.
  """

  num_steps: int
  max_commits: int

  def __post_init__(self):
    if self.num_steps < 1 or self.max_commits < 1:
      raise ValueError(
        f'num_steps {self.num_steps} and max_commits {self.max_commits} '
        'must be positive'
      )

  def __call__(
    self,
    key: Key[Array, ''],
    batch: types.RolloutBatch,
    vocab: types.Vocabulary,
  ) -> Views:
    rows, length = batch.tokens.shape
    keys = streams.row_keys(key, batch.row_id)
    step = self._draw_steps(keys, batch.num_steps, length)  # [B, K]
    commit = jnp.broadcast_to(
      batch.commit_step[:, None], (rows, self.num_steps, length)
    )
    tokens = jnp.broadcast_to(batch.tokens[:, None], commit.shape)
    prompt = jnp.broadcast_to(
      batch.prompt_ids[:, None],
      (rows, self.num_steps, batch.prompt_ids.shape[1]),
    )
    canvas = schedules.replay(tokens, commit, step, vocab.need_mask())
    mask = jnp.broadcast_to(
      _canvas_mask(batch)[:, None],
      (rows, self.num_steps, prompt.shape[-1] + length),
    )
    now = (commit == step[..., None]) & batch.completion_mask[:, None]
    slots = min(self.max_commits, length)
    slot = jnp.argsort(~now, axis=-1, stable=True)[..., :slots]
    counted = jnp.minimum(batch.num_steps, self.num_steps)
    weight = batch.num_steps / jnp.maximum(counted, 1)
    return Views(
      tokens=jnp.concatenate([prompt, canvas], -1),
      attention_mask=mask,
      slot=slot,
      target=jnp.take_along_axis(tokens, slot, axis=-1),
      credit=jnp.take_along_axis(now, slot, axis=-1),
      weight=jnp.broadcast_to(weight[:, None], step.shape),
    )

  def _draw_steps(
    self, keys: Key[Array, ' B'], total: Int[Array, ' B'], length: int
  ) -> Int[Array, 'B K']:
    """`num_steps` distinct steps of [0, total) a row; a row with fewer gets
    steps at or beyond its total, which committed nothing."""
    # A row takes at most `length` steps: each commits a token.
    count = max(length, self.num_steps)
    draw = lambda key: jax.random.uniform(key, (count,))
    uniform = jax.vmap(draw)(keys)
    step = jnp.arange(count)[None]
    late = jnp.broadcast_to(step, uniform.shape) >= total[:, None]
    # Steps that exist sort by their uniform, the others after them.
    order = jnp.argsort(uniform + late, axis=-1)
    chosen = order[:, : self.num_steps].astype(jnp.int32)
    exists = chosen < total[:, None]
    # commit_step == total marks tokens that no step committed: pass beyond it.
    return jnp.where(exists, chosen, total[:, None] + 1)


def _canvas_mask(batch: types.RolloutBatch) -> Bool[Array, 'B S']:
  ones = jnp.ones_like(batch.completion_mask)
  return jnp.concatenate([batch.prompt_mask, ones], axis=1)


def read_views(
  denoiser: types.Denoiser,
  params: types.Params,
  views: Views,
  vocab: types.Vocabulary,
  *,
  gen_length: int,
) -> Reading:
  """log pi(target) and entropy of every credited slot; 0 elsewhere.

  Only the Q slots are unembedded, `CHUNK` of them at a time where the model is
  a `types.SplitDenoiser`: an array of all completion columns by vocabulary
  never exists. The caller bounds B by micro-batches.

  Args:
    denoiser: the model.
    params: its parameters; gradients of `logp` flow through them.
    views: what to ask.
    vocab: special ids; [MASK] is ruled out as in the sampler.
    gen_length: L.
  """
  chex.assert_equal_shape([views.slot, views.target, views.credit])
  chex.assert_equal_shape([views.tokens, views.attention_mask])
  rows, count, size = views.tokens.shape
  flat = lambda x: x.reshape(rows * count, *x.shape[2:])
  column = size - gen_length + flat(views.slot)
  # An uncredited slot may hold an id that is ruled out: its log-probability
  # would be -inf, and 0 * inf a NaN gradient.
  target = flat(jnp.where(views.credit, views.target, vocab.eos_token))
  canvas = flat(views.tokens), flat(views.attention_mask)
  if column.shape[1] > CHUNK and isinstance(denoiser, types.SplitDenoiser):
    states = denoiser.states(params, *canvas, column)
    logp, entropy = _read_chunks(denoiser, params, states, target, vocab)
  else:
    logits = denoiser(params, *canvas, column)
    logp, entropy = _read_logits(logits, target, vocab)
  shape = views.slot.shape
  return Reading(
    logp=jnp.where(views.credit, logp.reshape(shape), 0.0),
    entropy=jnp.where(views.credit, entropy.reshape(shape), 0.0),
  )


def _read_logits(
  logits: Float[Array, 'B Q V'],
  target: Int[Array, 'B Q'],
  vocab: types.Vocabulary,
) -> tuple[Float[Array, 'B Q'], Float[Array, 'B Q']]:
  """Log-probabilities of the targets, and entropies."""
  logits = sampling.allowed_logits(logits, vocab)
  entropy = sampling.entropy(jax.lax.stop_gradient(logits))
  return sampling.token_logp(logits, target), entropy


def _read_chunks(
  denoiser: types.SplitDenoiser,
  params: types.Params,
  states: Float[Array, 'B Q D'],
  target: Int[Array, 'B Q'],
  vocab: types.Vocabulary,
) -> tuple[Float[Array, 'B Q'], Float[Array, 'B Q']]:
  """`_read_logits` of the states, `CHUNK` slots at a time.

  The backward pass makes a chunk's logits anew, rather than keep them all.
  """
  rows, slots = target.shape
  count = -(-slots // CHUNK)

  def cut(x):  # [B, Q, ...] -> [chunks, B, C, ...]
    fill = [(0, 0), (0, count * CHUNK - slots), *[(0, 0)] * (x.ndim - 2)]
    x = jnp.pad(x, fill).reshape(rows, count, CHUNK, *x.shape[2:])
    return jnp.swapaxes(x, 0, 1)

  @jax.checkpoint
  def read(states, target):
    return _read_logits(denoiser.unembed(params, states), target, vocab)

  found = jax.lax.map(lambda xs: read(*xs), (cut(states), cut(target)))
  join = lambda x: jnp.swapaxes(x, 0, 1).reshape(rows, -1)[:, :slots]
  return join(found[0]), join(found[1])


def view_logp(
  denoiser: types.Denoiser,
  params: types.Params,
  views: Views,
  vocab: types.Vocabulary,
  *,
  gen_length: int,
) -> Float[Array, 'B K Q']:
  """`read_views` without the entropies."""
  return read_views(denoiser, params, views, vocab, gen_length=gen_length).logp
