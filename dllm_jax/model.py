"""A model to decode with: weights, words, and how it is meant to be decoded.

The one place where a name, a model folder or a workdir becomes a model.
"""

import dataclasses
import functools
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from jax.sharding import Mesh

from dllm_jax import errors, types
from dllm_jax.analysis import policies
from dllm_jax.hf import config as hf_config
from dllm_jax.hf import folder as folder_lib
from dllm_jax.hf import hub, load, save, table
from dllm_jax.hf.families import FAMILIES
from dllm_jax.models import transformer
from dllm_jax.rollout import answer_free
from dllm_jax.runtime import console as console_lib
from dllm_jax.runtime import sharding
from dllm_jax.state import workdir
from dllm_jax.text import chat
from dllm_jax.text import tokenizer as tokenizer_lib

# Of a model that no run trained: its text ends with an EOS.
DECODING = answer_free.RolloutConfig(
  num_prompts=1,
  group_size=1,
  max_prompt_length=1,
  gen_length=128,
  block_length=32,
  temperature=0.0,
  stop_at_eos=True,
  num_steps=128,
  threshold=0.9,
)
_BASE_NAME = re.compile(r'(?i)(^|[-_.])base($|[-_.@])')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
  """A model, and what is known of it.

  Attributes:
    denoiser: of the parameters.
    params: None before `load`.
    record: family, shape and special ids.
    vocab: special ids; None of a causal model.
    tokenizer: None where the folder has none.
    folder: that it was read from; None of a new model.
    decoding: greedy, as it is meant to be decoded.
    prefill: how its completions are to begin.
    overrides: fields of its config that a run chose; None of other models.
  """

  denoiser: types.Denoiser
  params: types.Params | None = None
  record: hf_config.Record
  vocab: types.Vocabulary | None
  tokenizer: tokenizer_lib.Tokenizer | None
  folder: load.Folder | None = None
  decoding: answer_free.RolloutConfig = DECODING
  prefill: str = ''
  overrides: Mapping[str, Any] | None = None

  @classmethod
  def open(
    cls,
    name: str | pathlib.Path,
    *,
    mesh: Mesh | None = None,
    params: str | None = None,
    dtype: str | None = None,
    param_dtype: str | None = None,
    console: console_lib.Console | None = None,
  ) -> 'Model':
    """Reads a model.

    Args:
      name: a model folder, ORG/NAME@REVISION, or the workdir of a run.
      mesh: where the parameters go; None takes all devices for rows.
      params: which model of a run: 'base', 'control' or 'final'; None is
        'final'. Other folders have one.
      dtype: of activations; None: the run's, else that of the parameters.
      param_dtype: None: the run's, else as they are stored.
      console: shows progress.

    Raises:
      errors.UserError: there is no such model, or it is malformed or damaged.
    """
    mesh = mesh or sharding.make_mesh(sharding.MeshConfig())
    described = cls.describe(name, params=params)
    return described.load(
      mesh, dtype=dtype, param_dtype=param_dtype, console=console
    )

  @classmethod
  def describe(
    cls, name: str | pathlib.Path, *, params: str | None = None
  ) -> 'Model':
    """`open` without reading a weight: everything but the parameters."""
    path, params = resolve(name, params)
    if params is None:
      return of_folder(load.read(path))
    kept = kept_models(path)
    if params not in kept:
      has = f'; it has {", ".join(kept)} (--params)' if kept else ''
      raise errors.UserError(f'{path} holds no model {params!r}{has}')
    model = of_folder(load.read(kept[params]))
    config = workdir.read_config(path)
    try:
      return dataclasses.replace(model, **_of_run(config))
    except (KeyError, TypeError, ValueError, AttributeError) as e:
      raise errors.UserError(
        f'{path / workdir.CONFIG_FILE} is not of this version: {e!r}'
      ) from e

  def load(
    self,
    mesh: Mesh,
    *,
    dtype: str | None = None,
    param_dtype: str | None = None,
    console: console_lib.Console | None = None,
  ) -> 'Model':
    """The described model with its parameters; see `open`."""
    how = dict(self.overrides or {})
    dtypes = {'dtype': dtype, 'param_dtype': param_dtype}
    how |= {name: value for name, value in dtypes.items() if value}
    cfg, params = load.load(
      self.folder,
      mesh,
      dtype=how.get('dtype'),
      param_dtype=how.get('param_dtype'),
      screen=console,
    )
    cfg = dataclasses.replace(cfg, **how)
    return dataclasses.replace(
      self,
      denoiser=transformer.TransformerDenoiser(cfg=cfg),
      params=params,
      record=self.record._replace(model=cfg),
    )

  def save(
    self, target: str | pathlib.Path, *, kept: Mapping[str, Any] | None = None
  ) -> None:
    """Writes a model folder; adapters alone, where there are any.

    Args:
      target: a new folder.
      kept: JSON values to keep beside the weights.

    Raises:
      errors.UserError: as `hf.save.save`.
    """
    save.save(
      pathlib.Path(target),
      self.params,
      self.record._replace(model=self.denoiser.cfg),
      text=self.folder.text if self.folder else self.tokenizer,
      base=hub.name_of(self.folder.base) if self.folder else '',
      kept=kept,
    )

  @functools.cached_property
  def template(self) -> chat.ChatTemplate:
    """What stands around a prompt in training: the folder's, or the family's.

    Raises:
      errors.UserError: it is damaged.
    """
    return self._own_template or self._family_template or chat.PLAIN

  @functools.cached_property
  def _own_template(self) -> chat.ChatTemplate | None:
    return self.folder and chat.from_directory(self.folder.text)

  @property
  def _family_template(self) -> chat.ChatTemplate | None:
    family = FAMILIES.get(self.record.family)
    return family.template if family and self.folder else None

  def prompt_template(
    self, wanted: bool | None, name: str = ''
  ) -> chat.ChatTemplate:
    """What stands around the prompts of a user.

    Args:
      wanted: None: as in training, for the model of a run; else where the
        folder has a template and neither `name` nor its config calls the model
        a base model.
      name: of the model, as the user gave it.

    Raises:
      errors.UserError: a template is wanted and there is none, or it is
        damaged.
    """
    if wanted is False:
      return chat.PLAIN
    names = (
      pathlib.PurePath(name).name,
      self.record.config.get('_name_or_path'),
    )
    is_base = any(_BASE_NAME.search(str(n)) for n in names)
    if wanted is None and self.overrides is None and is_base:
      return chat.PLAIN
    try:
      template = self._own_template
    except errors.UserError as e:
      raise errors.UserError(f'{e}; or decode without it: --nochat') from e
    if wanted or self.overrides is not None:
      template = template or self._family_template
    template = template or chat.PLAIN
    if wanted and template == chat.PLAIN:
      raise errors.UsageError(
        f'--chat: {self.folder.path} has no chat template'
      )
    return template

  def check_masked(self) -> None:
    """Refuses a causal model, where one of masked diffusion is needed.

    Raises:
      errors.UserError: names the folder and the family.
    """
    if self.vocab is None:
      raise errors.UserError(
        f'{self.folder.path} is a causal model ({self.record.family}); this '
        'needs a masked diffusion model, such as LLaDA or Dream'
      )


def resolve(
  name: str | pathlib.Path, params: str | None = None
) -> tuple[pathlib.Path, str | None]:
  """(workdir, which model of it), or (model folder, None).

  Raises:
    errors.UserError: there is no such folder, or it has one model alone.
  """
  path = hub.locate(str(name))
  if workdir.read_config(path) is not None:
    return path, params or 'final'
  if params is not None:
    raise errors.UsageError(
      f'--params {params} is for the workdir of a run, and {path} is none'
    )
  in_run = path.name in policies.NAMES and workdir.read_config(path.parent)
  return (path.parent, path.name) if in_run else (path, None)


def kept_models(directory: pathlib.Path) -> dict[str, pathlib.Path]:
  """The models of a run that exist, by name; its base may be elsewhere."""
  kept = {name: directory / name for name in policies.NAMES}
  config = workdir.read_config(directory)
  if config is not None and not kept['base'].exists():
    kept['base'] = hub.place(config['base']['path'] or str(kept['base']))
  return {name: path for name, path in kept.items() if path.exists()}


def of_words(
  denoiser: types.Denoiser, tokenizer: tokenizer_lib.Tokenizer
) -> Model:
  """A new model with a word-level tokenizer."""
  special = hf_config.Special(
    mask_token=tokenizer.mask_token,
    eos_tokens=(tokenizer.eos_token,),
    pad_token=tokenizer.special.pad,
  )
  family = hf_config.family_of(denoiser.cfg)
  record = hf_config.Record(family, denoiser.cfg, special)
  return Model(
    denoiser=denoiser,
    record=record,
    vocab=vocabulary(record, tokenizer, 'the model'),
    tokenizer=tokenizer,
  )


def vocabulary(
  record: hf_config.Record,
  tokenizer: tokenizer_lib.Tokenizer | None,
  where: str,
) -> types.Vocabulary | None:
  """The ids that decoding must know; None of a causal model.

  Args:
    record: says the mask, and where there is no tokenizer all else.
    tokenizer: of the model.
    where: the model, for messages.

  Raises:
    errors.UserError: no EOS.
  """
  mask, stop = record.special.mask_token, record.special.eos_tokens
  if mask is None:
    return None
  size, eos = record.model.vocab_size, next(iter(stop), None)
  if tokenizer is not None:
    size = max(tokenizer.vocab_size, mask + 1)
    eos, stop = tokenizer.eos_token, tokenizer.special.stop
  if eos is None:
    raise errors.UserError(
      f'{where}: neither tokenizer nor config names an EOS; set eos_token_id '
      'in config.json'
    )
  return types.Vocabulary(
    size=size, mask_token=mask, eos_token=eos, stop_tokens=stop
  )


def of_folder(folder: load.Folder) -> Model:
  """The described model of a folder, whoever wrote it."""
  record, tokenizer = folder.record, None
  if any(folder_lib.has(folder.text, name) for name in table.TOKENIZERS):
    tokenizer = tokenizer_lib.Tokenizer.from_directory(
      folder.text, need_mask=False, model=record.config
    )
    tokenizer.check_rows(record.model.vocab_size, str(folder.path))
  return Model(
    denoiser=transformer.TransformerDenoiser(cfg=record.model),
    record=record,
    vocab=vocabulary(record, tokenizer, str(folder.path)),
    tokenizer=tokenizer,
    folder=folder,
  )


def _of_run(config: Mapping[str, Any]) -> dict[str, Any]:
  """How the models of a run are decoded, as launch/eval.py does; see `Model`.

  Args:
    config: of the run, as nested dicts.
  """
  sampling = dict(config['rollout'])
  prefill = sampling.pop('prefill')
  decoding = answer_free.RolloutConfig(**sampling).greedy()
  names = ('dtype', 'param_dtype', 'remat', 'attention')
  return {
    'decoding': dataclasses.replace(
      decoding, threshold=config['eval']['threshold']
    ),
    'prefill': prefill,
    'overrides': {k: config['model'][k] for k in names if k in config['model']},
  }
