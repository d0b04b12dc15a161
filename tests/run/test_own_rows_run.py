"""Runs on rows of one's own: supervised, and by RL with a named verifier."""

import dataclasses
import io
import json

import pytest

import configs.ag_grpo
import configs.diffu_grpo
import configs.sft
import configs.ta_grpo_d
from dllm_jax import errors
from dllm_jax import model as model_lib
from dllm_jax.analysis import record, report
from dllm_jax.run import evaluate
from dllm_jax.run import train as run_lib
from dllm_jax.runtime import console, sharding
from dllm_jax.state import metrics
from tests import tiny_rows, tiny_run
from tests.docs import pages

QUIET = console.Console(file=io.StringIO())
SFT = {
  'train__eval_every': 20,
  'train__optim__learning_rate': 1e-2,
  'train__optim__warmup_steps': 5,
  'base__batch_size': 32,
  'base__eos_padding': False,
  'eval__batch_size': 20,
}
OF_FAMILY = {
  'qwen3': {'rollout__decode': 'autoregressive', 'train__num_steps': 40},
  'llada': {'train__num_steps': 100},
}
RL = {
  'model__hidden_size': 48,
  'model__head_dim': 12,
  'model__mlp_size': 96,
  'task__prompt_style': 'terse',
  'data__held_out': 0.2,
  'base__num_steps': 150,
  'base__eval_every': 50,
  'base__patience': 0,
  'base__optim__learning_rate': 3e-3,
  'base__batch_size': 32,
  'train__num_steps': 20,
  'train__eval_every': 10,
  'train__optim__learning_rate': 1e-3,
  'rollout__num_prompts': 8,
  'rollout__gen_length': 8,
  'rollout__block_length': 8,
  'rollout__num_steps': 4,
  'eval__num_steps': (8, 4),
  'eval__batch_size': 20,
}
GUIDED = {
  'method__guided__num_steps': 4,
  'method__guided__answer_steps': 3,
  'method__guided__margin': 0,
  'method__guided__max_anchor': 5,
}
METHODS = {
  'ag_grpo': (configs.ag_grpo, GUIDED),
  'diffu_grpo': (configs.diffu_grpo, {}),
  'ta_grpo_d': (configs.ta_grpo_d, {}),
}


def supervised(tmp_path, family, **changes):
  """The config of supervised training on 200 rows."""
  folder = tiny_rows.folder(tmp_path / family, family)
  file = tiny_rows.write(tmp_path / 'own.jsonl', tiny_rows.conversations())
  changes = SFT | OF_FAMILY[family] | {'base__path': str(folder)} | changes
  return tiny_rows.values(configs.sft, file, **changes)


@pytest.mark.parametrize(
  'family', ['qwen3', pytest.param('llada', marks=pytest.mark.slow)]
)
def test_a_run_learns_to_repeat_its_rows(tmp_path, family):
  screen = io.StringIO()
  directory = tmp_path / 'run'
  config = supervised(tmp_path, family)
  run_lib.train(config, directory, console.Console(file=screen))
  found = json.loads((directory / 'eval.json').read_text())
  assert found['num'] == 20
  assert found['final']['loss'] < 0.05 < 1 < found['base']['loss']
  shown = screen.getvalue()
  assert '180 rows to learn' in shown and '20 rows are held out' in shown
  assert f'{found["final"]["loss"]:.4f}' in shown
  rows = metrics.read(directory)
  watched = [row['eval/loss'] for row in rows if 'eval/loss' in row]
  assert len(watched) == config['train']['num_steps'] // 20
  assert watched[-1] == found['final']['loss']  # the same rows and draws
  model = model_lib.Model.open(
    directory / 'final',
    mesh=sharding.make_mesh(sharding.MeshConfig(data=1)),
  )
  decoder = model.decoder()
  if family == 'llada':  # nothing was learnt of what follows a turn
    decoder = dataclasses.replace(
      decoder, gen_length=4, block_length=4, num_steps=4
    )
  asked = {'3 gh': 'gh!', '250 ab': 'ab!', '77 cd': 'cd!', '12 ef': 'ef!'}
  said = model.generate(list(asked), decoder)
  assert [of.text for of in said] == list(asked.values())
  read = record.read(directory)
  assert read.losses == {
    name: found[name]['loss'] for name in ('base', 'final')
  }
  page = report.of_run(read)
  assert f'final {found["final"]["loss"]:.4f}' in page and 'finished' in page


def test_the_same_run_again_shows_its_results(tmp_path):
  config = supervised(tmp_path, 'qwen3', train__num_steps=1)
  run_lib.train(config, tmp_path / 'run', QUIET)
  screen = io.StringIO()
  again = console.Console(file=screen)
  run_lib.train(config, tmp_path / 'run', again)
  assert 'holds a finished run' in screen.getvalue()
  assert 'nats per token' in screen.getvalue()
  # Another file is another run.
  tiny_rows.write(tmp_path / 'own.jsonl', tiny_rows.conversations(20))
  with pytest.raises(errors.UserError, match='train'):
    run_lib.train(config, tmp_path / 'run', QUIET)


def test_conversations_have_no_accuracy(tmp_path):
  """And no phrasings, but a loss."""
  config = supervised(tmp_path, 'llada')
  with pytest.raises(errors.UserError, match='^conversations .* held-out loss'):
    evaluate.evaluate_model(
      config,
      tmp_path / 'llada',
      None,
      decode=None,
      overrides={},
      out=None,
      screen=QUIET,
    )


@pytest.mark.parametrize(
  ('changes', 'line'),
  [
    ({'base__path': ''}, 'base.path is empty: name a model folder'),
    ({'train__patience': 2}, 'train.patience .* use 0'),
    ({'train__num_steps': 0}, 'train.num_steps=0 trains nothing'),
    ({'eval__thresholds': (0.5,)}, 'eval.thresholds'),
    ({'method__name': 'diffu_grpo'}, 'set task.verifier'),
    ({'data__train': ''}, 'data.train is empty: name a file'),
    ({'data__train': 'nowhere.jsonl'}, 'cannot read nowhere.jsonl: No such'),
    ({'data__held_out': 1.0}, "'data': held_out 1.0 is not within 0..1"),
    ({'rollout__gen_length': 4, 'rollout__block_length': 4}, 'raise that key'),
    ({'rollout__decode': 'fixed'}, 'use autoregressive'),
  ],
)
def test_what_does_not_fit_is_one_line(tmp_path, changes, line):
  config = supervised(tmp_path, 'qwen3', **changes)
  with pytest.raises(errors.UserError, match=line) as caught:
    run_lib.train(config, tmp_path / 'run', QUIET)
  assert '\n' not in str(caught.value)
  assert not (tmp_path / 'run').exists()


def problems(tmp_path, name, **changes):
  """The config of RL on the reversal of two letters."""
  letters = 'abcdefghij'
  rows = [{'prompt': a + b, 'answer': b + a} for a in letters for b in letters]
  file = tiny_rows.write(tmp_path / 'own.jsonl', rows)
  module, own = METHODS[name]
  return tiny_rows.values(module, file, **(RL | own | changes))


@pytest.mark.slow
@pytest.mark.parametrize('name', METHODS)
def test_rl_raises_the_verified_reward(tmp_path, name):
  """Greedy accuracy of the base is about 0.65."""
  run_lib.train(problems(tmp_path, name), tmp_path / 'run', QUIET)
  rows = [r for r in metrics.read(tmp_path / 'run') if r['phase'] == 'rl']
  reward = [row['reward/mean'] for row in rows]
  assert len(reward) == 20
  assert sum(reward[-5:]) > sum(reward[:5])
  found = json.loads((tmp_path / 'run' / 'eval.json').read_text())
  assert found['task'] == 'rows' and found['num'] == 20
  assert found['base']['verified'] == found['base']['accuracy'] > 0.4


@pytest.mark.slow
def test_a_python_function_judges_a_run(tmp_path, monkeypatch):
  """It gets the completion and the row of the file."""
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'own_verifier.py').write_text(
    'def share(text, row):\n'
    '  assert sorted(row) == ["answer", "prompt"]\n'
    '  return sum(letter in text for letter in row["answer"]) / 4\n'
  )
  config = problems(
    tmp_path,
    'diffu_grpo',
    task__verifier='own_verifier:share',
    base__num_steps=2,
    base__eval_every=0,
    train__num_steps=2,
    train__eval_every=0,
    eval__num_steps=(4,),
    **{f'model__{name}': value for name, value in tiny_run.SHAPE.items()},
  )
  run_lib.train(config, tmp_path / 'run', QUIET)
  rows = [r for r in metrics.read(tmp_path / 'run') if r['phase'] == 'rl']
  for row in rows:
    assert row['reward/mean'] == pytest.approx(row['terms/verified'])
    assert 0 <= row['reward/mean'] <= 0.5 and row['reward/correct'] == 0


@pytest.mark.slow
def test_the_commands_of_the_page_run(tmp_path, commands):
  """At tiny size, and the first one with a causal model too."""
  sft, rl = pages.commands(pages.REPO / 'docs' / 'your_own_data.md')
  talk = tiny_rows.conversations(20)
  sums = [{'prompt': f'{i} + 1?', 'answer': i + 1} for i in range(20)]
  size = {
    'rollout.max_prompt_length': 320,
    'rollout.gen_length': 48,
    'rollout.block_length': 48,
    'rollout.num_steps': 4,
    'eval.num_steps': '(4,)',
    'train.num_steps': 2,
  }
  guided = {'num_steps': 4, 'answer_steps': 2, 'max_anchor': 40}
  causal = {'rollout.decode': 'autoregressive'}
  for command, family, rows, own in (
    (sft, 'llada', talk, {}),
    (sft, 'qwen3', talk, causal),
    (rl, 'llada', sums, {f'method.guided.{k}': v for k, v in guided.items()}),
  ):
    place = tmp_path / f'{len(own)}'
    place.mkdir()
    tiny_rows.write(place / 'FILE.jsonl', rows)
    tiny_rows.folder(place / 'DIR', family)
    for name in ('configs', 'launch'):
      (place / name).symlink_to(pages.REPO / name)
    _, script, *args = command.split()
    args += [f'--config.{key}={value}' for key, value in (size | own).items()]
    done = commands.run(
      script.removeprefix('launch/'), *args, config=False, cwd=place
    )
    assert done.code == 0, done.err
    found = json.loads((place / 'RUN' / 'eval.json').read_text())
    assert found['task'] == 'rows' and found['num'] == 2


def test_rows_without_the_answers_that_guide(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'any_verifier.py').write_text('def one(text, row): return 1\n')
  changes = {'task__verifier': 'any_verifier:one'}
  config = problems(tmp_path, 'ag_grpo', **changes)
  tiny_rows.write(
    tmp_path / 'own.jsonl',
    [{'prompt': f'p{i}'} | ({'answer': 'a'} if i else {}) for i in range(9)],
  )
  with pytest.raises(errors.UserError) as caught:
    run_lib.train(config, tmp_path / 'run', QUIET)
  line = str(caught.value)
  assert 'own.jsonl:1 has no "answer"' in line and '(1 of 9 rows' in line
  assert '\n' not in line
