"""launch/eval.py: a results file and the generations, or one line."""

import dataclasses
import io
import json

import pytest

from dllm_jax import errors
from dllm_jax.run import evaluate as evaluate_lib
from dllm_jax.run import setup
from dllm_jax.runtime import console
from dllm_jax.state import workdir
from tests import tiny_run

PUBLIC = {'task__max_number': 100, 'task__max_target': 100}


def keep_model(directory, arg='ag_grpo', **changes):
  """An untrained model, kept as a run would keep it."""
  cfg, ctx = tiny_run.parts(arg, **changes)
  model = setup.new_model(cfg)
  params = setup.fresh_params(ctx)
  dataclasses.replace(model, params=params).save(directory / 'final')
  config = tiny_run.values(arg, **changes)
  workdir.write_json(directory / 'config.json', {'config': config})
  return directory


@pytest.fixture(scope='module')
def model(tmp_path_factory):
  return keep_model(tmp_path_factory.mktemp('model'))


def evaluate(commands, directory, out, *args):
  """(results, generations) of the command."""
  command = commands.run('eval.py', '--model', directory, '--out', out, *args)
  assert (command.code, command.err) == (0, '')
  assert 'accuracy' in command.out and 'written:' in command.out
  generations = out.with_suffix('.generations.jsonl').read_text().splitlines()
  return json.loads(out.read_text()), [json.loads(x) for x in generations]


def test_results_and_generations(commands, model, tmp_path):
  how = ('--steps=3', '--order=margin', '--schedule=linear')
  found, generations = evaluate(
    commands,
    model,
    tmp_path / 'new' / 'out.json',
    *how,
    '--batch_size=6',
    '--config.model.remat=block',  # how it runs, not which model it is
  )
  assert {
    'task',
    'params',
    'accuracy',
    'interval',
    'num',
    'mean_steps',
    'tokens_per_second',
    'solution',
    'xmlcount',
  } <= set(found)
  assert (found['task'], found['params'], found['num']) == (
    'countdown',
    'final',
    12,
  )
  assert found['mean_steps'] == 3 and len(generations) == 12
  for row in generations:
    assert set(row) == {
      'id',
      'question',
      'generation',
      'ground_truth',
      'correct',
      'completion_ids',
      'commit_step',
      'num_steps',
    }
    # Dream's schedule: floor(999 * 12 / 3000), floor(999 * 9 / 2001), the rest.
    assert sorted(row['commit_step']) == [0] * 3 + [1] * 4 + [2] * 5
    assert len(row['completion_ids']) == 12 and row['num_steps'] == 3
  # Our own completions are recordings like any other.
  path = tmp_path / 'new' / 'out.generations.jsonl'
  out = tmp_path / 'scores.json'
  args = ('--task', 'countdown', '--generations', path, '--out', out)
  scored = commands.run('score.py', *args, config=False)
  assert (scored.code, scored.err) == (0, '')
  items = json.loads(out.read_text())['items']
  assert [i['correct'] for i in items] == [r['correct'] for r in generations]
  share = sum(row['correct'] for row in generations) / 12
  assert found['accuracy'] == share
  again, same = evaluate(
    commands, model, tmp_path / 'again.json', *how, '--batch_size=4'
  )
  assert same == generations
  assert again | {'tokens_per_second': 0} == found | {'tokens_per_second': 0}
  once_more = ('--model', model, '--out', tmp_path / 'again.json', '--steps=2')
  refused = commands.run('eval.py', *once_more)
  assert refused.code == 1 and 'already exists' in refused.err
  assert json.loads((tmp_path / 'again.json').read_text()) == again
  assert commands.run('eval.py', *once_more, '--overwrite').code == 0
  assert json.loads((tmp_path / 'again.json').read_text())['mean_steps'] == 2


def test_a_model_of_a_fixed_schedule_under_the_gate(commands, model, tmp_path):
  how = ('--decode=gated', '--threshold=-0.1')
  found, generations = evaluate(commands, model, tmp_path / 'out.json', *how)
  assert found['mean_steps'] == 1  # one block of 12
  assert all(row['commit_step'] == [0] * 12 for row in generations)


@pytest.mark.parametrize(
  'task, changes', [('countdown', PUBLIC), ('sudoku', {})]
)
def test_public_test_files(commands, shared_dir, tmp_path, task, changes):
  arg = 'ag_grpo' if task == 'countdown' else 'sudoku'
  directory = keep_model(tmp_path, arg, **changes)
  found, generations = evaluate(
    commands,
    directory,
    tmp_path / 'out.json',
    f'--config=tests/tiny_run.py:{arg}',
    *tiny_run.flags(data_dir=shared_dir / 'data', **changes),
  )
  assert (found['task'], found['num']) == (task, 12)
  stem = {'countdown': 'countdown_cd3_test:', 'sudoku': '4x4_test_sudoku:'}
  assert all(row['id'].startswith(stem[task]) for row in generations)
  assert 0 <= found['accuracy'] <= 1


@pytest.mark.parametrize(
  'args, code, line',
  [
    ([], 2, '--model DIR is missing'),
    (['--model=/nonexistent'], 1, 'there is no folder /nonexistent'),
    (
      ['--model={model}', '--params=control'],
      1,
      "holds no model 'control'; it has final (--params)",
    ),
    (['--model={model}', '--params=best'], 2, '--params'),
    (['--model={model}', '--task=sudoku'], 2, "not the task 'countdown'"),
    (['--model={model}', '--steps=0'], 2, '--steps'),
    (['--model={model}', '--steps=13'], 2, 'is more than the 12 tokens of a'),
    (
      ['--model={model}', '--decode=gated', '--schedule=linear'],
      2,
      '--schedule is not read by the gated decoder; give --decode fixed',
    ),
    (
      ['--model={model}', '--block_length=5'],
      2,
      'is not a positive multiple of',
    ),
    (['--model={model}', '--batch_size=0'], 1, 'eval.batch_size is 0'),
    (['--model={model}', '--batch_size=3'], 1, 'eval.batch_size is 3'),
    (['--model={model}', '--temperature=-1'], 2, 'temperature -1.0'),
    (['--model={model}', '--threshold=0.5'], 2, '--threshold is not read by'),
    (
      ['--model={model}', '--decode=gated', '--steps=3'],
      2,
      '--steps is not read by the gated decoder; give --decode fixed',
    ),
    (
      ['--model={model}', '--sweep', '--steps=3'],
      2,
      '--steps is not read with --sweep',
    ),
    (
      ['--model={model}', '--sweep', '--params=base'],
      2,
      '--params is not read with --sweep',
    ),
    (
      ['--model={model}', '--likelihood', '--steps=3'],
      2,
      '--steps is not read with --likelihood',
    ),
    (['--model={model}', '--num_canvases=3'], 2, 'with --likelihood alone'),
    (['--model={model}', '--profile=d2'], 2, '--profile'),
    (['--model={model}', '--profile=fast_dllm'], 2, "protocol for 'countdown'"),
    (['--model={model}', '--fewshot_seed=3'], 2, 'with --num_fewshot alone'),
    (['--model={model}', '--num_fewshot=-1'], 2, '--num_fewshot'),
    (['--model={model}', '--num_fewshot=3'], 1, 'max_prompt_length=6'),
    (['--model={model}', '--likelihood'], 1, 'has no options to compare'),
    (['--model={model}', '--out={model}'], 1, 'is a folder; name a file'),
    (['--model={model}', '--out=x.png'], 1, 'does not end in .json'),
    (
      ['--model={model}', '--out={model}/config.json/x.json'],
      1,
      'cannot write results to',
    ),
    (
      ['--model={model}', '--config.model.hidden_size=24'],
      1,
      'was trained with model.hidden_size=16, the config says 24',
    ),
    (
      ['--model={model}', '--config.data_dir=/no'],
      1,
      'test file /no/countdown/',
    ),
    (
      ['--model={model}', *tiny_run.flags(rollout__max_prompt_length=3)],
      1,
      'more than rollout.max_prompt_length=3',
    ),
  ],
)
def test_a_wrong_command_is_one_line(commands, model, args, code, line):
  args = [arg.format(model=model) for arg in args]
  command = commands.run('eval.py', *args)
  assert command.code == code, command.err
  assert line in command.err and command.err.startswith('eval.py: ')
  assert command.err.count('\n') == 1


def test_a_model_without_its_tokenizer_is_one_line(commands, tmp_path):
  keep_model(tmp_path)
  (tmp_path / 'final' / 'dllm_jax.json').unlink()
  (tmp_path / 'final' / 'tokenizer.json').unlink()
  command = commands.run('eval.py', '--model', tmp_path)
  assert command.code == 1 and command.err.count('\n') == 1
  assert 'tokenizer' in command.err


@pytest.mark.parametrize(
  'out', ['eval.json', 'frontier.json', '/proc/out.json']
)
def test_results_go_neither_over_a_run_nor_where_nothing_can_be_written(
  commands, model, out
):
  before = (model / 'config.json').read_bytes()
  for name in ('eval.json', 'frontier.png'):
    (model / name).write_text('kept')
  command = commands.run('eval.py', '--model', model, '--out', model / out)
  assert command.code == 1 and command.err.count('\n') == 1
  assert '--out' in command.err and 'Traceback' not in command.err
  assert 'accuracy' not in command.out  # before the work
  assert (model / 'config.json').read_bytes() == before
  assert (model / 'frontier.png').read_text() == 'kept'


@pytest.mark.parametrize(
  'changes, line',
  [
    ({'model__hidden_size': 24}, 'was trained with model.hidden_size='),
    ({'rollout__prefill': 'x'}, 'was trained with rollout.prefill=, '),
  ],
)
def test_a_sweep_of_a_final_is_one_of_its_run(model, changes, line):
  config = tiny_run.values('ag_grpo', **changes)
  screen = console.Console(file=io.StringIO())
  with pytest.raises(errors.UserError, match=line):
    evaluate_lib.sweep_models(config, model / 'final', out=None, screen=screen)


def test_examples_come_before_the_questions(commands, model, tmp_path):
  """The model reads them: what it writes is another thing."""
  flags = tiny_run.flags(rollout__max_prompt_length=64)
  plain = evaluate(commands, model, tmp_path / 'plain.json', *flags)
  found, shown = evaluate(
    commands, model, tmp_path / 'shown.json', *flags, '--num_fewshot=2'
  )
  assert found['few_shot']['num'] == 2 and len(found['few_shot']['ids']) == 2
  assert found['few_shot']['seed'] is None
  assert plain[0]['few_shot'] == {'num': 0, 'seed': None, 'ids': []}
  written = lambda rows: [row['completion_ids'] for row in rows]
  assert written(shown) != written(plain[1])
  drawn, _ = evaluate(
    commands,
    model,
    tmp_path / 'drawn.json',
    *flags,
    '--num_fewshot=2',
    '--fewshot_seed=5',
  )
  assert drawn['few_shot']['ids'] != found['few_shot']['ids']
