"""A model to decode with, from whichever kind of folder it lies in.

Everything that can be refused is refused before a weight is read.
"""

import dataclasses
import pathlib
import re
from collections.abc import Callable
from typing import NamedTuple

from jax.sharding import Mesh

from dllm_jax import errors, types
from dllm_jax.hf import config as hf_config
from dllm_jax.hf import folder as folder_lib
from dllm_jax.hf import pretrained
from dllm_jax.models import transformer
from dllm_jax.rollout import answer_free
from dllm_jax.run import kept_models, pretrained_base, settings
from dllm_jax.runtime import console, sharding
from dllm_jax.state import checkpoint, workdir
from dllm_jax.text import chat
from dllm_jax.text import tokenizer as tokenizer_lib

# Of a pretrained model; a run has its own.
DECODING = answer_free.RolloutConfig(
  num_prompts=1,
  group_size=1,
  max_prompt_length=1,
  gen_length=128,
  block_length=32,
  temperature=0.0,
  num_steps=128,
  threshold=0.9,
)
_BASE_NAME = re.compile(r'(?i)(^|[-_.])base($|[-_.@])')


class Source(NamedTuple):
  """A model that was found, and not yet read.

  Attributes:
    rows: of its embedding table.
    vocab: special ids.
    tokenizer: None where the folder has none.
    decoding: greedy, as it is meant to be decoded.
    load: reads the weights: the denoiser and its parameters.
    record: of a pretrained model; None for a run's.
    template: what stood around the prompts of a run; None for other models.
  """

  rows: int
  vocab: types.Vocabulary
  tokenizer: tokenizer_lib.Tokenizer | None
  decoding: answer_free.RolloutConfig
  load: Callable[[Mesh, console.Console], tuple[types.Denoiser, types.Params]]
  record: hf_config.Record | None
  template: chat.ChatTemplate | None = None


def find(directory: pathlib.Path, name: str | None) -> Source:
  """The model of a folder.

  Args:
    directory: a Hugging Face folder, a converted one, or the workdir of a run.
    name: which model of a run; None is 'final'. Other folders have one.

  Raises:
    errors.UserError: it is none of these, or a model that is not decoded here.
  """
  config = workdir.read_config(directory)
  if config is not None:
    return _of_run(directory, config, name or 'final')
  if name is not None:
    raise errors.UsageError(
      f'--params {name} is for the workdir of a run, and {directory} is none'
    )
  return _of_pretrained(directory)


def template(
  directory: pathlib.Path, source: Source, name: str, wanted: bool | None
) -> chat.ChatTemplate:
  """What stands around a prompt's text.

  Args:
    directory: of the model.
    source: found there.
    name: of the model, as the user gave it.
    wanted: None: as in training, for the model of a run; else where the folder
      has a chat template and neither `name` nor its config calls the model a
      base model.

  Raises:
    errors.UserError: a template is wanted and there is none, or it is damaged.
  """
  if wanted is False:
    return chat.PLAIN
  if source.record is None:
    if wanted and source.template == chat.PLAIN:
      raise errors.UsageError('--chat: the model of a run has no chat template')
    return source.template
  config = source.record.config
  names = (pathlib.PurePath(name).name, config.get('_name_or_path'))
  if wanted is None and any(_BASE_NAME.search(str(n)) for n in names):
    return chat.PLAIN
  try:
    found = chat.from_directory(directory)
  except errors.UserError as e:
    raise errors.UserError(f'{e}; or decode without it: --nochat') from e
  if found is None and wanted:
    found = chat.FAMILIES.get(source.record.family)
    if found is None:
      raise errors.UsageError(f'--chat: {directory} has no chat template')
  return found or chat.PLAIN


def _of_pretrained(directory: pathlib.Path) -> Source:
  record = pretrained.read_record(directory)
  mask = record.special.mask_token
  if record.model.causal or mask is None:
    raise errors.UserError(
      f'{directory} is a causal model ({record.family}), and only masked '
      'diffusion models (llada, dream) are decoded here'
    )
  tokenizer, stop = None, record.special.eos_tokens
  eos = next(iter(stop), None)
  size = rows = record.model.vocab_size
  if any(
    folder_lib.has(directory, n) for n in ('tokenizer.json', 'vocab.json')
  ):
    # A converted folder has no config.json: the mask id is the record's.
    tokenizer = tokenizer_lib.Tokenizer.from_directory(
      directory, need_mask=False
    )
    tokenizer.check_rows(rows, str(directory))
    eos, stop = tokenizer.eos_token, tokenizer.special.stop
    size = max(tokenizer.vocab_size, mask + 1)
  if eos is None:
    raise errors.UserError(
      f'{directory}: neither tokenizer nor config names an EOS; set '
      'eos_token_id in config.json'
    )

  def load(mesh, screen):
    model = pretrained.open_model(directory, mesh, screen=screen)
    return transformer.TransformerDenoiser(cfg=model.cfg), model.params

  vocab = types.Vocabulary(
    size=size, mask_token=mask, eos_token=eos, stop_tokens=stop
  )
  return Source(rows, vocab, tokenizer, DECODING, load, record)


def _of_run(directory: pathlib.Path, config: dict, name: str) -> Source:
  try:
    cfg = settings.from_config(config)
  except (KeyError, TypeError, AttributeError) as e:
    raise errors.UserError(
      f'{directory / workdir.CONFIG_FILE} is not of this version: {e!r}'
    ) from e
  there = kept_models.paths(directory)
  kept_models.check_has(directory, name, there)
  path = there[name]
  folder = directory / pretrained_base.FOLDER
  origin, template = None, chat.PLAIN
  if folder.is_dir():
    origin = pretrained_base.read(folder)
    tokenizer, template = origin.tokenizer, origin.template
  else:
    tokenizer = kept_models.read_tokenizer(directory)
  vocab = types.Vocabulary(
    size=tokenizer.vocab_size,
    mask_token=tokenizer.mask_token,
    eos_token=tokenizer.eos_token,
    stop_tokens=tokenizer.special.stop,
  )
  if origin is None:
    denoiser, rows = cfg.denoiser(vocab), vocab.size
  else:
    model = cfg.adopt(origin.record.model, adapters=True)
    denoiser, rows = (
      transformer.TransformerDenoiser(cfg=model),
      model.vocab_size,
    )

  def load(mesh, screen):
    if pretrained_base.is_folder(path):
      opened = pretrained.open_model(path, mesh, screen=screen)
      return transformer.TransformerDenoiser(cfg=opened.cfg), opened.params
    like = sharding.param_targets(denoiser, mesh)
    params, _ = checkpoint.load_params(path, like)
    return denoiser, params

  # As launch/eval.py decodes.
  decoding = dataclasses.replace(
    cfg.rollout.greedy(), threshold=cfg.eval.threshold
  )
  return Source(rows, vocab, tokenizer, decoding, load, None, template)
