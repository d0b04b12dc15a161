"""Workers that are killed, replaced, reused, and leave nothing behind."""

import concurrent.futures
import contextlib
import os
import pathlib
import random
import resource
import signal
import subprocess
import sys
import threading
import time

import pytest

from dllm_jax.tasks import coding, sandbox
from dllm_jax.tasks.sandbox import hosts, worker
from dllm_jax.tasks.sandbox import pool as pool_lib
from tests.tasks.sandbox import conftest, processes

TEST = 'assert f(1) == 2\nassert f(2) == 4'
CHECK = 'def check(f):\n  for x in (1, 2): assert f(x) == 2 * x'
_REPO = pathlib.Path(__file__).resolve().parents[3]


def _batch(num):
  """Programs, and whether each is right; both modes."""
  rows = [
    coding.Submission(
      f'import time\ndef f(x):\n  time.sleep({n % 3} / 100)\n'
      f'  return x * {2 + (n % 4 == 3)}  # {n}',
      CHECK if n % 2 else TEST,
      'f' if n % 2 else '',
    )
    for n in range(num)
  ]
  return rows, [n % 4 != 3 for n in range(num)]


def _judge_under_fire(tier, count):
  """Kills a process of the pool after every few verdicts, `count` times."""
  bounds = sandbox.Limits(cpu_seconds=2.0, wall_seconds=60.0)
  chance = random.Random(0)
  batch, expected = _batch(12)
  done, killed, wrong, unjudged = 0, 0, [], 0
  with (
    sandbox.Sandbox(bounds, tier=tier, workers=2) as pool,
    concurrent.futures.ThreadPoolExecutor(2) as threads,
  ):

    def judge(number):
      return number, pool.judge([batch[number]])[0]

    while killed < count:
      for number, verdict in threads.map(judge, range(len(batch))):
        done += 1
        unjudged += verdict.passed is None
        if verdict.passed not in (expected[number], None):
          wrong.append((batch[number], verdict))
        below = sorted(processes.descendants(*pool.pids()))
        if done % 4 == 0 and below:
          time.sleep(chance.uniform(0, 0.05))
          _kill(chance.choice(below))
          killed += 1
    after = [v.passed for v in pool.judge(batch)]
  assert wrong == [] and after == expected
  assert unjudged <= done / 20, (unjudged, done)  # killed twice in a row
  return f'{killed} kills, {done} verdicts, {unjudged} unjudged'


def test_kills_at_random_give_no_wrong_verdict(tier):
  _judge_under_fire(tier, 10)


@pytest.mark.slow
def test_a_hundred_kills_give_no_wrong_verdict(tier):
  print(tier, _judge_under_fire(tier, 100))


def test_a_program_killed_from_outside_is_not_judged(tier):
  """As the kernel does when memory runs out."""
  bounds = sandbox.Limits(cpu_seconds=30)
  code = 'import time\ndef f(x): time.sleep(60)'
  with sandbox.Sandbox(bounds, tier=tier, workers=1) as pool:
    pool.judge(_batch(2)[0])
    resting = processes.descendants(*pool.pids())
    found = []
    thread = threading.Thread(
      target=lambda: found.extend(
        pool.judge([coding.Submission(code, t, 'f') for t in (TEST, CHECK)])
      )
    )
    thread.start()
    deadline = time.monotonic() + 60
    while thread.is_alive() and time.monotonic() < deadline:
      for pid in processes.descendants(*pool.pids()).keys() - resting.keys():
        # Of what came, the children: they ended their own starting already.
        if not _is_zygote(pid):
          _kill(pid)
      time.sleep(0.05)
    thread.join()
    assert [v.passed for v in found] == [None, None]
    assert all(v.reason.startswith('infrastructure') for v in found), found
    assert all(v.share != v.share for v in found)
    assert pool.judge(_batch(2)[0])[0].passed


def test_signals_to_all_processes_of_a_job_end_none(tier):
  code = (
    'import time\ndef f(x):\n  end = time.monotonic() + 0.5\n'
    '  while time.monotonic() < end: time.sleep(0.01)\n  return 2 * x'
  )
  with sandbox.Sandbox(conftest.BOUNDS, tier=tier, workers=1) as pool:
    pool.judge(_batch(2)[0])  # both start
    before = pool.pids()
    found = []
    thread = threading.Thread(
      target=lambda: found.extend(
        pool.judge([coding.Submission(code, t, 'f') for t in (TEST, CHECK)])
      )
    )
    thread.start()
    while thread.is_alive():
      for pid in processes.descendants(*pool.pids()):
        for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGHUP):
          with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
      time.sleep(0.05)
    assert [v.passed for v in found] == [True, True], found
    assert pool.pids() == before


def _is_zygote(pid):
  """bubblewrap and the zygote have an uncommon oom_score_adj or children."""
  try:
    children = pathlib.Path(f'/proc/{pid}/task/{pid}/children').read_text()
    status = pathlib.Path(f'/proc/{pid}/status').read_text()
  except OSError:
    return True
  return bool(children.strip()) or 'Seccomp:\t2' not in status


def _kill(pid):
  try:
    os.kill(pid, signal.SIGKILL)
  except ProcessLookupError:
    pass


def test_a_zygote_that_cannot_fork_is_no_verdict(tier, monkeypatch):
  def no_processes(tier, bounds, real=worker.config):
    return real(tier, bounds) | {'readable': None}  # confinement fails

  sandbox.Sandbox(tier=tier).close()  # the self-test
  monkeypatch.setattr(worker, 'config', no_processes)
  with sandbox.Sandbox(tier=tier, workers=1) as pool:
    verdicts = pool.judge(_batch(2)[0])
  assert [v.passed for v in verdicts] == [None, None]
  assert all('could not be confined' in v.reason for v in verdicts)


def test_workers_are_reused_and_replaced(tier, monkeypatch):
  monkeypatch.setattr(pool_lib, 'ROTATE_AFTER', 3)
  seen = []
  with sandbox.Sandbox(conftest.BOUNDS, tier=tier, workers=1) as pool:
    assert pool.pids() == [] or len(pool.pids()) == 2
    for row in _batch(14)[0][::2]:
      assert pool.judge([row])[0].passed is not None
      seen.append(pool.pids()[0])
  runs = [seen.count(pid) for pid in dict.fromkeys(seen)]
  # The self-test may have used up a part of the first.
  assert sum(runs) == 7 and max(runs) == 3 and len(runs) >= 3


def test_closing_ends_everything(tier):
  pool = sandbox.Sandbox(conftest.BOUNDS, tier=tier, workers=2)
  pool.judge(_batch(8)[0])
  below = processes.descendants(*pool.pids())
  assert len(below) >= 2
  pool.close()
  assert processes.survivors(below) == [] and pool.pids() == []


def test_threads_share_a_pool(pool):
  batch, expected = _batch(6)
  found = {}
  threads = [
    threading.Thread(target=lambda n=n: found.update({n: pool.judge(batch)}))
    for n in range(4)
  ]
  for thread in threads:
    thread.start()
  for thread in threads:
    thread.join()
  for n in range(4):
    assert [v.passed for v in found[n]] == expected


@pytest.mark.parametrize('user', ['root', 'nobody'])
def test_nothing_survives_the_trainer(tier, user):
  identity, python = {}, sys.executable
  environment = os.environ | {'PYTHONPATH': str(_REPO)}
  if user == 'nobody':
    identity, python, environment = unprivileged()
  elif os.geteuid() != 0:
    pytest.skip('not root')
  script = pathlib.Path(__file__).with_name('trainer.py')
  trainer = subprocess.Popen(
    [python, str(script), tier],
    stdout=subprocess.PIPE,
    env=environment,
    **identity,
  )
  with trainer:
    assert trainer.stdout.readline() == b'busy\n'
    deadline = time.monotonic() + 60
    while True:  # three programs, three tests, and all that holds them
      below = processes.descendants(trainer.pid)
      if len(below) >= 13 or time.monotonic() > deadline:
        break
      time.sleep(0.1)
    assert len(below) >= 13, below
    trainer.kill()
    trainer.wait()
  time.sleep(2)
  assert processes.alive(below) == []


def unprivileged():
  """How Popen starts a Python that imports this package as nobody."""
  if os.geteuid() != 0:
    return {}, sys.executable, os.environ | {'PYTHONPATH': str(_REPO)}
  import pyseccomp

  python = hosts.interpreter().path
  path = f'{_REPO}:{pathlib.Path(pyseccomp.__file__).parent}'
  identity = {'user': 65534, 'group': 65534, 'extra_groups': []}
  environment = {'PYTHONPATH': path, 'PYTHONDONTWRITEBYTECODE': '1'}
  done = subprocess.run(
    [python, '-c', 'import pyseccomp, dllm_jax.tasks.sandbox'],
    env=environment,
    capture_output=True,
    **identity,
  )
  if done.returncode != 0:
    pytest.skip(f'nobody cannot import the package: {done.stderr[-200:]}')
  return identity, python, environment


def test_where_no_process_can_be_started(tier, monkeypatch):
  with sandbox.Sandbox(tier=tier, workers=1) as pool:
    for slot in pool._slots:
      slot.end(kill=True)

    def refuse(*args, **kwargs):
      raise BlockingIOError(11, 'no processes are left')

    monkeypatch.setattr(worker.subprocess, 'Popen', refuse)
    verdict = pool.judge([coding.Submission('def f(x): return 2', TEST, '')])[0]
    assert verdict.passed is None
    assert verdict.reason.startswith('infrastructure: the zygote cannot be')
    monkeypatch.undo()
    good = coding.Submission('def f(x): return 2 * x', TEST, '')
    assert pool.judge([good])[0].passed is True


def test_many_open_files(tier):
  """Descriptors beyond 1024, as a trainer with many shards has."""
  soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
  if hard != resource.RLIM_INFINITY and hard < 2048:
    pytest.skip('the host allows too few open files')
  resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2048), hard))
  held = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
  try:
    with sandbox.Sandbox(tier=tier, workers=1) as pool:
      good = coding.Submission('def f(x): return 2 * x', TEST, '')
      assert pool.judge([good])[0].passed is True
  finally:
    for descriptor in held:
      os.close(descriptor)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_forked_process_has_no_sandbox(tier):
  with sandbox.Sandbox(tier=tier, workers=1) as pool:
    pool._owner += 1  # as in a child
    with pytest.raises(RuntimeError, match='the process that made it'):
      pool.judge([])
