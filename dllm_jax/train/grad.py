"""Gradients over micro-batches, and the optimizer update."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float

from dllm_jax import errors, types
from dllm_jax.runtime import sharding
from dllm_jax.train import state as state_lib

Loss = Callable[[types.Params, Any], tuple[Float[Array, ''], dict[str, Any]]]


def micro_batches(batch: Any, count: int) -> Any:
  """Splits the leading axis of every leaf into [count, rows / count].

  Row i goes to micro-batch i % count, so that with a sharded leading axis every
  micro-batch has rows on every device.
  """

  def deal(x):
    if x.shape[0] % count:
      raise ValueError(
        f'{x.shape[0]} rows do not split into {count} micro-batches'
      )
    return jnp.swapaxes(
      x.reshape(x.shape[0] // count, count, *x.shape[1:]), 0, 1
    )

  return jax.tree.map(deal, batch)


def check_micro_batches(
  num_rows: int, num_micro: int, mesh: Mesh, what: str
) -> None:
  """Checks that a batch splits into micro-batches on the mesh.

  Args:
    num_rows: rows of the batch.
    num_micro: micro-batches per optimizer step.
    mesh: device mesh; `data` and `fsdp` split the rows of a micro-batch.
    what: config key of `num_micro`, for the message.

  Raises:
    errors.UserError: it does not.
  """
  shards = sharding.num_row_shards(mesh)
  if num_rows % (num_micro * shards):
    raise errors.UserError(
      f'{num_rows} rows do not split into {what}={num_micro} micro-batches on '
      f'{shards} shard(s) of mesh.data * mesh.fsdp: change one of them'
    )


def undo_micro_batches(x: Any) -> Any:
  """Inverse of `micro_batches`."""
  join = lambda x: jnp.swapaxes(x, 0, 1).reshape(-1, *x.shape[2:])
  return jax.tree.map(join, x)


def update(
  state: state_lib.TrainState,
  batch: Any,
  loss: Loss,
  optimizer: optax.GradientTransformation,
  *,
  mesh: Mesh,
  num_micro: int,
  counts: Callable[[Any], Bool[Array, '']] | None = None,
  rules: sharding.Rules = sharding.RULES,
) -> tuple[state_lib.TrainState, dict[str, Any]]:
  """One optimizer step on the sum of the micro-batches' losses.

  If the loss, gradient or update is not finite, the parameters, the optimizer
  state and the step counter do not change, so that no checkpoint ever contains
  it; see `train.skipping`. Gradients are summed in float32. They, the new
  parameters and the moments are sharded as the parameters are.

  Args:
    state: state before the step.
    batch: a tree whose leaves share a leading axis of rows.
    loss: (params, micro-batch) -> (share of the loss, auxiliaries); shares are
      normalised by the whole batch, so that they add up to its loss.
    optimizer: gradient transformation applied to the trained leaves.
    mesh: device mesh of the parameters.
    num_micro: number of micro-batches, computed one after the other.
    counts: whether a micro-batch has a gradient; the others are skipped and
      give zeros. None computes all of them.
    rules: sharding rules of the parameters (`sharding.rules_of`).

  Returns:
    The next state, and a dict of the auxiliaries, stacked over micro-batches,
    and the scalars 'loss', 'grad_norm' and 'skipped' (1 or 0).
  """
  trained, frozen = state_lib.split(state.params)

  def share(trained, micro):
    return loss(state_lib.merge(trained, frozen), micro)

  def compute(micro):
    (value, aux), grads = jax.value_and_grad(share, has_aux=True)(
      trained, micro
    )
    grads = jax.tree.map(lambda g: g.astype(jnp.float32), grads)
    return (value, sharding.constrain(grads, mesh, rules)), aux

  def skip(micro):
    shapes = jax.eval_shape(compute, micro)
    return jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

  def accumulate(total, micro):
    if counts is None:
      part, aux = compute(micro)
    else:
      part, aux = jax.lax.cond(counts(micro), compute, skip, micro)
    return jax.tree.map(jnp.add, total, part), aux

  zeros = jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), trained)
  nothing = (jnp.float32(0.0), sharding.constrain(zeros, mesh, rules))
  # After the reordering the compiler no longer knows how rows are sharded, and
  # would compute all of them on every device.
  dealt = jax.lax.with_sharding_constraint(
    micro_batches(batch, num_micro),
    NamedSharding(mesh, P(None, *sharding.ROWS)),
  )
  (value, grads), aux = jax.lax.scan(accumulate, nothing, dealt)
  norm = optax.tree.norm(grads)
  updates, opt_state = optimizer.update(grads, state.opt_state, trained)
  moved = (
    optax.apply_updates(trained, updates),
    opt_state,
    state.step + 1,
  )
  (trained, opt_state, step), skipped = unless_finite(
    moved,
    (trained, state.opt_state, state.step),
    (value, norm, optax.tree.norm(updates)),
  )
  trained, opt_state = sharding.constrain((trained, opt_state), mesh, rules)
  new = state_lib.TrainState(step, state_lib.merge(trained, frozen), opt_state)
  return new, aux | {'loss': value, 'grad_norm': norm, 'skipped': skipped}


def unless_finite(
  new: Any, old: Any, measured: tuple[Float[Array, ''], ...]
) -> tuple[Any, Float[Array, '']]:
  """(`new` if all of `measured` are finite, else `old`; 1.0 if `old`)."""
  finite = jnp.all(jnp.isfinite(jnp.stack(measured)))
  kept = jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, old)
  return kept, jnp.where(finite, 0.0, 1.0)
