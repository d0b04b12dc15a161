"""No program of the corpus forges a verdict, reaches out, or leaves anything.

Each trial is a process of its own, as the user of the tests and, where that is
root, as one without rights. The sample after each attack is judged right.
"""

import contextlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

import pytest

from dllm_jax.tasks import coding
from dllm_jax.tasks.sandbox import hosts
from tests.tasks.sandbox_attacks import corpus, forge

REPO = pathlib.Path(__file__).resolve().parents[2]
TIERS = hosts.available_tiers()
NOBODY = 65_534
pytestmark = pytest.mark.skipif(not TIERS, reason='no program can be confined')


def users():
  """'own', and 'other' where this user can become another."""
  other = os.geteuid() == 0 and shutil.which('setpriv')
  return ['own', 'other'] if other else ['own']


@contextlib.contextmanager
def others_packages():
  """What the sandbox imports, where any user can read it.

  This environment may lie in a folder that is closed to others.
  """
  import pyseccomp  # a part of the extra that these tests need anyway

  with tempfile.TemporaryDirectory() as folder:
    shutil.copy(pyseccomp.__file__, folder)
    os.chmod(folder, 0o755)
    yield folder


def run(user, *args, seconds=300):
  """The report of a trial as a user."""
  python, path, before = sys.executable, [str(REPO)], []
  with tempfile.TemporaryDirectory() as home, others_packages() as packages:
    if user == 'other':
      python = hosts.interpreter().path
      path.append(packages)
      before = ['setpriv', f'--reuid={NOBODY}', f'--regid={NOBODY}']
      before.append('--clear-groups')
      os.chown(home, NOBODY, NOBODY)
    done = subprocess.run(
      [*before, python, '-m', 'tests.tasks.sandbox_attacks.trial', *args],
      env={
        'PATH': os.environ['PATH'],
        'HOME': home,
        'PYTHONPATH': os.pathsep.join(path),
        'PYTHONDONTWRITEBYTECODE': '1',
      },
      cwd=home,
      capture_output=True,
      text=True,
      timeout=seconds,
    )
  assert done.returncode == 0, done.stderr
  return json.loads(done.stdout)


def check(report, tier):
  assert report['tier'] == tier and report['num'] > 0
  assert report['forged'] == []
  assert report['effects'] == []
  assert report['spoilt'] == []
  # What no mode can run is masked, but no program can have that done to it.
  assert [n for n in report['masked'] if not n.startswith('hostile/')] == []
  assert not any(r.startswith('infrastructure') for r in report['reasons'])


def test_the_corpus_is_large_and_valid():
  places = {name: '7' for name in ('SECRET', 'PID', 'TRAINER', 'PORT', 'UDP')}
  sizes = {
    family: len(corpus.samples(family, places)) for family in corpus.FAMILIES
  }
  assert sum(sizes.values()) > 500 and len(corpus.pairs(places)) > 30
  for family in ('leak', 'act', 'canary'):
    for sample in corpus.samples(family, places):  # they can attack
      compile(sample.submission.code, sample.name, 'exec')
      compile(sample.submission.test, sample.name, 'exec')


@pytest.mark.parametrize('tier', TIERS)
def test_nothing_is_forged_and_nothing_planted(tier):
  check(run('own', '--tier', tier, '--families', 'forge,planted'), tier)


@pytest.mark.parametrize('user', users())
@pytest.mark.parametrize('tier', TIERS)
def test_nothing_leaks_or_gets_out(tier, user):
  report = run(user, '--tier', tier, '--families', 'leak,act,canary')
  check(report, tier)
  assert (report['uid'] == NOBODY) == (user == 'other')


@pytest.mark.parametrize('tier', TIERS)
def test_what_hangs_and_crashes_harms_no_other(tier):
  # An odd stride: value and judge mode alternate.
  families = ('--families', 'exhaust,hostile', '--every', '15')
  check(run('own', '--tier', tier, *families), tier)


@pytest.mark.slow
@pytest.mark.parametrize('user', users())
@pytest.mark.parametrize('tier', TIERS)
def test_the_whole_corpus(tier, user):
  report = run(user, '--tier', tier, seconds=900)
  assert report['num'] > 500
  check(report, tier)
  check(run(user, '--tier', tier, '--families', 'planted'), tier)


@pytest.mark.parametrize(
  'user',
  [users()[0], *(pytest.param(u, marks=pytest.mark.slow) for u in users()[1:])],
)
@pytest.mark.parametrize('tier', TIERS)
def test_nothing_outlives_a_killed_trainer(tier, user):
  report = run(user, '--tier', tier, '--kill')
  assert report['processes'] > 1  # there was something to be left behind
  assert (report['survivors'], report['files']) == ([], [])


def naive(submission: coding.Submission) -> bool:
  """Whether a judge that runs program and test together passes a program."""
  parts = [submission.code, submission.test]
  if 'def check' in submission.test:
    parts.append('check(f)')
  with tempfile.TemporaryDirectory() as folder:
    try:
      done = subprocess.run(
        [sys.executable, '-I', '-S', '-c', '\n'.join(parts)],
        cwd=folder,
        env={},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        timeout=20,
      )
    except subprocess.TimeoutExpired:
      return False
  return done.returncode == 0


def test_the_corpus_bites():
  """A judge in one process, by exit code, is forged by much of it."""
  samples = [
    sample
    for sample in corpus.samples('forge', {})
    if sample.name.split('/')[1] in forge.HARMLESS
    and sample.name.endswith('judge')
  ]
  fooled = [s.name for s in samples if naive(s.submission)]
  assert not naive(corpus.honest('judge', right=False, number=0))
  assert naive(corpus.honest('judge', right=True, number=0))
  assert len(fooled) >= 28, fooled
