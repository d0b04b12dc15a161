"""Answer-guided rollouts: reason towards a known answer, then re-predict it.

The only function of the library through which gold answers reach the device is
`sample`; its result holds none of their tokens unless the model wrote them.
Deviations from the release (docs/papers.md): one static window with an anchor
length for every row (suffix removal is re-masking in place), masks for every
row, a cap on the anchor, an anchor template in the format that the reward
wants. Dims: B rows, P prompt columns, L completion columns, A the longest
anchor.

References:
  Kim et al. 2026, AG-GRPO, ACL (2026.acl-long.1724).
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Int, Key

from dllm_jax import types
from dllm_jax.decoding import fixed, guidance
from dllm_jax.ops import streams
from dllm_jax.rollout import prompts, sharded
from dllm_jax.tasks import task as task_lib
from dllm_jax.text import tokenizer as tokenizer_lib

# The two passes of a row draw from different streams.
REASONING_PASS, ANSWER_PASS = 1, 2

TEMPLATES = {
  # In the layout that the reward wants (D16 in docs/papers.md).
  'wanted': '<answer>\n{answer}\n</answer>',
  # As released: no newlines.
  'released': '<answer>{answer}</answer>',
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class GuidedConfig:
  """The answer-guided part of a group.

  Attributes:
    num_guided: G_AG, guided rows of a group.
    num_steps: denoising steps of the reasoning pass.
    answer_steps: steps of the re-prediction; None for
      max(1, round(num_steps * max_anchor / L)).
    margin: m, EOS tokens after the anchor: slack for a longer answer.
    template: key of `TEMPLATES`.
    max_anchor: cap of an anchor, tags and margin included; a prompt with a
      longer one gets answer-free rows instead.
    suppress_eos: never propose a stop token in the reasoning: an early one
      leaves the answer without gradient.
  """

  num_guided: int
  num_steps: int
  answer_steps: int | None
  margin: int
  max_anchor: int
  template: str = 'wanted'
  suppress_eos: bool = False

  def __post_init__(self):
    if self.num_guided < 0:
      raise ValueError(f'num_guided {self.num_guided} is negative')
    if self.template not in TEMPLATES:
      raise ValueError(
        f'template {self.template!r} is not one of {tuple(TEMPLATES)}'
      )
    if self.num_steps < 1 or self.max_anchor < 1 or self.margin < 0:
      raise ValueError(
        f'num_steps {self.num_steps}, max_anchor {self.max_anchor} and margin '
        f'{self.margin} must be positive, positive and not negative'
      )
    if self.answer_steps is not None and self.answer_steps < 1:
      raise ValueError(f'answer_steps {self.answer_steps} is not positive')

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
  """The anchor tokens of every row; None where they pass the cap."""
  template = TEMPLATES[cfg.template]
  texts = [template.format(answer=task.gold(row)) for row in rows]
  sequences = [
    ids + [tokenizer.eos_token] * cfg.margin
    for ids in tokenizer.encode_batch(texts)
  ]
  return [ids if len(ids) <= cfg.max_anchor else None for ids in sequences]


class Anchored(NamedTuple):
  """A prompt and an anchor a row, on the mesh.

  Attributes:
    prompts: the prompts.
    anchor: anchor ids, right-aligned in A columns.
    anchor_mask: True on the La anchor tokens of each row.
  """

  prompts: prompts.RowPrompts
  anchor: Int[Array, 'B A']
  anchor_mask: Bool[Array, 'B A']


class Passes(NamedTuple):
  """The decoders of the two passes, both of one bidirectional block."""

  reasoning: fixed.Fixed
  answer: fixed.Fixed


def passes(free: fixed.Fixed, cfg: GuidedConfig) -> Passes:
  """The passes of guided rows beside answer-free rows.

  Args:
    free: the decoder of the answer-free rows, of L columns; order, temperature
      and guidance are its own.
    cfg: steps of the passes.
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
    cfg_scale=None,  # `sample` guides both passes by one window
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
  """Reasons before the anchor, drops the anchor, predicts the answer anew.

  1. [q ; M^(L-La) ; anchor]: one bidirectional block of L columns.
  2. [q ; reasoning ; M^La]: one block of the last A columns.

  The reasoning's commit steps are 0..S1-1, the answer's S1 and later.
  Classifier-free guidance masks the prompt, and neither anchor nor reasoning.

  Args:
    denoiser: the model.
    params: its parameters, sharded as `sharding.RULES` say.
    key: key of the rollout; rows and passes fold into it.
    rows: prompts and anchors of B rows; the mesh axes `data` and `fsdp` must
      divide B.
    decoders: of the two passes, of L and A columns.
    mesh: the devices.
    vocab: special ids.

  Returns:
    Trajectories of L columns that never saw the anchor's tokens committed.
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
  """One trajectory of the two passes, the second after the first in time."""
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
