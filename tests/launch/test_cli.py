"""A wrong command line gets one clear line and exit code 2, no traceback."""

import os
import pathlib
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

  def main(config, workdir):
    what = config.train.num_steps
    if what == 13:
      raise errors.UserError('thirteen is unlucky;\\nuse another')
    if what == 14:
      raise RuntimeError('a bug')
    if what == 15:
      raise KeyboardInterrupt
    print(config.seed, what, workdir, SIZE.value, config.train.double)
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
      cli.run(main, 'Sleeps.', example='launch/slow.py', takes=())
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
