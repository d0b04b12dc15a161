"""Answer-guided rollouts: reason towards a known answer, then re-predict it.

`sample` is the only function of the library that gives gold answers to the
device; its result contains none of their tokens unless the model wrote them.
Deviations from the release (docs/papers.md): a static window with an anchor
length per row (the suffix is masked again in place), a mask per row, a cap on
the anchor, and an anchor template in the format that the reward expects. Dims:
B rows, P prompt columns, L completion columns, A the longest anchor.

References:
  Kim et al. 2026, AG-GRPO, ACL (2026.acl-long.1724).
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Int, Key

from dllm_jax import types, validation
from dllm_jax.decoding import fixed, guidance
from dllm_jax.ops import streams
from dllm_jax.rollout import prompts, sharded
from dllm_jax.tasks import task as task_lib
from dllm_jax.text import tokenizer as tokenizer_lib

# The two passes of a row draw from different streams.
REASONING_PASS, ANSWER_PASS = 1, 2

TEMPLATES = {
  # In the layout that the reward expects (D16 in docs/papers.md).
  'wanted': '<answer>\n{answer}\n</answer>',
  # As released: no newlines.
  'released': '<answer>{answer}</answer>',
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class GuidedConfig:
  """The answer-guided part of a group.

  Attributes:
    num_guided: guided rows per group.
    num_steps: denoising steps of the reasoning pass.
    answer_steps: denoising steps of the re-prediction; None for
      max(1, round(num_steps * max_anchor / L)).
    margin: m, EOS tokens after the answer, as slack for a longer one.
    template: key of `TEMPLATES`.
    max_anchor: largest number of anchor tokens, tags and margin included;
      prompts with a longer anchor get answer-free rows instead.
    suppress_eos: never propose a stop token in the reasoning; after an early
      one the answer would get no gradient.
    groups: 'all', or 'failed': guided rows take the place of the last
      answer-free ones only in groups whose answer-free rows are all wrong. All
      rows of all groups are then sampled without an answer first, and judged.
    anneal_steps: number of steps over which the guided rows of a group become
      fewer, linearly, down to none; 0 keeps them.
    credit: tokens of guided rows that have an advantage: 'all', or those of the
      'reasoning' and not of the answer that is predicted from it.

  References:
    Guidance where all rows fail: Zhao et al. 2025, IGPO (arXiv:2509.10396),
    which gives parts of a reasoning, and keeps right completions alone.
  """

  num_guided: int
  num_steps: int
  answer_steps: int | None
  margin: int
  max_anchor: int
  template: str = 'wanted'
  suppress_eos: bool = False
  groups: Literal['all', 'failed'] = 'all'
  anneal_steps: int = 0
  credit: Literal['all', 'reasoning'] = 'all'

  def __post_init__(self):
    validation.not_negative(self, 'num_guided', 'anneal_steps')
    validation.choices(self, 'groups', 'credit', template=tuple(TEMPLATES))
    if self.num_steps < 1 or self.max_anchor < 1 or self.margin < 0:
      raise ValueError(
        f'num_steps {self.num_steps}, max_anchor {self.max_anchor} and margin '
        f'{self.margin} must be positive, positive and not negative'
      )
    if self.answer_steps is not None:
      validation.positive(self, 'answer_steps')

  def num_at(self, step: int) -> int:
    """Guided rows of a group in a step: ceil((1 - t / n) k), not below 0."""
    if not self.anneal_steps:
      return self.num_guided
    left = max(0, self.anneal_steps - step)
    return -(-self.num_guided * left // self.anneal_steps)

  def steps_of_answer(self, gen_length: int) -> int:
    """Denoising steps of the re-prediction pass."""
    if self.answer_steps is not None:
      return self.answer_steps
    return max(1, round(self.num_steps * self.max_anchor / gen_length))


def anchors(
  task: task_lib.Task,
  tokenizer: tokenizer_lib.Tokenizer,
  rows: Sequence[dict],
  cfg: GuidedConfig,
) -> list[list[int] | None]:
  """The anchor tokens of every row; None if they exceed `max_anchor`."""
  template = TEMPLATES[cfg.template]
  texts = [template.format(answer=task.gold(row)) for row in rows]
  sequences = [
    ids + [tokenizer.eos_token] * cfg.margin
    for ids in tokenizer.encode_batch(texts)
  ]
  return [ids if len(ids) <= cfg.max_anchor else None for ids in sequences]


class Anchored(NamedTuple):
  """One prompt and one anchor per row, on the mesh.

  Attributes:
    prompts: the prompts.
    anchor: anchor ids, padded on the left.
    anchor_mask: True on the La anchor tokens of each row.
  """

  prompts: prompts.RowPrompts
  anchor: Int[Array, 'B A']
  anchor_mask: Bool[Array, 'B A']


class Passes(NamedTuple):
  """The decoders of the two passes, each with one bidirectional block."""

  reasoning: fixed.Fixed
  answer: fixed.Fixed


def passes(free: fixed.Fixed, cfg: GuidedConfig) -> Passes:
  """The decoders of guided rows.

  Args:
    free: decoder of the answer-free rows; order, temperature and guidance are
      taken from it.
    cfg: steps of the passes and length of the answer.
  """
  length, width = free.gen_length, cfg.max_anchor
  reasoning = dataclasses.replace(
    free,
    block_length=length,
    num_steps=cfg.num_steps,
    suppress_eos=cfg.suppress_eos,
    stop_at_eos=False,
  )
  answer = dataclasses.replace(
    free,
    gen_length=width,
    block_length=width,
    num_steps=cfg.steps_of_answer(length),
    stop_at_eos=False,
    suppress_eos=False,
    cfg_scale=None,  # `sample` applies guidance over the whole window
  )
  return Passes(reasoning, answer)


@functools.partial(jax.jit, static_argnames=('denoiser', 'mesh', 'vocab'))
def sample(
  denoiser: types.Denoiser,
  params: types.Params,
  key: Key[Array, ''],
  rows: Anchored,
  decoders: Passes,
  *,
  mesh: Mesh,
  vocab: types.Vocabulary,
) -> types.Trajectory:
  """Decodes the reasoning before the anchor, then the answer in its place.

  1. [q ; M^(L-La) ; anchor]: one bidirectional block of L columns.
  2. [q ; reasoning ; M^La]: one block of the last A columns.

  The commit steps of the reasoning are 0..S1-1, those of the answer S1 and
  later. Classifier-free guidance masks the prompt only.

  Args:
    denoiser: the model.
    params: its parameters, sharded by the model's rules.
    key: PRNG key of the rollout, consumed; rows and passes are folded in.
    rows: prompts and anchors of B rows; the mesh axes `data` and `fsdp` must
      divide B.
    decoders: decoders of the two passes, of L and A columns.
    mesh: device mesh.
    vocab: special ids.

  Returns:
    Trajectories of L columns, all of them written by the model.
  """

  def decode(denoiser, params, shared, by_row, lockstep):
    key, (reason, predict) = shared
    (ids, mask, row_id), anchor, anchor_mask = by_row
    keys = streams.row_keys(key, row_id)

    in_pass = lambda n: jax.vmap(jax.random.fold_in, (0, None))(keys, n)
    shared = {'vocab': vocab, 'lockstep': lockstep}

    blank = jnp.full(
      (ids.shape[0], reason.gen_length - anchor.shape[1]),
      vocab.need_mask(),
      jnp.int32,
    )
    end = jnp.where(anchor_mask, anchor, vocab.need_mask())
    canvas = prompts.canvas(ids, mask, jnp.concatenate([blank, end], 1))
    reasoning = reason(
      denoiser, params, in_pass(REASONING_PASS), canvas, **shared
    )

    kept = jnp.zeros(blank.shape, bool)
    removed = jnp.concatenate([kept, anchor_mask], 1)  # [B, L]
    completion = jnp.where(removed, vocab.need_mask(), reasoning.tokens)
    canvas = prompts.canvas(ids, mask, completion)
    answer = predict(
      *guidance.guided(
        denoiser,
        params,
        reason.cfg_scale,
        gen_length=reason.gen_length,
        vocab=vocab,
      ),
      in_pass(ANSWER_PASS),
      canvas,
      **shared,
    )
    return _join(reasoning, answer, removed)

  return sharded.run_sharded(
    mesh,
    decode,
    denoiser,
    params,
    shared=(key, decoders),
    by_row=rows,
  )


def _join(
  reasoning: types.Trajectory,
  answer: types.Trajectory,
  removed: Bool[Array, 'B L'],
) -> types.Trajectory:
  """Joins the trajectories of the two passes, in that order of steps."""
  lead = removed.shape[1] - answer.tokens.shape[1]
  widen = lambda x: jnp.pad(x, ((0, 0), (lead, 0)))
  first_steps = reasoning.num_steps[:, None]
  return types.Trajectory(
    tokens=jnp.where(removed, widen(answer.tokens), reasoning.tokens),
    logp=jnp.where(removed, widen(answer.logp), reasoning.logp),
    commit_step=jnp.where(
      removed, widen(answer.commit_step) + first_steps, reasoning.commit_step
    ),
    num_steps=reasoning.num_steps + answer.num_steps,
  )
