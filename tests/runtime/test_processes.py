"""Two processes of four devices are one run, and miss each other when gone."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from dllm_jax.runtime import distributed, processes
from dllm_jax.state import metrics
from tests import commands, process_child, tiny_run

REPO = pathlib.Path(__file__).resolve().parents[2]
COUNT = process_child.COUNT


def free_port() -> int:
  with socket.socket() as s:
    s.bind(('localhost', 0))
    return s.getsockname()[1]


def environment(**more) -> dict[str, str]:
  """With the settings of tests/conftest.py."""
  flag = '--xla_force_host_platform_device_count'
  return os.environ | {
    'PYTHONPATH': str(REPO),
    'JAX_PLATFORMS': 'cpu',
    'XLA_FLAGS': f'{commands.XLA_FLAGS} {flag}={process_child.DEVICES}',
    'JAX_COMPILATION_CACHE_DIR': jax.config.jax_compilation_cache_dir,
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
    'JAX_DEFAULT_MATMUL_PRECISION': 'highest',
    'JAX_NUMPY_RANK_PROMOTION': 'raise',
    **more,
  }


def launch(
  argv: list[str], log: pathlib.Path, **variables: str
) -> subprocess.Popen:
  """A process; what it says goes to LOG.out and LOG.err."""
  with (
    log.with_name(f'{log.name}.out').open('w') as out,
    log.with_name(f'{log.name}.err').open('w') as err,
  ):
    return subprocess.Popen(
      [sys.executable, *argv],
      env=environment(**variables),
      stdout=out,
      stderr=err,
    )


def said(log: pathlib.Path, ending: str) -> str:
  return log.with_name(f'{log.name}.{ending}').read_text()


def end(children: list[subprocess.Popen]) -> list[int]:
  """Their exit codes; none is left."""
  try:
    return [child.wait(290) for child in children]
  finally:
    for child in children:
      child.kill()
      child.wait()


def start(directory, mode: str) -> list[subprocess.Popen]:
  script, port = str(REPO / 'tests' / 'process_child.py'), str(free_port())
  return [
    launch(
      [script, mode, str(i), port, str(directory / mode)],
      directory / f'{mode}.{i}',
    )
    for i in range(COUNT)
  ]


def run(directory, mode: str) -> list[dict[str, np.ndarray]]:
  """What each process found; all must end well."""
  codes = end(start(directory, mode))
  errs = [said(directory / f'{mode}.{i}', 'err') for i in range(COUNT)]
  assert codes == [0] * COUNT, errs
  return [dict(np.load(directory / f'{mode}.{i}.npz')) for i in range(COUNT)]


@pytest.fixture(scope='module')
def agreed(tmp_path_factory):
  return run(tmp_path_factory.mktemp('agree'), 'agree')


def test_flags_of_any_process_reach_all(agreed):
  for found in agreed:
    assert found['any_of'].tolist() == [False, True, False, True, True]
  assert [bool(found['is_first']) for found in agreed] == [True, False]


def test_the_first_process_decides(agreed):
  assert [int(found['from_first']) for found in agreed] == [5, 5]
  for found in agreed:
    assert found['from_first_error'] == 'process 0 refuses'


def test_values_are_exchanged_in_the_order_of_processes(agreed):
  assert [found['exchanged'].tolist() for found in agreed] == [[0, 7]] * 2


def test_processes_that_differ_are_refused(agreed):
  for found in agreed:
    assert found['same'] == ''
    assert 'config.seed is 3 in process 0 and 4 in process 1' in str(
      found['other']
    )
    assert 'key is absent in process 0 and 1 in process 1' in str(
      found['absent']
    )


def test_each_process_has_its_rows(agreed):
  for i, found in enumerate(agreed):
    rows = np.arange(8 * i, 8 * i + 8)
    np.testing.assert_array_equal(found['own'], rows)
    np.testing.assert_array_equal(found['fetched'], rows**2)
    assert found['sum'] == sum(n * n for n in range(16))
  # Rows 3 to 7 are padding: process 1 has nothing else, and takes the last.
  assert [found['own_of_padded'].tolist() for found in agreed] == [
    [0, 1, 2],
    [2],
  ]


def test_rows_are_gathered(agreed):
  n = np.arange(5)
  for found in agreed:
    np.testing.assert_array_equal(found['gathered_x'], n * 1.5)
    np.testing.assert_array_equal(
      found['gathered_y'], n[:, None] > np.arange(2)
    )


def test_who_does_not_come_is_named(agreed):
  assert str(agreed[0]['missing']).startswith(
    'timed out waiting for process 1 at the feast'
  )
  assert [str(found['met']) for found in agreed] == ['', '']


def assert_same_run(got, want):
  """The same tokens; metrics to 1e-5; parameters to 1e-5 of their size."""
  assert got.keys() == want.keys()
  for name, value in want.items():
    if name.startswith('tokens/'):
      np.testing.assert_array_equal(got[name], value, err_msg=name)
    elif name.startswith('metric/'):
      np.testing.assert_allclose(
        got[name], value, rtol=1e-5, atol=1e-5, err_msg=name
      )
    else:
      gap = np.linalg.norm(got[name] - value)
      assert gap <= 1e-5 * np.linalg.norm(value), name


def check_against_one_process(directory, mode):
  first, second = run(directory, mode)
  for name, value in first.items():
    np.testing.assert_array_equal(second[name], value, err_msg=name)
  assert_same_run(first, getattr(process_child, mode)(0))


def test_one_process_or_two_train_alike(tmp_path):
  check_against_one_process(tmp_path, 'train')


def test_the_tokens_are_those_of_one_device():
  one, eight = (
    process_child.updates(
      'ag_grpo', devices=devices, method__guided__max_anchor=6
    )
    for devices in (1, 8)
  )
  assert_same_run(eight, one)


@pytest.mark.slow
@pytest.mark.parametrize(
  'mode',
  [
    'train_failed',
    'train_gated',
    'train_fsdp',
    'train_tensor',
    'train_consensus',
    'train_majority',
  ],
)
def test_other_decoders_and_meshes_too(tmp_path, mode):
  check_against_one_process(tmp_path, mode)


@pytest.mark.slow
@pytest.mark.parametrize('mode', ['die', 'stop'])
def test_a_dead_process_is_noticed_and_named(tmp_path, mode):
  survivor, victim = start(tmp_path, mode)
  dead = pathlib.Path(f'/proc/{victim.pid}/stat')
  try:
    while survivor.poll() is None and dead.read_text().split()[2] not in 'ZT':
      time.sleep(0.05)
    began = time.monotonic()
    assert survivor.wait(120) != 0
    assert time.monotonic() - began < process_child.HEARTBEAT + 10
  finally:
    survivor.kill()
    victim.kill()
    end([survivor, victim])
  told = said(tmp_path / f'{mode}.0', 'err')
  assert 'unhealthy (stopped sending heartbeats):\n1\n' in told


@pytest.mark.slow
def test_a_stuck_process_is_named(tmp_path):
  end(start(tmp_path, 'stick'))
  found = np.load(tmp_path / 'stick.0.npz')
  assert str(found['missing']).startswith(
    'timed out waiting for process 1 at the step'
  )


def test_one_process_waits_for_nobody():
  distributed.start(distributed.ProcessConfig())
  processes.barrier('nobody')
  processes.check_same({'x': 1})
  assert processes.is_first() and not processes.several()
  assert processes.any_of(True) and not processes.any_of(False)
  assert processes.from_first('nobody', lambda: 3) == 3
  assert processes.exchange('nobody', [1]) == [[1]]
  assert processes.prefix() == ''


class Job:
  """`launch/train.py` in two processes on one workdir."""

  def __init__(self, workdir, *flags: str, second: tuple[str, ...] = ()):
    """The second process gets the flags of `second` too."""
    address = f'localhost:{free_port()}'
    tiny = tiny_run.flags(
      train__num_steps=12, train__eval_every=12, base__num_steps=2
    )
    self.logs = [
      workdir.with_name(f'{workdir.name}.{address[-5:]}.{i}')
      for i in range(COUNT)
    ]
    self.children = [
      launch(
        [
          str(REPO / 'launch' / 'train.py'),
          f'--config={REPO}/tests/tiny_run.py:diffu_grpo',
          f'--workdir={workdir}',
          *tiny,
          *flags,
          *(second if i else ()),
        ],
        log,
        JAX_COORDINATOR_ADDRESS=address,
        JAX_NUM_PROCESSES=str(COUNT),
        JAX_PROCESS_ID=str(i),
      )
      for i, log in enumerate(self.logs)
    ]

  def wait(self) -> tuple[list[int], list[str], list[str]]:
    """Exit codes, outputs and errors."""
    codes = end(self.children)
    return codes, *([said(x, e) for x in self.logs] for e in ('out', 'err'))


def rl_rows(workdir) -> int:
  path = workdir / metrics.METRICS_FILE
  return path.read_text().count('"phase": "rl"') if path.exists() else 0


@pytest.mark.slow
def test_a_signal_to_one_process_stops_both_and_the_run_resumes(tmp_path):
  whole = tmp_path / 'whole'
  codes, outs, errs = Job(whole).wait()
  assert codes == [0, 0], errs
  assert 'device(s) of 2 process(es)' in outs[0]
  assert all(line.startswith('[Gloo]') for line in outs[1].splitlines())

  broken = tmp_path / 'broken'
  job = Job(broken, '--config.checkpoint.every=100')
  while not rl_rows(broken) and job.children[0].poll() is None:
    time.sleep(0.02)
  job.children[1].send_signal(signal.SIGTERM)
  codes, _, errs = job.wait()
  assert codes == [3, 3], errs
  saved = list((broken / 'checkpoints' / 'rl').iterdir())
  assert len(saved) == 1 and 0 < int(saved[0].name) < 12
  codes, _, errs = Job(broken, '--config.checkpoint.every=100').wait()
  assert codes == [0, 0], errs

  tiny_run.assert_same(
    tiny_run.kept(broken / 'final'), tiny_run.kept(whole / 'final')
  )
  steps = lambda path: [(r['phase'], r['step']) for r in metrics.read(path)]
  assert steps(broken) == steps(whole)
  assert json.loads((whole / 'config.json').read_text())['processes'] == 2


@pytest.mark.slow
def test_processes_of_other_configs_stop_with_one_line(tmp_path):
  codes, _, errs = Job(tmp_path / 'run', second=('--config.seed=7',)).wait()
  assert codes == [1, 1]
  for i, told in enumerate(errs):
    (line,) = told.splitlines()
    assert line.startswith(f'process {i}: train.py: the processes differ: seed')
    assert 'is 0 in process 0 and 7 in process 1' in line
