"""What a converted folder says of its model, beside the parameters.

The record of the model is the meta of its checkpoint; the tokenizer's files are
copies, whose digests the record has.
"""

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from dllm_jax import errors
from dllm_jax.hf import config as hf_config
from dllm_jax.hf import families as hf_families
from dllm_jax.hf import folder as folder_lib
from dllm_jax.models import config as model_config
from dllm_jax.runtime import digests
from dllm_jax.state import checkpoint
from dllm_jax.text import directory as text_directory

PARAMS = 'params'
FORMAT = 2
# Text alone, and none of it is program code.
TOKENIZER_FILES = (
  'tokenizer.json',
  'tokenizer_config.json',
  'vocab.json',
  'merges.txt',
  'added_tokens.json',
  'special_tokens_map.json',
  'chat_template.jinja',
  'generation_config.json',
)


def read_record(directory: pathlib.Path) -> hf_config.Record:
  """The record of a converted folder, once all but its weights was checked.

  Raises:
    UserError: it is malformed or damaged.
  """
  meta = checkpoint.read_meta(directory / PARAMS)
  _check_files(directory, meta.get('files'))
  return _from_meta(meta, directory)


def copy_tokenizer(source: pathlib.Path, work: pathlib.Path) -> dict[str, str]:
  """Copies what the folder has of a tokenizer; the digests, by name."""
  found = {}
  for name in TOKENIZER_FILES:
    if folder_lib.has(source, name):
      folder_lib.copy(source, name, work)
      found[name] = digests.of_file(work / name)
  return found


def keep_ids(record: hf_config.Record, work: pathlib.Path) -> dict[str, str]:
  """Writes what a tokenizer reads of config.json; its digest, by name."""
  kept = {k: v for k, v in record.config.items() if k in text_directory.IDS}
  path = work / text_directory.IDS_FILE
  path.write_text(json.dumps(kept, indent=2) + '\n', 'utf-8')
  return {path.name: digests.of_file(path)}


def _check_files(directory: pathlib.Path, files: Any) -> None:
  """Refuses tokenizer files that are not as they were copied."""
  if not isinstance(files, dict):
    raise _damaged(directory, 'its record names no files')
  for name, digest in files.items():
    if digests.of_file(folder_lib.member(directory, name)) != digest:
      raise _damaged(directory, f'{name} is not as it was written')
  for name in TOKENIZER_FILES:
    if name not in files and folder_lib.has(directory, name):
      raise _damaged(directory, f'{name} was put there afterwards')


def _damaged(directory: pathlib.Path, how: str) -> errors.UserError:
  return errors.UserError(
    f'converted model {directory} is damaged: {how}; convert it again'
  )


def to_meta(
  record: hf_config.Record, files: Mapping[str, str]
) -> dict[str, Any]:
  """What the checkpoint's meta says: the record, and the files' digests."""
  return {
    'format': FORMAT,
    'family': record.family,
    'model': dataclasses.asdict(record.model),
    'special': dataclasses.asdict(record.special),
    'config': dict(record.config),
    'files': dict(files),
  }


def _from_meta(
  meta: Mapping[str, Any], directory: pathlib.Path
) -> hf_config.Record:
  if meta.get('format') != FORMAT:
    raise errors.UserError(
      f'converted model {directory} has format {meta.get("format")!r}, and '
      f'this program reads {FORMAT}; convert it again'
    )
  try:
    if meta['family'] not in hf_families.FAMILIES:
      raise ValueError(f'there is no family {meta["family"]!r}')
    model, special = dict(meta['model']), dict(meta['special'])
    if model['rope_scaling']:
      model['rope_scaling'] = model_config.RopeScaling(**model['rope_scaling'])
    special['eos_tokens'] = tuple(special['eos_tokens'])
    return hf_config.Record(
      family=meta['family'],
      model=model_config.ModelConfig(**model),
      special=hf_config.Special(**special),
      config=dict(meta['config']),
    )
  except (KeyError, TypeError, ValueError) as e:
    raise _damaged(directory, f'its record is malformed ({e})') from None
