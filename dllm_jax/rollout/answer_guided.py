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

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, Key

from dllm_jax import types
from dllm_jax.decoding import fixed, guidance
from dllm_jax.ops import streams
from dllm_jax.rollout import context, prompts, sharded
from dllm_jax.runtime import process_rows
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


def rollout(
  ctx: context.Context,
  params: types.Params,
  key: Key[Array, ''],
  encoded: prompts.Prompts,
  anchor_ids: Sequence[Sequence[int]],
  row_id: Int[np.ndarray, ' B'],
  *,
  temperature: float,
  gen_length: int,
  order: str,
  num_rows: int,
  cfg: GuidedConfig,
  cfg_scale: float = 0.0,
) -> types.Trajectory:
  """Samples guided completions of this process's rows; they are on the host.

  Args:
    ctx: the run.
    params: of the policy.
    key: of the rollout; consumed.
    encoded: one prompt a row, of this process's share of the batch
      (`local_rows.share`).
    anchor_ids: one anchor a row, of at most `cfg.max_anchor` tokens.
    row_id: global number of every row.
    temperature: of the proposals.
    gen_length: L.
    order: order of commitment.
    num_rows: of the batch of all processes, padded so that few shapes are
      compiled.
    cfg: the passes.
    cfg_scale: of classifier-free guidance, which masks the prompt and not the
      anchor.
  """
  anchor = prompts.pad_left(anchor_ids, cfg.max_anchor, ctx.vocab.eos_token)
  denoiser, params = guidance.guided(
    ctx.denoiser, params, cfg_scale, gen_length=gen_length, vocab=ctx.vocab
  )
  rows = (encoded.ids, encoded.mask, anchor.ids, anchor.mask, row_id)
  trajectory = sample(
    denoiser,
    params,
    key,
    *process_rows.place(rows, ctx.mesh, num_rows),
    jnp.float32(temperature),
    mesh=ctx.mesh,
    vocab=ctx.vocab,
    gen_length=gen_length,
    order=order,
    cfg=cfg,
  )
  return jax.tree.map(
    lambda x: x[: len(row_id)], process_rows.fetch(trajectory)
  )


@functools.partial(
  jax.jit,
  static_argnames=('denoiser', 'mesh', 'vocab', 'gen_length', 'cfg', 'order'),
)
def sample(
  denoiser: types.Denoiser,
  params: types.Params,
  key: Key[Array, ''],
  prompt_ids: Int[Array, 'B P'],
  prompt_mask: Bool[Array, 'B P'],
  anchor: Int[Array, 'B A'],
  anchor_mask: Bool[Array, 'B A'],
  row_id: Int[Array, ' B'],
  temperature: Float[Array, ''],
  *,
  mesh: Mesh,
  vocab: types.Vocabulary,
  gen_length: int,
  order: str,
  cfg: GuidedConfig,
) -> types.Trajectory:
  """Reasons before the anchor, drops the anchor, predicts the answer anew.

  1. [q ; M^(L-La) ; anchor]: one bidirectional block, `cfg.num_steps` steps.
  2. [q ; reasoning ; M^La]: one block of the last La columns.

  The reasoning's commit steps are 0..S1-1, the answer's S1 and later.

  Args:
    denoiser: the model.
    params: its parameters, lying as `sharding.RULES` say.
    key: of the rollout; rows and passes fold into it.
    prompt_ids: left-padded prompts.
    prompt_mask: their real tokens.
    anchor: anchors, right-aligned in A = `cfg.max_anchor` columns.
    anchor_mask: True on the La anchor tokens of each row.
    row_id: global number of every row.
    temperature: of the proposals in both passes.
    mesh: its axes `data` and `fsdp` must divide B.
    vocab: special ids.
    gen_length: L > A.
    order: order of commitment.
    cfg: steps of the passes.

  Returns:
    Trajectories of L columns that never saw the anchor's tokens committed.
  """
  width = anchor.shape[1]
  reasoning_cfg = fixed.FixedConfig(
    gen_length=gen_length,
    block_length=gen_length,
    order=order,
    suppress_eos=cfg.suppress_eos,
  )
  answer_cfg = fixed.FixedConfig(
    gen_length=width, block_length=width, order=order
  )

  def decode(denoiser, params, shared, by_row, lockstep):
    key, temperature = shared
    ids, mask, anchor, anchor_mask, row_id = by_row
    keys = streams.row_keys(key, row_id)

    def run(keys, canvas, num_steps, cfg):
      return fixed.decode(
        denoiser,
        params,
        keys,
        canvas,
        jnp.int32(num_steps),
        temperature,
        vocab=vocab,
        cfg=dataclasses.replace(cfg, lockstep=lockstep),
      )

    in_pass = lambda n: jax.vmap(jax.random.fold_in, (0, None))(keys, n)

    blank = jnp.full(
      (ids.shape[0], gen_length - width), vocab.need_mask(), jnp.int32
    )
    end = jnp.where(anchor_mask, anchor, vocab.need_mask())
    reasoning = run(
      in_pass(REASONING_PASS),
      prompts.canvas(ids, mask, jnp.concatenate([blank, end], 1)),
      cfg.num_steps,
      reasoning_cfg,
    )

    kept = jnp.zeros(blank.shape, bool)
    removed = jnp.concatenate([kept, anchor_mask], 1)  # [B, L]
    completion = jnp.where(removed, vocab.need_mask(), reasoning.tokens)
    answer = run(
      in_pass(ANSWER_PASS),
      prompts.canvas(ids, mask, completion),
      cfg.steps_of_answer(gen_length),
      answer_cfg,
    )
    return _join(reasoning, answer, removed)

  return sharded.over(
    mesh,
    decode,
    denoiser,
    params,
    shared=(key, temperature),
    by_row=(prompt_ids, prompt_mask, anchor, anchor_mask, row_id),
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
