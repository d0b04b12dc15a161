"""The directory of a run: who owns it, what it was started with, when to stop.

`claim` takes a directory for one run, and `StopRequest` lets a signal end that
run at a step boundary instead of in the middle of one.
"""

import contextlib
import fcntl
import importlib.metadata
import json
import math
import os
import pathlib
import platform
import signal
import subprocess
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from dllm_jax import errors

CONFIG_FILE = 'config.json'
LOCK_FILE = '.lock'
_PACKAGES = (
  'dllm_jax',
  'jax',
  'jaxlib',
  'flax',
  'optax',
  'orbax-checkpoint',
  'numpy',
)


def cache_dir() -> pathlib.Path:
  """Where data sets and compilations are kept between runs.

  $DLLM_JAX_CACHE, or ~/.cache/dllm_jax.
  """
  root = os.environ.get('DLLM_JAX_CACHE') or '~/.cache/dllm_jax'
  return pathlib.Path(root).expanduser()


def write_json(path: str | os.PathLike, obj: Any) -> None:
  """Writes `obj` to `path` so that a reader sees the old file or the new.

  JSON has no NaN and no infinity: they become the strings 'nan', 'inf', '-inf'.
  """
  path = pathlib.Path(path)
  temporary = path.with_name(f'{path.name}.{os.getpid()}.tmp')
  try:
    with temporary.open('w', encoding='utf-8') as f:
      json.dump(_plain(obj), f, indent=2, allow_nan=False)
      f.write('\n')
      f.flush()
      os.fsync(f.fileno())
    temporary.replace(path)
  finally:
    temporary.unlink(missing_ok=True)


def _plain(obj: Any) -> Any:
  """`obj` as it comes back from the JSON that `write_json` makes of it."""
  if isinstance(obj, Mapping):
    return {str(key): _plain(value) for key, value in obj.items()}
  if isinstance(obj, list | tuple):
    return [_plain(value) for value in obj]
  if isinstance(obj, float) and not math.isfinite(obj):
    return str(obj)
  return obj


@contextlib.contextmanager
def claim(
  workdir: str | os.PathLike,
  config: Mapping[str, Any],
  *,
  extra: Mapping[str, Any],
  free: tuple[str, ...] = (),
) -> Iterator[bool]:
  """Holds `workdir` for one run, and yields whether it continues an older one.

  A new directory is made and gets a config.json: the config, the git commit,
  versions, devices and `extra`. A directory that a run left behind is taken
  only by a run of the same config, and its config.json is brought up to date.
  A lock keeps a second trainer out until the block ends, or the process dies.
  With several processes, the first alone claims.

  Args:
    workdir: the directory; made with its parents where it is missing.
    config: nested, of JSON values; tuples count as lists.
    extra: more entries for config.json; not compared.
    free: dotted config keys that may differ from the older run's, such as
      'train.num_steps'. A group's name frees all of its keys.

  Raises:
    UserError: where another run holds it, began it with another config, or
      where it has files and no config.json.
  """
  path = pathlib.Path(workdir)
  try:
    path.mkdir(parents=True, exist_ok=True)
    lock = (path / LOCK_FILE).open('a')
  except OSError as e:
    raise errors.UserError(
      f'cannot write to workdir {path}: {e.strerror}; use another --workdir'
    ) from e
  with lock:
    try:
      fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      raise errors.UserError(
        f'workdir {path} is in use by another run; wait for its end, or use '
        'another --workdir'
      ) from None
    config = _plain(config)
    resumed = _holds_same_run(path, config, free)
    record = {
      'config': config,
      **code(),
      'devices': [d.device_kind for d in jax.devices()],
      **extra,
    }
    write_json(path / CONFIG_FILE, record)
    yield resumed


def code() -> dict[str, Any]:
  """The git commit and the versions of what runs here."""
  return {'git': _git_commit(), 'versions': _versions()}


def read_config(path: str | os.PathLike) -> dict[str, Any] | None:
  """The config that the run in `path` had; None where it does not say."""
  try:
    record = json.loads((pathlib.Path(path) / CONFIG_FILE).read_text('utf-8'))
    return record['config']
  except (OSError, ValueError, KeyError, TypeError):
    return None


def _holds_same_run(
  path: pathlib.Path, config: dict, free: tuple[str, ...]
) -> bool:
  """True for a run to continue, False for an empty place, else UserError."""
  config_path = path / CONFIG_FILE
  if not config_path.exists():
    strangers = sorted(
      p.name
      for p in path.iterdir()
      if p.name != LOCK_FILE and p.suffix != '.tmp'
    )
    if strangers:
      raise errors.UserError(
        f'workdir {path} has files (such as {strangers[0]}) and no '
        f'{CONFIG_FILE}, so it is not a run of ours; use another --workdir'
      )
    return False
  try:
    old = flatten(json.loads(config_path.read_text('utf-8'))['config'])
  except (ValueError, KeyError, TypeError, AttributeError) as e:
    raise errors.UserError(
      f'{config_path} cannot be read ({e}); use another --workdir'
    ) from e
  new = flatten(config)
  differing = [
    f'{key} ({_show(old, key)} there, {_show(new, key)} now)'
    for key in sorted(old.keys() | new.keys())
    if _show(old, key) != _show(new, key)
    and not any(key == f or key.startswith(f + '.') for f in free)
  ]
  if differing:
    more = f' and {len(differing) - 3} more' if len(differing) > 3 else ''
    raise errors.UserError(
      f'workdir {path} was begun with another config: '
      f'{", ".join(differing[:3])}{more}; use another --workdir'
    )
  return True


def flatten(config: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
  """{'a': {'b': 1}} -> {'a.b': 1}; an empty group stays, as itself."""
  flat = {}
  for key, value in config.items():
    name = f'{prefix}{key}'
    if isinstance(value, Mapping) and value:
      flat |= flatten(value, f'{name}.')
    else:
      flat[name] = value
  return flat


def _show(flat: Mapping[str, Any], key: str) -> str:
  return json.dumps(flat[key]) if key in flat else 'absent'


def _git_commit() -> str | None:
  """The commit of this checkout, '-dirty' where files differ; else None."""
  root = pathlib.Path(__file__).parents[2]
  if not (root / '.git').exists():
    return None
  command = ['git', 'describe', '--always', '--dirty', '--abbrev=40']
  try:
    done = subprocess.run(
      [*command, '--exclude=*'],
      cwd=root,
      capture_output=True,
      text=True,
      timeout=30,
      check=False,
    )
  except (OSError, subprocess.TimeoutExpired):
    return None
  return done.stdout.strip() or None


def _versions() -> dict[str, str | None]:
  versions = {'python': platform.python_version()}
  for package in _PACKAGES:
    try:
      versions[package] = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
      versions[package] = None
  return versions


class StopRequest:
  """Turns SIGTERM and SIGINT into a flag for the loop to look at.

  Inside the `with` block a signal only sets `requested`, so that the loop can
  end its step and save. A second SIGINT raises KeyboardInterrupt. The former
  handlers come back when the block ends. For the main thread alone.
  """

  def __init__(self):
    self.requested = False
    self._interrupted = False
    self._former = {}

  def __enter__(self) -> 'StopRequest':
    for number in (signal.SIGTERM, signal.SIGINT):
      self._former[number] = signal.signal(number, self._handle)
    return self

  def __exit__(self, *exc_info) -> None:
    for number, handler in self._former.items():
      signal.signal(number, handler)

  def _handle(self, number: int, frame: Any) -> None:
    del frame
    if number == signal.SIGINT and self._interrupted:
      raise KeyboardInterrupt
    self._interrupted |= number == signal.SIGINT
    self.requested = True
