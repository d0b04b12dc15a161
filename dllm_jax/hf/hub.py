"""Models by name: ORG/NAME@REVISION from the Hugging Face hub, pinned.

Only data is fetched: JSON, safetensors and the text files of tokenizers. The
files are real ones in our cache, and are read like any other folder's.
"""

import pathlib
import re

from dllm_jax import errors
from dllm_jax.runtime import cache

PATTERNS = ('*.json', '*.safetensors', 'merges.txt', '*.jinja')
_REPO = re.compile(r'[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}', re.ASCII)
_REVISION = re.compile(r'[0-9a-f]{40}')


def is_name(name: str) -> bool:
  """Whether that is ORG/NAME@REVISION, the revision a commit."""
  repo, _, revision = name.partition('@')
  return bool(_REPO.fullmatch(repo) and _REVISION.fullmatch(revision))


def name_of(path: pathlib.Path) -> str:
  """The name of what `place` put there; else the absolute path."""
  path = path.absolute()
  name = f'{path.parent.name.replace("--", "/", 1)}@{path.name}'
  return name if is_name(name) and place(name) == path else str(path)


def origin(path: pathlib.Path) -> dict[str, str | None]:
  """Where weights are from: 'name', and the 'commit' of a download, or None."""
  name = name_of(path)
  if not is_name(name):
    return {'name': name, 'commit': None}
  repo, _, commit = name.partition('@')
  return {'name': repo, 'commit': commit}


def place(name: str) -> pathlib.Path:
  """Where the folder of a model is, or would be once it is downloaded."""
  path = pathlib.Path(name)
  repo, _, revision = name.partition('@')
  if path.exists() or not is_name(name):
    return path
  root = cache.cache_dir() / 'hub'
  return root / repo.replace('/', '--') / revision


def locate(name: str) -> pathlib.Path:
  """The folder of a model: `name` itself, or its download.

  Args:
    name: a path, or ORG/NAME@REVISION with the 40 hex digits of a commit.

  Raises:
    UserError: neither a folder nor such a name, or the hub does not give it.
  """
  path = pathlib.Path(name)
  try:
    if path.exists():
      return path
  except OSError as e:  # a name that no file system takes
    raise errors.UserError(
      f'{name[:80]!r} is no path ({e.strerror}); check it'
    ) from None
  repo, at, revision = name.partition('@')
  if not _REPO.fullmatch(repo) or '..' in repo:
    raise errors.UserError(f'there is no folder {name}; check the path')
  if not at:
    raise errors.UserError(
      f'there is no folder {name}; for the model of that name on the hub add '
      'the commit that you mean: ORG/NAME@REVISION, 40 hex digits'
    )
  if not _REVISION.fullmatch(revision):
    raise errors.UserError(
      f'{revision!r} is not a commit of {repo}: branches and tags can change '
      'under the same name; give the 40 hex digits of the commit'
    )
  return _download(repo, revision, place(name))


def _download(repo: str, revision: str, target: pathlib.Path) -> pathlib.Path:
  import huggingface_hub  # Late: it is slow to import, and seldom wanted.
  from huggingface_hub import errors as hub_errors

  try:
    path = huggingface_hub.snapshot_download(
      repo_id=repo,
      revision=revision,
      local_dir=target,
      allow_patterns=list(PATTERNS),
      ignore_patterns=['*/*'],  # copies in other layouts, as in original/
    )
  except (OSError, ValueError, hub_errors.HfHubHTTPError) as e:
    reason = str(e).strip().splitlines() or [type(e).__name__]
    raise errors.UserError(
      f'{repo}@{revision} cannot be downloaded ({reason[0]}); check the name, '
      'the network, and for gated models your login'
    ) from e
  return pathlib.Path(path)
