"""A run of MoE-ERL with its arms: whole, and stopped in one of them."""

import io
import json
import shutil

import numpy as np
import pytest

import configs.moe_erl
from dllm_jax import errors
from dllm_jax import model as model_lib
from dllm_jax.data import catalog
from dllm_jax.models import transformer
from dllm_jax.run import train as run_lib
from dllm_jax.runtime import console
from dllm_jax.state import metrics
from dllm_jax.tasks import tagged_functions, text
from tests import tiny_run

ARMS = ('aux_equal_compute', 'scaled_gate')


def values():
  config = configs.moe_erl.get_config('scratch').unlock()
  config.model.update(tiny_run.SHAPE)
  config.rollout.num_prompts = 4
  config.data.update(num_validation=8, num_test=8)
  config.base.update(num_steps=3, batch_size=8)
  config.train.num_steps = 2
  config.method.study.num_paths = 4
  config.eval.batch_size = 8
  config.checkpoint.every = 1
  config.mesh.data = 1
  for name in set(config.arms) - set(ARMS):
    del config.arms[name]
  config.arms.aux_equal_compute.train.num_steps = 3
  return config.to_dict()


def run(directory):
  screen = io.StringIO()
  run_lib.train(values(), directory, console.Console(file=screen))
  return screen.getvalue()


@pytest.fixture(scope='module', autouse=True)
def fewer_rows():
  """All prompts are encoded before a run: fewer of them, for time."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(tagged_functions.NUM_ROWS, 'train', 500)
    yield


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  """(workdir, what it showed)."""
  directory = tmp_path_factory.mktemp('moe') / 'run'
  return directory, run(directory)


def test_a_run_trains_and_measures_every_arm(trained):
  directory, shown = trained
  rows = [(row['phase'], row['step']) for row in metrics.read(directory)]
  steps = {'sft': 3, 'rl': 2, 'aux_equal_compute': 3, 'scaled_gate': 2}
  for phase, count in steps.items():
    assert [s for p, s in rows if p == phase] == list(range(1, count + 1))
  found = json.loads((directory / 'eval.json').read_text())
  assert list(found['arms']) == list(ARMS)
  models = json.loads((directory / 'routing.json').read_text())['models']
  want = {'base': 0, 'final': 2, 'aux_equal_compute': 3, 'scaled_gate': 2}
  assert {name: model['steps'] for name, model in models.items()} == want
  assert models['final']['final_gap'] is None
  assert all(len(models[name]['final_gap']) == 3 for name in ARMS)
  assert 'aux_equal_compute' in shown.split('routing on')[1]
  page = (directory / 'report.html').read_text('utf-8')
  assert '<th scope="row">scaled_gate</th>' in page


def tiny(preset, data_dir):
  """The preset's own path, in a tiny size."""
  config = configs.moe_erl.get_config(preset).unlock()
  config.data_dir = str(data_dir)
  config.model.update(tiny_run.SHAPE | {'num_layers': 2})
  config.rollout.update(num_prompts=4, gen_length=12)
  config.base.update(path='', num_steps=2, batch_size=8)
  config.train.num_steps = 1
  config.method.study.num_paths = 4
  config.mesh.data = 1
  return config


@pytest.mark.slow
@pytest.mark.parametrize('preset', ['wikitext', 'gpt2'])
def test_a_dense_model_of_text_is_upcycled(
  preset, shared_dir, tmp_path, monkeypatch
):
  cut = text.Text.pieces
  monkeypatch.setattr(text.Text, 'pieces', lambda *args: cut(*args)[:200])
  config = tiny(preset, shared_dir / 'data')
  config.task.update(num_given=8, length=12)
  config.rollout.max_prompt_length = 8
  config.data.update(num_validation=8, num_test=8)
  config.eval.batch_size = 8
  for name in set(config.arms) - {'aux', 'scaled_gate'}:
    del config.arms[name]
  directory, screen = tmp_path / 'run', io.StringIO()
  run_lib.train(config.to_dict(), directory, console.Console(file=screen))
  models = json.loads((directory / 'routing.json').read_text())['models']
  assert list(models) == ['base', 'final', 'aux', 'scaled_gate']
  # All experts of the base are one: no path is better than another.
  assert models['base']['mrr']['ties'] == 1.0
  for own in models.values():
    assert own['perplexity'] == pytest.approx(np.exp(own['loss']))
    assert 20 < own['perplexity'] < 300  # of 96 characters and the end
  page = (directory / 'report.html').read_text('utf-8')
  assert 'perplexity' in page and 'MoE-ERL on WikiText-2' in page
  base = model_lib.Model.open(directory / 'base').denoiser.cfg
  kind = {'wikitext': 'experts', 'gpt2': 'gelu_experts'}[preset]
  every = {'wikitext': 1, 'gpt2': 2}[preset]
  assert (base.feed_forward, base.sparse_every) == (kind, every)
  assert all(len(own['load']) == 2 // every for own in models.values())


def write_rows(preset, folder):
  """A few short rows in the format of the data set."""
  folder.mkdir(parents=True)
  if preset == 'scitldr':
    for split in ('train', 'dev', 'test'):
      rows = [
        {'source': [f'{split} {i}.'], 'target': [f'about {i}']}
        for i in range(8)
      ]
      lines = ''.join(json.dumps(row) + '\n' for row in rows)
      (folder / f'{split}.jsonl').write_text(lines)
    return
  ask = lambda i: [{'question': 'What?', 'answers': [{'text': f'{i}'}]}]
  articles = [
    {
      'title': f't{i}',
      'paragraphs': [{'context': f'It is {i}.', 'qas': ask(i)}],
    }
    for i in range(40)
  ]
  (folder / 'xquad.en.json').write_text(json.dumps({'data': articles}))


@pytest.fixture
def short(tmp_path, monkeypatch):
  """A function from a preset to its tiny config, on short rows."""
  monkeypatch.setattr(catalog, 'FILES', {})

  def make(preset):
    write_rows(preset, tmp_path / 'data' / preset)
    config = tiny(preset, tmp_path / 'data')  # its base is one of characters
    config.data.cache_dir = str(tmp_path / 'cache')
    config.rollout.max_prompt_length = 40
    config.data.update(num_validation=2, num_test=4)
    config.eval.batch_size = 4
    config.arms = {}
    return config

  return make


@pytest.mark.slow
@pytest.mark.parametrize('preset', ['scitldr', 'squad'])
def test_completions_are_compared_with_references(preset, short, tmp_path):
  directory, screen = tmp_path / 'run', io.StringIO()
  config = short(preset).to_dict()
  run_lib.train(config, directory, console.Console(file=screen))
  own = json.loads((directory / 'eval.json').read_text())['final']
  terms = {'scitldr': ('rouge1', 'rouge2', 'rougeL'), 'squad': ('exact', 'f1')}
  assert all(0 <= own[name] <= 1 for name in terms[preset])
  models = json.loads((directory / 'routing.json').read_text())['models']
  assert models['final']['perplexity'] > 1


def test_texts_that_do_not_fit_are_refused_before_the_run(short, tmp_path):
  """Those of the prompts, of which no demonstration is drawn."""
  config = short('scitldr')
  config.rollout.gen_length = 4
  screen = console.Console(file=io.StringIO())
  with pytest.raises(errors.UserError, match='longest demonstration has 8'):
    run_lib.train(config.to_dict(), tmp_path / 'run', screen)
  assert not (tmp_path / 'run').exists()


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    (
      {'arms': {'x': {'model': {'gate_scale': 'prob'}}}},
      "group arms.x: config group 'model': gate_scale 'prob'",
    ),
    (
      {'arms': {'x': {'train': {'patience': 1, 'eval_every': 1}}}},
      'config keys arms.x.train.patience',
    ),
    ({'train': {'patience': 1, 'eval_every': 1}}, 'keys train.patience'),
  ],
)
def test_what_the_study_could_not_compare_is_refused(
  changes, message, tmp_path
):
  changed = values()
  changed |= {key: changed[key] | of for key, of in changes.items()}
  quiet = console.Console(file=io.StringIO())
  with pytest.raises(errors.UserError, match=message):
    run_lib.train(changed, tmp_path / 'run', quiet)
  assert not (tmp_path / 'run').exists()


def test_arms_of_the_config_share_nothing():
  config = configs.moe_erl.get_config().unlock()
  config.arms.aux.method.rl_weight = 0.5
  config.arms.other.method.explore.replacement = 'uniform'
  config.train.num_steps = 10
  arms = config.to_dict()['arms']
  for name in ('aux_equal_compute', 'scaled_gate'):
    assert arms[name]['method'] == {'rl_weight': 0.0, 'path_weight': 0.0}
  assert arms['wpl']['method']['explore'] == {'replacement': 'other'}
  assert arms['aux_equal_compute']['train'] == {'num_steps': 40}


def test_an_arm_keeps_the_model_that_it_trained(trained):
  directory, _ = trained
  base = tiny_run.kept(directory / 'base')
  scales = {'base': 'none', 'arms/aux_equal_compute': 'none'}
  scales |= {'arms/scaled_gate': 'probability'}
  for name, scale in scales.items():
    model = model_lib.Model.describe(directory / name)
    assert transformer.config_of(model.denoiser).gate_scale == scale
    moved = tiny_run.kept(directory / name)
    routers = [key for key in base if 'mlp.gate' in key]
    assert routers and moved.keys() == base.keys()
    same = all(np.array_equal(moved[key], base[key]) for key in routers)
    assert same == (name == 'base')


def test_a_run_that_was_stopped_in_an_arm_ends_with_the_same_bits(
  trained, tmp_path
):
  directory = shutil.copytree(trained[0], tmp_path / 'run')
  shutil.rmtree(directory / 'arms/scaled_gate')
  shutil.rmtree(directory / 'checkpoints/scaled_gate/2')
  for name in ('eval.json', 'routing.json'):
    (directory / name).unlink()
  run(directory)
  tiny_run.assert_same(
    tiny_run.kept(directory / 'arms/scaled_gate'),
    tiny_run.kept(trained[0] / 'arms/scaled_gate'),
  )
  studies = [
    json.loads((place / 'routing.json').read_text())['models']
    for place in (directory, trained[0])
  ]
  for name, model in studies[0].items():
    took = {'seconds': studies[1][name]['seconds']}
    assert model | took == studies[1][name]
