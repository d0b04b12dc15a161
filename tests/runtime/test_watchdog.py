"""A process that hangs says where and ends; one that goes on is left alone."""

import math
import subprocess
import sys
import textwrap
import time

import pytest

from dllm_jax.runtime import watchdog

CHILD = """
  import re, sys, threading, time
  from dllm_jax.runtime import watchdog

  watchdog.GRACE_SECONDS = 0.5

  def hang_here():
    {hang}

  with watchdog.Watchdog(sys.argv[1], seconds=1.0) as watch:
    for step in range(3):
      watch.beat('rl updating', step)
      time.sleep(0.01)
    watch.beat('rl updating', 3)
    hang_here()
"""


def child(path, hang):
  code = textwrap.dedent(CHILD).format(hang=hang)
  return subprocess.run(
    [sys.executable, '-c', code, path],
    capture_output=True,
    text=True,
    check=False,
    timeout=60,
  )


def test_a_stuck_step_ends_the_process_and_says_where(tmp_path):
  path = tmp_path / 'watchdog.txt'
  began = time.monotonic()
  done = child(path, 'threading.Event().wait()')
  assert done.returncode == watchdog.EXIT_CODE == 4
  assert time.monotonic() - began > 1.0
  line = done.stderr.splitlines()[-1]
  assert line.startswith('stuck: no progress for ')
  assert 'in rl updating of step 3;' in line and str(path) in line
  for text in (done.stderr, path.read_text()):
    assert line in text and 'in hang_here' in text


def test_an_interpreter_that_hangs_is_ended_too(tmp_path):
  """The regular expression holds the lock that every Python thread needs."""
  path = tmp_path / 'watchdog.txt'
  done = child(path, "re.fullmatch('(a+)+b', 'a' * 60)")
  assert done.returncode == 1
  assert 'Timeout (' in path.read_text() and 'in hang_here' in path.read_text()


def test_a_run_that_goes_on_is_left_alone(tmp_path):
  path = tmp_path / 'watchdog.txt'
  hang = "[(watch.beat('rl updating', i), time.sleep(0.2)) for i in range(8)]"
  done = child(path, hang)
  assert (done.returncode, done.stderr) == (0, '')
  assert not path.exists()


@pytest.mark.parametrize(
  'took, limit',
  [
    ([], 30.0),
    ([0.1, 0.2, 90.0], 5.0),  # ten medians are 2 s
    ([1.0, 3.0, 90.0], 30.0),
  ],
)
def test_how_long_a_silence_may_last(took, limit):
  assert watchdog.limit(5.0, took) == limit


def test_what_takes_long_may_do_so_the_second_time(tmp_path):
  """Whatever else is short, and whatever has no history yet."""
  hang = """for step in (1, 2):
      watch.beat('rl collecting', step)
      time.sleep(1.5)
      for _ in range(5):
        watch.beat('sft updating')
      watch.pause()
      time.sleep(1.5)"""
  done = child(tmp_path / 'watchdog.txt', hang)
  assert (done.returncode, done.stderr) == (0, '')


def test_what_is_left_of_a_silence(tmp_path):
  assert watchdog.left() == math.inf
  with watchdog.Watchdog(tmp_path / 'watchdog.txt', seconds=100.0) as watch:
    assert watchdog.left() == math.inf
    watch.beat('collecting')
    assert 500 < watchdog.left() <= 600
    watch.beat('collecting')
    assert 0 < watchdog.left() <= 100
    watch.pause()
    assert watchdog.left() == math.inf
  assert watchdog.left() == math.inf


def test_zero_watches_nothing(tmp_path):
  with watchdog.Watchdog(tmp_path / 'watchdog.txt', seconds=0.0) as watch:
    watch.beat('updating', 1)
  assert list(tmp_path.iterdir()) == []
