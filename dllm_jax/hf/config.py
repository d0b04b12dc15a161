"""Hugging Face's config.json to our `ModelConfig` and back.

By the records of `hf.families`: what is read, what must have a certain value
because our transformer has no other, and what makes no difference here. What
we cannot honour is refused by the name of its field. A model that no family
describes has the native form: `model_type` is 'dllm_jax', `model` a key of
`models.MODELS`, and `fields` those of its config.
"""

import contextlib
import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from dllm_jax import errors
from dllm_jax.hf import fields as hf_fields
from dllm_jax.hf import folder as folder_lib
from dllm_jax.hf.families import FAMILIES
from dllm_jax.hf.families import family as family_lib
from dllm_jax.models import config as model_config

CONFIG_FILE = 'config.json'
NATIVE = 'dllm_jax'


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
    family: a key of `families.FAMILIES`, or `NATIVE`.
    model: the config of the model: a frozen dataclass.
    special: its special ids.
    config: the config.json that it came with; {} where there was none.
    notices: lines that the user should see.
    kind: of a native model, the key of `models.MODELS`.
  """

  family: str
  model: model_config.ModelConfig
  special: Special
  config: Mapping[str, Any] = {}
  notices: tuple[str, ...] = ()
  kind: str = 'transformer'


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
  if kind == NATIVE:
    return _native(found)
  name = next((n for n, f in FAMILIES.items() if f.model_type == kind), None)
  if name is None:
    known = ', '.join(f.model_type for f in FAMILIES.values())
    raise found.wrong('model_type', f'expected one of {known}')
  family = FAMILIES[name]
  _check_fields(found, family)
  found = hf_fields.Fields(family.derive(config), where)
  sizes = {
    ours: found.integer(theirs, 1, family_lib.LIMITS[ours])
    for ours, theirs in family.sizes.items()
  }
  theta, scaling = hf_fields.rope(found)
  try:
    model = model_config.ModelConfig(
      **sizes,
      head_dim=_head_dim(found, family, sizes),
      rope_theta=theta,
      rope_scaling=scaling,
      norm_eps=found.number('rms_norm_eps', 0.0, 1.0),
      tie_embeddings=found.flag(family.tie),
      **family.fixed,
    )
  except ValueError as e:
    raise errors.UserError(f'{where}: {e}') from None
  special = _special(found, model.vocab_size, model.causal)
  return Record(name, model, special, dict(config), _notices(config, name))


def _native(found: hf_fields.Fields) -> Record:
  """The record of a config.json in the native form."""
  kind, values = found.values.get('model'), found.values.get('fields')
  if kind != 'transformer' or not isinstance(values, dict):
    raise found.wrong('model', 'this version has no model of that name')
  try:
    scaling = values.get('rope_scaling')
    scaling = model_config.RopeScaling(**scaling) if scaling else None
    model = model_config.ModelConfig(**values | {'rope_scaling': scaling})
  except (TypeError, ValueError) as e:
    raise errors.UserError(f'{found.where}: fields: {e}') from None
  special = _special(found, model.vocab_size, model.causal)
  return Record(NATIVE, model, special, dict(found.values), kind=kind)


def family_of(model: model_config.ModelConfig) -> str:
  """The family whose config.json describes a model; `NATIVE` where none does.

  Families of masked diffusion come first, LLaDA before Dream.
  """
  for name in FAMILIES:
    config = _new_config(Record(name, model, Special(mask_token=0)))
    with contextlib.suppress(errors.UserError):
      if parse(config, name).model == plain(model):
        return name
  return NATIVE


def render(record: Record, dtype: str) -> dict[str, Any]:
  """The config.json of a folder: the one it came with, or one that we make.

  Raises:
    UserError: the model has no such form in its family.
  """
  if record.config:
    key = 'dtype' if 'dtype' in record.config else 'torch_dtype'
    config = {**record.config, key: dtype}
  else:
    config = _new_config(record) | {'torch_dtype': dtype}
  if record.family == NATIVE:
    return config
  again = parse(config, f'the {record.family} config of this model')
  if again.model != plain(record.model):
    raise errors.UserError(
      f'this model has no form in the family {record.family!r}: its config '
      f'would be read back as {again.model}'
    )
  return config


def _new_config(record: Record) -> dict[str, Any]:
  model, special = record.model, record.special
  eos = special.eos_tokens
  ids = {
    'mask_token_id': special.mask_token,
    'eos_token_id': eos[0] if len(eos) == 1 else list(eos) or None,
    'bos_token_id': special.bos_token,
    'pad_token_id': special.pad_token,
  }
  if record.family == NATIVE:
    values = dataclasses.asdict(plain(model))
    config = {'model_type': NATIVE, 'model': record.kind, 'fields': values}
    return config | {k: v for k, v in ids.items() if v is not None}
  family, scaling = FAMILIES[record.family], model.rope_scaling
  sizes = {
    theirs: getattr(model, ours) for ours, theirs in family.sizes.items()
  }
  more = {
    theirs: getattr(model, ours) for theirs, ours in family.writes.items()
  }
  config = {
    'architectures': [family.architectures[0]],
    'model_type': family.model_type,
    **family.must,
    **sizes,
    **more,
    'rms_norm_eps': model.norm_eps,
    'rope_theta': model.rope_theta,
    family.tie: model.tie_embeddings,
    **ids,
  }
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


def _check_fields(found: hf_fields.Fields, family: family_lib.Family) -> None:
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
  known = family.known()
  for name, value in found.values.items():
    if name not in known and value not in (None, False, [], {}, ''):
      raise errors.UserError(
        f'{found.where}: the field {folder_lib.short(name)} is unknown, so the '
        'model may not be what we would run; if it changes nothing in the '
        'forward pass, remove it'
      )


def _head_dim(
  found: hf_fields.Fields,
  family: family_lib.Family,
  sizes: Mapping[str, int],
) -> int:
  if found.values.get('head_dim') is not None:
    return found.integer('head_dim', 1, family_lib.LIMITS['head_dim'])
  if family.head_dim is not None:
    return family.head_dim
  if sizes['hidden_size'] % sizes['num_heads']:
    raise errors.UserError(
      f'{found.where}: the hidden size {sizes["hidden_size"]} is not a '
      f'multiple of its {sizes["num_heads"]} heads'
    )
  return sizes['hidden_size'] // sizes['num_heads']


def _special(found: hf_fields.Fields, rows: int, causal: bool) -> Special:
  """The ids, each inside the vocabulary."""
  last = rows - 1

  def one(name):
    given = found.values.get(name)
    return None if given is None else found.integer(name, 0, last)

  eos = found.values.get('eos_token_id')
  eos = eos if isinstance(eos, list) else [eos] if eos is not None else []
  for value in eos:
    if type(value) is not int or not 0 <= value <= last:
      raise found.wrong('eos_token_id', f'each must be an integer in 0..{last}')
  mask = None
  if not causal:
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
