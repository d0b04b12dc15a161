"""The working directory of a run: its lock, and the config it began with."""

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
from dllm_jax.text import json_file

CONFIG_FILE = 'config.json'
LOCK_FILE = '.lock'
# Files that a killed run may leave incomplete.
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


def write_json(path: str | os.PathLike, obj: Any) -> None:
  """Atomically writes an object as JSON.

  Args:
    path: of the file; an existing one is replaced.
    obj: JSON values; NaN and infinities become 'nan', 'inf' and '-inf'.
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
  """`obj` as it is read back from the JSON that `write_json` writes."""
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
  """Locks `workdir` for one run, and yields whether that run is resumed.

  A new directory gets a config.json: the config, the git commit, versions,
  devices and `extra`. An existing run is resumed only under the same config;
  its incomplete files are removed and its config.json is updated. The lock is
  held until the block ends or the process dies. With several processes, only
  the first claims.

  Args:
    workdir: the directory; created if it does not exist.
    config: nested dicts of JSON values; tuples are equal to lists.
    extra: more entries for config.json, which are not compared.
    free: dotted config keys that may differ from the earlier run's, such as
      'train.num_steps'; the name of a group stands for all of its keys.
    say: called with one line if free keys, versions or devices differ from
      those of the earlier run.

  Raises:
    UserError: another run holds the lock or began with another config, the
      directory has files but no config.json, or it is not writable.
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
          'resumed with other settings, libraries or devices: '
          f'{", ".join(others)}; the result may differ in its last bits from '
          'that of an uninterrupted run'
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
  """Locks the file and writes the holder's name into it.

  The kernel releases the lock when the process ends; the file may remain.
  """
  try:
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    lock.seek(0)
    holder = lock.read(200).strip() or 'another run'
    raise errors.UserError(
      f'workdir {path} is in use by {holder}; wait until it ends, or use '
      'another --workdir'
    ) from None
  except OSError as e:
    raise errors.UserError(
      f'cannot lock workdir {path}: {e.strerror}; use a file system that '
      'supports locks'
    ) from e
  lock.truncate(0)
  lock.write(f'process {os.getpid()} on {socket.gethostname()}\n')
  lock.flush()


def read_config(path: str | os.PathLike) -> dict[str, Any] | None:
  """The config of the run in `path`; None if it cannot be read."""
  try:
    return json_file.read_object(pathlib.Path(path) / CONFIG_FILE)['config']
  except (errors.UserError, KeyError):
    return None


def _earlier(path: pathlib.Path) -> dict[str, Any] | None:
  """The config.json of a run to resume; None in an empty directory."""
  config_path = path / CONFIG_FILE
  if not config_path.exists():
    others = sorted(
      p.name
      for p in path.iterdir()
      if p.name != LOCK_FILE and p.suffix != '.tmp'
    )
    if others:
      raise errors.UserError(
        f'workdir {path} has files (such as {others[0]}) but no '
        f'{CONFIG_FILE}, so it is not a run of ours; use another --workdir'
      )
    return None
  try:
    record = json.loads(config_path.read_text('utf-8'))
    flatten(record['config'])
    return record
  except (ValueError, KeyError, TypeError, AttributeError, OSError) as e:
    raise errors.UserError(
      f'cannot read {config_path} ({e}); use another --workdir'
    ) from e


def check_resumable(
  workdir: str | os.PathLike,
  config: Mapping[str, Any],
  *,
  free: tuple[str, ...],
) -> None:
  """Raises the UserErrors of `claim` about another config, without a lock.

  Called before a run spends time on its data. Arguments are those of `claim`.
  """
  path = pathlib.Path(workdir)
  old = _earlier(path) if path.is_dir() else None
  if old is not None:
    _free_changes(path, old, _plain(config), free)


def check_data(workdir: str | os.PathLike, digests: Mapping[str, str]) -> None:
  """Refuses to continue a run on other data than it began with.

  Args:
    workdir: directory of the run; it need not exist.
    digests: of the data by name, as the run wrote them under 'data' in its
      config.json.
  """
  path = pathlib.Path(workdir)
  old = (_earlier(path) or {}).get('data', {}) if path.is_dir() else {}
  changed = [name for name in old if digests.get(name) != old[name]]
  if changed:
    raise errors.UserError(
      f'the data of workdir {path} have changed since the run began '
      f'({", ".join(changed)}): restore them, or use another --workdir'
    )


def _free_changes(
  path: pathlib.Path,
  old: Mapping[str, Any],
  config: Mapping[str, Any],
  free: tuple[str, ...],
) -> list[str]:
  """Differences in free keys; raises a UserError about any others."""
  keys = changes(old['config'], config)
  one_sided = flatten(old['config']).keys() ^ flatten(config).keys()
  groups = tuple(f'{name}.' for name in free)
  is_free = lambda k: k not in one_sided and f'{k}.'.startswith(groups)
  fixed = [change for key, change in keys.items() if not is_free(key)]
  if fixed:
    more = len(fixed) - _KEYS_SHOWN
    by = ' or by another version of this program' if one_sided else ''
    raise errors.UserError(
      f'workdir {path} was begun with another config{by}: '
      f'{", ".join(fixed[:_KEYS_SHOWN])}{f" and {more} more" * (more > 0)}; '
      'use another --workdir'
    )
  return [change for key, change in keys.items() if is_free(key)]


def changes(was: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, str]:
  """'key: old -> new' by key that differs, names of choices first."""
  was, now = flatten(_plain(was)), flatten(_plain(now))
  names = sorted(was.keys() | now.keys())
  names.sort(key=lambda key: not key.endswith('.name'))
  return {
    key: f'{key}: {_show(was, key)} -> {_show(now, key)}'
    for key in names
    if _show(was, key) != _show(now, key)
  }


def flatten(config: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
  """{'a': {'b': 1}} -> {'a.b': 1}; an empty group keeps its name."""
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
