"""Renders a chat template in a process of its own, and is run as a script.

A template is code. Jinja's sandbox keeps it from objects, but neither nested
loops nor long strings; so the process has a limit of CPU time, counted from
here, and of memory, and is killed by the kernel at the first. Reads a JSON
object from standard input, writes one to standard output; imports nothing of
the library, and nothing before the limits are set but Jinja.
"""

import json
import resource
import signal
import sys


def limit(cpu_seconds: float, memory_bytes: int) -> None:
  """Bounds what follows; the default action of SIGPROF ends the process."""
  resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
  resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
  resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
  signal.setitimer(signal.ITIMER_PROF, cpu_seconds)


def render(source: str, runs: list[dict], max_characters: int) -> list[str]:
  """The template's text with each of the given variables."""
  from jinja2 import exceptions, sandbox

  def refuse(message):
    raise exceptions.TemplateError(message)

  def to_json(value, indent=None):
    return json.dumps(value, ensure_ascii=False, indent=indent)

  # As the Hugging Face library sets it up.
  environment = sandbox.ImmutableSandboxedEnvironment(
    trim_blocks=True,
    lstrip_blocks=True,
    extensions=['jinja2.ext.loopcontrols'],
  )
  environment.globals['raise_exception'] = refuse
  environment.filters['tojson'] = to_json
  template = environment.from_string(source)
  texts = []
  for variables in runs:
    parts, left = [], max_characters
    for part in template.generate(**variables):
      left -= len(part)
      if left < 0:
        raise ValueError(f'writes more than {max_characters} characters')
      parts.append(part)
    texts.append(''.join(parts))
  return texts


def main() -> None:
  request = json.load(sys.stdin)
  # The interpreter is isolated: it is told where Jinja is.
  sys.path.extend(request['path'])
  import jinja2.ext
  import jinja2.sandbox  # noqa: F401

  limit(request['cpu_seconds'], request['memory_bytes'])
  try:
    texts = render(
      request['source'], request['runs'], request['max_characters']
    )
    answer = {'texts': texts}
  except MemoryError:
    answer = {'error': 'needs too much memory'}
  except RecursionError:
    answer = {'error': 'is nested too deeply'}
  except Exception as e:  # whatever the template does is its fault
    answer = {'error': f'fails: {type(e).__name__}: {e}'}
  json.dump(answer, sys.stdout)


if __name__ == '__main__':
  main()
