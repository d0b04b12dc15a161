"""What every command shares: flags, config files, errors in one line.

A command defines its own flags with absl, and ends with

  if __name__ == '__main__':
    cli.run(main, 'Trains a model.', example='launch/train.py --config ...')

Exit codes: what `main` returns, 1 for a UserError, 2 for a wrong command line,
4 if other processes of the run are missing, 130 for Ctrl-C. Any other exception
is a bug and keeps its traceback.
"""

# ruff: isort: off
import interrupts  # First: Ctrl-C may come during the other imports.
# ruff: isort: on

import errno
import os
import pathlib
import re
import sys
import tempfile
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from absl import flags

import config_file
from dllm_jax import errors
from dllm_jax.runtime import signals

_UNWRITABLE = (errno.EPIPE, errno.ENOSPC, errno.EDQUOT)
# XLA has no class of its own for it.
_OUT_OF_MEMORY = re.compile(
  r'RESOURCE_EXHAUSTED.*(memory|allocat)', re.IGNORECASE | re.DOTALL
)


def run(
  main: Callable[..., int | None],
  description: str,
  *,
  example: str,
  takes: str | None = 'config',
) -> NoReturn:
  """Parses the command line, calls `main`, and exits.

  Args:
    main: called with what `takes` names, if anything; returns an exit code
      (None: 0).
    description: one sentence for --help.
    example: the rest of a command line, for --help: 'launch/x.py --flag ...'.
    takes: 'config', the loaded ConfigDict of --config FILE[:preset]; 'args',
      the list of arguments that are not flags; or 'overrides', the 'a.b=value'
      of --config.a.b=value, where a command loads configs itself.
  """
  if sys.stdout is not None:  # None: whoever started us closed it
    sys.stdout.reconfigure(errors='replace')
  try:
    if takes == 'config':
      flags.DEFINE_string(
        'config', None, 'FILE[:preset]; --config.a.b=VALUE sets'
      )
    if any(a in ('-h', '-help', '--help', '--helpfull') for a in sys.argv[1:]):
      print(_help(description, example))
      code = 0
    else:
      code = main(*_parse(sys.argv, example, takes)) or 0
    signals.check_interrupt()
    print(end='', flush=True)
  except KeyboardInterrupt:
    interrupts.leave()
  except Exception as e:
    if signals.interrupted():  # C++ in between has made another error of it.
      interrupts.leave()
    _drop_unprinted()
    line = _one_line(e)
    if line is None and not _has_others():
      raise
    code = e.code if isinstance(e, errors.UserError) else 1
    # An unknown error is often the end of a connection to a dead process.
    _leave(code, line or traceback.format_exc(), find_dead=line is None)
  sys.exit(code)


def _one_line(error: Exception) -> str | None:
  """What to say of an error that the user can put right; None for a bug."""
  text = str(error)
  if isinstance(error, errors.UserError):
    pass
  elif isinstance(error, OSError) and error.errno in _UNWRITABLE:
    place = error.filename or 'to standard output'
    text = f'cannot write {place}: {error.strerror}'
  elif isinstance(error, MemoryError) or _OUT_OF_MEMORY.search(text):
    what = text.partition('\n')[0].rstrip('.') or 'on the host'
    text = (
      f'out of memory: {what}; use a smaller batch_size or gen_length, shorter '
      'prompts, or more devices'
    )
  else:
    return None
  return f'{pathlib.Path(sys.argv[0]).name}: {" ".join(text.split())}'


def _drop_unprinted() -> None:
  """Else the interpreter would try to print it again, and exit with 120."""
  try:
    print(end='', flush=True)
  except OSError:
    from dllm_jax.runtime import console

    console.discard(sys.stdout)


def check_new(out: pathlib.Path, overwrite: bool) -> None:
  """Refuses, before the work, to overwrite a file; makes its folder.

  Raises:
    UserError: it exists, and `overwrite` is false; or it cannot be written.
  """
  if out.is_dir():
    raise errors.UserError(f'--out {out} is a folder; name a file')
  try:
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=out.parent):
      pass
  except OSError as e:
    raise errors.UserError(
      f'cannot write results to {out}: {e.strerror}; use another --out'
    ) from e
  if out.is_file() and not overwrite:
    raise errors.UserError(
      f'--out {out} already exists; name another file, or give --overwrite'
    )


def _has_others() -> bool:
  # Not imported: there are none, and --help answers at once.
  processes = sys.modules.get('dllm_jax.runtime.processes')
  return processes is not None and processes.several()


def _leave(code: int, text: str, *, find_dead: bool) -> None:
  """Says why a command ends; with several processes, ends this one."""
  if not _has_others():
    print(text, file=sys.stderr)
    return
  from dllm_jax.runtime import processes

  print(f'{processes.prefix()}{text}', file=sys.stderr)
  processes.leave(code, find_dead=find_dead)


def setup_jax(cpu_devices: int) -> None:
  """Settings of JAX that must precede the first computation.

  Args:
    cpu_devices: number of devices to make of the CPU, if it is the backend.
  """
  import jax  # Late, so that --help and wrong flags answer at once.

  from dllm_jax.runtime import cache

  cache.keep_compiled()
  if 'xla_force_host_platform_device_count' not in os.environ.get(
    'XLA_FLAGS', ''
  ):
    jax.config.update('jax_num_cpu_devices', cpu_devices)


def _parse(argv: Sequence[str], example: str, takes: str | None) -> list[Any]:
  """The arguments of `main`."""
  overrides, rest = [], argv[:1]
  flags.FLAGS.set_gnu_getopt(True)
  try:
    # A --flagfile may set config keys too.
    for arg in flags.FLAGS.read_flags_from_files(argv[1:]):
      match = re.match(r'--?config\.(.*)', arg)
      if match and takes in ('config', 'overrides'):
        overrides.append(match[1])
      else:
        rest.append(arg)
    args = flags.FLAGS(rest)[1:]
  except flags.UnrecognizedFlagError as e:
    near = config_file.nearest(e.flagname, _flags(), '--')
    raise errors.UsageError(
      f'unknown flag --{e.flagname}{near or "; see --help"}'
    ) from None
  except flags.Error as e:
    raise errors.UsageError(f'{e}; see --help') from None
  if args and takes != 'args':
    raise errors.UsageError(f'unexpected argument {args[0]!r}; see --help')
  if takes != 'config':
    return {'args': [args], 'overrides': [overrides]}.get(takes, [])
  if not flags.FLAGS.config:
    raise errors.UsageError(f'--config FILE is missing; for example: {example}')
  return [config_file.load_config(flags.FLAGS.config, overrides)]


def _flags() -> dict[str, flags.Flag]:
  """The flags that the command and the modules beside it define."""
  ours = {}
  for name, defined in flags.FLAGS.flags_by_module_dict().items():
    module = sys.modules.get(name)
    file = pathlib.Path(getattr(module, '__file__', None) or name).resolve()
    if file.parent == pathlib.Path(__file__).resolve().parent:
      ours |= {flag.name: flag for flag in defined}
  return ours


def _help(description: str, example: str) -> str:
  lines = [description, '', f'Example:\n  python {example}', '', 'Flags:']
  for name, flag in sorted(_flags().items()):
    default = '' if flag.default is None else f' (default: {flag.default})'
    lines.append(f'  --{name}: {flag.help}{default}')
  return '\n'.join(lines)
