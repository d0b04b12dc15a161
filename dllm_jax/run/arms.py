"""The config group `arms`: further trainings that a run is compared with.

A group of it is an arm, and has the keys in which the arm differs from the run.
"""

import contextlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

from dllm_jax import errors
from dllm_jax.state import workdir

# Keys in which an arm may differ from its run, but for `_SHARED`: those say how
# prompts are written and policies evaluated. That of the model changes no
# parameter, so an arm can start from the run's base.
KEYS = ('method.', 'train.', 'rollout.', 'model.gate_scale')
_SHARED = (
  'method.name',
  'train.control',
  'train.watchdog_seconds',
  'rollout.decode',
  'rollout.max_prompt_length',
  'rollout.prefill',
)
# Phases and stages of a run.
_TAKEN = (
  *('base', 'sft', 'rl', 'control', 'final', 'eval'),
  *('speculation', 'routing'),
)


def configs(config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
  """The configs of the arms by name, as nested dicts.

  Raises:
    errors.UserError: `arms` is no group of groups, a name is taken, or a key is
      unknown or one that arms share with the run.
  """
  arms = config['arms']
  if not isinstance(arms, Mapping) or not all(
    isinstance(arm, Mapping) for arm in arms.values()
  ):
    raise errors.UserError(
      f'config key arms is {arms!r}; it is a group of groups'
    )
  own = workdir.flatten({k: v for k, v in config.items() if k != 'arms'})
  for name, changes in arms.items():
    _check(name, workdir.flatten(changes), own)
  return {
    name: _merged(config, changes) | {'arms': {}}
    for name, changes in arms.items()
  }


@contextlib.contextmanager
def named(arm: str) -> Iterator[None]:
  """Says which arm an error is of; '' is the run itself."""
  try:
    yield
  except errors.UserError as e:
    if not arm:
      raise
    raise errors.UserError(f'config group arms.{arm}: {e}') from e


def _check(
  name: str, changes: Mapping[str, Any], own: Mapping[str, Any]
) -> None:
  if name in _TAKEN or not re.fullmatch('[a-z][a-z0-9_]*', name):
    raise errors.UserError(
      f'config group arms.{name}: an arm is named by small letters, digits and '
      f'_, and not {", ".join(_TAKEN)}'
    )
  for key, value in changes.items():
    where = f'config key arms.{name}.{key}'
    if key not in own:
      raise errors.UserError(f'{where} is not one of the run: it has no {key}')
    if not key.startswith(KEYS) or key in _SHARED:
      raise errors.UserError(
        f'{where} is shared by the run and its arms: an arm changes '
        f'{", ".join(KEYS)}, except for {", ".join(_SHARED)}'
      )
    if own[key] is not None and type(value) is not type(own[key]):
      raise errors.UserError(f'{where} is {value!r}; the run has {own[key]!r}')


def _merged(
  config: Mapping[str, Any], changes: Mapping[str, Any]
) -> dict[str, Any]:
  """The config with other values of some of its keys."""
  return config | {
    name: _merged(config[name], value) if isinstance(value, Mapping) else value
    for name, value in changes.items()
  }
