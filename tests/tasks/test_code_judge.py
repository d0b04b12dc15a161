"""The judge of a config: one sandbox, started late, ended, and refused."""

import os

import pytest

from dllm_jax import errors, tasks
from dllm_jax.tasks import code_judge, coding
from dllm_jax.tasks.sandbox import hosts, pool

GOOD = coding.Submission('f = abs', 'assert f(-2) == 2', 'f')


@pytest.fixture
def made(monkeypatch):
  """The sandboxes that are made."""
  made = []

  class Recorded(pool.Sandbox):
    def __init__(self, *args, **keywords):
      super().__init__(*args, **keywords)
      made.append(self)

  monkeypatch.setattr(pool, 'Sandbox', Recorded)
  monkeypatch.setattr(code_judge, '_open', {})
  yield made
  code_judge.close()


needs_tier = pytest.mark.skipif(
  not hosts.available_tiers(), reason='no program can be confined'
)


@needs_tier
def test_one_sandbox_for_equal_settings_when_it_is_needed(made):
  task, twin, other = (
    tasks.TASKS['mbpp'](sandbox_workers=1, sandbox_cpu_seconds=s)
    for s in (2.0, 2.0, 1.0)
  )
  assert task.judge.judge([]) == [] and made == []
  row = {
    'prompt': '',
    'entry_point': '',
    'setup': 'import math',
    'test': 'assert f(4) == 2 and f(-1) is None\nassert f(9) == 3',
  }
  texts = [
    '<answer>```\ndef f(x):\n  if x > 0: return math.sqrt(x)\n```</answer>',
    'def f(x):\n  return [2, 3][x == 9]',
    '<answer>',
  ]
  found = task.score_batch([row] * 3, texts)
  assert [s.terms['tests'] for s in found] == [1, 0.5, 0]
  assert [s.correct for s in found] == [True, False, False]
  assert [s.reason for s in found] == ['', 'wrong', 'no program']
  assert twin.judge.judge([GOOD])[0].passed and len(made) == 1
  assert other.judge.judge([GOOD])[0].passed and len(made) == 2
  assert [s.bounds.cpu_seconds for s in made] == [2, 1]
  pids = [pid for sandbox in made for pid in sandbox.pids()]
  code_judge.close()
  assert pids and not any(os.path.exists(f'/proc/{pid}') for pid in pids)
  assert task.judge.judge([GOOD])[0].passed and len(made) == 3  # and again


def test_a_failed_sandbox_masks_the_sample(made, monkeypatch):
  lost = coding.Verdict(None, float('nan'), 'infrastructure: the zygote ended')
  monkeypatch.setattr(
    code_judge.SandboxJudge, 'judge', lambda self, s: [lost] * len(s)
  )
  row = {'prompt': '', 'entry_point': '', 'setup': '', 'test': 'assert f'}
  found = tasks.TASKS['mbpp']().score(row, 'f = 1')
  assert not found.judged and found.reason == lost.reason
  assert found.terms['tests'] != found.terms['tests']


def test_a_host_without_a_tier_is_refused_in_one_line(made, monkeypatch):
  monkeypatch.setattr(hosts, 'lacks', lambda tier: f'no {tier}')
  with pytest.raises(errors.UserError) as caught:
    tasks.TASKS['mbpp']().judge.judge([GOOD])
  assert 'no namespaces' in str(caught.value) and '\n' not in str(caught.value)


@pytest.mark.parametrize(
  'values',
  [
    {'sandbox_workers': -1},
    {'sandbox_cpu_seconds': 0.0},
    {'sandbox_memory_mib': 16},
    {'sandbox_tier': 'none'},
    {'prompt_style': 'd2'},
  ],
)
def test_values_out_of_bounds(values):
  with pytest.raises(ValueError):
    tasks.TASKS['humaneval'](**values)
