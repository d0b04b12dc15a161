"""launch/eval.py on code: HumanEval and MBPP by a Dream folder, and pass@k."""

import json

import pytest

from dllm_jax.tasks.sandbox import hosts
from tests import tiny_pretrained, tiny_run

pytestmark = pytest.mark.skipif(
  not hosts.available_tiers(), reason='no program can be confined'
)


@pytest.fixture(scope='module')
def dream(shared_dir, tmp_path_factory):
  return tiny_pretrained.dream(
    shared_dir, tmp_path_factory.mktemp('m') / 'dream'
  )


def args(shared_dir, model, task, out, **changes):
  """Few problems, short completions, of a model that knows nothing."""
  config = {
    'data_dir': shared_dir / 'data',
    'data__num_test': 4,
    'rollout__gen_length': 8,
    'rollout__block_length': 8,
    'rollout__num_steps': 2,
    'eval__batch_size': 4,
    'mesh__data': 1,
    'mesh__cpu_devices': 1,
    'model__remat': 'none',
  }
  return (
    f'--config=configs/diffu_grpo.py:dream_7b,{task}',
    f'--model={model}',
    f'--out={out}',
    *tiny_run.flags(**(config | changes)),
  )


@pytest.mark.parametrize(
  'task', ['humaneval', pytest.param('mbpp', marks=pytest.mark.slow)]
)
def test_from_prompts_to_results(commands, shared_dir, dream, tmp_path, task):
  out = tmp_path / 'out.json'
  command = commands.run('eval.py', *args(shared_dir, dream, task, out))
  assert (command.code, command.err) == (0, '')
  assert f'{task}, base: accuracy 0.0 %' in command.out
  found = json.loads(out.read_text())
  assert (found['task'], found['num'], found['unjudged']) == (task, 4, 0)
  assert {'tests', 'passed', 'fence', 'has_program'} <= set(found)
  assert sum(found['reasons'].values()) == 4
  path = out.with_suffix('.generations.jsonl')
  rows = [json.loads(line) for line in path.read_text().splitlines()]
  assert [row['correct'] for row in rows] == [False] * 4
  assert all(row['reason'] and row['test'] for row in rows)
  # The generations are recordings, whole without the data files.
  scored = tmp_path / 'scored.json'
  again = commands.run(
    *('score.py', '--task', task, '--generations', path, '--out', scored),
    config=False,
  )
  assert (again.code, again.err) == (0, '')
  items = json.loads(scored.read_text())['items']
  assert [i['reason'] for i in items] == [row['reason'] for row in rows]


def test_pass_at(commands, shared_dir, dream, tmp_path):
  out = tmp_path / 'out.json'
  several = {'eval__num_samples': 3, 'eval__pass_at': '(1,3)'}
  given = args(shared_dir, dream, 'mbpp', out, **several)
  refused = commands.run('eval.py', *given)
  assert refused.code == 1 and 'raise --temperature' in refused.err
  assert refused.err.count('\n') == 1 and not out.exists()
  command = commands.run('eval.py', *given, '--temperature=1')
  assert (command.code, command.err) == (0, '')
  assert '3 completions a prompt: pass@1 0.0 %, pass@3 0.0 %' in command.out
  found = json.loads(out.read_text())
  assert (found['num_samples'], found['pass@1'], found['pass@3']) == (3, 0, 0)
  path = out.with_suffix('.generations.jsonl')
  rows = [json.loads(line) for line in path.read_text().splitlines()]
  assert [row['sample'] for row in rows] == [0, 1, 2] * 4
  texts = [row['generation'] for row in rows]
  assert len(set(texts)) == 12  # draws of their own
