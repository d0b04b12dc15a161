"""Supervised fine-tuning on demonstrations.

With the masked diffusion loss, or that of the next token where the vocabulary
has no [MASK]. Models that are causal over blocks read a demonstration twice,
clean and masked (`types.BlockCausal`). It also trains the base model that RL
starts from. Dims: B rows, P prompt columns, L completion columns.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, Key

from dllm_jax import types
from dllm_jax.ops import streams
from dllm_jax.rl import logprobs, masked_diffusion, next_token
from dllm_jax.rollout import context, demonstrations, sharded
from dllm_jax.runtime import sharding
from dllm_jax.tasks import task as task_lib
from dllm_jax.train import grad
from dllm_jax.train import state as state_lib

HELD_OUT_MASKS = 8  # of a row whose held-out loss is estimated


@dataclasses.dataclass(frozen=True, kw_only=True)
class SftConfig:
  """Shapes and loss of supervised training.

  Attributes:
    gen_length: completion columns; a demonstration is padded to it with EOS.
      The loss of the next token ends with the first EOS, or the end of a turn.
    min_ratio: smallest masking ratio t, in (0, 1); not read without [MASK].
    num_micro: micro-batches per optimizer step.
    eos_padding: of masked diffusion models, whether the EOS that fill the
      columns are learnt, as LLaDA's are; otherwise a completion ends with its
      first EOS, or the end of its turn, and nothing reads what follows.
  """

  gen_length: int
  min_ratio: float
  num_micro: int
  eos_padding: bool = True


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
  ) -> tuple[demonstrations.Demonstrations, dict[str, float]]:
    """The demonstrations; see `demonstrations.encode`."""
    del state, step
    return _encode(self.ctx, rows, self.cfg), {}

  def update(
    self,
    state: state_lib.TrainState,
    batch: demonstrations.Demonstrations,
    step: int,
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


def held_out_loss(
  ctx: context.Context,
  params: types.Params,
  rows: Sequence[task_lib.Row],
  cfg: SftConfig,
  *,
  batch_size: int,
  advance: Callable[[int], None],
) -> float:
  """The loss of rows, in nats per token that is learnt.

  Exact for a causal model; of masked diffusion an estimate from
  `HELD_OUT_MASKS` maskings of each row, t stratified over them. They are the
  same at every call, and do not depend on the batch.

  Args:
    ctx: the run.
    params: parameters of the model.
    rows: conversations.
    cfg: shapes and loss.
    batch_size: rows of a call.
    advance: called after each batch with its number of rows.
  """
  num_masks = 1 if ctx.vocab.mask_token is None else HELD_OUT_MASKS
  total = count = 0.0
  for start in range(0, len(rows), batch_size):
    part = rows[start : start + batch_size]
    batch = _encode(ctx, part, cfg, num_rows=batch_size)
    for stratum in range(num_masks):
      sums = _loss(
        params,
        batch,
        streams.step_key(ctx.root, 'eval', stratum),
        jnp.int32(start),
        jnp.int32(stratum),
        denoiser=sharded.placed(ctx.denoiser, ctx.mesh),
        vocab=ctx.vocab,
        cfg=cfg,
      )
      own_total, own_count = jax.device_get(sums)
      total, count = total + float(own_total), count + float(own_count)
    advance(len(part))
  return total / count


def _encode(
  ctx: context.Context,
  rows: Sequence[task_lib.Row],
  cfg: SftConfig,
  num_rows: int | None = None,
) -> demonstrations.Demonstrations:
  return demonstrations.encode(
    ctx, rows, cfg.gen_length, eos_padding=cfg.eos_padding, num_rows=num_rows
  )


@functools.partial(jax.jit, static_argnames=('denoiser', 'vocab', 'cfg'))
def _loss(
  params: types.Params,
  batch: demonstrations.Demonstrations,
  key: Key[Array, ''],
  start: Int[Array, ''],
  stratum: Int[Array, ''],
  *,
  denoiser: types.Denoiser,
  vocab: types.Vocabulary,
  cfg: SftConfig,
) -> tuple[Float[Array, ''], Float[Array, '']]:
  """The sum of the losses of tokens, and their number.

  The rows are those from number `start` on; their t is in one of
  `HELD_OUT_MASKS` strata.
  """
  ratio_key, mask_key = jax.random.split(key)
  row_id = start + jnp.arange(len(batch.tokens))
  draws = jax.vmap(jax.random.uniform)(streams.row_keys(ratio_key, row_id))
  ratio = (stratum + draws) / HELD_OUT_MASKS
  views, num_tokens = _views(
    mask_key, batch, denoiser, vocab, cfg, row_id=row_id, ratio=ratio
  )
  one = jnp.float32(1)
  total = masked_diffusion.loss(denoiser, params, views, vocab, num_tokens=one)
  return total, num_tokens


@functools.partial(
  jax.jit,
  static_argnames=('denoiser', 'vocab', 'optimizer', 'cfg', 'mesh'),
  donate_argnames=('state',),
)
def _update(
  state: state_lib.TrainState,
  frozen: dict[str, Array],
  batch: demonstrations.Demonstrations,
  key: Key[Array, ''],
  *,
  denoiser: types.Denoiser,
  vocab: types.Vocabulary,
  optimizer: optax.GradientTransformation,
  cfg: SftConfig,
  mesh: Mesh,
) -> tuple[state_lib.TrainState, dict[str, Any]]:
  views, num_tokens = _views(key, batch, denoiser, vocab, cfg)

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
  batch: demonstrations.Demonstrations,
  denoiser: types.Denoiser,
  vocab: types.Vocabulary,
  cfg: SftConfig,
  **draws: Array,
) -> tuple[logprobs.Views, Float[Array, '']]:
  """The views of the loss, and the number of tokens that it is a mean over.

  `draws` are arguments of `masked_views`.
  """
  if vocab.mask_token is None:
    credit = batch.learnt
    if credit is None:
      credit = vocab.through_stop(batch.tokens)
    views = next_token.teacher_forced(
      batch.prompt_ids, batch.prompt_mask, batch.tokens, credit
    )
    return views, jnp.sum(credit, dtype=jnp.float32)
  has_context = types.block_causal(denoiser) > 0
  views = masked_diffusion.masked_views(
    key,
    batch.prompt_ids,
    batch.prompt_mask,
    batch.tokens,
    vocab,
    min_ratio=cfg.min_ratio,
    has_context=has_context,
    learnt=batch.learnt,
    mask=batch.mask,
    **draws,
  )
  if batch.learnt is None:
    return views, jnp.float32(batch.tokens.size)
  return views, jnp.sum(batch.learnt, dtype=jnp.float32)
