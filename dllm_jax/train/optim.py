"""Optimisers from a record: AdamW, clipping, warm-up, float32 masters."""

import dataclasses
import functools
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimConfig:
  """AdamW.

  Attributes:
    learning_rate: peak.
    warmup_steps: of linear warm-up.
    schedule: 'constant', or 'cosine' to a tenth over `decay_steps`.
    decay_steps: length of the cosine, warm-up included.
    b1, b2, eps, weight_decay: of AdamW.
    max_grad_norm: global norm at which gradients are clipped.
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
        f"schedule {self.schedule!r} is not 'constant', 'cosine'"
      )
    if self.schedule == 'cosine' and self.decay_steps <= self.warmup_steps:
      raise ValueError(
        f'decay_steps {self.decay_steps} must exceed warmup_steps '
        f'{self.warmup_steps}'
      )


@functools.cache  # one object a record: optimisers are static under jit
def make(cfg: OptimConfig) -> optax.GradientTransformation:
  """Clip by global norm, then AdamW, on masters of what is not float32."""
  peak = cfg.learning_rate
  if cfg.schedule == 'cosine':
    rate = optax.warmup_cosine_decay_schedule(
      0.0, peak, cfg.warmup_steps, cfg.decay_steps, end_value=peak / 10
    )
  else:
    # Step 0 already moves: a rate of exactly 0 would waste it.
    rate = optax.linear_schedule(
      peak / max(cfg.warmup_steps, 1), peak, max(cfg.warmup_steps - 1, 1)
    )
    if cfg.warmup_steps == 0:
      rate = optax.constant_schedule(peak)
  return with_masters(
    optax.chain(
      optax.clip_by_global_norm(cfg.max_grad_norm),
      optax.adamw(
        rate, b1=cfg.b1, b2=cfg.b2, eps=cfg.eps, weight_decay=cfg.weight_decay
      ),
    )
  )


class Masters(NamedTuple):
  """The state of `with_masters` where a leaf is not float32.

  Attributes:
    masters: of those leaves, in float32; None for the others.
    inner: state of the optimiser of the masters.
  """

  masters: Any
  inner: Any


def with_masters(
  inner: optax.GradientTransformation,
) -> optax.GradientTransformation:
  """Lets `inner` train float32 copies of the leaves that are narrower.

  A step of less than half a unit in the last place of bfloat16 would leave the
  leaf as it is, however many follow; the masters add them up. A leaf is its
  master, rounded. Where all leaves are float32 this is `inner`.

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
