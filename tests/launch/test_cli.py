"""A wrong command line gets one clear line and exit code 2, no traceback."""

import os
import pathlib
import shlex
import signal
import subprocess
import sys
import textwrap

import pytest

REPO = pathlib.Path(__file__).resolve().parents[2]

COMMAND = """
  from absl import flags
  import cli
  from dllm_jax import errors

  SIZE = flags.DEFINE_integer('size', 3, 'how large')
  PROMPT = flags.DEFINE_string('prompt', None, 'a text')
  WORKDIR = flags.DEFINE_string('workdir', None, 'a directory')

  def main(config):
    what = config.train.num_steps
    if what == 13:
      raise errors.UserError('thirteen is unlucky;\\nuse another')
    if what == 14:
      raise RuntimeError('a bug')
    if what == 15:
      raise KeyboardInterrupt
    print(config.seed, what, WORKDIR.value, SIZE.value, config.train.double)
    return what - 4

  if __name__ == '__main__':
    cli.run(main, 'Counts.', example='launch/count.py --config configs/c.py')
"""
BASE = """
  from ml_collections import config_dict

  def get_config():
    config = config_dict.ConfigDict()
    config.seed = 1
    config.rollout = config_dict.ConfigDict({'steps': 8, 'dims': (1, 2)})
    config.train = config_dict.ConfigDict({'num_steps': 4, 'lr': 0.1})
    config.train.double = config.train.get_ref('num_steps') * 2
    config.train.quiet = False
    config.train.limit = config_dict.placeholder(int)
    config.name = 'base'
    return config.lock()
"""
CONFIG = """
  from configs import base

  def get_config(arg=''):
    config = base.get_config().unlock()
    if arg not in ('', 'big'):
      raise ValueError(f"unknown preset '{arg}'; the presets are: big")
    config.seed = 2 if arg == 'big' else 1
    return config.lock()
"""


@pytest.fixture(scope='module')
def checkout(tmp_path_factory):
  """A small checkout: our cli, a command and two configs."""
  root = tmp_path_factory.mktemp('checkout')
  files = {
    'launch/cli.py': (REPO / 'launch/cli.py').read_text(),
    'launch/config_file.py': (REPO / 'launch/config_file.py').read_text(),
    'launch/interrupts.py': (REPO / 'launch/interrupts.py').read_text(),
    'launch/count.py': COMMAND,
    'configs/__init__.py': '',
    'configs/base.py': BASE,
    'configs/c.py': CONFIG,
    'configs/plain.py': BASE,
    'configs/broken.py': 'x = (\n',
    'configs/empty.py': 'x = 1\n',
  }
  for name, text in files.items():
    path = root / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(textwrap.dedent(text))
  return root


def count(root, *args, cwd=None):
  """(exit code, stdout, stderr) of `python launch/count.py args`."""
  path = os.pathsep.join([str(REPO), os.environ.get('PYTHONPATH', '')])
  done = subprocess.run(
    [sys.executable, str(root / 'launch/count.py'), *args],
    cwd=cwd or root,
    env=os.environ | {'PYTHONPATH': path.strip(os.pathsep)},
    capture_output=True,
    text=True,
    check=False,
  )
  return done.returncode, done.stdout, done.stderr


def test_flags_presets_and_overrides_arrive(checkout):
  code, out, err = count(
    checkout,
    '--config=configs/c.py:big',
    '--config.train.num_steps=6',
    '--workdir',
    'here',
    '--size=5',
  )
  assert (code, out, err) == (2, '2 6 here 5 12\n', '')
  assert count(checkout, '--config', 'configs/c.py')[:2] == (
    0,
    '1 4 None 3 8\n',
  )


def test_configs_import_their_base_from_anywhere(checkout, tmp_path):
  config = str(checkout / 'configs' / 'c.py')
  assert count(checkout, '--config', config, cwd=tmp_path)[0] == 0


@pytest.mark.parametrize(
  'args, line',
  [
    ([], '--config FILE is missing; for example: launch/count.py'),
    (['--config=no.py'], 'config file no.py is missing'),
    (['--config=configs/c.py:huge'], "'huge'; the presets are: big"),
    (['--config=configs/plain.py:big'], 'has no presets'),
    (['--config=configs/broken.py'], 'configs/broken.py, line 1: '),
    (['--config=configs/empty.py'], 'defines no get_config'),
    (
      ['--config.rollout.stepz=3'],
      "unknown config key 'rollout.stepz' in configs/c.py; "
      "did you mean 'rollout.steps'?",
    ),
    (['--config.num_steps=3'], "did you mean 'train.num_steps'?"),
    (['--config.zzz=3'], "unknown config key 'zzz' in configs/c.py"),
    (['--config.train=3'], "is a group; set one of its keys, such as 'train."),
    (
      ['--config.train.num_steps=abc'],
      "config key train.num_steps wants int, got 'abc'",
    ),
    (['--config.train.num_steps=1.5'], "wants int, got '1.5'"),
    (['--config.train.lr=fast'], "train.lr wants float, got 'fast'"),
    (['--config.train.quiet=7'], "train.quiet wants bool, got '7'"),
    (['--config.train.limit=x'], "train.limit wants int, got 'x'"),
    (['--config.rollout.dims=a'], "wants tuple of int, got 'a'"),
    (['--config.seed'], 'write --config.seed=VALUE'),
    (['--sise=3'], "unknown flag --sise; did you mean '--size'?"),
    (['--wurkdir=x'], "did you mean '--workdir'?"),
    (['--qqqq'], 'unknown flag --qqqq; see --help'),
    (['--size=x'], '--size=x'),
    (['stray'], "unexpected argument 'stray'"),
  ],
)
def test_a_wrong_command_line_is_one_line(checkout, args, line):
  if args and not args[0].startswith('--config='):
    args = ['--config=configs/c.py', *args]
  code, out, err = count(checkout, *args)
  assert line in err
  assert (code, out, err.count('\n')) == (2, '', 1)
  assert err.startswith('count.py: ')


def test_a_user_error_is_one_line_and_a_bug_has_its_traceback(checkout):
  command = ['--config=configs/c.py', '--config.train.num_steps=13']
  line = 'count.py: thirteen is unlucky; use another\n'
  assert count(checkout, *command) == (1, '', line)
  code, _, err = count(checkout, command[0], '--config.train.num_steps=14')
  assert code == 1 and 'Traceback' in err and 'RuntimeError: a bug' in err
  code, _, err = count(checkout, command[0], '--config.train.num_steps=15')
  assert (code, err) == (130, 'interrupted\n')


def test_help_shows_the_example_and_the_flags(checkout):
  code, out, err = count(checkout, '--help')
  assert (code, err) == (0, '')
  assert 'python launch/count.py --config configs/c.py' in out
  for text in ('Counts.', '--config', '--workdir', '--size', 'default: 3'):
    assert text in out
  assert 'logtostderr' not in out and '--alsologtostderr' not in out


STREAMS = """
  import signal, sys
  import cli
  from dllm_jax import errors

  def main(args):
    if args[0] == 'lost':  # as C++ code and finalizers may lose it
      try:
        signal.raise_signal(signal.SIGINT)
      except KeyboardInterrupt:
        pass
      if args[1:]:
        from dllm_jax.runtime import console
        with console.Console().stage('work', 1) as bar:
          bar.add()
        print('went on')
    elif args[0] == 'memory':
      raise MemoryError(*args[1:])
    elif args[0] == 'xla':
      raise RuntimeError(args[1])
    elif args[0] == 'screen':
      from dllm_jax.runtime import console
      console.Console().line('12 % ± 1')
    else:
      print('12 % ± 1', flush=args[0] == 'flush')
      if args[0] == 'error':
        raise errors.UserError('a fault')

  # A background job of a script starts with SIGINT ignored.
  signal.signal(signal.SIGINT, signal.default_int_handler)
  sys.modules.pop('interrupts')
  import interrupts
  cli.run(main, 'Prints.', example='launch/streams.py', takes='args')
"""


@pytest.fixture(scope='module')
def streams(checkout):
  path = checkout / 'launch' / 'streams.py'
  path.write_text(textwrap.dedent(STREAMS))

  def run(*args, redirect='', encoding='utf-8', unbuffered=''):
    """(exit code, stdout, stderr) of the command under a shell."""
    command = shlex.join([sys.executable, str(path), *args])
    done = subprocess.run(
      ['bash', '-c', f'{command} {redirect}'],
      env=os.environ
      | {'PYTHONPATH': str(REPO), 'PYTHONIOENCODING': encoding}
      | {'PYTHONUNBUFFERED': unbuffered},
      capture_output=True,
      check=False,
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()

  return run


@pytest.mark.parametrize('how', ['screen', 'print'])
def test_what_the_output_cannot_encode_is_replaced(streams, how):
  assert streams(how) == (0, '12 % ± 1\n', '')
  assert streams(how, encoding='ascii') == (0, '12 % ? 1\n', '')
  assert streams(how, redirect='>&-') == (0, '', '')


@pytest.mark.parametrize('unbuffered', ['', '1'])
@pytest.mark.parametrize(
  'how, code, err',
  [
    ('screen', 0, ''),
    ('print', 1, 'streams.py: cannot write to standard output: {why}\n'),
    ('flush', 1, 'streams.py: cannot write to standard output: {why}\n'),
    ('--help', 1, 'streams.py: cannot write to standard output: {why}\n'),
  ],
)
@pytest.mark.parametrize(
  'redirect, why',
  [
    ('> /dev/full', 'No space left on device'),
    # The reader ends before the command has started.
    ('| true; exit ${PIPESTATUS[0]}', 'Broken pipe'),
  ],
)
def test_a_result_that_cannot_be_printed_is_one_line(
  streams, how, code, err, redirect, why, unbuffered
):
  told = streams(how, redirect=redirect, unbuffered=unbuffered)
  assert told == (code, '', err.format(why=why))


def test_an_error_is_told_though_nothing_can_be_printed(streams):
  told = streams('error', redirect='> /dev/full')
  assert told == (1, '', 'streams.py: a fault\n')


@pytest.mark.parametrize(
  'args, told',
  [
    (
      [
        'xla',
        'RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.\nAllocator',
      ],
      1,
    ),
    (['xla', 'RESOURCE_EXHAUSTED: Attempting to allocate 2.0G.'], 1),
    (['xla', 'RESOURCE_EXHAUSTED: the queue is full'], 0),
    (['xla', 'INVALID_ARGUMENT: memory'], 0),
    (['memory', 'Unable to allocate 9 GiB for an array'], 1),
    (['memory'], 1),
  ],
)
def test_running_out_of_memory_is_one_line(streams, args, told):
  code, out, err = streams(*args)
  assert (code, out) == (1, '')
  if told:
    assert err.startswith('streams.py: out of memory: ') and 'batch_size' in err
    assert err.count('\n') == 1 and 'Allocator' not in err
  else:
    assert 'Traceback' in err


@pytest.mark.parametrize('where', [[], ['in a loop']])
def test_an_interrupt_that_got_lost_ends_the_command(streams, where):
  assert streams('lost', *where) == (130, '', 'interrupted\n')


def test_a_flagfile_may_set_config_keys(checkout):
  inner, outer = checkout / 'inner.flags', checkout / 'outer.flags'
  inner.write_text('--config.train.num_steps=6\n--size=5\n')
  outer.write_text(
    f'# a comment\n--config=configs/c.py:big\n--flagfile={inner}\n'
  )
  given = ['--flagfile', str(outer), '--workdir=here']
  assert count(checkout, *given) == (2, '2 6 here 5 12\n', '')
  # What comes later wins.
  code, out, _ = count(checkout, *given, '--config.train.num_steps=5')
  assert (code, out) == (1, '2 5 here 5 10\n')
  inner.write_text('--config.train.num_stepz=6\n')
  code, out, err = count(checkout, *given)
  assert (code, out, err.count('\n')) == (2, '', 1)
  assert "did you mean 'train.num_steps'?" in err
  code, out, err = count(checkout, f'--flagfile={checkout}/none')
  assert (code, out, err.count('\n')) == (2, '', 1)
  assert 'none' in err


LOAD = """
  import sys
  sys.path.insert(0, {launch!r})
  import cli, config_file
  {body}
"""


def in_process(body, root=REPO, **environment):
  code = textwrap.dedent(LOAD).format(
    launch=str(root / 'launch'), body=textwrap.dedent(body).strip()
  )
  done = subprocess.run(
    [sys.executable, '-c', code],
    env=os.environ | {'PYTHONPATH': str(REPO)} | environment,
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  return done.stdout.split()


def test_load_config_is_locked_and_keeps_references(checkout):
  file = str(checkout / 'configs' / 'c.py')
  body = f"""
overrides = ['train.num_steps=7', 'rollout.dims=(4,)', 'train.limit=3']
c = config_file.load_config({file!r}, overrides)
print(c.is_locked, c.train.double, c.rollout.dims[0], c.train.limit)
"""
  assert in_process(body, checkout) == ['True', '14', '4', '3']


def test_a_file_of_rows_makes_the_preset(checkout):
  """Where none is named, and the config file has presets."""
  head = 'from ml_collections import config_dict\n\n\n'
  body = (
    "  return config_dict.ConfigDict({'name': NAME, 'data': {'train': ''}})"
  )
  own, bare = (checkout / 'configs' / name for name in ('own.py', 'bare.py'))
  own.write_text(
    f"{head}def get_config(arg=''):\n" + body.replace('NAME', 'arg')
  )
  bare.write_text(f'{head}def get_config():\n' + body.replace('NAME', "'bare'"))
  script = f"""
rows = ['data.train=x.jsonl']
for path in ({str(own)!r}, {f'{own}:other'!r}, {str(bare)!r}):
  c = config_file.load_config(path, rows)
  print(c.name, c.data.train)
print(config_file.load_config({str(own)!r}).name or 'none')
"""
  want = ['rows', 'x.jsonl', 'other', 'x.jsonl', 'bare', 'x.jsonl', 'none']
  assert in_process(script, checkout) == want


def test_compilations_are_cached(tmp_path):
  body = """
cli.setup_jax(3)
import jax
print(jax.device_count())
jax.jit(lambda x: x * 2 + 1)(3.0).block_until_ready()
"""
  environment = {'DLLM_JAX_CACHE': str(tmp_path), 'XLA_FLAGS': ''}
  assert in_process(body, **environment) == ['3']
  cached = {p.name for p in (tmp_path / 'xla').iterdir()}
  assert any('lambda' in name for name in cached)


def test_an_interrupt_is_one_line(checkout):
  slow = checkout / 'launch' / 'slow.py'
  slow.write_text(
    textwrap.dedent("""
      import signal, time, cli
      # A job in the background of a script starts with SIGINT ignored.
      signal.signal(signal.SIGINT, signal.default_int_handler)
      def main():
        print('ready', flush=True)
        time.sleep(60)
      cli.run(main, 'Sleeps.', example='launch/slow.py', takes=None)
    """)
  )
  with subprocess.Popen(
    [sys.executable, str(slow)],
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    env=os.environ | {'PYTHONPATH': str(REPO)},
  ) as process:
    assert process.stdout.readline() == 'ready\n'
    process.send_signal(signal.SIGINT)
    assert process.stderr.read() == 'interrupted\n'
  assert process.returncode == 130
