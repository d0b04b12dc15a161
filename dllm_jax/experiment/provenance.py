"""Where a run was started: its command, and the machine."""

import os
import pathlib
import platform
import shlex
import sys
from typing import Any


def record() -> dict[str, Any]:
  """What config.json says beside config, commit, versions and devices."""
  machine = {'system': platform.platform(), 'cores': os.cpu_count()}
  if name := _processor():
    machine['processor'] = name
  return {'command': shlex.join(['python', *sys.argv]), 'machine': machine}


def _processor() -> str:
  """The model of the CPU, as Linux names it; '' where nothing does."""
  try:
    for line in pathlib.Path('/proc/cpuinfo').read_text().splitlines():
      if line.startswith('model name'):
        return line.partition(':')[2].strip()
  except OSError:
    pass
  return platform.processor()
