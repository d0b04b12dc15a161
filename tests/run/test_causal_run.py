"""Runs of causal models: trained, stopped, resumed, evaluated, opened again."""

import io
import json
import shutil

import pytest
import tokenizers

from dllm_jax import model as model_lib
from dllm_jax.decoding import autoregressive
from dllm_jax.run import evaluate
from dllm_jax.run import train as run_lib
from dllm_jax.runtime import console, sharding
from dllm_jax.state import metrics
from tests import tiny_pretrained, tiny_run

QUIET = console.Console(file=io.StringIO())
CHANGES = {'mesh__data': 1, 'rollout__gen_length': 16}


def values(**changes):
  """A countdown run of a new causal model."""
  own = {'model__causal': True, 'rollout__decode': 'draft'}
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
  verdicts = json.loads((directory / 'verdicts.json').read_text())
  assert list(verdicts['base']['fixed']) == ['autoregressive']
  page = (directory / 'report.html').read_text('utf-8')
  assert 'Token by token' in page and 'Denoising, step' not in page
  line = (directory / 'trajectories.jsonl').read_text().splitlines()[0]
  sample = json.loads(line)['samples'][0]
  assert sample['decoding'] == 'autoregressive'


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
