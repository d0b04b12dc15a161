"""Hugging Face's config.json to our `ModelConfig` and back.

By the tables of `hf_families`: what is read, what must have a certain value
because our transformer has no other, and what makes no difference here. What
we cannot honour is refused by the name of its field.
"""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from dllm_jax import errors
from dllm_jax.hf import families as hf_families
from dllm_jax.hf import fields as hf_fields
from dllm_jax.hf import folder as folder_lib
from dllm_jax.models import config as model_config

CONFIG_FILE = 'config.json'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Special:
  """The special ids that a config.json names.

  Attributes:
    mask_token: [MASK]; None where the family is causal.
    eos_tokens: those that end a text, the first the main one; may be empty.
    bos_token: None where there is none.
    pad_token: None where there is none.
  """

  mask_token: int | None = None
  eos_tokens: tuple[int, ...] = ()
  bos_token: int | None = None
  pad_token: int | None = None


class Record(NamedTuple):
  """What is known of a pretrained model beside its weights.

  Attributes:
    family: a key of `hf_families.FAMILIES`.
    model: the transformer.
    special: its special ids.
    config: the config.json that it came with; {} where there was none.
    notices: lines that the user should see.
  """

  family: str
  model: model_config.ModelConfig
  special: Special
  config: Mapping[str, Any] = {}
  notices: tuple[str, ...] = ()


def read(folder: pathlib.Path) -> Record:
  """What the config.json of a folder says.

  Raises:
    UserError: it is missing or malformed, or describes a model that is not
      ours; the line names the field.
  """
  config = folder_lib.read_json(folder, CONFIG_FILE)
  return parse(config, str(folder / CONFIG_FILE))


def parse(config: Mapping[str, Any], where: str) -> Record:
  """The record of a parsed config.json; `where` is its name in messages."""
  found = hf_fields.Fields(config, where)
  kind = config.get('model_type')
  name = next(
    (n for n, f in hf_families.FAMILIES.items() if f.model_type == kind), None
  )
  if name is None:
    known = ', '.join(f.model_type for f in hf_families.FAMILIES.values())
    raise found.wrong('model_type', f'there are {known}')
  family = hf_families.FAMILIES[name]
  _check_fields(found, family)
  if name == 'llada':
    found = hf_fields.Fields(_with_llada_defaults(config), where)
  sizes = {
    ours: found.integer(theirs, 1, hf_families.LIMITS[ours])
    for ours, theirs in family.sizes.items()
  }
  theta, scaling = hf_fields.rope(found)
  try:
    model = model_config.ModelConfig(
      **sizes,
      head_dim=_head_dim(found, sizes),
      rope_theta=theta,
      rope_scaling=scaling,
      norm_eps=found.number('rms_norm_eps', 0.0, 1.0),
      tie_embeddings=found.flag(family.tie),
      **family.fixed,
    )
  except ValueError as e:
    raise errors.UserError(f'{where}: {e}') from None
  special = _special(found, model)
  return Record(name, model, special, dict(config), _notices(config, name))


def render(record: Record, dtype: str) -> dict[str, Any]:
  """The config.json of an export: the one it came with, or one that we make.

  Raises:
    UserError: the model has no such form in its family.
  """
  if record.config:
    key = 'dtype' if 'dtype' in record.config else 'torch_dtype'
    config = {**record.config, key: dtype}
  else:
    config = _new_config(record) | {'torch_dtype': dtype}
  again = parse(config, f'the {record.family} config of this model')
  if again.model != plain(record.model):
    raise errors.UserError(
      f'this model has no form in the family {record.family!r}: its config '
      f'would be read back as {again.model}'
    )
  return config


def _new_config(record: Record) -> dict[str, Any]:
  family, model = hf_families.FAMILIES[record.family], record.model
  scaling, special = model.rope_scaling, record.special
  eos = special.eos_tokens
  config = {
    'architectures': [family.architectures[0]],
    'model_type': family.model_type,
    **family.must,
    **{theirs: getattr(model, ours) for ours, theirs in family.sizes.items()},
    'rms_norm_eps': model.norm_eps,
    'rope_theta': model.rope_theta,
    family.tie: model.tie_embeddings,
    'mask_token_id': special.mask_token,
    'eos_token_id': eos[0] if len(eos) == 1 else list(eos) or None,
    'bos_token_id': special.bos_token,
    'pad_token_id': special.pad_token,
  }
  if record.family == 'llada':
    config['vocab_size'] = model.vocab_size
  elif record.family != 'dream':  # the other two derive it
    config['head_dim'] = model.head_dim
  if scaling:
    config['rope_scaling'] = {
      'rope_type': 'llama3',
      'factor': scaling.factor,
      'low_freq_factor': scaling.low_freq_factor,
      'high_freq_factor': scaling.high_freq_factor,
      'original_max_position_embeddings': scaling.original_max_position,
    }
  return {k: v for k, v in config.items() if v is not None}


def plain(model: model_config.ModelConfig) -> model_config.ModelConfig:
  """The model without what only concerns how we run it."""
  default = {f.name: f.default for f in dataclasses.fields(model)}
  own = ('dtype', 'param_dtype', 'remat', 'attention')
  own += ('embed_init_std', 'lora_rank', 'lora_alpha')
  return dataclasses.replace(model, **{name: default[name] for name in own})


def _check_fields(found: hf_fields.Fields, family: hf_families.Family) -> None:
  classes = found.values.get('architectures')
  if classes is not None:
    if not isinstance(classes, list) or not classes:
      raise found.wrong('architectures', 'it must be a list of names')
    if any(c not in family.architectures for c in classes):
      known = ', '.join(family.architectures)
      raise found.wrong('architectures', f'for this model_type it is {known}')
  for name, value in family.must.items():
    given = found.values.get(name)
    absent = given is None and value in (False, None)
    if not absent and (type(given) is not type(value) or given != value):
      raise found.wrong(name, f'only {value!r} is supported')
  layers = found.values.get('layer_types')
  if layers is not None and (
    not isinstance(layers, list) or set(map(str, layers)) != {'full_attention'}
  ):
    raise found.wrong('layer_types', "only 'full_attention' is supported")
  known = (
    hf_families.EVERYWHERE
    | hf_families.SPECIAL
    | hf_families.ROPE
    | family.ignored
    | set(family.must)
  )
  known |= {*family.sizes.values(), family.tie, 'rms_norm_eps', 'head_dim'}
  known |= {'layer_types'}
  for name, value in found.values.items():
    if name not in known and value not in (None, False, [], {}, ''):
      raise errors.UserError(
        f'{found.where}: the field {folder_lib.short(name)} is unknown, so the '
        'model may not be what we would run; if it changes nothing in the '
        'forward pass, remove it'
      )


def _with_llada_defaults(config: Mapping[str, Any]) -> dict[str, Any]:
  """Fields that LLaDA's config derives where they are null."""
  ratio, width = config.get('mlp_ratio'), config.get('d_model')
  derived = {
    'embedding_size': config.get('vocab_size'),
    'n_kv_heads': config.get('n_heads'),
  }
  if type(ratio) is int and type(width) is int:
    derived['mlp_hidden_size'] = ratio * width
  given = {k: v for k, v in config.items() if v is not None}
  return derived | given


def _head_dim(found: hf_fields.Fields, sizes: Mapping[str, int]) -> int:
  if found.values.get('head_dim') is not None:
    return found.integer('head_dim', 1, hf_families.LIMITS['head_dim'])
  if found.values['model_type'] == 'qwen3':
    return 128  # transformers' default
  if sizes['hidden_size'] % sizes['num_heads']:
    raise errors.UserError(
      f'{found.where}: the hidden size {sizes["hidden_size"]} is not a '
      f'multiple of its {sizes["num_heads"]} heads'
    )
  return sizes['hidden_size'] // sizes['num_heads']


def _special(
  found: hf_fields.Fields, model: model_config.ModelConfig
) -> Special:
  """The ids, each inside the vocabulary."""
  last = model.vocab_size - 1

  def one(name):
    given = found.values.get(name)
    return None if given is None else found.integer(name, 0, last)

  eos = found.values.get('eos_token_id')
  eos = eos if isinstance(eos, list) else [eos] if eos is not None else []
  for value in eos:
    if type(value) is not int or not 0 <= value <= last:
      raise found.wrong('eos_token_id', f'each must be an integer in 0..{last}')
  mask = None
  if not model.causal:
    mask = found.integer('mask_token_id', 0, last)
    if mask in eos:
      raise found.wrong('mask_token_id', 'eos_token_id is the same')
  return Special(
    mask_token=mask,
    eos_tokens=tuple(dict.fromkeys(eos)),
    bos_token=one('bos_token_id'),
    pad_token=one('pad_token_id'),
  )


def _notices(config: Mapping[str, Any], family: str) -> tuple[str, ...]:
  if 'auto_map' not in config:
    return ()
  return (
    f'{CONFIG_FILE} names program code of its own (auto_map); it is not run: '
    f'the {family} here is our own',
  )
