"""Wrong ways to join are refused; the right one is in test_processes.py."""

import os
import pathlib
import subprocess
import sys

import pytest

from dllm_jax import errors
from dllm_jax.runtime import distributed


@pytest.mark.parametrize(
  'given, told',
  [
    ({'coordinator': 'host:80'}, '--num_processes, --process_id missing'),
    ({'num_processes': 2, 'process_id': 0}, '--coordinator missing'),
    ({'coordinator': 'host'}, "'host' is not HOST:PORT"),
    ({'coordinator': 'http://h:8'}, 'is not HOST:PORT'),
    (
      {'coordinator': 'h:1', 'num_processes': 2, 'process_id': 2},
      '--process_id 2 is not in 0..1',
    ),
    (
      {'coordinator': 'h:1', 'num_processes': 0, 'process_id': 0},
      '--num_processes 0 is below 1',
    ),
    ({'auto': True, 'heartbeat_seconds': 0}, '--heartbeat_seconds 0'),
  ],
)
def test_wrong_ways_to_join_are_refused(given, told):
  with pytest.raises(errors.UserError) as caught:
    distributed.start(distributed.ProcessConfig(**given))
  assert told in str(caught.value)


def test_auto_outside_a_cluster_says_what_is_missing():
  repo = pathlib.Path(__file__).resolve().parents[2]
  command = ['launch/train.py', '--config=configs/ag_grpo.py']
  cluster = ('SLURM_', 'OMPI_', 'JAX_COORD', 'JAX_NUM_P', 'JAX_PROCESS', 'TPU_')
  done = subprocess.run(
    [sys.executable, *command, '--distributed=auto'],
    cwd=repo,
    env={k: v for k, v in os.environ.items() if not k.startswith(cluster)}
    | {'PYTHONPATH': str(repo)},
    capture_output=True,
    text=True,
    check=False,
  )
  assert (done.returncode, done.stdout) == (1, '')
  assert done.stderr.count('\n') == 1
  for text in ('JAX found no cluster', '--num_processes'):
    assert text in done.stderr


@pytest.mark.parametrize(
  'hosts, idle',
  [
    ([('a', 0, 0), ('b', 0, 0)], []),  # no GPUs
    ([('a', 8, 8), ('b', 8, 8)], []),  # a process a host
    ([('a', 1, 2), ('a', 1, 2)], []),  # a process a GPU
    ([('a', 1, 1), ('a', 1, 1)], []),  # each sees its own
    ([('a', 1, 8), ('b', 1, 8)], [('a', 7, 8), ('b', 7, 8)]),
    ([('a', 4, 4), ('b', 1, 4), ('b', 1, 4)], [('b', 2, 4)]),
  ],
)
def test_hosts_with_idle_gpus_are_named(hosts, idle):
  lines = distributed.idle_gpus(hosts)
  assert [line.split(' GPUs')[0] for line in lines] == [
    f'{host}: {count} of {usable}' for host, count, usable in idle
  ]
  for line, (_, _, usable) in zip(lines, idle, strict=True):
    ids = ','.join(map(str, range(usable)))
    assert line.endswith(f'JAX_LOCAL_DEVICE_IDS={ids}')


@pytest.mark.parametrize(
  'visible, count', [('0,1,2', 3), ('', 0), ('GPU-a', 1)]
)
def test_visible_gpus_are_counted(monkeypatch, visible, count):
  monkeypatch.setenv('CUDA_VISIBLE_DEVICES', visible)
  assert distributed._num_gpus() == count
