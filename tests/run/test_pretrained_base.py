"""Pretrained folders: trained on, resumed, evaluated, and refused in a line."""

import dataclasses
import io
import json
import shutil
import signal

import numpy as np
import pytest

from dllm_jax import errors
from dllm_jax.hf import config as hf_config
from dllm_jax.hf import converted, pretrained, shards
from dllm_jax.rollout import score
from dllm_jax.run import (
  checks,
  eval_files,
  evaluate,
  pretrained_base,
  settings,
  setup,
)
from dllm_jax.run import train as run_lib
from dllm_jax.runtime import console, sharding
from dllm_jax.state import metrics
from dllm_jax.text import chat
from tests import tiny_pretrained, tiny_run, tiny_text

CONFIG = ('--config', 'tests/tiny_run.py:diffu_grpo')
STOPS = ('<|endoftext|>', '<|eot_id|>')
QUIET = console.Console(file=io.StringIO())


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  return tiny_pretrained.llada(tmp_path_factory.mktemp('hf') / 'llada')


def values(folder, **changes):
  """The config of a run on the folder, on one device."""
  changes = {'mesh__data': 1, 'base__path': str(folder)} | changes
  return tiny_run.values('diffu_grpo', **(tiny_pretrained.CHANGES | changes))


def tensors(folder, dtype=None):
  """The leaves of a folder's model, by path."""
  mesh = sharding.make_mesh(sharding.MeshConfig(data=1))
  model = pretrained.open_model(folder, mesh, param_dtype=dtype)
  leaves = pretrained._flat(model.params)
  return {k.replace('/', '.'): np.asarray(v) for k, v in leaves.items()}


@pytest.fixture(scope='module')
def adapted(commands, folder, tmp_path_factory):
  """The directory of a run with adapters, by the command."""
  directory = tmp_path_factory.mktemp('adapted') / 'run'
  command = commands.run(
    'train.py', *CONFIG, *lora(folder), '--workdir', directory
  )
  assert (command.code, command.err) == (0, '')
  assert f'base model from {folder}' in command.out
  assert 'reading' in command.out
  return directory


def lora(folder):
  return tiny_pretrained.flags(
    folder,
    model__lora_rank=2,
    method__policy__beta=0.01,
    train__control=True,
  )


@pytest.fixture(scope='module')
def whole(folder, tmp_path_factory):
  """The directory of a run that trains every parameter."""
  directory = tmp_path_factory.mktemp('whole') / 'run'
  run_lib.run(values(folder), directory, QUIET)
  return directory


def test_a_run_trains_adapters_alone(folder, adapted):
  rows = [(row['phase'], row['step']) for row in metrics.read(adapted)]
  # No control: nothing was spent on demonstrations.
  assert rows == [('rl', 1), ('rl', 2), ('eval', 0), ('eval', 2)]
  found = json.loads((adapted / 'eval.json').read_text())
  assert set(found['seconds']) == {'base', 'rl', 'eval'}
  assert found['seconds']['base'] == 0 and 'control' not in found
  final, start = tiny_run.kept(adapted / 'final'), tensors(folder)
  adapters = {k for k in final if '.lora_' in k}
  assert len(adapters) == 14 and final.keys() - adapters == start.keys()
  tiny_run.assert_same({k: final[k] for k in start}, start)
  assert all(final[k].any() for k in adapters)  # B begins as zero


def test_a_run_trains_every_parameter(folder, whole):
  final, start = tiny_run.kept(whole / 'final'), tensors(folder)
  assert final.keys() == start.keys()
  assert all((final[k] != start[k]).any() for k in start)
  assert not (whole / 'base').exists()


def test_the_workdir_keeps_text_and_no_weights(folder, whole):
  kept = whole / pretrained_base.FOLDER
  assert sorted(path.name for path in kept.iterdir()) == [
    'config.json',
    'tokenizer.json',
    'tokenizer_config.json',
  ]
  own, theirs = pretrained_base.read(kept), pretrained_base.read(folder)
  assert own.record == theirs.record and own.template == theirs.template
  assert own.tokenizer.special == theirs.tokenizer.special
  assert not (whole / 'tokenizer.json').exists()


def timeless(directory):
  """Rows of metrics.jsonl and eval.json without times and speeds."""
  rows = [
    {k: v for k, v in row.items() if not k.startswith('time/')}
    for row in metrics.read(directory)
  ]
  found = json.loads((directory / 'eval.json').read_text())
  del found['seconds']
  for name in ('base', 'final'):
    for summary in (found[name], *found[name]['sweep'].values()):
      assert summary.pop('tokens_per_second') > 0
  return rows, found


def test_a_stopped_run_ends_with_the_same_bits(
  commands, folder, adapted, tmp_path
):
  directory = tmp_path / 'run'
  args = ('train.py', *CONFIG, *lora(folder), '--workdir', directory)
  command = commands.start(*args)
  saved = directory / 'checkpoints' / 'rl' / '1' / 'manifest.json'
  assert command.signal_when(signal.SIGTERM, saved.exists) == 3, command.err
  command = commands.run(*args)
  assert (command.code, command.err) == (0, '')
  assert 'continuing' in command.out
  tiny_run.assert_same(
    tiny_run.kept(directory / 'final'), tiny_run.kept(adapted / 'final')
  )
  assert timeless(directory) == timeless(adapted)


def evaluated(config, directory, tmp_path, name=None):
  """(results without speed and path, generations), in this process."""
  out = tmp_path / 'out.json'
  found = evaluate.evaluate_model(
    config, directory, name, out=out, screen=QUIET
  )
  lines = out.with_suffix(eval_files.GENERATIONS).read_text().splitlines()
  del found['tokens_per_second']
  assert found.pop('model') == str(directory)
  return found, [json.loads(line) for line in lines]


def greedy(folder, **changes):
  """As `launch/eval.py --steps 4` has it."""
  return values(
    folder, rollout__temperature=0.0, rollout__num_steps=4, **changes
  )


def test_workdir_and_folder_are_evaluated_alike(folder, whole, tmp_path):
  config = greedy('')  # Neither asks the config where the model is.
  base = evaluated(config, whole, tmp_path, 'base')
  assert evaluated(config, folder, tmp_path) == base
  # With adapters that change nothing yet, the same.
  assert evaluated(config, folder, tmp_path)[1] == base[1]
  said = json.loads((whole / 'eval.json').read_text())['base']['sweep']['4']
  assert (
    base[0].items()
    >= {k: v for k, v in said.items() if k != 'tokens_per_second'}.items()
  )
  final = evaluated(config, whole, tmp_path)
  assert final[0]['params'] == 'final' and final[1] != base[1]


def test_a_converted_folder_is_the_same_model(folder, tmp_path):
  mesh = sharding.make_mesh(sharding.MeshConfig(data=1))
  pretrained.convert(folder, tmp_path / 'ours', mesh)
  assert evaluated(greedy(''), tmp_path / 'ours', tmp_path) == evaluated(
    greedy(''), folder, tmp_path
  )
  origin = pretrained_base.read(tmp_path / 'ours')
  pretrained_base.keep(origin, tmp_path)
  kept = pretrained_base.read(tmp_path / pretrained_base.FOLDER)
  assert kept.record == origin.record._replace(notices=())
  assert kept.tokenizer.special == origin.tokenizer.special


def test_a_run_outlives_its_folder(commands, folder, adapted, tmp_path):
  """Its own models need nothing of it."""
  gone = tmp_path / 'gone'
  shutil.copytree(adapted, gone)
  config = json.loads((gone / 'config.json').read_text())
  config['config']['base']['path'] = str(tmp_path / 'no')
  (gone / 'config.json').write_text(json.dumps(config))
  args = ('eval.py', *CONFIG, *lora(tmp_path / 'no'), '--model')
  command = commands.run(*args, gone, '--out', tmp_path / 'out.json')
  assert (command.code, command.err) == (0, '')
  command = commands.run(*args, gone, '--config.model.lora_rank=1')
  assert command.code == 1 and 'trained with model.lora_rank=2' in command.err
  command = commands.run(*args, gone, '--params=base')
  assert command.code == 1 and command.err.count('\n') == 1
  assert "holds no model 'base'; it has final" in command.err


def test_guidance_changes_tokens_and_0_does_not(commands, folder, tmp_path):
  args = ('eval.py', *CONFIG, *tiny_pretrained.flags(''), '--model', folder)
  found = {}
  for scale in ('', '0', '3'):
    out = tmp_path / f'scale{scale}.json'
    more = [f'--cfg_scale={scale}'] if scale else []
    command = commands.run(*args, *more, '--out', out)
    assert (command.code, command.err) == (0, '')
    found[scale] = out.with_suffix('.generations.jsonl').read_text()
  assert found[''] == found['0'] != found['3']
  command = commands.run(*args, '--cfg_scale=-1')
  assert command.code == 1 and 'cfg_scale -1.0 is negative' in command.err


def test_a_sweep_of_a_folder(folder, tmp_path):
  out = tmp_path / 'sweep.json'
  config = values(folder, eval__thresholds=(0.5, 0.01))
  found = evaluate.sweep_models(config, folder, out=out, screen=QUIET)
  assert set(found) == {'task', 'num', 'base'}
  assert set(found['base']['sweep']) == {'4'}
  assert set(found['base']['thresholds']) == {'0.5', '0.01'}
  assert out.with_suffix('.png').exists()


def test_parameters_of_a_run_are_a_base_too(folder, adapted, tmp_path):
  """base.path names the parameters of a run that began with a folder."""
  config = values(adapted / 'final', model__lora_rank=2)
  cfg = pretrained_base.located(settings.from_config(config))
  origin = pretrained_base.of_run(cfg, tmp_path)
  assert origin.folder == adapted / pretrained_base.FOLDER
  ctx = setup.context_of(cfg, origin)
  checks.check_base(cfg, ctx, tmp_path)
  assert ctx.denoiser.cfg.lora_rank == 2
  with pytest.raises(errors.UserError, match='lora_a is in the checkpoint'):
    checks.check_base(
      cfg, setup.context_of(cfg, origin, adapters=False), tmp_path
    )


def test_only_how_a_model_is_run_comes_from_the_config(folder):
  config = values(
    folder,
    model__hidden_size=999,
    model__logit_shift=True,
    model__param_dtype='bfloat16',
    model__remat='block',
    model__lora_rank=3,
    model__lora_alpha=5.0,
  )
  cfg = settings.from_config(config)
  own = hf_config.read(folder).model
  made = cfg.adopt(own, adapters=True)
  assert hf_config.plain(made) == hf_config.plain(own)
  assert (made.dtype, made.param_dtype, made.remat) == (
    'float32',
    'bfloat16',
    'block',
  )
  assert (made.lora_rank, made.lora_alpha) == (3, 5.0)
  assert cfg.adopt(own, adapters=False).lora_rank == 0


def test_a_completion_ends_with_its_turn(folder):
  """`<|eot_id|>` ends text, loss, length and reward; what follows is nothing.

  The folder's config names `<|endoftext|>` alone.
  """
  cfg = settings.from_config(values(folder))
  ctx = setup.context_of(cfg, pretrained_base.read(folder))
  ids = {name: ctx.tokenizer._special_ids[name] for name in STOPS}
  assert ctx.vocab.stop_tokens == tuple(sorted(ids.values()))
  assert ctx.vocab.eos_token == ids['<|endoftext|>']
  asked = tiny_run.rows('5 + 3 - 1') * 2
  right = ctx.tokenizer.encode(ctx.task.demonstration(asked[0]))
  wrong = ctx.tokenizer.encode('<answer>\n 9\n</answer>')
  tokens = np.array([[*right, ids[stop], *wrong] for stop in STOPS])
  reward = score.RewardConfig(weights=(('solution', 1.0),))
  found = score.score(ctx.task, ctx.tokenizer, asked, tokens, reward)
  assert found.reward.tolist() == [1.0, 1.0]
  length = score.completion_mask(tokens, ctx.vocab.stop_tokens).sum(1)
  assert length.tolist() == [len(right) + 1] * 2
  # Judged to the end, the later answer counts, and it is wrong.
  past = dataclasses.replace(reward, past_eos=True)
  found = score.score(ctx.task, ctx.tokenizer, asked, tokens, past)
  assert found.reward.tolist() == pytest.approx([0.1, 0.1])


def test_prompts_have_the_template_and_the_prefill(folder):
  cfg = settings.from_config(values(folder, rollout__prefill='<reasoning>\n'))
  origin = pretrained_base.of_run(cfg, folder)
  ctx = setup.context_of(cfg, origin)
  row = {'id': 'x', 'numbers': [1, 2, 3], 'target': 6}
  ids = ctx.encode([row], 200)
  text = ctx.tokenizer._tokenizer.decode(
    ids.ids[0][ids.mask[0]].tolist(), skip_special_tokens=False
  )
  template = chat.FAMILIES['llada']
  assert text == (
    template.before
    + ctx.task.prompt(row).strip()
    + template.after
    + '<reasoning>\n'
  )


def attempt(folder, directory, **changes):
  """The line with which a run is refused; it must leave nothing behind."""
  with pytest.raises(errors.UserError) as caught:
    run_lib.run(values(folder, **changes), directory, QUIET)
  assert not directory.exists()
  return ' '.join(str(caught.value).split())


def causal(folder):
  source = hf_config.read(folder)
  config = {
    'model_type': 'qwen2',
    'vocab_size': 320,
    'hidden_size': 16,
    'num_hidden_layers': 1,
    'num_attention_heads': 2,
    'num_key_value_heads': 2,
    'intermediate_size': 32,
    'rms_norm_eps': source.model.norm_eps,
    'rope_theta': 1e4,
    'hidden_act': 'silu',
  }
  tiny_text.write_json(folder / 'config.json', config)


def changed(name, **fields):
  def change(folder):
    config = json.loads((folder / name).read_text())
    tiny_text.write_json(folder / name, config | fields)

  return change


def shortened(folder):
  path = folder / shards.SINGLE_FILE
  path.write_bytes(path.read_bytes()[:-8])


@pytest.mark.parametrize(
  'spoil, line',
  [
    (causal, 'holds a causal model (qwen2); training and decoding here are'),
    (lambda f: (f / 'config.json').unlink(), 'config.json is missing'),
    (
      lambda f: (f / 'model.safetensors').unlink(),
      'has neither model.safetensors nor',
    ),
    (lambda f: (f / 'tokenizer.json').unlink(), 'neither tokenizer.json nor'),
    (shortened, 'ends early'),
    (changed('config.json', model_type='gpt9'), "model_type is 'gpt9'"),
    (changed('config.json', d_model=32), 'has the shape'),
    (
      changed(
        'tokenizer_config.json',
        added_tokens_decoder=tiny_text.added_tokens({320: ('<x>', False)}),
      ),
      'id 320 is beyond the 320 rows of the embedding',
    ),
    (
      changed('tokenizer_config.json', mask_token='<|eot_id|>'),
      'but mask_token_id is',
    ),
    (
      changed('tokenizer_config.json', chat_template='{{ 1 / 0 }}'),
      'the chat template',
    ),
  ],
)
def test_a_wrong_folder_is_one_line_for_both_commands(
  folder, tmp_path, spoil, line
):
  bad = tmp_path / 'bad'
  shutil.copytree(folder, bad)
  spoil(bad)
  assert line in attempt(bad, tmp_path / 'run')
  with pytest.raises(errors.UserError) as caught:
    evaluate.evaluate_model(greedy(''), bad, None, out=None, screen=QUIET)
  assert line in str(caught.value)


@pytest.mark.parametrize(
  'changes, line',
  [
    ({'base__path': '/no/where'}, 'base.path names /no/where: there is no fo'),
    ({'base__path': 'no/where'}, 'add the commit that you mean'),
    ({'base__path': 'no/where@main'}, "'main' is not a commit of no/where"),
    ({'rollout__max_prompt_length': 90}, 'than rollout.max_prompt_length=90'),
    ({'model__lora_rank': -1}, "config group 'model': lora_rank -1"),
    ({'rollout__cfg_scale': -1.0}, 'cfg_scale -1.0 is negative'),
    ({'base__path': '', 'rollout__prefill': 'x'}, 'rollout.prefill is'),
  ],
)
def test_a_wrong_config_is_refused_before_the_directory_is_made(
  folder, tmp_path, changes, line
):
  assert line in attempt(folder, tmp_path / 'run', **changes)


def test_a_workdir_is_no_base(folder, whole, tmp_path):
  line = attempt(folder, tmp_path / 'run', base__path=str(whole))
  assert f'the workdir of a run; did you mean {whole / "final"}?' in line


def test_a_folder_that_changed_is_no_base_any_more(folder, adapted, tmp_path):
  """A run goes on with the model that it began with, or not at all."""
  other = tiny_pretrained.llada(tmp_path / 'other', mlp_size=40)
  cfg = settings.from_config(values(other))
  ctx = setup.context_of(cfg, pretrained_base.of_run(cfg, adapted))
  with pytest.raises(errors.UserError, match='holds another model than'):
    checks.check_base(cfg, ctx, adapted)


def test_adapters_of_a_folder_are_trained_on(folder, adapted, tmp_path):
  """A converted folder with adapters wants them named; then it has them."""
  mesh = sharding.make_mesh(sharding.MeshConfig(data=1))
  model = pretrained.open_model(folder, mesh)
  cfg = settings.from_config(values(folder, model__lora_rank=2))
  ctx = setup.context_of(cfg, pretrained_base.read(folder))
  params = pretrained_base.load(folder, ctx, QUIET)
  record = model.record._replace(model=ctx.denoiser.cfg)
  ours = tmp_path / 'ours'
  files = converted.copy_tokenizer(folder, ours.parent)
  ours.mkdir()
  for name in files:
    shutil.move(tmp_path / name, ours / name)
  pretrained.checkpoint.save_params(
    ours / 'params', params, converted.to_meta(record, files)
  )
  line = attempt(ours, tmp_path / 'run')
  assert 'has adapters of rank 2 and alpha 64.0; set model.lora_rank' in line
  again = pretrained_base.load(ours, ctx, QUIET)
  tiny_run.assert_same(again, params)
  pretrained_base.check(ours, ctx)


def test_params_are_of_a_run_alone(commands, folder):
  command = commands.run('eval.py', '--model', folder, '--params=final')
  assert command.code == 1 and command.err.count('\n') == 1
  assert 'leave --params out' in command.err


def test_dream_with_the_real_tokenizer(commands, shared_dir, tmp_path):
  """From the progress bar to the results file."""
  folder = tiny_pretrained.dream(shared_dir, tmp_path / 'dream')
  out = tmp_path / 'out.json'
  args = tiny_pretrained.flags('', rollout__max_prompt_length=200)
  command = commands.run('eval.py', *args, '--model', folder, '--out', out)
  assert (command.code, command.err) == (0, '')
  assert 'countdown, base  8/8' in command.out
  assert json.loads(out.read_text())['num'] == 8
  lines = out.with_suffix('.generations.jsonl').read_text().splitlines()
  ids = [i for line in lines for i in json.loads(line)['completion_ids']]
  assert len(ids) == 96 and 151666 not in ids and max(ids) < 151667


def test_ag_grpo_with_guidance_and_a_prefill(folder, tmp_path):
  config = tiny_run.values(
    'ag_grpo',
    **tiny_pretrained.CHANGES
    | {
      'base__path': str(folder),
      'mesh__data': 1,
      'rollout__gen_length': 24,
      'rollout__block_length': 24,
      'rollout__cfg_scale': 1.0,
      'rollout__prefill': '<reasoning>\n',
      'method__guided__max_anchor': 23,
      'train__num_steps': 1,
    },
  )
  run_lib.run(config, tmp_path / 'run', QUIET)
  row = metrics.read(tmp_path / 'run')[0]
  assert row['rollout/guided_fraction'] == 0.5
  assert row['terms/xmlcount'] >= 0.125  # the prefill's tag counts


def test_generate_reads_a_run_and_its_base(commands, folder, whole, tmp_path):
  """As evaluation does: the run's template, adapters and decoding."""
  rows = {}
  for name in ('final', 'base'):
    out = tmp_path / f'{name}.jsonl'
    args = ('--model', whole, '--params', name, '--prompt=1 2 3', '--out', out)
    command = commands.run('generate.py', *args, config=False)
    assert command.code == 0, command.err
    rows[name] = json.loads(out.read_text())
  ids = rows['final']['prompt_ids']
  origin = pretrained_base.read(folder)
  pieces = origin.template.render('1 2 3')
  assert ids == origin.tokenizer.encode_pieces([pieces])[0].ids
  assert rows['base']['prompt_ids'] == ids
  assert rows['base']['logp'] != rows['final']['logp']
