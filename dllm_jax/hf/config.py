"""Hugging Face's config.json to our models and back.

The families of `hf.families` say which fields are read, which must have a
certain value because our transformer has no other, and which make no
difference here. A field that we do not support is refused by name. A model that
no family describes has the native form: `model_type` is 'dllm_jax', and `model`
is the config group `model` of the run that made it, from which
`models.MODELS[name].from_config` makes the same model again.
"""

import contextlib
import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from dllm_jax import errors, models, types
from dllm_jax.hf import fields as hf_fields
from dllm_jax.hf import folder as folder_lib
from dllm_jax.hf.families import FAMILIES
from dllm_jax.hf.families import family as family_lib
from dllm_jax.models import config as model_config
from dllm_jax.models import transformer
from dllm_jax.text import special as special_lib

CONFIG_FILE = 'config.json'
NATIVE = 'dllm_jax'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Special:
  """The special ids that a config.json names.

  Attributes:
    mask_token: id of [MASK]; None for a causal model.
    eos_tokens: ids that end a text, the main one first; may be empty.
    bos_token: id that opens a text; None where there is none.
    pad_token: id of padding; None where there is none.
  """

  mask_token: int | None = None
  eos_tokens: tuple[int, ...] = ()
  bos_token: int | None = None
  pad_token: int | None = None


class Record(NamedTuple):
  """A model without its weights.

  Attributes:
    family: a key of `families.FAMILIES`, or `NATIVE`.
    denoiser: the model.
    special: its special ids.
    config: the config.json that it came with; {} for a new transformer.
    notices: lines that the user should see.
  """

  family: str
  denoiser: types.Trainable
  special: Special
  config: Mapping[str, Any] = {}
  notices: tuple[str, ...] = ()

  @property
  def model(self) -> model_config.ModelConfig | None:
    """The config of a transformer; None for any other model."""
    return transformer.config_of(self.denoiser)

  @property
  def vocab_size(self) -> int:
    """Number of ids that the model has logits for."""
    if self.model is None:
      return self.config['vocab_size']
    return self.model.vocab_size

  def replace(self, **fields: Any) -> 'Record':
    """The record with fields of the transformer's config replaced.

    Raises:
      UserError: the model is not a transformer.
    """
    if not fields:
      return self
    if self.model is None:
      raise errors.UserError(
        f'{", ".join(fields)} cannot be set for a model '
        f'{self.config["model"]["name"]!r}: it is not a transformer'
      )
    cfg = dataclasses.replace(self.model, **fields)
    denoiser = dataclasses.replace(self.denoiser, cfg=cfg)
    return self._replace(denoiser=denoiser)


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
  fields = hf_fields.Fields(config, where)
  kind = config.get('model_type')
  if kind == NATIVE:
    return _native(fields)
  name = next((n for n, f in FAMILIES.items() if f.model_type == kind), None)
  if name is None:
    known = ', '.join(f.model_type for f in FAMILIES.values())
    raise fields.wrong('model_type', f'expected one of {known}')
  family = FAMILIES[name]
  fields = hf_fields.Fields(family.derive(config), where)
  _check_fields(fields, family)
  sizes = {
    ours: fields.integer(theirs, 1, family_lib.LIMITS[ours])
    for ours, theirs in family.sizes.items()
  }
  flags = {
    ours: yes if fields.flag(theirs) else no
    for theirs, (ours, yes, no) in family.flags.items()
  }
  rope = {}
  if family.has_rope:
    theta, scaling = hf_fields.rope(fields)
    rope = {'rope_theta': theta, 'rope_scaling': scaling}
  try:
    model = model_config.ModelConfig(
      **sizes,
      head_dim=_head_dim(fields, family, sizes),
      norm_eps=fields.number(family.norm_eps, 0.0, 1.0),
      tie_embeddings=fields.flag(family.tie),
      **rope,
      **flags,
      **family.fixed,
    )
  except ValueError as e:
    raise errors.UserError(f'{where}: {e}') from None
  special = _special(fields, model.vocab_size, model.causal)
  denoiser = transformer.of_config(model)
  notices = _notices(config, name, model)
  return Record(name, denoiser, special, dict(config), notices)


def _native(fields: hf_fields.Fields) -> Record:
  """The record of a config.json in the native form."""
  group = fields.values.get('model')
  name = group.get('name') if isinstance(group, dict) else None
  if not isinstance(name, str) or name not in models.MODELS:
    known = ', '.join(models.MODELS)
    raise fields.wrong('model', f'expected an object with a name of {known}')
  rows = fields.integer('vocab_size', 1, family_lib.LIMITS['vocab_size'])
  causal = fields.values.get('mask_token_id') is None
  special = _special(fields, rows, causal)
  # JSON has no tuples, and a denoiser must be hashable.
  values = {
    k: tuple(v) if isinstance(v, list) else v
    for k, v in group.items()
    if k != 'name'
  }
  try:
    denoiser = models.MODELS[name].from_config(
      values, vocabulary(special, rows)
    )
  except (TypeError, ValueError) as e:
    raise errors.UserError(f'{fields.where}: model: {e}') from None
  return Record(NATIVE, denoiser, special, dict(fields.values))


def native(
  group: Mapping[str, Any], vocab_size: int, special: Special
) -> dict[str, Any]:
  """The config.json of a model in the native form.

  Args:
    group: the config group `model`: `name`, and what its `from_config` takes.
    vocab_size: number of ids.
    special: the special ids.
  """
  config = {'model_type': NATIVE, 'model': dict(group)}
  return config | {'vocab_size': vocab_size} | _ids(special)


def vocabulary(special: Special, size: int) -> types.Vocabulary:
  """What decoders and losses must know of the ids of a model.

  Raises:
    ValueError: no EOS.
  """
  tokens = special_lib.SpecialTokens(
    mask=special.mask_token,
    eos=next(iter(special.eos_tokens), None),
    stop=special.eos_tokens,
  )
  return tokens.vocabulary(size)


def family_of(model: model_config.ModelConfig) -> str:
  """The family whose config.json describes a model; `NATIVE` where none does.

  Families of masked diffusion come first, LLaDA before Dream.
  """
  for name in FAMILIES:
    denoiser = transformer.of_config(model)
    config = _new_config(Record(name, denoiser, Special(mask_token=0)))
    with contextlib.suppress(errors.UserError):
      if parse(config, name).model == plain(model):
        return name
  return NATIVE


def render(record: Record, dtype: str) -> dict[str, Any]:
  """The config.json of a folder: the one it came with, or one that we make.

  Raises:
    UserError: the model has no such form in its family.
  """
  config = dict(record.config or _new_config(record))
  config['dtype' if 'dtype' in config else 'torch_dtype'] = dtype
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
  model = record.model
  if record.family == NATIVE:
    group = {'name': 'transformer', **dataclasses.asdict(plain(model))}
    return native(group, group.pop('vocab_size'), record.special)
  family, scaling = FAMILIES[record.family], model.rope_scaling
  config = {
    'architectures': [family.architectures[0]],
    'model_type': family.model_type,
    **family.must,
    **{theirs: getattr(model, ours) for ours, theirs in family.sizes.items()},
    **{theirs: getattr(model, ours) for theirs, ours in family.writes.items()},
    **{
      theirs: getattr(model, ours) == yes
      for theirs, (ours, yes, _) in family.flags.items()
    },
    family.norm_eps: model.norm_eps,
    **({'rope_theta': model.rope_theta} if family.has_rope else {}),
    family.tie: model.tie_embeddings,
    **_ids(record.special),
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


def _ids(special: Special) -> dict[str, Any]:
  eos = special.eos_tokens
  ids = {
    'mask_token_id': special.mask_token,
    'eos_token_id': eos[0] if len(eos) == 1 else list(eos) or None,
    'bos_token_id': special.bos_token,
    'pad_token_id': special.pad_token,
  }
  return {k: v for k, v in ids.items() if v is not None}


def plain(model: model_config.ModelConfig) -> model_config.ModelConfig:
  """The model without what only concerns how we run it."""
  default = {f.name: f.default for f in dataclasses.fields(model)}
  own = *model_config.HOW_IT_RUNS, 'lora_rank', 'lora_alpha'
  own += ('embed_init_std', 'router_init_std', 'dispatch')
  return dataclasses.replace(model, **{name: default[name] for name in own})


def _check_fields(fields: hf_fields.Fields, family: family_lib.Family) -> None:
  classes = fields.values.get('architectures')
  if classes is not None:
    if not isinstance(classes, list) or not classes:
      raise fields.wrong('architectures', 'it must be a list of names')
    if any(c not in family.architectures for c in classes):
      known = ', '.join(family.architectures)
      raise fields.wrong('architectures', f'for this model_type it is {known}')
  for name, value in family.must.items():
    given = fields.values.get(name)
    absent = given is None and value in (False, None)
    if not absent and (type(given) is not type(value) or given != value):
      raise fields.wrong(name, f'only {value!r} is supported')
  layers = fields.values.get('layer_types')
  if layers is not None and (
    not isinstance(layers, list) or set(map(str, layers)) != {'full_attention'}
  ):
    raise fields.wrong('layer_types', "only 'full_attention' is supported")
  known = family.known()
  for name, value in fields.values.items():
    if name not in known and value not in (None, False, [], {}, ''):
      raise errors.UserError(
        f'{fields.where}: the field {folder_lib.short(name)} is unknown, and '
        'may change the model; if it changes nothing in the forward pass, '
        'remove it'
      )


def _head_dim(
  fields: hf_fields.Fields,
  family: family_lib.Family,
  sizes: Mapping[str, int],
) -> int:
  if fields.values.get('head_dim') is not None:
    return fields.integer('head_dim', 1, family_lib.LIMITS['head_dim'])
  if family.head_dim is not None:
    return family.head_dim
  if sizes['hidden_size'] % sizes['num_heads']:
    raise errors.UserError(
      f'{fields.where}: the hidden size {sizes["hidden_size"]} is not a '
      f'multiple of its {sizes["num_heads"]} heads'
    )
  return sizes['hidden_size'] // sizes['num_heads']


def _special(fields: hf_fields.Fields, rows: int, causal: bool) -> Special:
  """The ids, each inside the vocabulary."""
  last = rows - 1

  def one(name):
    given = fields.values.get(name)
    return None if given is None else fields.integer(name, 0, last)

  eos = fields.values.get('eos_token_id')
  eos = eos if isinstance(eos, list) else [eos] if eos is not None else []
  for value in eos:
    if type(value) is not int or not 0 <= value <= last:
      raise fields.wrong(
        'eos_token_id', f'each must be an integer in 0..{last}'
      )
  mask = None
  if not causal:
    mask = fields.integer('mask_token_id', 0, last)
    if mask in eos:
      raise fields.wrong('mask_token_id', 'eos_token_id is the same')
  return Special(
    mask_token=mask,
    eos_tokens=tuple(dict.fromkeys(eos)),
    bos_token=one('bos_token_id'),
    pad_token=one('pad_token_id'),
  )


def _notices(
  config: Mapping[str, Any], family: str, model: model_config.ModelConfig
) -> tuple[str, ...]:
  notices = []
  if 'auto_map' in config:
    notices.append(
      f'{CONFIG_FILE} names program code of its own (auto_map); it is not run: '
      f'the {family} here is our own'
    )
  size = FAMILIES[family].sizes.get('block_causal')
  if size is not None and config.get(size) is None:
    notices.append(
      f'{CONFIG_FILE} has no {size}: blocks are of {model.block_causal} '
      'tokens, as in the first models of the family; add the field for others'
    )
  return tuple(notices)
