"""The models that a workdir keeps: where they are, and with which words."""

import pathlib

from dllm_jax import errors
from dllm_jax.analysis import policies
from dllm_jax.hf import hub
from dllm_jax.run import results
from dllm_jax.state import workdir
from dllm_jax.text import tokenizer as tokenizer_lib


def paths(directory: pathlib.Path) -> dict[str, pathlib.Path]:
  """Those of a run that are there, by name; its base may be elsewhere."""
  kept = {name: directory / name for name in policies.NAMES}
  own = workdir.read_config(directory)
  if own is not None and not kept['base'].exists():
    kept['base'] = hub.place(own['base']['path'] or str(kept['base']))
  return {name: path for name, path in kept.items() if path.exists()}


def check_has(
  directory: pathlib.Path, name: str, there: dict[str, pathlib.Path]
) -> None:
  """Refuses a model that is not among those of `paths`.

  Raises:
    errors.UserError: it says which are.
  """
  if name not in there:
    if not directory.is_dir():
      raise errors.UserError(f'there is no folder {directory}; check the path')
    raise errors.UserError(
      f'{directory} holds no model {name!r}'
      + (f'; it has {", ".join(there)} (--params)' if there else '')
    )


def read_tokenizer(directory: pathlib.Path) -> tokenizer_lib.Tokenizer:
  """The word-level tokenizer of a run.

  Raises:
    errors.UserError: there is none, so that the folder is no workdir.
  """
  try:
    return tokenizer_lib.Tokenizer.load(directory / results.TOKENIZER_FILE)
  except (FileNotFoundError, ValueError) as e:
    raise errors.UserError(f'{directory} is no workdir of a run: {e}') from e
