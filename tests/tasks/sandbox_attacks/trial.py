"""Puts the corpus through a sandbox, in a process of its own.

  python -m tests.tasks.sandbox_attacks.trial --tier seccomp --families forge

prints what went wrong as JSON. With --kill it ends a process that judges
attacks by SIGKILL, and looks for what is left of it.
"""

import argparse
import collections
import contextlib
import ctypes
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time

from dllm_jax.tasks.sandbox import limits, pool
from tests.tasks.sandbox_attacks import corpus, surroundings

CPU_SECONDS = 1.0
BATCH = 40
REST = 2.0  # seconds in which all that a dead trainer started must be gone
SUBREAPER = 36  # of prctl


def make(tier: str, workers: int) -> pool.Sandbox:
  """The sandbox under test."""
  return pool.Sandbox(
    limits.Limits(cpu_seconds=CPU_SECONDS), tier=tier, workers=workers
  )


def try_all(tier: str, families: list[str], every: int, workers: int) -> dict:
  """What went wrong with every `every`-th attack, each with samples after it.

  Returns:
    Names by fault: 'forged', 'masked' (not judged) and 'spoilt' (the sample
    after it was judged wrong); 'effects' outside; then figures.
  """
  found = collections.defaultdict(list)
  reasons, began = collections.Counter(), time.monotonic()
  num = 0
  with (
    tempfile.TemporaryDirectory() as folder,
    contextlib.closing(
      surroundings.Surroundings(pathlib.Path(folder))
    ) as around,
    make(tier, workers) as judge,
  ):
    for family in families:
      if family == 'planted':
        num += try_pairs(judge, around.places, every, workers, found)
        continue
      samples = corpus.samples(family, around.places)[::every]
      num += len(samples)
      for start in range(0, len(samples), BATCH):
        part = samples[start : start + BATCH]
        reasons.update(try_batch(judge, part, found))
        before = found['effects']
        found['effects'] += [
          f'{family} {start}: {e}' for e in around.effects() if e not in before
        ]
    found['effects'] += around.effects()
  times = os.times()
  return {
    'num': num,
    **{k: found[k] for k in ('forged', 'masked', 'spoilt', 'effects')},
    'reasons': dict(reasons),
    'uid': os.getuid(),
    'tier': judge.tier,
    'seconds': time.monotonic() - began,
    'cpu_seconds': sum(times[:4]),
  }


def try_batch(judge, samples, found) -> list[str]:
  """Judges attacks, a right and a wrong program after each; the reasons."""
  submissions = []
  for i, sample in enumerate(samples):
    mode = ('value', 'judge')[i % 2]
    submissions += [
      sample.submission,
      corpus.honest(mode, right=True, number=i),
      corpus.honest(mode, right=False, number=i),
    ]
  verdicts = judge.judge(submissions)
  for i, sample in enumerate(samples):
    verdict, right, wrong = verdicts[3 * i : 3 * i + 3]
    if verdict.passed is None:
      found['masked'].append(sample.name)
    if verdict.passed and not sample.may_pass:
      found['forged'].append(sample.name)
    if right.passed is not True or wrong.passed is not False:
      found['spoilt'].append(f'{sample.name}: {right} {wrong}')
  return [v.reason for v in verdicts[::3]]


def try_pairs(judge, places, every, workers, found) -> int:
  """Judges what plants and then what looks for it, on every worker."""
  pairs = list(corpus.pairs(places).items())[::every]
  for name, (plants, looks) in pairs:
    # Together too: a sample may work with one that runs beside it.
    verdicts = judge.judge([plants] * workers)
    verdicts += judge.judge([looks, plants] * workers + [looks])
    if any(verdict.passed for verdict in verdicts):
      found['forged'].append(name)
    if any(verdict.passed is None for verdict in verdicts):
      found['masked'].append(name)
  return len(pairs)


def kill(tier: str) -> dict:
  """What a trainer leaves that is killed while it judges attacks.

  Returns:
    'survivors': command lines of processes; 'files' in its temporary folder.
  """
  # What it leaves behind becomes a child of this process.
  if ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0):
    raise OSError('this process cannot become a subreaper')
  with tempfile.TemporaryDirectory() as folder:
    trainer = subprocess.Popen(
      [sys.executable, '-m', __spec__.name, '--tier', tier, '--for-ever'],
      env=os.environ | {'TMPDIR': folder},
      stdout=subprocess.PIPE,
    )
    trainer.stdout.readline()  # it judges
    time.sleep(1)
    tree = descendants(trainer.pid)
    trainer.send_signal(signal.SIGKILL)
    trainer.wait()
    time.sleep(REST)
    survivors = [command(pid) for pid in descendants(os.getpid())]
    files = os.listdir(folder)
  return {
    'survivors': [line for line in survivors if line],
    'files': files,
    'processes': len(tree),
    'uid': os.getuid(),
  }


def judge_for_ever(tier: str) -> None:
  """Judges what sleeps, hangs and forks, and says so once it has begun."""
  with make(tier, 2) as judge:
    names = ('sleep', 'for_ever', 'ignores', 'fork', 'blocks', 'while_true')
    submissions = [
      sample.submission
      for sample in corpus.samples('exhaust', {})
      + corpus.samples('hostile', {})
      if any(name in sample.name for name in names)
    ]
    judge.judge(
      [corpus.honest('judge', right=True, number=i) for i in range(2)]
    )
    print('judging', flush=True)
    while True:
      judge.judge(submissions)


def descendants(pid: int) -> list[int]:
  """Processes below one, all generations, that have not ended."""
  found = []
  for path in pathlib.Path(f'/proc/{pid}/task').glob('*/children'):
    with contextlib.suppress(OSError):
      for child in map(int, path.read_text().split()):
        if command(child):
          found.append(child)
        found += descendants(child)
  return found


def command(pid: int) -> str:
  """The command line of a process; '' where it has ended."""
  try:
    stat = pathlib.Path(f'/proc/{pid}/stat').read_text()
    if stat.rpartition(')')[2].split()[0] in 'ZX':
      return ''
    line = pathlib.Path(f'/proc/{pid}/cmdline').read_bytes()
  except OSError:
    return ''
  return line.replace(b'\0', b' ').decode(errors='replace') or '?'


def main() -> None:
  """The command."""
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument('--tier', default='auto')
  parser.add_argument('--families', default=','.join(corpus.FAMILIES))
  parser.add_argument('--every', type=int, default=1)
  parser.add_argument('--workers', type=int, default=2)
  parser.add_argument('--kill', action='store_true')
  parser.add_argument('--for-ever', action='store_true')
  args = parser.parse_args()
  if args.for_ever:
    judge_for_ever(args.tier)
    return
  if args.kill:
    report = kill(args.tier)
  else:
    report = try_all(
      args.tier, args.families.split(','), args.every, args.workers
    )
  print(json.dumps(report))


if __name__ == '__main__':
  main()
