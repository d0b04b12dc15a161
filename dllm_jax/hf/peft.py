"""Adapters in PEFT's layout: adapter_config.json, adapter_model.safetensors.

Their lora_A is [rank, in] and their lora_B [out, rank], a module each; ours
are stacked and turned. What PEFT can do and our `Linear` cannot is refused.
"""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from dllm_jax import errors
from dllm_jax.hf import folder as folder_lib
from dllm_jax.hf import hub, shards
from dllm_jax.hf import table as table_lib
from dllm_jax.hf.families import FAMILIES
from dllm_jax.models import config as model_config
from dllm_jax.models import lora, transformer
from dllm_jax.text import tokenizer_json

CONFIG_FILE = 'adapter_config.json'
WEIGHTS_FILE = 'adapter_model.safetensors'
PICKLE = 'adapter_model.bin'
_PREFIX = 'base_model.model.'
_FACTORS = {'lora_a': 'lora_A.weight', 'lora_b': 'lora_B.weight'}
# Fields that change what is computed, and the value that ours has.
_MUST = {
  'peft_type': 'LORA',
  'bias': 'none',
  'fan_in_fan_out': False,
  'use_dora': False,
  'use_rslora': False,
  'use_qalora': False,
  'lora_bias': False,
  'modules_to_save': None,
  'rank_pattern': {},
  'alpha_pattern': {},
  'layer_replication': None,
  'target_parameters': None,
  'trainable_token_indices': None,
  'alora_invocation_tokens': None,
}
# Initialisations that leave the base model's kernels as they are.
_INIT = (None, True, False, 'gaussian', 'orthogonal', 'eva')
_MAX_RANK = 2**14


def is_folder(folder: pathlib.Path) -> bool:
  """Whether a folder holds adapters, and no weights of their base."""
  has = lambda name: folder_lib.has(folder, name)
  weights = has(shards.SINGLE_FILE) or has(shards.INDEX_FILE)
  return has(CONFIG_FILE) and not weights


def base_of(folder: pathlib.Path, default: pathlib.Path | None = None) -> str:
  """The path or the pinned name of the model that adapters are for.

  Args:
    folder: folder of the adapters.
    default: base model if adapter_config.json names none.

  Raises:
    UserError: it names none, and there is no default.
  """
  config = folder_lib.read_json(folder, CONFIG_FILE)
  name, revision = config.get('base_model_name_or_path'), config.get('revision')
  if isinstance(name, str) and name:
    at = f'@{revision}' if isinstance(revision, str) and revision else ''
    return name + at
  if default is not None:
    return str(default)
  raise errors.UserError(
    f'{folder / CONFIG_FILE} names no base model: set base_model_name_or_path '
    'to its folder'
  )


def rank_of(folder: pathlib.Path) -> tuple[int, float]:
  """(rank, alpha) of the adapters in a folder."""
  return _read_config(folder)[1:]


def tensors(
  family: str, adapters: lora.Adapters
) -> Iterator[tuple[str, np.ndarray]]:
  """The tensors of adapters, on the host, by PEFT's names."""
  for name, (path, layer) in _names(family, adapters).items():
    yield name, shards.to_host(adapters[path][layer]).T


def save(
  folder: pathlib.Path,
  arrays: Mapping[str, np.ndarray],
  family: str,
  cfg: model_config.ModelConfig,
  *,
  base: str = '',
) -> None:
  """Writes adapters as PEFT would.

  Args:
    folder: an existing one.
    arrays: result of `tensors`.
    family: key of `FAMILIES`, whose tensor names are used.
    cfg: config of the adapted model.
    base: the base model's path or name (ORG/NAME@REVISION); may be empty.
  """
  like = {
    name: jax.ShapeDtypeStruct(array.shape, 'float32')
    for name, array in arrays.items()
  }
  shards.write_file(folder / WEIGHTS_FILE, like, iter(arrays.items()))
  name, _, revision = (
    base.partition('@') if hub.is_name(base) else (base, '', '')
  )
  config = {
    **_MUST,
    'base_model_name_or_path': name or None,
    'revision': revision or None,
    'inference_mode': True,
    'init_lora_weights': True,
    'lora_alpha': cfg.lora_alpha,
    'lora_dropout': 0.0,
    'r': cfg.lora_rank,
    'target_modules': _targets(family),
    'task_type': None,
  }
  text = json.dumps(config, indent=2, sort_keys=True) + '\n'
  (folder / CONFIG_FILE).write_text(text, 'utf-8')


def load(
  folder: pathlib.Path,
  family: str,
  cfg: model_config.ModelConfig,
  mesh: Mesh,
) -> lora.Adapters:
  """Reads adapters in PEFT's layout for a model without any.

  A module that target_modules does not name gets zeros, and so stays as it
  is, in training too; one that it names must have its factors.

  Args:
    folder: folder of adapter_config.json and the weights.
    family: key of `FAMILIES`, whose tensor names are used.
    cfg: config of the model without adapters.
    mesh: devices for the factors.

  Raises:
    UserError: names the field or the tensor that is not right.
  """
  config, rank, alpha = _read_config(folder)
  adapted = dataclasses.replace(cfg, lora_rank=rank, lora_alpha=alpha)
  denoiser = transformer.of_config(adapted)
  leaves = {
    path: leaf
    for path, leaf in table_lib.targets(denoiser, mesh).items()
    if lora.is_adapter(path)
  }
  if not folder_lib.has(folder, WEIGHTS_FILE):
    raise _no_weights(folder)
  stored = shards.list_file(folder, WEIGHTS_FILE)
  names = _names(family, leaves)
  where = folder / WEIGHTS_FILE
  # An adapter of a higher rank than every kernel's is none, and a large table.
  sides = lambda a, b: min(a.shape[1], b.shape[2])
  most = max(
    sides(leaf, leaves[path.removesuffix('a') + 'b'])
    for path, leaf in leaves.items()
    if path.endswith('/lora_a')
  )
  if rank > most:
    raise errors.UserError(
      f'{folder / CONFIG_FILE}: r is {rank}, more than the {most} of any kernel'
    )
  _check_pairs(set(stored), set(names), f'{where}: the tensor', family)
  for name, tensor in stored.items():
    path, layer = names[name]
    shape = tuple(reversed(leaves[path].shape[1:]))
    if tensor.shape != shape:
      raise errors.UserError(
        f'{where}: the tensor {name} has the shape {list(tensor.shape)}, and '
        f'{list(shape)} by {CONFIG_FILE} and the model'
      )
  _check_complete(config, set(stored), names, where)
  values = {k: np.zeros(v.shape, np.float32) for k, v in leaves.items()}
  for name, tensor in stored.items():
    path, layer = names[name]
    every = (slice(None), slice(None))
    values[path][layer] = shards.read(tensor, every).T.astype(np.float32)
  return {
    path: jax.make_array_from_callback(
      value.shape, leaves[path].sharding, value.__getitem__
    )
    for path, value in values.items()
  }


def _no_weights(folder: pathlib.Path) -> errors.UserError:
  if folder_lib.has(folder, PICKLE):
    return errors.UserError(
      f'{folder} has its adapters in {PICKLE}, a pickle, which can run code '
      'when it is read: save them again with safe_serialization=True'
    )
  return errors.UserError(
    f'{folder / WEIGHTS_FILE} is missing; is the folder complete?'
  )


def _check_pairs(
  actual: set[str], known: set[str], where: str, family: str
) -> None:
  """Refuses factors of no module of ours, and one without the other."""
  for name in sorted(actual - known):
    raise errors.UserError(
      f'{where} {folder_lib.short(name)} is of no module of this {family} '
      'model that can be adapted here'
    )
  a, b = _FACTORS.values()
  for name in sorted(actual):
    partner = name.replace(a, b) if name.endswith(a) else name.replace(b, a)
    if partner not in actual:
      raise errors.UserError(f'{where} {name} lacks its partner {partner}')


def _check_complete(
  config: dict[str, Any],
  actual: set[str],
  names: dict[str, tuple[str, int]],
  where: pathlib.Path,
) -> None:
  """Refuses a file without the factors of a module that the config names."""
  wanted = _matcher(config, 'target_modules', where)
  spared = _matcher(config, 'exclude_modules', where)
  only = config.get('layers_to_transform')
  only = [only] if type(only) is int else only
  if only is not None and not isinstance(only, list):
    raise errors.UserError(f'{where}: layers_to_transform is no list')
  for name, (_, layer) in names.items():
    module = name.removeprefix(_PREFIX).rsplit('.lora_', 1)[0]
    if only and layer not in only or name in actual:
      continue
    if wanted(module) and not spared(module):
      raise errors.UserError(
        f'{where}: the tensor {name} is missing, and target_modules of '
        f'{CONFIG_FILE} names its module; is the file whole?'
      )


def _matcher(
  config: dict[str, Any], field: str, where: pathlib.Path
) -> Callable[[str], bool]:
  """Whether a module is one of a field's, as PEFT reads it."""
  value = config.get(field)
  if field == 'exclude_modules' and not value:
    return lambda name: False
  if value == 'all-linear':
    return lambda name: True
  if isinstance(value, list) and all(isinstance(v, str) for v in value):
    ends = set(value)
    return lambda name: any(name == e or name.endswith(f'.{e}') for e in ends)
  where = f'{where.parent / CONFIG_FILE}: {field}'
  if not isinstance(value, str) or len(value) > 2000:
    raise errors.UserError(
      f'{where} is {folder_lib.short(value)}: neither names nor an expression'
    )
  return tokenizer_json.full_match(value, where)


def _names(family: str, leaves: Any) -> dict[str, tuple[str, int]]:
  """{their tensor: (our leaf, layer)}."""
  table, leaf_of = FAMILIES[family].names, {}
  for path, leaf in leaves.items():
    linear, factor = path.rsplit('/', 1)
    for layer in range(leaf.shape[0]):
      module = table.module(f'{linear}/kernel', layer)
      leaf_of[f'{_PREFIX}{module}.{_FACTORS[factor]}'] = path, layer
  return leaf_of


def _targets(family: str) -> str:
  """An expression for PEFT that matches whole names of modules.

  A list would match their ends, and LLaDA's unembedding ends as the last
  projection of its blocks does.
  """
  table = FAMILIES[family].names
  blocks = table.blocks.replace('.', r'\.').replace('{layer}', r'\d+')
  ends = [
    name.removesuffix('.weight').replace('.', r'\.')
    for path, name in table.block.items()
    if path.endswith('/kernel')
  ]
  return f'{blocks}({"|".join(ends)})'


def _read_config(folder: pathlib.Path) -> tuple[dict[str, Any], int, float]:
  """(all of it, rank, alpha)."""
  config = folder_lib.read_json(folder, CONFIG_FILE)
  where = folder / CONFIG_FILE
  for name, value in _MUST.items():
    given = config.get(name)
    absent = not given and not value
    if not absent and given != value:
      raise errors.UserError(
        f'{where}: {name} is {folder_lib.short(given)}; only {value!r} is '
        'supported'
      )
  init = config.get('init_lora_weights')
  if not any(init is known or init == known for known in _INIT):
    raise errors.UserError(
      f'{where}: init_lora_weights is {folder_lib.short(init)}, which changes '
      'the base model too; merge the adapter with PEFT instead'
    )
  rank, alpha = config.get('r'), config.get('lora_alpha')
  if type(rank) is not int or not 1 <= rank <= _MAX_RANK:
    raise errors.UserError(
      f'{where}: r is {folder_lib.short(rank)}; it must be an integer in '
      f'1..{_MAX_RANK}'
    )
  if type(alpha) not in (int, float) or not 0 < alpha < 1e6:
    raise errors.UserError(
      f'{where}: lora_alpha is {folder_lib.short(alpha)}; it must be a '
      'positive number'
    )
  return config, rank, float(alpha)
