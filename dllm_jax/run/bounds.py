"""Bounds of config values that no dataclass checks, by dotted keys."""

import fnmatch
import math
from collections.abc import Mapping
from typing import Any

from dllm_jax import errors
from dllm_jax.hf import table

# '*' is any one group.
_POSITIVE = (
  'base.batch_size',
  'base.min_ratio',
  'base.num_micro',
  '*.optim.max_grad_norm',
  'checkpoint.keep',
  'eval.batch_size',
  'mesh.cpu_devices',
  'mesh.fsdp',
  'mesh.tensor',
  'method.policy.num_views',
  'model.norm_eps',
  'model.rope_theta',
)
_NOT_NEGATIVE = (
  'data.num_*',
  'method.policy.max_kl_difference',
  'model.embed_init_std',
  'model.lora_alpha',
  '*.optim.eps',
  '*.optim.warmup_steps',
  '*.optim.weight_decay',
  'seed',
  'train.watchdog_seconds',
)
_SHARES = (
  'base.min_ratio',
  'method.policy.mask_prob',
  '*.optim.b1',
  '*.optim.b2',
)


def check(flat: Mapping[str, Any]) -> None:
  """Refuses values out of bounds.

  Raises:
    errors.UserError: names the first key.
  """
  for key, value in flat.items():
    fits = lambda patterns, key=key: any(
      fnmatch.fnmatchcase(key, pattern) for pattern in patterns
    )
    wrong = None
    if isinstance(value, float) and not math.isfinite(value):
      wrong = 'it must be finite'
    elif value is None or isinstance(value, str | bool | tuple | list):
      continue
    elif fits(_POSITIVE) and value <= 0:
      wrong = 'it must be above 0'
    elif fits(_NOT_NEGATIVE) and value < 0:
      wrong = 'it must not be negative'
    elif fits(_SHARES) and not 0 <= value <= 1:
      wrong = 'it must be in 0..1'
    if wrong:
      raise errors.UserError(f'config key {key} is {value}; {wrong}')
  for key in ('model.dtype', 'model.param_dtype'):
    if key in flat and flat[key] not in table.DTYPES:
      raise errors.UserError(
        f'config key {key} is {flat[key]!r}: expected one of {table.DTYPES}'
      )
