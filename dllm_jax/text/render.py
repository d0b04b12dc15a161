"""Runs `render_child.py` on a chat template, and believes nothing it says."""

import json
import pathlib
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import markupsafe

MAX_SOURCE = 2**18
MAX_CHARACTERS = 2**18
CPU_SECONDS = 0.5
MEMORY_BYTES = 512 * 2**20
# A stopped process uses no CPU: only then does the clock on the wall count.
WALL_SECONDS = 30.0

_CHILD = pathlib.Path(__file__).with_name('render_child.py')


def render(source: str, runs: Sequence[Mapping[str, Any]]) -> list[str]:
  """The template's text with each of the given sets of variables.

  Args:
    source: Jinja source, which is hostile.
    runs: variables, as JSON can spell them.

  Raises:
    ValueError: in one line, if it fails or passes a limit.
  """
  if len(source) > MAX_SOURCE:
    raise ValueError(
      f'the chat template is longer than {MAX_SOURCE} characters'
    )
  request = {
    'source': source,
    'runs': list(runs),
    'path': [
      str(pathlib.Path(module.__file__).parents[1])
      for module in (jinja2, markupsafe)
    ],
    'cpu_seconds': CPU_SECONDS,
    'memory_bytes': MEMORY_BYTES,
    'max_characters': MAX_CHARACTERS,
  }
  try:
    done = subprocess.run(
      [sys.executable, '-I', str(_CHILD)],
      input=json.dumps(request).encode('ascii'),
      capture_output=True,
      env={},
      timeout=WALL_SECONDS,
    )
  except subprocess.TimeoutExpired:
    raise ValueError('the chat template does not end') from None
  if done.returncode < 0:
    raise ValueError(
      f'the chat template was stopped by signal {-done.returncode}: it took '
      f'more than {CPU_SECONDS:g} s of CPU time, or crashed'
    )
  try:
    answer = json.loads(done.stdout)
  except ValueError:
    line = ' '.join(done.stderr.decode('utf-8', 'replace').split())[-200:]
    raise ValueError(f'the chat template cannot be rendered: {line}') from None
  if 'error' in answer:
    line = ' '.join(answer['error'].split())[:200]
    raise ValueError(f'the chat template {line}')
  return answer['texts']
