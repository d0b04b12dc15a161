"""The policy update of the GRPO methods: mu inner steps on a batch.

Inner iteration j draws its views from fold_in(key, j). The old, reference and
new policies see the same views, and all mu of them are used (defect D19). The
old policy of iteration 0 is the policy itself, so its ratio is exactly 1. Dims:
B rows, K views, Q slots.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int, Key

from dllm_jax import types
from dllm_jax.ops import masked, sampling, streams
from dllm_jax.rl import logprobs, losses
from dllm_jax.rollout import batch as batch_lib
from dllm_jax.rollout import context, sharded
from dllm_jax.runtime import sharding
from dllm_jax.train import grad, policy_config
from dllm_jax.train import state as state_lib


@dataclasses.dataclass(frozen=True, kw_only=True)
class PolicyMethod:
  """A `loop.Method` but for `collect`, which makes the batch of rollouts.

  Attributes:
    cfg: config group `method`, the subclass's `Config`.
    ctx: the run: task, tokenizer, model and mesh.
    rollout: config group `rollout`: size of a batch, and the decoder.
    optimizer: gradient transformation applied to the trained leaves.
    reference: parameters of the reference policy; not read without a KL term.
  """

  phase = 'rl'

  cfg: policy_config.MethodConfig
  ctx: context.Context
  rollout: batch_lib.RolloutConfig
  optimizer: optax.GradientTransformation
  reference: types.Params

  def largest_commit(self) -> int:
    """The most tokens that a step of the rollouts commits in a row."""
    return self.rollout.decoder.largest_commit()

  def update(
    self, state: state_lib.TrainState, batch: types.RolloutBatch, step: int
  ) -> tuple[state_lib.TrainState, list[dict[str, Any]]]:
    """mu optimizer steps on the clipped surrogate, on one batch of rollouts.

    Args:
      state: state before the update; its buffers are donated, except for frozen
        leaves.
      batch: B rollouts with their advantages.
      step: 0-based step of the run; seeds the views.

    Returns:
      The next state, and the metrics of each inner step, on the devices.
    """
    cfg, ctx = self.cfg.policy, self.ctx
    static = {
      'denoiser': sharded.placed(ctx.denoiser, ctx.mesh),
      'vocab': ctx.vocab,
      'estimator': cfg.make_estimator(self.largest_commit()),
      'num_micro': cfg.num_micro,
    }
    key = streams.step_key(ctx.root, 'estimator', step)
    keys = [jax.random.fold_in(key, j) for j in range(cfg.num_inner)]
    read = functools.partial(fixed_logp, **static)
    # Computed before the first step, which donates the rollout policy.
    # Iteration 0 needs no old log-probabilities; reference ones only KL needs.
    old = [None] + [read(state.params, batch, k) for k in keys[1:]]
    ref = [read(self.reference, batch, k) if cfg.has_kl else None for k in keys]
    state, frozen = state_lib.without_frozen(state)
    history = []
    for j, inner_key in enumerate(keys):
      state, metrics = inner_step(
        state,
        frozen,
        batch,
        old[j],
        ref[j],
        inner_key,
        optimizer=self.optimizer,
        cfg=cfg,
        mesh=ctx.mesh,
        **static,
      )
      history.append(metrics)
    return state_lib.with_frozen(state, frozen), history


class _Inner(NamedTuple):
  """The inputs of an inner step that have a leading axis of rows."""

  batch: types.RolloutBatch
  old_logp: Float[Array, 'B K Q']
  ref_logp: Float[Array, 'B K Q']


@functools.partial(
  jax.jit,
  static_argnames=('denoiser', 'vocab', 'estimator', 'num_micro', 'measure'),
)
def fixed_logp(
  params: types.Params,
  batch: types.RolloutBatch,
  key: Key[Array, ''],
  *,
  denoiser: types.Denoiser,
  vocab: types.Vocabulary,
  estimator: logprobs.Estimator,
  num_micro: int,
  measure: logprobs.Measure = sampling.token_logp,
) -> Float[Array, 'B K Q']:
  """Log-probabilities under a fixed policy of the tokens in the views of `key`.

  Args:
    params: parameters of the policy.
    batch: B rollouts.
    key: PRNG key of the views, consumed.
    denoiser: the model.
    vocab: special ids.
    estimator: makes the views.
    num_micro: micro-batches, computed one after the other.
    measure: what is measured instead of the log-probability.
  """

  def read(micro):
    views = estimator(key, micro, vocab)
    length = micro.tokens.shape[1]
    return logprobs.measure_views(
      denoiser, params, views, vocab, measure, gen_length=length
    )

  logp = jax.lax.map(read, grad.micro_batches(batch, num_micro))
  return grad.undo_micro_batches(logp)


@functools.partial(
  jax.jit,
  static_argnames=(
    'denoiser',
    'vocab',
    'estimator',
    'num_micro',
    'optimizer',
    'cfg',
    'mesh',
  ),
  donate_argnames=('state',),
)
def inner_step(
  state: state_lib.TrainState,
  frozen: dict[str, Array],
  batch: types.RolloutBatch,
  old_logp: Float[Array, 'B K Q'] | None,
  ref_logp: Float[Array, 'B K Q'] | None,
  key: Key[Array, ''],
  *,
  denoiser: types.Denoiser,
  vocab: types.Vocabulary,
  estimator: logprobs.Estimator,
  num_micro: int,
  optimizer: optax.GradientTransformation,
  cfg: policy_config.PolicyConfig,
  mesh: Mesh,
) -> tuple[state_lib.TrainState, dict[str, Any]]:
  """One optimizer step.

  Args:
    state: state before the step, without frozen leaves; donated.
    frozen: frozen leaves by path.
    batch: B rollouts with their advantages.
    old_logp: log-probabilities under the rollout policy (nats); None if that is
      the policy in `state`.
    ref_logp: log-probabilities under the reference policy (nats); None without
      a KL term.
    key: PRNG key of the views, consumed.
    denoiser: the model.
    vocab: special ids.
    estimator: makes the views.
    num_micro: number of micro-batches.
    optimizer: gradient transformation applied to the trained leaves.
    cfg: loss.
    mesh: device mesh.

  Returns:
    The next state, without frozen leaves, and the metrics.
  """
  state = state_lib.with_frozen(state, frozen)
  count = jnp.sum(batch.completion_mask).astype(jnp.float32)

  def loss(params, micro):
    rows = micro.batch
    views = estimator(key, rows, vocab)
    reading = logprobs.read_views(
      denoiser, params, views, vocab, gen_length=rows.tokens.shape[1]
    )
    constant = jax.lax.stop_gradient(reading.logp)
    old = constant if micro.old_logp is None else micro.old_logp
    return _loss(reading, old, micro.ref_logp, views, rows, count, cfg)

  # Without KL, rows of tied groups have no gradient. They are sorted into
  # micro-batches of their own, which are skipped; the sum does not change.
  inner = _Inner(batch, old_logp, ref_logp)
  counts = None
  if not cfg.has_kl:
    acts = jnp.any(batch.advantage != 0, axis=1)
    idle = jnp.argsort(~acts, stable=True)
    order = grad.undo_micro_batches(idle.reshape(num_micro, -1))
    inner = jax.tree.map(lambda x: x[order], inner)
    counts = lambda micro: jnp.any(micro.batch.advantage != 0)
  state, aux = grad.update(
    state,
    inner,
    loss,
    optimizer,
    mesh=mesh,
    num_micro=num_micro,
    counts=counts,
    rules=sharding.rules_of(denoiser),
  )
  return state_lib.without_frozen(state)[0], _reduce(aux)


def _loss(
  reading: logprobs.Reading,
  old_logp: Float[Array, 'B K Q'],
  ref_logp: Float[Array, 'B K Q'] | None,
  views: logprobs.Views,
  rows: types.RolloutBatch,
  count: Float[Array, ''],
  cfg: policy_config.PolicyConfig,
) -> tuple[Float[Array, ''], dict[str, Float[Array, '']]]:
  """A micro-batch's share of the loss, and sums, counts and maxima to log."""
  logp, credit = reading.logp, views.credit
  weight = jnp.broadcast_to(views.weight[..., None], logp.shape)
  guided = jnp.broadcast_to(rows.guided[:, None, None], logp.shape)
  advantage = _at_slots(rows.advantage, views.slot)

  sampler_logp = _at_slots(rows.sampler_logp, views.slot)
  loss = losses.clipped_surrogate(logp, old_logp, advantage, eps=cfg.eps)
  if cfg.max_sampler_ratio is not None:
    loss *= losses.sampler_weight(
      old_logp, sampler_logp, largest=cfg.max_sampler_ratio
    )
  if ref_logp is not None:
    kl = losses.k3(logp, ref_logp, max_difference=cfg.max_kl_difference)
    beta = jnp.where(guided, cfg.weight_of_guided_kl, cfg.beta)
    loss += beta * kl
  total = losses.token_mean(loss, credit, weight, count)

  ratio = losses.ratio(logp, old_logp)
  gap = jnp.abs(logp - sampler_logp)
  sampled = ~jnp.isnan(gap)
  free = credit & sampled & ~guided
  unbounded = losses.sampler_weight(old_logp, sampler_logp, largest=jnp.inf)
  clipped = losses.is_clipped(logp, old_logp, advantage, eps=cfg.eps)
  aux = {
    'sum/ratio': masked.total(ratio, credit),
    'sum/clipped': masked.total(clipped.astype(jnp.float32), credit),
    'sum/logp': masked.total(logp, credit),
    'sum/entropy': masked.total(reading.entropy, credit),
    'sum/free_gap': masked.total(gap, free),
    'sum/weight': masked.total(unbounded, free),
    'sum/squared_weight': masked.total(unbounded**2, free),
    'sum/guided_gap': masked.total(gap, credit & sampled & guided),
    'sum/credit': jnp.sum(credit).astype(jnp.float32),
    'sum/free': jnp.sum(credit & ~guided).astype(jnp.float32),
    'sum/free_sampled': jnp.sum(free).astype(jnp.float32),
    'sum/guided': jnp.sum(credit & guided).astype(jnp.float32),
    'max/ratio': masked.maximum(ratio, credit),
    'each/gap': jnp.where(free, gap, 0.0),
    'each/free': free,
  }
  if ref_logp is not None:
    aux['sum/free_kl'] = masked.total(kl, credit & ~guided)
    aux['sum/guided_kl'] = masked.total(kl, credit & guided)
  return total, aux


def _at_slots(
  x: Float[Array, 'B L'], slot: Int[Array, 'B K Q']
) -> Float[Array, 'B K Q']:
  """Values at the completion columns of the slots."""
  rows, count, _ = slot.shape
  wide = jnp.broadcast_to(x[:, None], (rows, count, x.shape[1]))
  return jnp.take_along_axis(wide, slot, axis=-1)


def _reduce(aux: dict[str, Any]) -> dict[str, Float[Array, '']]:
  """Means over the credited tokens of all micro-batches.

  Skipped micro-batches do not count; if all were skipped, the means are NaN.
  """
  sums = {k: jnp.sum(v) for k, v in aux.items() if k.startswith('sum/')}

  def mean(name, count='credit'):
    total = sums[f'sum/{count}']
    return jnp.where(
      total > 0, sums[f'sum/{name}'] / jnp.maximum(total, 1.0), jnp.nan
    )

  metrics = {
    'policy/loss': aux['loss'],
    'policy/grad_norm': aux['grad_norm'],
    'policy/skipped_updates': aux['skipped'],
    'policy/ratio_mean': mean('ratio'),
    'policy/ratio_max': jnp.max(aux['max/ratio']),
    'policy/credited_tokens': sums['sum/credit'],
    'policy/clip_fraction': mean('clipped'),
    'policy/logp': mean('logp'),
    'policy/entropy': mean('entropy'),
    'policy/sampler_gap': mean('free_gap', 'free_sampled'),
    'policy/sampler_gap_p99': jnp.nanpercentile(
      jnp.where(aux['each/free'], aux['each/gap'], jnp.nan), 99
    ),
    'policy/sampler_ess': mean('weight', 'free_sampled')
    * sums['sum/weight']
    / jnp.maximum(sums['sum/squared_weight'], 1e-30),
    'policy/sampler_gap_guided': mean('guided_gap', 'guided'),
  }
  if 'sum/free_kl' in sums:
    metrics['policy/kl'] = mean('free_kl', 'free')
    metrics['policy/kl_guided'] = mean('guided_kl', 'guided')
  return metrics
