"""Optimizers: AdamW with clipping, warm-up and float32 master weights."""

import dataclasses
import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimConfig:
  """AdamW with a learning-rate schedule.

  Attributes:
    learning_rate: peak learning rate.
    warmup_steps: w; step k < w of the run, from 0, has (k + 1) / w of the peak,
      so that none is wasted on a rate of 0.
    schedule: 'constant', or 'cosine' decay to a tenth of the peak.
    decay_steps: steps until the cosine is at a tenth, warm-up included.
    b1: decay rate of AdamW's first moment.
    b2: decay rate of its second moment.
    eps: term added to its denominator.
    weight_decay: its decoupled weight decay.
    max_grad_norm: global norm to which gradients are clipped.
  """

  learning_rate: float
  warmup_steps: int = 0
  schedule: Literal['constant', 'cosine'] = 'constant'
  decay_steps: int = 0
  b1: float = 0.9
  b2: float = 0.99
  eps: float = 1e-8
  weight_decay: float = 0.0
  max_grad_norm: float = 1.0

  def __post_init__(self):
    if self.learning_rate <= 0:
      raise ValueError(f'learning_rate {self.learning_rate} is not positive')
    if self.schedule not in ('constant', 'cosine'):
      raise ValueError(
        f"schedule {self.schedule!r}: expected 'constant' or 'cosine'"
      )
    if self.schedule == 'cosine' and self.decay_steps <= self.warmup_steps:
      raise ValueError(
        f'decay_steps {self.decay_steps} must exceed warmup_steps '
        f'{self.warmup_steps}'
      )


@functools.cache  # optimizers are static arguments, compared by identity
def make(cfg: OptimConfig) -> optax.GradientTransformation:
  """Clips by global norm, then AdamW, with float32 master weights."""
  peak = cfg.learning_rate
  below_peak = max(cfg.warmup_steps - 1, 0)
  if cfg.schedule == 'cosine':
    rate = optax.cosine_decay_schedule(
      peak, cfg.decay_steps - below_peak, alpha=0.1
    )
  else:
    rate = optax.constant_schedule(peak)
  if below_peak:
    rise = optax.linear_schedule(peak / cfg.warmup_steps, peak, below_peak)
    rate = optax.join_schedules([rise, rate], [below_peak])
  return with_masters(
    optax.chain(
      optax.clip_by_global_norm(cfg.max_grad_norm),
      optax.adamw(
        rate, b1=cfg.b1, b2=cfg.b2, eps=cfg.eps, weight_decay=cfg.weight_decay
      ),
    )
  )


class Masters(NamedTuple):
  """The state of `with_masters` if some parameters are not float32.

  Attributes:
    masters: float32 copies of those parameters; None for the others.
    inner: state of the inner optimizer.
  """

  masters: Any
  inner: Any


def with_masters(
  inner: optax.GradientTransformation,
) -> optax.GradientTransformation:
  """Applies `inner` to float32 master copies of lower-precision parameters.

  Updates smaller than half a unit in the last place of bfloat16 would be lost;
  the masters accumulate them, and a parameter is its master, rounded. If all
  parameters are float32, the result behaves as `inner`.

  Args:
    inner: gradient transformation applied to the float32 parameters.

  References:
    Micikevicius et al. 2018, section 3.1 (arXiv:1710.03740).
  """

  def is_wide(leaf):
    return leaf.dtype == jnp.float32

  def init(params):
    if all(map(is_wide, jax.tree.leaves(params))):
      return inner.init(params)
    wide = jax.tree.map(lambda p: p.astype(jnp.float32), params)
    masters = jax.tree.map(lambda p, w: None if is_wide(p) else w, params, wide)
    return Masters(masters, inner.init(wide))

  def update(grads, state, params):
    if not isinstance(state, Masters):
      return inner.update(grads, state, params)
    wide = jax.tree.map(
      lambda p, m: p if m is None else m, params, state.masters
    )
    steps, inner_state = inner.update(grads, state.inner, wide)
    moved = optax.apply_updates(wide, steps)
    masters = jax.tree.map(
      lambda p, m: None if is_wide(p) else m, params, moved
    )

    def change(leaf, step, master):
      if is_wide(leaf):
        return step
      rounded = master.astype(leaf.dtype).astype(jnp.float32)
      return rounded - leaf.astype(jnp.float32)

    return (
      jax.tree.map(change, params, steps, moved),
      Masters(masters, inner_state),
    )

  return optax.GradientTransformation(init, update)
