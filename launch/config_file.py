"""Config files: FILE[:preset], and `a.b=value` overrides, checked.

A mistake in either is a one-line UsageError that says what to write instead.
"""

import difflib
import importlib.util
import inspect
import os
import pathlib
import sys
from collections.abc import Iterable

from absl import flags
from ml_collections import config_dict, config_flags

from dllm_jax import errors

# Keys that may be None, written 'none'.
OPTIONAL = (
  'method.guided.answer_steps',
  'method.policy.guided_beta',
  'method.policy.max_kl_difference',
  'method.policy.max_sampler_ratio',
)

ROWS = 'rows'  # the preset of rows of the user's own

_ROOT = pathlib.Path(__file__).resolve().parents[1]


def load_config(
  path: str, overrides: Iterable[str] = ()
) -> config_dict.ConfigDict:
  """The locked config of FILE[:preset] with 'a.b=value' overrides applied.

  `data.train`, a file of rows, makes `ROWS` the preset where none is named.

  Raises:
    UsageError: a file, preset, key or value is missing or wrong.
  """
  file, _, preset = path.partition(':')
  overrides = list(overrides)
  has_rows = any(o.startswith('data.train=') for o in overrides)
  config = _get_config(file, preset, ROWS if has_rows else '').unlock()
  for override in overrides:
    _override(config, override, file)
  return config.lock()


def nearest(name: str, known: Iterable[str], prefix: str = '') -> str:
  near = difflib.get_close_matches(name, known, n=1)
  return f"; did you mean '{prefix}{near[0]}'?" if near else ''


def _get_config(file: str, preset: str, default: str) -> config_dict.ConfigDict:
  if not pathlib.Path(file).is_file():
    raise errors.UsageError(
      f'config file {file} is missing (looked in {os.getcwd()}); '
      'check --config FILE[:preset]'
    )
  if str(_ROOT) not in sys.path:
    sys.path.insert(0, str(_ROOT))  # Config files import configs.base.
  spec = importlib.util.spec_from_file_location(pathlib.Path(file).stem, file)
  if spec is None:
    raise errors.UsageError(f'config file {file} is not a .py file')
  module = importlib.util.module_from_spec(spec)
  try:
    spec.loader.exec_module(module)
  except SyntaxError as e:
    raise errors.UsageError(f'{e.filename}, line {e.lineno}: {e.msg}') from e
  get_config = getattr(module, 'get_config', None)
  if get_config is None:
    raise errors.UsageError(f'config file {file} defines no get_config(arg)')
  if preset and not inspect.signature(get_config).parameters:
    raise errors.UsageError(f'{file} has no presets, so no {preset!r}')
  if not preset and inspect.signature(get_config).parameters:
    preset = default
  try:
    config = get_config(preset) if preset else get_config()
  except ValueError as e:
    if preset == default:
      raise errors.UsageError(
        f'data.train names rows of your own, for which {file} has no preset: '
        'use configs/sft.py, diffu_grpo.py, ag_grpo.py or ta_grpo_d.py'
      ) from e
    raise errors.UsageError(f'{file}:{preset}: {e}') from e
  return config


def _override(config: config_dict.ConfigDict, override: str, file: str) -> None:
  """Sets one 'a.b=value', of the type that the key has."""
  key, equals, value = override.partition('=')
  if not equals:
    raise errors.UsageError(
      f'--config.{key} has no value; write --config.{key}=VALUE, in one word'
    )
  known = _leaf_keys(config)
  if key not in known:
    inside = [k for k in known if k.startswith(f'{key}.')]
    if inside:
      raise errors.UsageError(
        f"config key '{key}' in {file} is a group; set one of its keys, such "
        f"as '{inside[0]}'"
      )
    raise errors.UsageError(
      f"unknown config key '{key}' in {file}{nearest(key, known)}"
    )
  *groups, name = key.split('.')
  group = config
  for part in groups:
    group = group[part]
  want, old = group.get_type(name), group[name]
  if key in OPTIONAL and value.lower() == 'none':
    with group.ignore_type():
      group[name] = None
    return
  argv = ['', f'--config.{key}={value}']
  values = flags.FlagValues()
  try:
    config_flags.DEFINE_config_dict(
      'config', config, flag_values=values, lock_config=False, sys_argv=argv
    )
    values(argv)
    fits = not old or want is not tuple or _kinds(group[name]) <= _kinds(old)
  except (flags.Error, ValueError, TypeError):
    fits = False
  if not fits:
    kinds = ' of ' + ', '.join(sorted(_kinds(old))) if want is tuple else ''
    raise errors.UsageError(
      f'config key {key} wants {want.__name__}{kinds}, got {value!r}'
    )


def _kinds(values: tuple) -> set[str]:
  return {type(v).__name__ for v in values}


def _leaf_keys(config: config_dict.ConfigDict, prefix: str = '') -> list[str]:
  keys = []
  for name in config:
    if config.get_type(name) is config_dict.ConfigDict:
      keys += _leaf_keys(config[name], f'{prefix}{name}.')
    else:
      keys.append(prefix + name)
  return keys
