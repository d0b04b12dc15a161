"""Every config file: builds, becomes settings, and its default runs."""

import importlib
import json
import pathlib

import pytest

from configs import cpc_grpo, moe_erl, presets
from dllm_jax import errors, types
from dllm_jax.rollout import answer_guided
from dllm_jax.run import checks, settings, setup, speculation
from dllm_jax.runtime import sharding
from dllm_jax.state import workdir
from tests import tiny_run

FOLDER = pathlib.Path(presets.__file__).parent
FILES = sorted(
  path.stem
  for path in FOLDER.glob('*.py')
  if path.stem not in ('__init__', 'base', 'presets')
)
# Of the masked diffusion models, which have presets.
CAUSAL = ('fractal', 'cpc_grpo', 'moe_erl')
WITH_PRESETS = [file for file in FILES if file not in CAUSAL]
VOCAB = types.Vocabulary(size=126_464, mask_token=126_336, eos_token=126_081)


def load(file):
  return importlib.import_module(f'configs.{file}')


def test_the_files_are_found():
  assert {'sft', 'diffu_grpo', 'ag_grpo', 'ta_grpo_d'} <= set(FILES)


@pytest.mark.parametrize('preset', ['', *presets.NAMES])
@pytest.mark.parametrize('file', WITH_PRESETS)
def test_every_preset_becomes_settings(file, preset):
  if preset in presets.VARIANTS and file not in ('ag_grpo', 'ta_grpo_d'):
    with pytest.raises(ValueError, match='only configs/ag_grpo.py and'):
      load(file).get_config(preset)
    return
  config = load(file).get_config(preset)
  assert config.is_locked
  if preset.endswith('rows'):
    config.data.train = 'rows.jsonl'
  json.dumps(config.to_dict())  # as it is kept beside a run
  cfg = settings.from_config(config.to_dict())
  assert cfg.method_name == file
  cfg.denoiser(VOCAB)
  # What a record of the config holds is what the run gets.
  assert cfg.rollout.decoder.gen_length == config.rollout.gen_length
  assert cfg.loop.num_steps == config.train.num_steps
  assert bool(cfg.arms) == (preset in (*presets.VARIANTS, 'cached'))
  if file == 'ag_grpo':
    assert 0 < cfg.method.guided.num_guided <= cfg.rollout.group_size
    assert cfg.method.guided.max_anchor < config.rollout.gen_length


def test_the_block_preset_is_a_model_of_blocks():
  config = load('sft').get_config('block')
  default = load('sft').get_config()
  assert 'configs/sft.py:block' in load('sft').__doc__
  cfg = settings.from_config(config.to_dict())
  assert types.block_causal(cfg.denoiser(VOCAB)) == 4
  assert cfg.rollout.decoder.block_length == 4
  assert config.base == default.base and config.data == default.data


def test_the_config_of_causal_models_becomes_settings():
  config = load('fractal').get_config()
  json.dumps(config.to_dict())
  cfg = settings.from_config(config.to_dict())
  assert cfg.is_causal and cfg.method is None
  lm = cfg.denoiser(types.Vocabulary(size=500, mask_token=None, eos_token=0))
  speculation.check(cfg.speculation, lm, sharding.make_mesh(cfg.mesh))
  with pytest.raises(ValueError, match='huge'):
    load('fractal').get_config('huge')


@pytest.mark.parametrize('preset', ['', *cpc_grpo.PRESETS])
def test_presets_of_cpc_grpo_become_settings(preset):
  config = cpc_grpo.get_config(preset)
  json.dumps(config.to_dict())
  cfg = settings.from_config(config.to_dict())
  assert cfg.is_causal and cfg.method_name == 'cpc_grpo'
  assert list(cfg.arms) == list(config.arms)
  for name, arm in cfg.arms.items():
    own = workdir.flatten({'arms': config.arms[name].to_dict()})
    rate = own.get('arms.train.optim.learning_rate', cfg.optim.learning_rate)
    assert arm.optim.learning_rate == rate
    assert arm.loop == cfg.loop and not arm.arms
    signal = own.get('arms.method.signal', 'consensus')
    assert arm.method.signal == signal
  with pytest.raises(ValueError, match='huge.*shared_bias'):
    cpc_grpo.get_config('huge')


@pytest.mark.parametrize('preset', ['', *moe_erl.PRESETS, 'gpu'])
def test_every_preset_of_moe_erl_becomes_settings(preset):
  config = moe_erl.get_config(preset)
  json.dumps(config.to_dict())
  assert preset in moe_erl.__doc__
  cfg = settings.from_config(config.to_dict())
  start = {'': 'merged', 'scratch': ''}.get(preset, preset)
  if preset in ('gpu', 'wikitext', 'gpt2', 'scitldr', 'squad'):
    start = 'upcycled'
  assert cfg.method.start == start
  ctx = setup.make_context(cfg, None)
  checks.check_shapes(cfg, ctx)
  with pytest.raises(ValueError, match='huge.*merged'):
    moe_erl.get_config('huge')


def test_texts_beyond_the_positions_are_one_line():
  """64 tokens and 256 more, of a table of 320."""
  config = moe_erl.get_config('gpt2')
  assert config.model.max_positions == 320
  config.model.max_positions = 319
  with pytest.raises(errors.UserError, match='320 positions .* 319') as e:
    setup.make_context(settings.from_config(config.to_dict()), None)
  assert '\n' not in str(e.value)


@pytest.mark.parametrize('file', WITH_PRESETS)
def test_an_unknown_preset_lists_the_known(file):
  with pytest.raises(ValueError, match='huge.*sudoku'):
    load(file).get_config('huge')


@pytest.mark.parametrize('file', FILES)
def test_the_docstring_has_the_command(file):
  command = f'python launch/train.py --config configs/{file}.py'
  assert command in load(file).__doc__


@pytest.mark.parametrize('file', WITH_PRESETS)
def test_presets_are_documented(file):
  text = load(file).__doc__
  for name in ('equations', 'sudoku', 'llada_8b,TASK', 'dream_7b,TASK'):
    assert name in text or 'those of configs/ag_grpo.py' in text


def test_the_default_alone_weighs_guided_rows():
  policy = lambda arg: load('ag_grpo').get_config(arg).method.policy
  assert policy('').max_sampler_ratio == 2.0
  for preset in presets.NAMES:
    assert policy(preset).max_sampler_ratio is None
  assert load('diffu_grpo').get_config().method.policy.max_sampler_ratio is None


def test_the_variants_of_guidance():
  config = load('ag_grpo').get_config('sudoku,variants')
  assert 'sudoku,variants' in load('ag_grpo').__doc__
  cfg = settings.from_config(config.to_dict())
  assert cfg.task_name == 'sudoku'
  guided = {name: arm.method.guided for name, arm in cfg.arms.items()}
  assert guided['free'].num_guided == 0
  assert guided['failed'].groups == 'failed'
  assert guided['reasoning'].credit == 'reasoning'
  baselines = {n: arm.method.advantage.baseline for n, arm in cfg.arms.items()}
  assert baselines.pop('free_separate') == 'free_separate'
  assert set(baselines.values()) == {'shared'}
  assert cfg.arms['weighted'].method.policy.max_sampler_ratio == 2.0


def test_the_variants_of_shaping():
  config = load('ta_grpo_d').get_config('sudoku,variants')
  assert 'sudoku,variants' in load('ta_grpo_d').__doc__
  cfg = settings.from_config(config.to_dict())
  credit = {name: arm.method.credit for name, arm in cfg.arms.items()}
  assert cfg.method.credit.form == 'additive'
  assert (cfg.loop.num_steps, config.train.floor_patience) == (100, 0)
  assert not credit['unshaped'].wants_steps
  assert (credit['published'].form, credit['published'].delta) == (
    'published',
    1,
  )


@pytest.mark.parametrize('preset', ['', 'equations', 'sudoku'])
def test_rows_fit_the_tiny_presets(preset):
  """Prompts, demonstrations and gold answers of the real data sets."""
  config = load('ag_grpo').get_config(preset)
  config.mesh.data = 1
  cfg = settings.from_config(config.to_dict())
  ctx = setup.make_context(cfg, None)
  checks.check_shapes(cfg, ctx)
  rows = setup.load_rows(cfg)
  checks.check_rows(cfg, ctx, rows)
  anchors = answer_guided.anchors(
    cfg.task, ctx.tokenizer, rows.test, cfg.method.guided
  )
  assert None not in anchors
  assert len(rows.demonstrations) == cfg.data.num_demonstrations


def test_the_block_preset_runs_and_its_model_is_read(commands, tmp_path):
  run = tmp_path / 'run'
  few = tiny_run.flags(
    **{f'model__{name}': value for name, value in tiny_run.SHAPE.items()},
    base__num_steps=2,
    base__eval_every=2,
    data__num_demonstrations=64,
    data__num_validation=16,
    data__num_test=16,
    eval__num_steps='(6,)',
  )
  config = f'{FOLDER / "sft.py"}:block'
  command = commands.run('train.py', '--config', config, *few, '--workdir', run)
  assert (command.code, command.err) == (0, '')
  assert json.loads((run / 'eval.json').read_text())['num'] == 16
  model = json.loads((run / 'base' / 'config.json').read_text())['model']
  assert model['block_causal'] == 4
  prompts = tmp_path / 'prompts.jsonl'
  prompts.write_text('{"id": 0, "prompt_ids": [5, 6, 7, 8, 9]}\n')
  flags = ('--model', run, '--prompts', prompts, '--out', run / 'out.jsonl')
  command = commands.run('generate.py', *map(str, flags), config=False)
  assert (command.code, command.err) == (0, '')
  (row,) = (run / 'out.jsonl').read_text().splitlines()
  assert len(json.loads(row)['completion_ids']) == 12


@pytest.mark.parametrize(
  'file',
  [
    # Many arms or decoders are compiled; tests/run has small runs of them.
    pytest.param(file, marks=[pytest.mark.slow] * (file in CAUSAL))
    for file in FILES
  ],
)
def test_the_default_runs_two_steps(commands, tmp_path, file):
  run = tmp_path / 'run'
  few = tiny_run.flags(
    base__num_steps=2,
    base__eval_every=2,
    train__num_steps=2,
    train__eval_every=2,
    train__control=False,
    data__num_demonstrations=512,
    data__num_validation=128,
    data__num_test=128,
    eval__num_steps='(6,)',
    speculation__modules='(1,)',
    speculation__compressions="('int8',)",
    speculation__num_prompts=8 * (file == 'fractal'),
  )
  if file == 'moe_erl':
    few += tiny_run.flags(
      method__study__num_paths=4, arms__aux_equal_compute__train__num_steps=2
    )
  config = str(FOLDER / f'{file}.py')
  command = commands.run('train.py', '--config', config, *few, '--workdir', run)
  assert (command.code, command.err) == (0, '')
  rows = [
    json.loads(line)
    for line in (run / 'metrics.jsonl').read_text().splitlines()
  ]
  want = [('sft', 1), ('sft', 2)]
  want += [('rl', 1), ('rl', 2)] if file not in ('sft', 'fractal') else []
  arms = list(load(file).get_config().arms)
  want += [(arm, step) for arm in arms for step in (1, 2)]
  assert [(r['phase'], r['step']) for r in rows if r['phase'] != 'eval'] == want
  found = json.loads((run / 'eval.json').read_text())
  method = 'sft' if file == 'fractal' else file
  assert (found['method'], found['num']) == (method, 128)
  if file == 'fractal':
    study = json.loads((run / 'speculation.json').read_text())
    assert [row['identical'] for row in study['rows']] == [8] * 5
    page = (run / 'report.html').read_text()
    assert 'Every decoder wrote what greedy decoding writes' in page
  if file == 'moe_erl':
    study = json.loads((run / 'routing.json').read_text())
    assert list(study['models']) == ['base', 'final', *arms]
    for model in study['models'].values():
      assert len(model['map']) == 8 and 0 < model['mrr']['mrr'] <= 1
    assert study['models']['final']['final_gap'] is None
    page = (run / 'report.html').read_text()
    assert 'MoE-ERL on tagged functions' in page
    assert '<th scope="row">scaled_gate</th>' in page
