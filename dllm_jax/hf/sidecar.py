"""Our own file of a model folder: `dllm_jax.json`.

It holds digests of the folder's other files, so that damage is noticed before
a weight is used, and what a stage of a run kept beside its parameters. Folders
of others have none, and removing it makes a folder one of others.
"""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from dllm_jax import errors
from dllm_jax.hf import folder as folder_lib
from dllm_jax.runtime import digests

FILE = 'dllm_jax.json'


class Damaged(errors.UserError):
  """A folder is not as it was written.

  Attributes:
    reason: which file, without what to do.
  """

  def __init__(self, folder: pathlib.Path, how: str):
    self.reason = f'model folder {folder} is damaged: {how}'
    super().__init__(
      f'{self.reason}; restore it, or remove {FILE} if you changed it yourself'
    )


def write(folder: pathlib.Path, kept: Mapping[str, Any]) -> None:
  """Writes the digests of all files of a folder, and `kept`, last of all."""
  files = digests.of_folder(folder)
  content = {'kept': dict(kept), 'xxh3_128': files}
  content['sha256'] = _seal(content)
  text = json.dumps(content, indent=2) + '\n'
  (folder / FILE).write_text(text, 'utf-8')


def read(folder: pathlib.Path) -> dict[str, Any]:
  """What `write` kept; {} where there is no such file.

  Raises:
    Damaged: the file is not as it was written.
  """
  return _read(folder)[0]


def check(folder: pathlib.Path) -> None:
  """Refuses a folder whose files are not as they were written.

  Raises:
    Damaged: a file is missing or has changed.
    UserError: a file cannot be read.
  """
  _, files = _read(folder)
  for name in files:
    if not folder_lib.has(folder, name):
      raise Damaged(folder, f'{name} is missing')
  paths = [folder_lib.member(folder, name) for name in files]
  actual = digests.of_files(paths)
  for name, digest in zip(files, actual, strict=True):
    if isinstance(digest, OSError):
      raise errors.UserError(
        f'cannot read {folder / name}: {digest.strerror}; check the disk'
      )
    if digest != files[name]:
      raise Damaged(folder, f'{name} has changed')


def _read(folder: pathlib.Path) -> tuple[dict[str, Any], dict[str, str]]:
  """(what was kept, the digests by file name)."""
  if not folder_lib.has(folder, FILE):
    return {}, {}
  try:
    content = folder_lib.read_json(folder, FILE)
    if content.pop('sha256', None) != _seal(content):
      raise ValueError('another digest')
    return dict(content['kept']), dict(content['xxh3_128'])
  except (errors.UserError, ValueError, KeyError, TypeError):
    raise Damaged(folder, f'{FILE} has changed') from None


def _seal(content: Mapping[str, Any]) -> str:
  return digests.of_text(json.dumps(content, sort_keys=True))
