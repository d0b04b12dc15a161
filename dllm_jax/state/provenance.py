"""Where the numbers of a run come from: commit, versions, machine, command."""

import importlib.metadata
import os
import pathlib
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import jax

_PACKAGES = (
  'dllm_jax',
  'jax',
  'jaxlib',
  'flax',
  'optax',
  'orbax-checkpoint',
  'numpy',
)


def code() -> dict[str, Any]:
  """The commit and the versions of what runs here."""
  return {'git': git_commit(), 'versions': versions()}


def record() -> dict[str, Any]:
  """What config.json says beside the config."""
  machine = {'system': platform.platform(), 'cores': os.cpu_count()}
  if name := _processor():
    machine['processor'] = name
  return code() | {
    'devices': [d.device_kind for d in jax.devices()],
    'command': shlex.join(['python', *sys.argv]),
    'machine': machine,
  }


def _processor() -> str:
  """The model of the CPU, as Linux names it; '' where nothing does."""
  try:
    for line in pathlib.Path('/proc/cpuinfo').read_text().splitlines():
      if line.startswith('model name'):
        return line.partition(':')[2].strip()
  except OSError:
    pass
  return platform.processor()


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
  """What differs of two records and can change the last bits of a run.

  Entries that the old one does not have say nothing.
  """
  found = []
  before, after = old.get('versions') or {}, new['versions']
  for name in sorted(before.keys() & after.keys()):
    if before[name] != after[name]:
      found.append(f'{name} {before[name]} -> {after[name]}')
  before, after = old.get('devices'), new['devices']
  if before and before != after:
    found.append(f'devices {_counted(before)} -> {_counted(after)}')
  return found


def _counted(devices: list[str]) -> str:
  kinds = dict.fromkeys(devices)
  return ' + '.join(f'{devices.count(kind)} {kind}' for kind in kinds)


def git_commit() -> str | None:
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


def versions() -> dict[str, str | None]:
  """Of Python and of the packages that decide the numbers."""
  found = {'python': platform.python_version()}
  for package in _PACKAGES:
    try:
      found[package] = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
      found[package] = None
  return found
