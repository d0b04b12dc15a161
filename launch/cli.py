"""What every command shares: flags, config files, errors in one line.

A command defines its own flags with absl, and ends with

  if __name__ == '__main__':
    cli.run(main, 'Trains a model.', example='launch/train.py --config ...')

Exit codes: what `main` returns, 1 for a UserError, 2 for a wrong command line,
4 where other processes do not come, 130 for Ctrl-C. Any other exception is a
bug and keeps its traceback.
"""

# ruff: isort: off
import interrupts  # First: Ctrl-C may come during the other imports.
# ruff: isort: on

import os
import pathlib
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from absl import flags

import config_file
from dllm_jax import errors


def run(
  main: Callable[..., int | None],
  description: str,
  *,
  example: str,
  takes: Sequence[str] = ('config', 'workdir'),
) -> NoReturn:
  """Parses the command line, calls `main`, and exits.

  Args:
    main: called with what `takes` names; returns an exit code (None: 0).
    description: one sentence for --help.
    example: the rest of a command line, for --help: 'launch/x.py --flag ...'.
    takes: what `main` is given, in this order. 'config': the loaded ConfigDict
      of --config FILE[:preset]; 'workdir': the --workdir, None where it is not
      given; 'args': the list of arguments that are not flags; 'overrides': the
      'a.b=value' of --config.a.b=value, where a command loads configs itself.
  """
  try:
    code = main(*_parse(sys.argv, description, example, takes))
  except errors.UserError as e:
    name = pathlib.Path(sys.argv[0]).name
    code = e.code
    _leave(code, f'{name}: {" ".join(str(e).split())}')
  except KeyboardInterrupt:
    interrupts.leave()
  except Exception:
    if interrupts.arrived():  # C++ in between has made another error of it.
      interrupts.leave()
    if not _has_others():
      raise
    # Often the end of a connection to a process that died: find out which.
    code = 1
    _leave(code, traceback.format_exc(), find_dead=True)
  sys.exit(code or 0)


def check_new(out: pathlib.Path, overwrite: bool) -> None:
  """Refuses, before the work, to write over a file that is there.

  Raises:
    UserError: it is, and `overwrite` is not.
  """
  if out.is_file() and not overwrite:
    raise errors.UserError(
      f'--out {out} is there already; name another file, or give --overwrite'
    )


def _has_others() -> bool:
  # Where nothing imported it there are none, and --help answers at once.
  processes = sys.modules.get('dllm_jax.runtime.processes')
  return processes is not None and processes.several()


def _leave(code: int, text: str, *, find_dead: bool = False) -> None:
  """Says why a command ends; of several processes, ends this one."""
  if not _has_others():
    print(text, file=sys.stderr)
    return
  from dllm_jax.runtime import processes

  print(f'{processes.prefix()}{text}', file=sys.stderr)
  processes.leave(code, find_dead=find_dead)


def setup_jax(cpu_devices: int) -> None:
  """Settings of JAX that must precede the first computation.

  The persistent compilation cache is on, in `workdir.cache_dir()`, unless JAX
  was given one already.

  Args:
    cpu_devices: devices to make of the CPU, where that is the backend.
  """
  import jax  # Late, so that --help and wrong flags answer at once.

  from dllm_jax.state import workdir

  if not jax.config.jax_compilation_cache_dir:
    path = workdir.cache_dir() / 'xla'
    jax.config.update('jax_compilation_cache_dir', str(path))
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)
  jax.config.update('jax_persistent_cache_min_entry_size_bytes', -1)
  if 'xla_force_host_platform_device_count' not in os.environ.get(
    'XLA_FLAGS', ''
  ):
    jax.config.update('jax_num_cpu_devices', cpu_devices)


def _parse(
  argv: Sequence[str], description: str, example: str, takes: Sequence[str]
) -> list[Any]:
  if 'config' in takes:
    flags.DEFINE_string(
      'config', None, 'FILE[:preset]; --config.a.b=VALUE sets'
    )
  if 'workdir' in takes:
    flags.DEFINE_string('workdir', None, 'the directory of the run')
  if any(a in ('-h', '-help', '--help', '--helpfull') for a in argv[1:]):
    print(_help(description, example))
    sys.exit(0)
  changes = 'config' in takes or 'overrides' in takes
  overrides, rest = [], []
  for arg in argv:
    match = re.match(r'--?config\.(.*)', arg) if changes else None
    if match:
      overrides.append(match[1])
    else:
      rest.append(arg)
  flags.FLAGS.set_gnu_getopt(True)
  try:
    args = flags.FLAGS(rest)[1:]
  except flags.UnrecognizedFlagError as e:
    near = config_file.nearest(e.flagname, _flags(), '--')
    raise errors.UsageError(
      f'unknown flag --{e.flagname}{near or "; see --help"}'
    ) from None
  except flags.Error as e:
    raise errors.UsageError(f'{e}; see --help') from None
  if args and 'args' not in takes:
    raise errors.UsageError(f'unexpected argument {args[0]!r}; see --help')
  if 'config' in takes and not flags.FLAGS.config:
    raise errors.UsageError(f'--config FILE is missing; for example: {example}')
  given = {'args': args, 'overrides': overrides}
  if 'config' in takes:
    given['config'] = config_file.load_config(flags.FLAGS.config, overrides)
  if 'workdir' in takes:
    given['workdir'] = flags.FLAGS.workdir
  return [given[name] for name in takes]


def _flags() -> dict[str, flags.Flag]:
  """The flags that the command and the modules beside it define."""
  found = {}
  for name, defined in flags.FLAGS.flags_by_module_dict().items():
    module = sys.modules.get(name)
    file = pathlib.Path(getattr(module, '__file__', None) or name).resolve()
    if file.parent == pathlib.Path(__file__).resolve().parent:
      found |= {flag.name: flag for flag in defined}
  return found


def _help(description: str, example: str) -> str:
  lines = [description, '', f'Example:\n  python {example}', '', 'Flags:']
  for name, flag in sorted(_flags().items()):
    default = '' if flag.default is None else f' (default: {flag.default})'
    lines.append(f'  --{name}: {flag.help}{default}')
  return '\n'.join(lines)
