"""Model folders: trained on, resumed, evaluated, and refused in a line."""

import dataclasses
import io
import json
import os
import shutil
import signal

import flax
import jax
import numpy as np
import pytest

from dllm_jax import errors
from dllm_jax import model as model_lib
from dllm_jax.hf import config as hf_config
from dllm_jax.hf import load, shards
from dllm_jax.rollout import score
from dllm_jax.run import (
  base_model,
  eval_files,
  evaluate,
  generate,
  prompt_file,
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


def tensors(folder):
  """The leaves of a folder's model, by path."""
  mesh = sharding.make_mesh(sharding.MeshConfig(data=1))
  _, params = load.load(load.read(folder), mesh)
  leaves = flax.traverse_util.flatten_dict(params, sep='.')
  return jax.device_get(leaves)


def described(cfg):
  """(the base that the config names, the context of a run on it)."""
  model = base_model.describe_base(cfg)
  return model, setup.make_context(cfg, model)


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
  run_lib.train(values(folder), directory, QUIET)
  return directory


def test_a_run_trains_adapters_alone(folder, adapted):
  rows = [(row['phase'], row['step']) for row in metrics.read(adapted)]
  # No control: nothing was spent on demonstrations.
  assert rows == [('rl', 1), ('rl', 2), ('eval', 0), ('eval', 2)]
  found = json.loads((adapted / 'eval.json').read_text())
  assert set(found['seconds']) == {'base', 'rl', 'eval'}
  assert found['seconds']['base'] == 0 and 'control' not in found
  final, start = tensors(adapted / 'final'), tensors(folder)
  adapters = {k for k in final if '.lora_' in k}
  assert len(adapters) == 14 and final.keys() - adapters == start.keys()
  tiny_run.assert_same({k: final[k] for k in start}, start)
  assert all(final[k].any() for k in adapters)  # B begins as zero


def test_a_run_trains_every_parameter(folder, whole):
  final, start = tensors(whole / 'final'), tensors(folder)
  assert final.keys() == start.keys()
  assert all((final[k] != start[k]).any() for k in start)
  assert not (whole / 'base').exists()


def test_a_final_of_weights_is_a_folder_of_its_own(folder, whole):
  names = ['config.json', 'dllm_jax.json', 'model.safetensors']
  assert sorted(os.listdir(whole / 'final')) == [
    *names,
    'tokenizer.json',
    'tokenizer_config.json',
  ]
  read = lambda path: model_lib.of_folder(load.read(path))
  own, base = read(whole / 'final'), read(folder)
  assert own.record.model == base.record.model
  assert own.template == base.template == chat.FAMILIES['llada']
  assert own.tokenizer.special == base.tokenizer.special
  assert sorted(os.listdir(whole)) == [
    '.lock',
    'checkpoints',
    'config.json',
    'eval.json',
    'final',
    'metrics.jsonl',
    'report.html',
    'tensorboard',
    'trajectories.jsonl',
    'verdicts.json',
  ]


def test_a_final_of_adapters_is_pefts_folder(folder, adapted):
  config = json.loads((adapted / 'final/adapter_config.json').read_text())
  assert config['base_model_name_or_path'] == str(folder)
  assert sorted(os.listdir(adapted / 'final')) == [
    'adapter_config.json',
    'adapter_model.safetensors',
    'dllm_jax.json',
    'tokenizer.json',
    'tokenizer_config.json',
  ]


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
  assert 'resuming' in command.out
  tiny_run.assert_same(
    tiny_run.kept(directory / 'final'), tiny_run.kept(adapted / 'final')
  )
  assert timeless(directory) == timeless(adapted)


def evaluated(config, directory, tmp_path, name=None):
  """(results without speed and path, generations), in this process."""
  out = tmp_path / 'out.json'
  found = evaluate.evaluate_model(
    config,
    directory,
    name,
    decode=None,
    overrides={},
    out=out,
    screen=QUIET,
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


def test_a_final_is_evaluated_as_its_run(whole, adapted, tmp_path):
  for run, changes in ((whole, {}), (adapted, {'model__lora_rank': 2})):
    config = greedy(
      json.loads((run / 'config.json').read_text())['config']['base']['path'],
      **changes,
    )
    want = evaluated(config, run, tmp_path)
    out = tmp_path / 'again.json'
    found = evaluate.evaluate_model(
      config,
      run / 'final',
      None,
      decode=None,
      overrides={},
      out=out,
      screen=QUIET,
    )
    assert found['params'] == 'final'
    assert found['accuracy'] == want[0]['accuracy']
    lines = out.with_suffix(eval_files.GENERATIONS).read_text().splitlines()
    assert [json.loads(line) for line in lines] == want[1]
    out.unlink()


def test_a_final_that_was_moved_is_a_model_of_its_own(whole, tmp_path):
  """It decodes as a pretrained model: 128 tokens at most, to its EOS."""
  shutil.copytree(whole / 'final', tmp_path / 'moved')
  model = model_lib.Model.describe(tmp_path / 'moved')
  assert model.decoder().gen_length == 128 and model.decoder().stop_at_eos
  assert model.prefill == ''
  own = model_lib.Model.describe(whole).decoder()
  assert own.gen_length == 12 and not own.stop_at_eos


def test_a_run_of_weights_outlives_its_folder(whole, folder, tmp_path):
  """Its own models need nothing of it."""
  gone = moved_base(whole, tmp_path)
  config = greedy(tmp_path / 'no')
  assert (
    evaluated(config, gone, tmp_path)[1]
    == evaluated(greedy(folder), whole, tmp_path)[1]
  )
  with pytest.raises(errors.UserError, match="no model 'base'; it has final"):
    evaluated(config, gone, tmp_path, 'base')


def moved_base(run, tmp_path):
  """A copy of a run whose base is not where its config says."""
  gone = tmp_path / 'gone'
  shutil.copytree(run, gone)
  config = json.loads((gone / 'config.json').read_text())
  config['config']['base']['path'] = str(tmp_path / 'no')
  (gone / 'config.json').write_text(json.dumps(config))
  return gone


def test_adapters_without_their_base_are_one_line(
  commands, folder, adapted, tmp_path
):
  gone = moved_base(adapted, tmp_path)
  path = gone / 'final' / 'adapter_config.json'
  path.write_text(path.read_text().replace(str(folder), str(tmp_path / 'no')))
  (gone / 'final' / 'dllm_jax.json').unlink()
  args = ('eval.py', *CONFIG, *lora(folder), '--model', gone)
  command = commands.run(*args)
  assert command.code == 1 and command.err.count('\n') == 1
  assert f'base model {tmp_path / "no"}, which is missing' in command.err
  command = commands.run(*args[:-1], adapted, '--config.model.lora_rank=1')
  assert command.code == 1 and 'trained with model.lora_rank=2' in command.err


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
  assert command.code == 2 and 'cfg_scale -1.0 must be' in command.err


def test_a_sweep_of_a_folder(folder, tmp_path):
  out = tmp_path / 'sweep.json'
  config = values(folder, eval__thresholds=(0.5, 0.01))
  found = evaluate.sweep_models(config, folder, out=out, screen=QUIET)
  assert {'task', 'num', 'seed', 'weights', 'versions'} <= set(found)
  assert 'final' not in found
  assert set(found['base']['sweep']) == {'4'}
  assert set(found['base']['thresholds']) == {'0.5', '0.01'}
  assert out.with_suffix('.png').exists()


def test_adapters_of_a_run_are_a_base_too(folder, adapted, tmp_path):
  """base.path names the final of a run with adapters: they are trained on."""
  cfg = settings.from_config(values(adapted / 'final', model__lora_rank=2))
  model, ctx = described(cfg)
  assert model.folder.base == folder
  base_model.check_params(model.folder, ctx)
  assert ctx.denoiser.cfg.lora_rank == 2
  params = base_model.load_params(model.folder, ctx, QUIET)
  leaves = flax.traverse_util.flatten_dict(params, sep='.')
  tiny_run.assert_same(jax.device_get(leaves), tensors(adapted / 'final'))
  line = attempt(adapted / 'final', tmp_path / 'run')
  assert 'has adapters of rank 2 and alpha 64.0; set model.lora_rank' in line


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
  own = hf_config.read(folder)
  made = cfg.adopt(own, adapters=True).cfg
  assert hf_config.plain(made) == hf_config.plain(own.model)
  assert (made.dtype, made.param_dtype, made.remat) == (
    'float32',
    'bfloat16',
    'block',
  )
  assert (made.lora_rank, made.lora_alpha) == (3, 5.0)
  assert cfg.adopt(own, adapters=False).cfg.lora_rank == 0


def test_a_completion_ends_with_its_turn(folder):
  """`<|eot_id|>` ends text, loss, length and reward; what follows is nothing.

  The folder's config names `<|endoftext|>` alone.
  """
  cfg = settings.from_config(values(folder))
  _, ctx = described(cfg)
  ids = {name: ctx.tokenizer._special_ids[name] for name in STOPS}
  assert ctx.vocab.stop_tokens == tuple(sorted(ids.values()))
  assert ctx.vocab.eos_token == ids['<|endoftext|>']
  asked = tiny_run.rows('5 + 3 - 1') * 2
  right = ctx.tokenizer.encode(ctx.task.demonstration(asked[0]))
  wrong = ctx.tokenizer.encode('<answer>\n 9\n</answer>')
  tokens = np.array([[*right, ids[stop], *wrong] for stop in STOPS])
  reward = score.RewardConfig(weights=(('solution', 1.0),))
  found = score.score(ctx, asked, tokens, reward)
  assert found.reward.tolist() == [1.0, 1.0]
  length = score.completion_mask(tokens, ctx.vocab.stop_tokens).sum(1)
  assert length.tolist() == [len(right) + 1] * 2
  # Judged to the end, the later answer counts, and it is wrong.
  past = dataclasses.replace(reward, past_eos=True)
  found = score.score(ctx, asked, tokens, past)
  assert found.reward.tolist() == pytest.approx([0.1, 0.1])


def test_prompts_have_the_template_and_the_prefill(folder):
  cfg = settings.from_config(values(folder, rollout__prefill='<reasoning>\n'))
  _, ctx = described(cfg)
  row = {'id': 'x', 'numbers': [1, 2, 3], 'target': 6}
  ids = ctx.encode([row])
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
    run_lib.train(values(folder, **changes), directory, QUIET)
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
    (causal, '(qwen2) is a causal model: use autoregressive, draft or fractal'),
    (lambda f: (f / 'config.json').unlink(), 'config.json is missing'),
    (
      lambda f: (f / 'model.safetensors').unlink(),
      'has neither model.safetensors nor',
    ),
    (lambda f: (f / 'tokenizer.json').unlink(), 'neither tokenizer.json nor'),
    (shortened, 'file not fully covered'),
    (changed('config.json', model_type='gpt9'), "model_type is 'gpt9'"),
    (changed('config.json', d_model=32), 'has shape'),
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
    evaluate.evaluate_model(
      greedy(''),
      bad,
      None,
      decode=None,
      overrides={},
      out=None,
      screen=QUIET,
    )
  assert line in str(caught.value)


@pytest.mark.parametrize(
  'changes, line',
  [
    ({'base__path': '/no/where'}, 'base.path names /no/where: there is no fo'),
    ({'base__path': 'no/where'}, 'add the commit that you mean'),
    ({'base__path': 'no/where@main'}, "'main' is not a commit of no/where"),
    ({'rollout__max_prompt_length': 90}, 'than rollout.max_prompt_length=90'),
    ({'model__lora_rank': -1}, "config group 'model': lora_rank -1"),
    ({'rollout__cfg_scale': -1.0}, 'cfg_scale -1.0 must be'),
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


def test_a_folder_that_changed_is_no_base_any_more(
  commands, folder, adapted, tmp_path
):
  """A run goes on with the model that it began with, or not at all."""
  own, run = tmp_path / 'own', tmp_path / 'run'
  shutil.copytree(folder, own)
  shutil.copytree(adapted, run)
  config = (run / 'config.json').read_text()
  (run / 'config.json').write_text(config.replace(str(folder), str(own)))
  (run / 'eval.json').unlink()
  shutil.rmtree(run / 'final')
  shutil.rmtree(own)
  tiny_pretrained.llada(own, mlp_size=40)
  command = commands.run('train.py', *CONFIG, *lora(own), '--workdir', run)
  assert command.code == 1 and command.err.count('\n') == 1
  assert 'holds another model' in command.err


def test_params_are_of_a_run_alone(commands, folder):
  command = commands.run('eval.py', '--model', folder, '--params=final')
  assert command.code == 2 and command.err.count('\n') == 1
  assert '--params final is for the workdir of a run' in command.err


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
  run_lib.train(config, tmp_path / 'run', QUIET)
  row = metrics.read(tmp_path / 'run')[0]
  assert row['rollout/guided_fraction'] == 0.5
  assert row['terms/xmlcount'] >= 0.125  # the prefill's tag counts


def test_generate_decodes_as_the_run_was_evaluated(folder, tmp_path):
  """Its prefill and its guidance included."""
  out = tmp_path / 'run'
  changes = {'rollout__prefill': '<reasoning>\n', 'rollout__cfg_scale': 1.5}
  config = values(folder, train__num_steps=1, **changes)
  run_lib.train(config, out, QUIET)
  model = model_lib.Model.describe(out)
  decoder = model.decoder()
  assert (decoder.cfg_scale, decoder.temperature) == (1.5, 0.0)
  assert model.prefill == '<reasoning>\n'
  found, rows = evaluated(greedy(folder, **changes), out, tmp_path)
  request = prompt_file.parse({'id': 0, 'prompt': rows[0]['question']}, 'p')
  generate.generate(
    out,
    [request],
    overrides={'num_steps': 4},
    mesh=sharding.make_mesh(sharding.MeshConfig(data=1)),
    screen=QUIET,
    out=tmp_path / 'rows.jsonl',
  )
  row = json.loads((tmp_path / 'rows.jsonl').read_text())
  assert row['completion_ids'] == rows[0]['completion_ids']


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
  base = model_lib.Model.describe(folder)
  pieces = base.template.render('1 2 3')
  assert ids == base.tokenizer.encode_pieces([pieces])[0].ids
  assert rows['base']['prompt_ids'] == ids
  assert rows['base']['logp'] != rows['final']['logp']
