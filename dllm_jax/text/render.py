"""Renders a chat template in a process of its own; nothing it says is trusted.

A template is code. Jinja's sandbox keeps it from objects, but one operation on
long values (`9 ** 9 ** 9`, `'a' * n`, the filters `center` and `replace`) can
take all time and memory, and so can nested loops and `~`, which a sandbox does
not intercept. Python can stop none of these from within. So the file also runs
as a script, whose CPU time and memory the kernel limits.
"""

import datetime
import json
import os
import pathlib
import resource
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
import markupsafe
from jinja2 import ext, nodes, sandbox

MAX_SOURCE = 2**18
MAX_CHARACTERS = 2**18
CPU_SECONDS = 0.5
MEMORY_BYTES = 512 * 2**20
# A stopped process uses no CPU: only then does the clock on the wall count.
WALL_SECONDS = 30.0


def render(source: str, runs: Sequence[Mapping[str, Any]]) -> list[str]:
  """The template's text with each of the given sets of variables.

  Args:
    source: Jinja source; not trusted.
    runs: variables, as JSON can spell them.

  Raises:
    ValueError: in one line, if the template fails or exceeds a limit.
  """
  if len(source) > MAX_SOURCE:
    raise ValueError(
      f'the chat template is longer than {MAX_SOURCE} characters'
    )
  now = datetime.datetime.today().isoformat()
  request = json.dumps({'source': source, 'runs': list(runs), 'now': now})
  # The child gets the libraries' place, and neither -c's nor a script's folder.
  places = (pathlib.Path(m.__file__).parents[1] for m in (jinja2, markupsafe))
  try:
    done = subprocess.run(
      [sys.executable, '-P', '-s', __file__],
      input=request.encode('ascii'),
      capture_output=True,
      env={'PYTHONPATH': os.pathsep.join(map(str, places))},
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


class _Generation(ext.Extension):
  """`{% generation %}`: what the model wrote, for training; a block here."""

  tags = {'generation'}

  def parse(self, parser):
    line = next(parser.stream).lineno
    body = parser.parse_statements(('name:endgeneration',), drop_needle=True)
    return nodes.Scope(body).set_lineno(line)


def _environment(now: datetime.datetime) -> sandbox.SandboxedEnvironment:
  """As `apply_chat_template` of transformers sets Jinja up."""

  def refuse(message):
    raise jinja2.TemplateError(message)

  def to_json(
    value, ensure_ascii=False, indent=None, separators=None, sort_keys=False
  ):
    return json.dumps(
      value,
      ensure_ascii=ensure_ascii,
      indent=indent,
      separators=separators,
      sort_keys=sort_keys,
    )

  environment = sandbox.ImmutableSandboxedEnvironment(
    trim_blocks=True,
    lstrip_blocks=True,
    extensions=[_Generation, ext.loopcontrols],
  )
  environment.globals |= {'raise_exception': refuse}
  environment.globals |= {'strftime_now': now.strftime}
  environment.filters['tojson'] = to_json
  return environment


def _texts(request: Mapping[str, Any]) -> list[str]:
  now = datetime.datetime.fromisoformat(request['now'])
  template = _environment(now).from_string(request['source'])
  texts = []
  for variables in request['runs']:
    parts, left = [], MAX_CHARACTERS
    for part in template.generate(**variables):
      left -= len(part)
      if left < 0:
        raise ValueError(f'writes more than {MAX_CHARACTERS} characters')
      parts.append(part)
    texts.append(''.join(parts))
  return texts


def _main() -> None:
  request = json.load(sys.stdin)
  resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
  resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
  resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
  # Counts from here; the default action of SIGPROF ends the process.
  signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
  try:
    answer = {'texts': _texts(request)}
  except MemoryError:
    answer = {'error': 'needs too much memory'}
  except RecursionError:
    answer = {'error': 'is nested too deeply'}
  except Exception as e:  # whatever the template does is its fault
    answer = {'error': f'fails: {type(e).__name__}: {e}'}
  json.dump(answer, sys.stdout)


if __name__ == '__main__':
  _main()
