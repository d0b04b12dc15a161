"""Runs of causal models: trained, stopped, resumed, evaluated, opened again."""

import io
import json
import shutil

import pytest
import tokenizers

import configs.cpc_grpo
from dllm_jax import errors
from dllm_jax import model as model_lib
from dllm_jax.analysis import seeds
from dllm_jax.decoding import autoregressive
from dllm_jax.run import evaluate
from dllm_jax.run import train as run_lib
from dllm_jax.runtime import console, sharding
from dllm_jax.state import metrics
from tests import tiny_pretrained, tiny_run

QUIET = console.Console(file=io.StringIO())
CHANGES = {'mesh__data': 1, 'rollout__gen_length': 16}
# A draft and a fractal decoder, with a cache; of one layer m can be 1.
STUDY = {
  'num_prompts': 3,
  'modules': (1,),
  'compressions': ('int8',),
  'placeholders': (1,),
  'no_cache': False,
}


def values(**changes):
  """A countdown run of a new causal model."""
  own = {'model__causal': True, 'rollout__decode': 'draft'}
  own |= {f'speculation__{name}': value for name, value in STUDY.items()}
  return tiny_run.values('sft', **(CHANGES | own | changes))


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  """(workdir, what it showed)."""
  directory, screen = tmp_path_factory.mktemp('causal') / 'run', io.StringIO()
  run_lib.train(values(), directory, console.Console(file=screen))
  return directory, screen.getvalue()


def test_a_causal_run_from_the_base_to_the_report(trained):
  directory, shown = trained
  rows = [(row['phase'], row['step']) for row in metrics.read(directory)]
  assert rows[:4] == [('sft', i) for i in range(1, 5)]
  found = json.loads((directory / 'eval.json').read_text())
  assert found['chosen_steps'] == 'autoregressive'
  for name in ('base', 'final'):
    own = found[name]
    plain = own['sweep']['autoregressive']
    assert own['accuracy'] == plain['accuracy'] == own['draft']['accuracy']
    assert own['draft']['mean_steps'] <= plain['mean_steps']
  assert 'autoregressive *' in shown and 'draft, accuracy (%) in mean' in shown
  study = json.loads((directory / 'speculation.json').read_text())
  assert [row['identical'] for row in study['rows']] == [3, 3]
  verdicts = json.loads((directory / 'verdicts.json').read_text())
  assert list(verdicts['base']['fixed']) == ['autoregressive']
  page = (directory / 'report.html').read_text('utf-8')
  assert 'Token by token' in page and 'Denoising, step' not in page
  assert 'Every decoder wrote what greedy decoding writes' in page
  line = (directory / 'trajectories.jsonl').read_text().splitlines()[0]
  sample = json.loads(line)['samples'][0]
  assert sample['decoding'] == 'greedy'  # beside the drafts


def test_its_base_is_a_llama_folder(trained):
  directory, _ = trained
  model = model_lib.Model.describe(directory, params='base')
  assert model_lib.resolve(directory) == (directory, 'base')  # it has no final
  assert (model.record.family, model.decode) == ('llama', 'draft')
  assert model.is_causal and model.tokenizer.mask_token is None
  moved = model_lib.Model.describe(directory / 'base')
  assert moved.decoder('autoregressive') == autoregressive.Autoregressive(
    gen_length=16
  )


def test_a_run_that_was_stopped_ends_with_the_same_bits(trained, tmp_path):
  """It goes on from step 3."""
  directory = shutil.copytree(trained[0], tmp_path / 'run')
  for name in ('base', 'checkpoints/sft/4'):
    shutil.rmtree(directory / name)
  (directory / 'eval.json').unlink()
  run_lib.train(values(), directory, QUIET)
  tiny_run.assert_same(
    tiny_run.kept(directory / 'base'), tiny_run.kept(trained[0] / 'base')
  )
  losses = lambda place: [
    row['sft/loss'] for row in metrics.read(place) if row['phase'] == 'sft'
  ]
  assert losses(directory) == losses(trained[0])


@pytest.mark.parametrize('rank', [0, 2])
def test_sft_of_a_pretrained_folder(shared_dir, tmp_path, rank):
  """RUN/final opens, is evaluated and generates; its tokenizer is theirs."""
  folder = tiny_pretrained.qwen3(shared_dir, tmp_path / 'qwen3')
  changes = {
    'base__path': str(folder),
    'rollout__decode': 'autoregressive',
    'rollout__max_prompt_length': 224,
    'model__lora_rank': rank,
  }
  config = tiny_run.values(
    'sft', **(tiny_pretrained.CHANGES | CHANGES | changes)
  )
  config['task']['reasoning'] = 'values'
  config['rollout']['gen_length'] = 40
  run_lib.train(config, tmp_path / 'run', QUIET)
  rows = metrics.read(tmp_path / 'run')
  assert [(r['phase'], r['step']) for r in rows[:2]] == [('sft', 1), ('sft', 2)]
  assert rows[1]['sft/loss'] < rows[0]['sft/loss']
  found = json.loads((tmp_path / 'run' / 'eval.json').read_text())
  assert found['final']['trained_steps'] == 2 and 'sft' in found['seconds']
  final = tmp_path / 'run' / 'final'
  assert (final / 'adapter_config.json').exists() == (rank > 0)
  mesh = sharding.make_mesh(sharding.MeshConfig(data=1))
  model = model_lib.Model.open(final, mesh=mesh)
  assert model.denoiser.cfg.lora_rank == rank
  moved = model.loglikelihood([('Using', ' the')])
  assert moved != model_lib.Model.open(folder, mesh=mesh).loglikelihood(
    [('Using', ' the')]
  )
  theirs = tokenizers.Tokenizer.from_file(str(final / 'tokenizer.json'))
  assert theirs.encode('Using').ids == model.encode('Using')
  again = evaluate.evaluate_model(
    config, final, None, decode=None, overrides={}, out=None, screen=QUIET
  )
  assert again['accuracy'] == found['final']['accuracy']


def test_nothing_is_trained_in_no_steps(shared_dir, tmp_path):
  folder = tiny_pretrained.qwen3(shared_dir, tmp_path / 'qwen3')
  changes = {
    'base__path': str(folder),
    'rollout__decode': 'autoregressive',
    'rollout__max_prompt_length': 224,
    'train__num_steps': 0,
  }
  config = tiny_run.values(
    'sft', **(tiny_pretrained.CHANGES | CHANGES | changes)
  )
  run_lib.train(config, tmp_path / 'run', QUIET)
  assert not (tmp_path / 'run' / 'final').exists()
  found = json.loads((tmp_path / 'run' / 'eval.json').read_text())
  assert found['base']['accuracy'] == found['final']['accuracy']


def test_paraphrases_without_answers(shared_dir, tmp_path):
  """Trained on, and measured by the agreement on held-out rows."""
  folder = tiny_pretrained.qwen3(shared_dir, tmp_path / 'qwen3')
  ask = ('reach 6 with 1, 2, 3', 'use 1, 2, 3: get 6', '1 2 3, make 6', 'to 6')
  (tmp_path / 'data/paraphrases').mkdir(parents=True)
  with (tmp_path / 'data/paraphrases/train.jsonl').open('w') as file:
    for i in range(40):
      texts = [f'{text} ({i})' for text in ask]
      row = {'instruction': texts[0], 'paraphrases': texts[1:]}
      file.write(json.dumps(row) + '\n')
  config = configs.cpc_grpo.get_config('paraphrases').unlock()
  config.data_dir = str(tmp_path / 'data')
  config.base.path = str(folder)
  config.task.num_unseen = 1
  config.model.update(lora_rank=2, remat='none')
  config.method.update(num_views=2)
  config.method.policy.num_micro = 1
  config.rollout.update(
    num_prompts=2, group_size=2, max_prompt_length=64, gen_length=4
  )
  config.train.num_steps = 2
  config.mesh.data = 1
  config.arms = {'own': {'method': {'pairs': 'own'}}}
  values, screen = config.to_dict(), io.StringIO()
  directory = tmp_path / 'run'
  found = run_lib.train(values, directory, console.Console(file=screen))
  num = found['num']
  assert 0 < num < 20
  for of in (found['base'], found['final'], found['arms']['own']):
    assert set(of) - {'trained_steps', 'kept_step'} == {'agreement'}
    assert of['agreement']['num'] == num
    assert all(
      of['agreement'][k]['mean'] < 0 for k in ('own', 'seen', 'unseen')
    )
  shown = screen.getvalue()
  assert 'the number 1 is not in all of them' in shown
  assert 'under unseen ones' in shown and 'accuracy' not in shown
  page = (directory / 'report.html').read_text('utf-8')
  assert 'Who agrees with whom' in page and 'no results yet' not in page
  again = io.StringIO()
  assert run_lib.train(values, directory, console.Console(file=again)) == found
  assert 'under unseen ones' in again.getvalue()
  with pytest.raises(errors.UserError, match='has no right answers'):
    seeds.table([directory])
  with pytest.raises(errors.UserError, match='has no right answers'):
    evaluate.evaluate_model(
      values,
      directory,
      None,
      decode=None,
      overrides={},
      out=None,
      screen=QUIET,
    )
  for changes in (
    {'train': {'eval_every': 1}},
    {'arms': {'own': {'train': {'eval_every': 1}}}},
    {'base': {'path': ''}, 'model': {'lora_rank': 0}},
    {'method': {'signal': 'majority'}},
  ):
    changed = {
      k: v | changes.get(k, {}) if isinstance(v, dict) else v
      for k, v in values.items()
    }
    with pytest.raises(errors.UserError, match='has no right answers, but'):
      run_lib.train(changed, tmp_path / 'other', QUIET)
  with (tmp_path / 'data/paraphrases/train.jsonl').open('a') as file:
    file.write(json.dumps({'instruction': 'to 7', 'paraphrases': ['7', '8']}))
  with pytest.raises(errors.UserError, match='2 phrasings for training, and'):
    run_lib.train(values, tmp_path / 'other', QUIET)
  assert not (tmp_path / 'other').exists()
