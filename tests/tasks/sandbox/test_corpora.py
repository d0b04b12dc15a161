"""HumanEval and MBPP: their own solutions pass, stubs do not."""

import ast
import contextlib
import multiprocessing
import os
import pathlib
import subprocess
import sys
import time
import warnings

import pytest

from dllm_jax.data import benchmarks
from dllm_jax.tasks import coding, sandbox
from dllm_jax.tasks.sandbox import plans

_SPLITS = {
  'humaneval': ['test'],
  'mbpp': ['prompt', 'test', 'validation', 'train'],
}


@pytest.fixture(scope='module')
def corpora(shared_dir):
  return {
    name: [
      row
      for split in splits
      for row in benchmarks.load(name, split, shared_dir / 'data')
    ]
    for name, splits in _SPLITS.items()
  }


def _gold(row):
  # MBPP's set-up makes objects of classes that the solution defines.
  code = row['solution'] + '\n' + row['setup']
  return coding.Submission(code, row['test'], row['entry_point'])


def _stub(row):
  """Every function of the solution, returning None."""
  with warnings.catch_warnings():  # some of MBPP has '\\w' and the like
    warnings.simplefilter('ignore', SyntaxWarning)
    warnings.simplefilter('ignore', DeprecationWarning)
    tree = ast.parse(row['solution'])
  names = [n.name for n in tree.body if isinstance(n, ast.FunctionDef)]
  code = '\n'.join(f'def {name}(*a, **k): return None' for name in names)
  return _gold(row)._replace(code=code)


def _wrong(pool, rows, make, expected):
  verdicts = pool.judge([make(row) for row in rows])
  return [
    (row['id'], verdict)
    for row, verdict in zip(rows, verdicts, strict=True)
    if verdict.passed is not expected
  ]


@pytest.mark.parametrize('name', list(_SPLITS))
def test_a_sample_of_solutions_passes(tier, corpora, name):
  rows = corpora[name][:: 7 if name == 'humaneval' else 41]
  examined = [r for r in corpora[name] if not _by_values(r)]
  with sandbox.Sandbox(tier=tier, workers=2) as pool:
    assert _wrong(pool, rows + examined, _gold, True) == []
    assert _wrong(pool, rows + examined, _stub, False) == []


def _by_values(row):
  return isinstance(plans.plan(row['test'], row['entry_point']), plans.Values)


def test_how_many_tests_are_judged_by_values(corpora):
  counts = {n: sum(map(_by_values, rows)) for n, rows in corpora.items()}
  assert counts == {'humaneval': 156, 'mbpp': 969}


def _spin():
  while True:
    pass


@contextlib.contextmanager
def _load(times):
  """So many busy processes a processor."""
  context = multiprocessing.get_context('spawn')
  spinners = [
    context.Process(target=_spin, daemon=True)
    for _ in range(times * os.cpu_count())
  ]
  for spinner in spinners:
    spinner.start()
  try:
    yield
  finally:
    for spinner in spinners:
      spinner.kill()
      spinner.join()


@pytest.mark.slow
@pytest.mark.parametrize('times', [0, 8])
def test_all_solutions_pass_five_times(tier, corpora, times):
  with _load(times), sandbox.Sandbox(tier=tier, workers=2) as pool:
    for _ in range(5):
      for rows in corpora.values():
        assert _wrong(pool, rows, _gold, True) == []
    for rows in corpora.values():
      assert _wrong(pool, rows, _stub, False) == []


@pytest.mark.slow
def test_all_solutions_pass_tests_that_run(tier, corpora, monkeypatch):
  """Judge mode for every test, not only for those that need it."""

  def refuse(*_):
    raise plans.expression.NotCovered('on purpose')

  plans.plan.cache_clear()
  monkeypatch.setattr(plans, '_values', refuse)
  with sandbox.Sandbox(tier=tier, workers=2) as pool:
    for rows in corpora.values():
      assert _wrong(pool, rows, _gold, True) == []
      assert _wrong(pool, rows, _stub, False) == []
  plans.plan.cache_clear()


@pytest.mark.slow
@pytest.mark.parametrize('mode, rate', [('values', 100), ('judge', 50)])
def test_evaluations_a_cpu_second(tier, mode, rate):
  """In a process without the tests' type checks."""
  script = pathlib.Path(__file__).with_name('rate.py')
  root = script.parents[3]
  done = subprocess.run(
    [sys.executable, str(script), tier, mode],
    env=os.environ | {'PYTHONPATH': str(root)},
    capture_output=True,
    check=True,
    text=True,
  )
  print(done.stdout)
  assert float(done.stdout.split()[2]) >= rate


@pytest.mark.slow
def test_a_hang_ends_within_half_a_second_of_its_limit(tier):
  """By the clock: for an idle machine."""
  bounds = sandbox.Limits(cpu_seconds=1.0, wall_seconds=2.0)
  with sandbox.Sandbox(bounds, tier=tier, workers=1) as pool:
    for body, limit in (
      ('while True: pass', 1),
      ('all(__import__("itertools").repeat(True))', 1),
      ('__import__("time").sleep(60)', 2),
    ):
      for test in ('assert f() == 1', 'def check(c):\n  x = c()\n  assert x'):
        started = time.monotonic()
        hang = coding.Submission(f'def f():\n  {body}', test, 'f')
        good = coding.Submission('def f(): return 1', test, 'f')
        assert pool.judge([hang])[0].reason == 'timeout'
        took = time.monotonic() - started
        print(tier, body, f'{took:.2f} s')
        assert took < limit + 0.5
        assert pool.judge([good])[0].passed
