"""Provenance of a run: commit, versions, machine and command."""

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
  """The git commit, and the versions of Python and packages."""
  return {'git': git_commit(), 'versions': versions()}


def record() -> dict[str, Any]:
  """What config.json records besides the config."""
  machine = {'system': platform.platform(), 'cores': os.cpu_count()}
  if name := _processor():
    machine['processor'] = name
  return code() | {
    'devices': [d.device_kind for d in jax.devices()],
    'command': shlex.join(['python', *sys.argv]),
    'machine': machine,
  }


def _processor() -> str:
  """The CPU model as Linux reports it; '' if unknown."""
  try:
    for line in pathlib.Path('/proc/cpuinfo').read_text().splitlines():
      if line.startswith('model name'):
        return line.partition(':')[2].strip()
  except OSError:
    pass
  return platform.processor()


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
  """Differences that can change the last bits of a run, one string each.

  Args:
    old: the `record` of an earlier run; entries that it lacks are not compared.
    new: the `record` of this one.
  """
  differences = []
  before, after = old.get('versions') or {}, new['versions']
  for name in sorted(before.keys() & after.keys()):
    if before[name] != after[name]:
      differences.append(f'{name} {before[name]} -> {after[name]}')
  before, after = old.get('devices'), new['devices']
  if before and before != after:
    differences.append(f'devices {_counted(before)} -> {_counted(after)}')
  return differences


def _counted(devices: list[str]) -> str:
  kinds = dict.fromkeys(devices)
  return ' + '.join(f'{devices.count(kind)} {kind}' for kind in kinds)


def git_commit() -> str | None:
  """The commit of this checkout, with '-dirty' if files differ; or None."""
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
  """Versions of Python and of the packages that affect numerical results."""
  installed = {'python': platform.python_version()}
  for package in _PACKAGES:
    try:
      installed[package] = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
      installed[package] = None
  return installed
