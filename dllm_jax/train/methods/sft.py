"""Supervised fine-tuning on demonstrations.

With the masked diffusion loss, or that of the next token where the vocabulary
has no [MASK]. It also trains the base model that RL starts from. Dims: B rows,
P prompt columns, L completion columns.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Int, Key

from dllm_jax import errors, types
from dllm_jax.ops import streams
from dllm_jax.rl import logprobs, masked_diffusion, next_token
from dllm_jax.rollout import context, sharded
from dllm_jax.runtime import process_rows, sharding
from dllm_jax.tasks import task as task_lib
from dllm_jax.train import grad
from dllm_jax.train import state as state_lib


@dataclasses.dataclass(frozen=True, kw_only=True)
class SftConfig:
  """Shapes and loss of supervised training.

  Attributes:
    gen_length: completion columns; a demonstration is padded to it with EOS,
      which is part of the masked diffusion loss. That of the next token ends
      with the first EOS.
    min_ratio: smallest masking ratio t, in (0, 1); not read without [MASK].
    num_micro: micro-batches per optimizer step.
  """

  gen_length: int
  min_ratio: float
  num_micro: int


class SftBatch(NamedTuple):
  """Prompts and the completions to learn.

  Attributes:
    prompt_ids: prompt ids, padded on the left.
    prompt_mask: True on prompt tokens, False on padding.
    tokens: completion ids, padded with EOS.
  """

  prompt_ids: Int[Array, 'B P']
  prompt_mask: Bool[Array, 'B P']
  tokens: Int[Array, 'B L']


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sft:
  """`loop.Method` of supervised training.

  Attributes:
    ctx: the run: task, tokenizer, model and mesh.
    optimizer: gradient transformation applied to the trained leaves.
    cfg: shapes and loss.
    phase: 'sft', or 'control' for further training of the base; names the rows
      in metrics.jsonl and the random stream.
  """

  ctx: context.Context
  optimizer: optax.GradientTransformation
  cfg: SftConfig
  phase: str = 'sft'

  def collect(
    self, state: state_lib.TrainState, rows: Sequence[task_lib.Row], step: int
  ) -> tuple[SftBatch, dict[str, float]]:
    """Tokenizes the demonstrations of this process's rows.

    Raises:
      errors.UserError: a demonstration longer than `gen_length`.
    """
    del state, step
    ctx, cfg = self.ctx, self.cfg
    num_rows = len(rows)
    index = process_rows.share(ctx.mesh, num_rows)
    encoded = ctx.encode(rows).take(index)
    rows = [rows[i] for i in index]
    tokens = np.full((len(rows), cfg.gen_length), ctx.vocab.eos_token, np.int32)
    texts = [ctx.task.demonstration(row) for row in rows]
    for i, ids in enumerate(ctx.tokenizer.encode_batch(texts)):
      if len(ids) > cfg.gen_length:
        raise errors.UserError(
          f'demonstration of row {rows[i]["id"]!r} has {len(ids)} tokens, more '
          f'than rollout.gen_length={cfg.gen_length}: increase it'
        )
      tokens[i, : len(ids)] = ids
    batch = SftBatch(encoded.ids, encoded.mask, tokens)
    return process_rows.place(batch, ctx.mesh, num_rows), {}

  def update(
    self, state: state_lib.TrainState, batch: SftBatch, step: int
  ) -> tuple[state_lib.TrainState, list[dict[str, Any]]]:
    """One optimizer step."""
    state, frozen = state_lib.without_frozen(state)
    state, metrics = _update(
      state,
      frozen,
      batch,
      streams.step_key(self.ctx.root, self.phase, step),
      denoiser=sharded.placed(self.ctx.denoiser, self.ctx.mesh),
      vocab=self.ctx.vocab,
      optimizer=self.optimizer,
      cfg=self.cfg,
      mesh=self.ctx.mesh,
    )
    return state_lib.with_frozen(state, frozen), [metrics]


@functools.partial(
  jax.jit,
  static_argnames=('denoiser', 'vocab', 'optimizer', 'cfg', 'mesh'),
  donate_argnames=('state',),
)
def _update(
  state: state_lib.TrainState,
  frozen: dict[str, Array],
  batch: SftBatch,
  key: Key[Array, ''],
  *,
  denoiser: types.Denoiser,
  vocab: types.Vocabulary,
  optimizer: optax.GradientTransformation,
  cfg: SftConfig,
  mesh: Mesh,
) -> tuple[state_lib.TrainState, dict[str, Any]]:
  views, num_tokens = _views(key, batch, vocab, cfg)

  def loss(params, micro):
    share = masked_diffusion.loss(
      denoiser, params, micro, vocab, num_tokens=num_tokens
    )
    return share, {}

  state, aux = grad.update(
    state_lib.with_frozen(state, frozen),
    views,
    loss,
    optimizer,
    mesh=mesh,
    num_micro=cfg.num_micro,
    rules=sharding.rules_of(denoiser),
  )
  return state_lib.without_frozen(state)[0], {
    'sft/loss': aux['loss'],
    'sft/grad_norm': aux['grad_norm'],
    'sft/skipped_updates': aux['skipped'],
  }


def _views(
  key: Key[Array, ''],
  batch: SftBatch,
  vocab: types.Vocabulary,
  cfg: SftConfig,
) -> tuple[logprobs.Views, Float[Array, '']]:
  """The views of the loss, and the number of tokens that it is a mean over."""
  if vocab.mask_token is None:
    is_stop = vocab.ends(batch.tokens).astype(jnp.int32)
    credit = jnp.cumsum(is_stop, axis=1) - is_stop == 0  # through the first
    views = next_token.teacher_forced(*batch, credit)
    return views, jnp.sum(credit, dtype=jnp.float32)
  views = masked_diffusion.masked_views(
    key,
    batch.prompt_ids,
    batch.prompt_mask,
    batch.tokens,
    vocab,
    min_ratio=cfg.min_ratio,
  )
  return views, jnp.float32(batch.tokens.size)
