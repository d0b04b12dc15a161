"""Estimators of the log-probabilities of a completion's tokens.

The likelihood of a masked diffusion model is intractable. An estimator
evaluates the model on one or more *views* of a row: a partly masked canvas, the
tokens to score in it, and a weight. Estimators differ only in their views;
`read_views` evaluates any of them. Views are a function of (key, row number),
so the old, the reference and the new policy are evaluated on the same views.

Dims: B rows, K views per row, Q slots per view, C slots per chunk, L completion
columns, S canvas columns, P prompt columns, V vocabulary, D model.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import chex
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from dllm_jax import types
from dllm_jax.ops import sampling, schedules, streams

# Number of slots whose logits are computed at a time, if the model allows it.
CHUNK = 64


class Views(NamedTuple):
  """The canvases on which the model is evaluated, and the tokens to score.

  Attributes:
    tokens: token ids of the canvases.
    attention_mask: True for the real tokens of the canvases.
    slot: completion column of each slot.
    target: the token whose log-probability is read at each slot.
    credit: True for the slots to score.
    weight: weight of a view. With it, the sum over the credited slots is an
      estimate of the sum over all tokens.
    context: canvases without masks, for a model that is causal over blocks: a
      slot is read given the blocks before its own of these, and its own block
      of `tokens` (`types.BlockCausal.two_stream_states`). None: all of
      `tokens`.
  """

  tokens: Int[Array, 'B K S']
  attention_mask: Bool[Array, 'B K S']
  slot: Int[Array, 'B K Q']
  target: Int[Array, 'B K Q']
  credit: Bool[Array, 'B K Q']
  weight: Float[Array, 'B K']
  context: Int[Array, 'B K S'] | None = None


def one_view(
  prompt_ids: Int[Array, 'B P'],
  prompt_mask: Bool[Array, 'B P'],
  canvas: Int[Array, 'B L'],
  target: Int[Array, 'B L'],
  credit: Bool[Array, 'B L'],
  mask: Bool[Array, 'B L'] | None = None,
) -> Views:
  """The views of estimators that read one canvas: K = 1, Q = L, weight 1.

  Args:
    prompt_ids: prompts, padded on the left.
    prompt_mask: True on real tokens of the prompts.
    canvas: what the completion columns hold.
    target: the tokens whose log-probability counts.
    credit: of which columns.
    mask: True on completion columns that are read; None is all.
  """
  rows, length = target.shape
  if mask is None:
    mask = jnp.ones(target.shape, bool)
  slot = jnp.broadcast_to(jnp.arange(length)[None], target.shape)
  return Views(
    tokens=jnp.concatenate([prompt_ids, canvas], 1)[:, None],
    attention_mask=jnp.concatenate([prompt_mask, mask], 1)[:, None],
    slot=slot[:, None],
    target=target[:, None],
    credit=credit[:, None],
    weight=jnp.ones((rows, 1)),
  )


class Reading(NamedTuple):
  """Log-probabilities and entropies in nats; 0 at slots without credit.

  Attributes:
    logp: log-probability of the target.
    entropy: entropy of the distribution at the slot; a constant.
  """

  logp: Float[Array, 'B K Q']
  entropy: Float[Array, 'B K Q']


# Of the allowed logits [B, Q, V] and the targets [B, Q], arrays [B, Q].
Measure = Callable[[Float[Array, 'B Q V'], Int[Array, 'B Q']], Any]


@runtime_checkable
class Estimator(Protocol):
  """Makes the views of a batch; hashable, for use as a static argument."""

  def __call__(
    self,
    key: Key[Array, ''],
    batch: types.RolloutBatch,
    vocab: types.Vocabulary,
  ) -> Views: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class OneStep:
  """diffu-GRPO's mean-field estimate: all tokens from one forward pass.

  lp_k = log softmax(f([q' ; M^L]))_k [o_k], where q' is the prompt with each
  maskable token masked independently with probability `mask_prob`. Of a model
  that is causal over blocks too, every block is read after blocks of masks,
  never after the tokens of the completion: use `SampledSteps` there.

  Attributes:
    mask_prob: probability of masking a prompt token, in [0, 1].

  References:
    Zhao et al. 2025, d1, section 3.2 (arXiv:2504.12216).
  """

  mask_prob: float = 0.15

  def __post_init__(self):
    if not 0.0 <= self.mask_prob <= 1.0:
      raise ValueError(f'mask_prob must be in [0, 1], got {self.mask_prob}')

  def __call__(
    self,
    key: Key[Array, ''],
    batch: types.RolloutBatch,
    vocab: types.Vocabulary,
  ) -> Views:
    size = batch.prompt_ids.shape[1]
    draw = lambda key: jax.random.uniform(key, (size,))
    uniform = jax.vmap(draw)(streams.row_keys(key, batch.row_id))
    # Count draws from the right, where prompts end: the amount of padding does
    # not change them.
    uniform = uniform[:, ::-1]
    masked = batch.maskable & (uniform < self.mask_prob)
    prompt = jnp.where(masked, vocab.need_mask(), batch.prompt_ids)
    blank = jnp.full_like(batch.tokens, vocab.need_mask())
    return one_view(
      prompt, batch.prompt_mask, blank, batch.tokens, batch.completion_mask
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class SampledSteps:
  """The trajectory estimate: a sample of the row's denoising steps.

  n steps t of the row are drawn without replacement. View t is the canvas
  before step t, rebuilt from `commit_step`; it scores the tokens that step t
  committed:

    lp_k = log softmax(f([q ; where(c < t, o, M)]))_k [o_k],   c_k = t

  A step is drawn with probability n/T and has weight T/n: the weighted sum is
  an unbiased estimate of the sum over all T steps. A view is what the sampler
  read, of models that are causal over blocks too: their blocks before that of
  step t are complete, and those after it are not read.

  Attributes:
    num_steps: n, number of views per row; a row of T <= n steps uses all of its
      steps.
    max_commits: number of slots per view, the largest number of tokens that a
      step commits (`RolloutConfig.largest_commit`). Logits are computed for
      these slots alone.
  """

  num_steps: int
  max_commits: int

  def __post_init__(self):
    if self.num_steps < 1 or self.max_commits < 1:
      raise ValueError(
        'num_steps and max_commits must be positive, got '
        f'{self.num_steps} and {self.max_commits}'
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
    ones = jnp.ones_like(batch.completion_mask)
    mask = jnp.concatenate([batch.prompt_mask, ones], axis=1)[:, None]
    now = (commit == step[..., None]) & batch.completion_mask[:, None]
    slots = min(self.max_commits, length)
    slot = jnp.argsort(~now, axis=-1, stable=True)[..., :slots]
    num_drawn = jnp.minimum(batch.num_steps, self.num_steps)
    weight = batch.num_steps / jnp.maximum(num_drawn, 1)
    return Views(
      tokens=jnp.concatenate([prompt, canvas], -1),
      attention_mask=jnp.broadcast_to(
        mask, (rows, self.num_steps, mask.shape[-1])
      ),
      slot=slot,
      target=jnp.take_along_axis(tokens, slot, axis=-1),
      credit=jnp.take_along_axis(now, slot, axis=-1),
      weight=jnp.broadcast_to(weight[:, None], step.shape),
    )

  def _draw_steps(
    self, keys: Key[Array, ' B'], total: Int[Array, ' B'], length: int
  ) -> Int[Array, 'B K']:
    """Draws distinct steps of [0, total) for each row.

    The draws that a row with fewer steps lacks are `total + 1`, a step that
    committed nothing.
    """
    # A row has at most `length` steps, since each commits a token.
    count = max(length, self.num_steps)
    draw = lambda key: jax.random.uniform(key, (count,))
    uniform = jax.vmap(draw)(keys)
    step = jnp.arange(count)[None]
    is_beyond = jnp.broadcast_to(step, uniform.shape) >= total[:, None]
    # Random order of the steps of the row; the others come after them.
    order = jnp.argsort(uniform + is_beyond, axis=-1)
    chosen = order[:, : self.num_steps].astype(jnp.int32)
    exists = chosen < total[:, None]
    # Not `total`: it is the commit_step of tokens that no step committed.
    return jnp.where(exists, chosen, total[:, None] + 1)


def read_views(
  denoiser: types.Denoiser,
  params: types.Params,
  views: Views,
  vocab: types.Vocabulary,
  *,
  gen_length: int,
) -> Reading:
  """`measure_views` of log pi(target) and entropy."""
  return Reading(
    *measure_views(
      denoiser, params, views, vocab, _logp_and_entropy, gen_length=gen_length
    )
  )


def _logp_and_entropy(
  logits: Float[Array, 'B Q V'], target: Int[Array, 'B Q']
) -> tuple[Float[Array, 'B Q'], Float[Array, 'B Q']]:
  entropy = sampling.entropy(jax.lax.stop_gradient(logits))
  return sampling.token_logp(logits, target), entropy


def measure_views(
  denoiser: types.Denoiser,
  params: types.Params,
  views: Views,
  vocab: types.Vocabulary,
  measure: Measure,
  *,
  gen_length: int,
) -> Any:
  """Evaluates the model on views, and measures the logits of each slot.

  Only the Q slots are unembedded, `CHUNK` at a time if the model is a
  `types.SplitDenoiser`: logits of all completion columns are never in memory at
  once. The caller limits B by micro-batches.

  Args:
    denoiser: the model; a `types.BlockCausal` if the views have a context.
    params: parameters of the model; the result is differentiable in them.
    views: the canvases and the tokens to score.
    vocab: special ids; [MASK] is excluded, as in the sampler.
    measure: function of the logits, -inf for excluded ids, and the targets.
    gen_length: L, number of completion columns.

  Returns:
    What `measure` returns, of shape [B, K, Q]; 0 at slots without credit.
  """
  chex.assert_equal_shape([views.slot, views.target, views.credit])
  chex.assert_equal_shape([views.tokens, views.attention_mask])
  rows, count, size = views.tokens.shape
  flat = lambda x: x.reshape(rows * count, *x.shape[2:])
  column = size - gen_length + flat(views.slot)
  # The target of a slot without credit may be an excluded id. Its
  # log-probability would be -inf, and its gradient 0 * inf = NaN.
  target = flat(jnp.where(views.credit, views.target, vocab.eos_token))
  canvas = flat(views.tokens), flat(views.attention_mask)
  if views.context is not None:
    states = denoiser.two_stream_states(
      params, flat(views.context), *canvas, column
    )
    measured = read_states(denoiser, params, states, target, vocab, measure)
  elif column.shape[1] > CHUNK and isinstance(denoiser, types.SplitDenoiser):
    states = denoiser.states(params, *canvas, column)
    measured = read_states(denoiser, params, states, target, vocab, measure)
  else:
    logits = denoiser(params, *canvas, column)
    measured = measure(sampling.allowed_logits(logits, vocab), target)
  shape = views.slot.shape
  return jax.tree.map(
    lambda x: jnp.where(views.credit, x.reshape(shape), 0.0), measured
  )


def read_states(
  denoiser: types.SplitDenoiser,
  params: types.Params,
  states: Float[Array, 'B Q D'],
  target: Int[Array, 'B Q'],
  vocab: types.Vocabulary,
  measure: Measure = sampling.token_logp,
) -> Any:
  """`measure` of the allowed logits of hidden states.

  `CHUNK` slots at a time: the backward pass recomputes the logits of a chunk
  instead of storing them.
  """
  rows, slots = target.shape
  size = min(CHUNK, slots)
  count = -(-slots // size)

  def split(x):  # [B, Q, ...] -> [chunks, B, C, ...]
    padding = [(0, 0), (0, count * size - slots), *[(0, 0)] * (x.ndim - 2)]
    x = jnp.pad(x, padding).reshape(rows, count, size, *x.shape[2:])
    return jnp.swapaxes(x, 0, 1)

  @jax.checkpoint
  def read(states, target):
    logits = denoiser.unembed(params, states)
    return measure(sampling.allowed_logits(logits, vocab), target)

  measured = jax.lax.map(lambda xs: read(*xs), (split(states), split(target)))
  join = lambda x: jnp.swapaxes(x, 0, 1).reshape(rows, -1)[:, :slots]
  return jax.tree.map(join, measured)
