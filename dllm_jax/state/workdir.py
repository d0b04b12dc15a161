"""The directory of a run: who owns it, and what it was started with.

`claim` takes a directory for one run.
"""

import contextlib
import fcntl
import json
import math
import os
import pathlib
import shutil
import socket
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TextIO

from dllm_jax import errors
from dllm_jax.state import provenance

CONFIG_FILE = 'config.json'
LOCK_FILE = '.lock'
# What a killed run may leave half written.
_STALE = (
  'config.json.*.tmp',
  'eval.json.*.tmp',
  'metrics.jsonl.tmp',
  '*.partial',
  'checkpoints/*/*.partial',
  '.base.????????',
  '.control.????????',
  '.final.????????',
)
_KEYS_SHOWN = 8


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
  say: Callable[[str], None] = lambda line: None,
) -> Iterator[bool]:
  """Holds `workdir` for one run, and yields whether it continues an older one.

  A new directory is made and gets a config.json: the config, the git commit,
  versions, devices and `extra`. A directory that a run left behind is taken
  only by a run of the same config; what that run left half written is removed,
  and config.json is brought up to date. A lock keeps a second trainer out until
  the block ends, or the process dies. With several processes, the first alone
  claims.

  Args:
    workdir: the directory; made with its parents where it is missing.
    config: nested, of JSON values; tuples count as lists.
    extra: more entries for config.json; not compared.
    free: dotted config keys that may differ from the older run's, such as
      'train.num_steps'. A group's name frees all of its keys.
    say: is told, in one line, of free keys, versions and devices that are not
      those of the older run.

  Raises:
    UserError: where another run holds it, began it with another config, where
      it has files and no config.json, or cannot be written.
  """
  path = pathlib.Path(workdir)
  try:
    path.mkdir(parents=True, exist_ok=True)
    lock = (path / LOCK_FILE).open('a+')
  except OSError as e:
    raise errors.UserError(
      f'cannot write to workdir {path}: {e.strerror}; use another --workdir'
    ) from e
  with lock:
    _take(lock, path)
    record = {
      'config': _plain(config),
      **provenance.record(),
      **extra,
    }
    old = _earlier(path)
    if old is not None:
      others = _free_changes(path, old, record['config'], free)
      if others := others + provenance.changes(old, record):
        say(
          'begun with other settings, libraries or devices: '
          f'{", ".join(others)}; the same bits as without a stop are not '
          'promised'
        )
    try:
      for pattern in _STALE:
        for stale in path.glob(pattern):
          remove = shutil.rmtree if stale.is_dir() else pathlib.Path.unlink
          remove(stale)
      write_json(path / CONFIG_FILE, record)
    except OSError as e:
      raise errors.UserError(
        f'cannot write to workdir {path}: {e.strerror}; free some space, or '
        'use another --workdir'
      ) from e
    yield old is not None


def _take(lock: TextIO, path: pathlib.Path) -> None:
  """Locks the file, which then says who has it.

  The lock is the kernel's and ends with the process; a file that a dead one
  left is nothing but text.
  """
  try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    lock.seek(0)
    holder = lock.read(200).strip() or 'another run'
    raise errors.UserError(
      f'workdir {path} is in use by {holder}; wait for its end, or use another '
      '--workdir'
    ) from None
  except OSError as e:
    raise errors.UserError(
      f'workdir {path} cannot be locked: {e.strerror}; use a file system with '
      'locks'
    ) from e
  lock.truncate(0)
  lock.write(f'process {os.getpid()} on {socket.gethostname()}\n')
  lock.flush()


def read_config(path: str | os.PathLike) -> dict[str, Any] | None:
  """The config that the run in `path` had; None where it does not say."""
  try:
    record = json.loads((pathlib.Path(path) / CONFIG_FILE).read_text('utf-8'))
    return record['config']
  except (OSError, ValueError, KeyError, TypeError):
    return None


def _earlier(path: pathlib.Path) -> dict[str, Any] | None:
  """The config.json of a run to continue; None in an empty place."""
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
    return None
  try:
    record = json.loads(config_path.read_text('utf-8'))
    flatten(record['config'])
    return record
  except (ValueError, KeyError, TypeError, AttributeError, OSError) as e:
    raise errors.UserError(
      f'{config_path} cannot be read ({e}); use another --workdir'
    ) from e


def check_resumable(
  workdir: str | os.PathLike,
  config: Mapping[str, Any],
  *,
  free: tuple[str, ...],
) -> None:
  """Raises the UserErrors of `claim` about another config, and takes nothing.

  For a run to see it before it spends time on its data.
  """
  path = pathlib.Path(workdir)
  old = _earlier(path) if path.is_dir() else None
  if old is not None:
    _free_changes(path, old, _plain(config), free)


def check_data(workdir: str | os.PathLike, digests: Mapping[str, str]) -> None:
  """Refuses to continue a run on other data than it began with.

  Args:
    workdir: of the run, if there is one.
    digests: of the data by name, as the run put them under 'data' of its
      config.json.
  """
  path = pathlib.Path(workdir)
  was = (_earlier(path) or {}).get('data', {}) if path.is_dir() else {}
  changed = [name for name in was if digests.get(name) != was[name]]
  if changed:
    raise errors.UserError(
      f'the data of workdir {path} are not those that it was begun with '
      f'({", ".join(changed)}); put them back, or use another --workdir'
    )


def _free_changes(
  path: pathlib.Path,
  old: Mapping[str, Any],
  config: Mapping[str, Any],
  free: tuple[str, ...],
) -> list[str]:
  """Changes of the keys that may change; refuses others."""
  keys = changes(old['config'], config)
  is_free = lambda key: any(key == f or key.startswith(f + '.') for f in free)
  fixed = [change for key, change in keys.items() if not is_free(key)]
  if fixed:
    more = len(fixed) - _KEYS_SHOWN
    raise errors.UserError(
      f'workdir {path} was begun with another config: '
      f'{", ".join(fixed[:_KEYS_SHOWN])}{f" and {more} more" * (more > 0)}; '
      'use another --workdir'
    )
  return [change for key, change in keys.items() if is_free(key)]


def changes(was: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, str]:
  """'key: was -> is' of each key that differs; what explains others first."""
  was, now = flatten(_plain(was)), flatten(_plain(now))
  names = sorted(was.keys() | now.keys())
  names.sort(key=lambda key: not key.endswith('.name'))
  return {
    key: f'{key}: {_show(was, key)} -> {_show(now, key)}'
    for key in names
    if _show(was, key) != _show(now, key)
  }


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
