"""Experts that are specialists of one label each: a base of MoE-ERL.

Completion tokens of a row go to the expert of the row's label in every layer,
as if every expert had been trained on its own part of the data; prompt tokens
go to random experts, so that no expert is a stranger to them. A small loss
teaches the routers to name the label, so that the states below them can be told
apart; those routers are then thrown away.
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
from jaxtyping import Array, Int, Key

from dllm_jax import types
from dllm_jax.ops import masked, sampling, streams
from dllm_jax.rl import logprobs
from dllm_jax.rollout import context, demonstrations, sharded
from dllm_jax.runtime import process_rows, sharding
from dllm_jax.tasks import task as task_lib
from dllm_jax.train import grad
from dllm_jax.train import state as state_lib

ROUTER_WEIGHT = 0.01  # of the routers' loss


class Labelled(NamedTuple):
  """Demonstrations and the labels of their rows."""

  rows: demonstrations.Demonstrations
  label: Int[Array, ' B']


@dataclasses.dataclass(frozen=True, kw_only=True)
class Specialists:
  """`loop.Method` that trains each label's rows on an expert of their own.

  Attributes:
    ctx: the run, whose task is a `task.Labelled`.
    optimizer: gradient transformation.
    gen_length: completion columns.
    num_micro: micro-batches per optimizer step.
  """

  ctx: context.Context
  optimizer: optax.GradientTransformation
  gen_length: int
  num_micro: int

  phase = 'sft'

  def collect(
    self, state: state_lib.TrainState, rows: Sequence[task_lib.Row], step: int
  ) -> tuple[Labelled, dict[str, Any]]:
    """The demonstrations and their labels."""
    del state, step
    index = process_rows.share(self.ctx.mesh, len(rows))
    label = [self.ctx.task.label(rows[i]) for i in index]
    return Labelled(
      demonstrations.encode(self.ctx, rows, self.gen_length),
      process_rows.place(np.array(label, np.int32), self.ctx.mesh, len(rows)),
    ), {}

  def update(
    self, state: state_lib.TrainState, batch: Labelled, step: int
  ) -> tuple[state_lib.TrainState, list[dict[str, Any]]]:
    """One optimizer step."""
    state, metrics = _update(
      state,
      batch,
      streams.step_key(self.ctx.root, 'sft', step),
      denoiser=sharded.placed(self.ctx.denoiser, self.ctx.mesh),
      vocab=self.ctx.vocab,
      optimizer=self.optimizer,
      num_micro=self.num_micro,
      mesh=self.ctx.mesh,
    )
    return state, [metrics]


@functools.partial(
  jax.jit,
  static_argnames=('denoiser', 'vocab', 'optimizer', 'num_micro', 'mesh'),
  donate_argnames=('state',),
)
def _update(
  state: state_lib.TrainState,
  batch: Labelled,
  key: Key[Array, ''],
  *,
  denoiser: types.Routed,
  vocab: types.Vocabulary,
  optimizer: optax.GradientTransformation,
  num_micro: int,
  mesh: Mesh,
) -> tuple[state_lib.TrainState, dict[str, Any]]:
  rows, length = batch.rows.tokens.shape
  size = batch.rows.prompt_ids.shape[1] + length
  shape = (rows, denoiser.num_sparse_layers, size)
  own = jnp.broadcast_to(batch.label[:, None, None], shape)
  other = jax.random.randint(key, shape, 0, denoiser.num_experts, jnp.int32)
  # Column size - length - 1 is the last of the prompt and has the first label.
  is_prompt = jnp.arange(size) < size - length - 1
  expert = jnp.where(jnp.broadcast_to(is_prompt, shape), other, own)
  credit = vocab.through_stop(batch.rows.tokens)
  num_labels = jnp.sum(credit, dtype=jnp.float32)

  def loss(params, micro):
    (rows, label), credit, expert = micro
    ones = jnp.ones(rows.tokens.shape, bool)
    column = jnp.broadcast_to(jnp.arange(size - length, size)[None], ones.shape)
    states, routers = denoiser.routed_states(
      params,
      jnp.concatenate([rows.prompt_ids, rows.tokens], axis=1),
      jnp.concatenate([rows.prompt_mask, ones], axis=1),
      column,
      types.RouterOverride(expert=jnp.moveaxis(expert, 1, 0)),
    )
    logp = logprobs.read_states(denoiser, params, states, rows.tokens, vocab)
    cells = routers.logits[:, :, size - length - 1 : size - 1]
    named = jnp.broadcast_to(label[None, :, None], cells.shape[:3])
    router = masked.total(
      sampling.token_logp(cells, named),
      jnp.broadcast_to(credit[None], cells.shape[:3]),
    )
    share = masked.total(logp, credit)
    router *= ROUTER_WEIGHT / cells.shape[0]
    return -(share + router) / num_labels, {'lm': -share / num_labels}

  state, aux = grad.update(
    state,
    (batch, credit, expert),
    loss,
    optimizer,
    mesh=mesh,
    num_micro=num_micro,
    rules=sharding.rules_of(denoiser),
  )
  return state, {
    'sft/loss': jnp.sum(aux['lm']),
    'sft/grad_norm': aux['grad_norm'],
    'sft/skipped_updates': aux['skipped'],
  }
