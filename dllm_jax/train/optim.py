"""Optimisers from a record: AdamW, clipping, warm-up."""

import dataclasses
import functools
from typing import Literal

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
  """Clip by global norm, then AdamW."""
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
  return optax.chain(
    optax.clip_by_global_norm(cfg.max_grad_norm),
    optax.adamw(
      rate, b1=cfg.b1, b2=cfg.b2, eps=cfg.eps, weight_decay=cfg.weight_decay
    ),
  )
