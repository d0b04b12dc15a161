"""The library's face: open, describe, save; and what other libraries read."""

import dataclasses
import functools
import io
import json
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import tokenizers
from tokenizers import processors

import dllm_jax
from dllm_jax import decoding, errors, types
from dllm_jax import model as model_lib
from dllm_jax.decoding import autoregressive, fixed
from dllm_jax.hf import config as hf_config
from dllm_jax.hf import load, save
from dllm_jax.models import lora, network, transformer
from dllm_jax.run import generate, prompt_file
from dllm_jax.runtime import console, processes, sharding
from dllm_jax.text import chat
from tests import tiny, tiny_model, tiny_pretrained, tiny_run
from tests.launch import test_eval


@functools.partial(jax.jit, static_argnames='denoiser')
def logits(denoiser, params, tokens):
  mask = jnp.ones(tokens.shape, bool)
  return network.Transformer(denoiser.cfg).apply(
    {'params': params}, tokens, mask
  )


def mesh():
  return sharding.make_mesh(sharding.MeshConfig(data=1))


def test_importing_the_library_imports_no_jax():
  code = (
    'import sys, dllm_jax\n'
    "assert not {'jax', 'flax', 'numpy'} & set(sys.modules)\n"
    "assert 'Model' in dllm_jax.__all__\n"
  )
  subprocess.run([sys.executable, '-c', code], check=True)


def test_model_is_the_class():
  assert dllm_jax.Model is model_lib.Model
  with pytest.raises(AttributeError, match="no attribute 'Modle'"):
    dllm_jax.Modle  # noqa: B018


def test_opening_a_folder(shared_dir):
  folder = shared_dir / 'golden' / 'llada_tiny'
  model = dllm_jax.Model.open(folder, mesh=mesh())
  assert model.denoiser.cfg == tiny.LLADA == model.record.model
  assert model.vocab == tiny.LLADA_VOCAB and model.tokenizer is None
  assert model.decoder() == fixed.Fixed(
    gen_length=128, block_length=32, num_steps=128, stop_at_eos=True
  )
  want = tiny.recorded(folder, 'golden.npz')
  got = logits(model.denoiser, model.params, want['tokens'])
  np.testing.assert_allclose(got, want['logits'], atol=5e-4, rtol=0)
  half = dllm_jax.Model.open(
    folder, mesh=mesh(), dtype='bfloat16', param_dtype='float16'
  )
  assert half.denoiser.cfg.dtype == 'bfloat16'
  looped = dllm_jax.Model.open(folder, mesh=mesh(), unroll=0)
  assert looped.denoiser.cfg == dataclasses.replace(tiny.LLADA, unroll=0)
  assert {str(x.dtype) for x in jax.tree.leaves(half.params)} == {'float16'}


def test_a_causal_folder_is_decoded_token_by_token(shared_dir):
  """Greedily: each token is the best after those before it."""
  source = shared_dir / 'golden' / 'qwen3_tiny'
  model = dllm_jax.Model.open(source, mesh=mesh())
  assert model.vocab.mask_token is None and model.is_causal
  decoder = model.decoder()
  assert decoder == autoregressive.Autoregressive(gen_length=128)
  overrides = {'gen_length': 6}
  prompts = [[5, 7, 11], [3]]
  made = model.generate(prompts, model.decoder(overrides=overrides))
  for prompt, row in zip(prompts, made, strict=True):
    ids = prompt + row.completion_ids
    best = logits(model.denoiser, model.params, np.array([ids]))[0].argmax(-1)
    count = row.num_steps
    assert (
      row.completion_ids[:count] == best[len(prompt) - 1 :][:count].tolist()
    )
    assert 'drafted' not in row.row()
  for name, more in (('draft', {}), ('fractal', {'num_modules': 2})):
    drafts = model.generate(prompts, model.decoder(name, overrides | more))
    assert [x.completion_ids for x in drafts] == [
      x.completion_ids for x in made
    ]
    assert all(len(x.row()['drafted']) == 6 for x in drafts)
  with pytest.raises(errors.UsageError, match='for this causal model'):
    model.decoder('fixed')


def test_a_prompt_beyond_the_positions_of_a_causal_model_is_one_line(
  shared_dir,
):
  """4096 of them: prompt, completion, and the drafts of the last round."""
  model = dllm_jax.Model.describe(shared_dir / 'golden' / 'qwen3_tiny')
  check = lambda size, name: model.check_window(
    [[1], [1] * size], model.decoder(name, {'gen_length': 96})
  )
  check(4000, 'autoregressive')
  check(3996, 'draft')
  for size, name in ((4001, 'autoregressive'), (3997, 'draft')):
    with pytest.raises(errors.UserError, match='4096.*lower --gen_length'):
      check(size, name)


def test_positions_beyond_a_table_are_one_line(shared_dir):
  """GPT-2's has 96 rows."""
  model = dllm_jax.Model.open(shared_dir / 'golden' / 'gpt2_tiny')
  decoder = model.decoder('autoregressive', {'gen_length': 90})
  model.check_window([[1] * 6], decoder)
  with pytest.raises(errors.UserError, match='96 .max_positions.: lower --gen'):
    model.check_window([[1] * 7], decoder)
  fits, longer = ([1] * 5, [2] * 91), ([1] * 6, [2] * 91)
  assert np.isfinite(model.loglikelihood([fits])).all()
  with pytest.raises(errors.UserError, match='97 tokens .* 96 .max_positions'):
    model.loglikelihood([fits, longer])


def test_plain_prompts_of_causal_models_have_what_opens_a_text(
  shared_dir, tmp_path
):
  """As the folder's tokenizer has it: LLaMA 3's BOS, nothing of others."""
  plain = tiny_pretrained.qwen3(shared_dir, tmp_path / 'plain')
  opened = shutil.copytree(plain, tmp_path / 'opened')
  theirs = tokenizers.Tokenizer.from_file(str(opened / 'tokenizer.json'))
  bos = theirs.token_to_id('<|startoftext|>')
  theirs.post_processor = processors.Sequence(
    [
      processors.ByteLevel(trim_offsets=False),
      processors.TemplateProcessing(
        single='<|startoftext|> $A',
        pair=None,
        special_tokens=[('<|startoftext|>', bos)],
      ),
    ]
  )
  theirs.save(str(opened / 'tokenizer.json'))
  without = dllm_jax.Model.open(plain, mesh=mesh())
  model = dllm_jax.Model.open(opened, mesh=mesh())
  assert without.prompt_template(False) == chat.PLAIN
  ids = theirs.encode('Using').ids
  assert ids[0] == bos and ids[1:] == without.encode('Using')
  how = model.decoder(overrides={'gen_length': 2})
  # Not twice where the text begins with it.
  for row in model.generate(['Using', '<|startoftext|>Using'], how, chat=False):
    assert row.prompt_ids == ids
  assert model.loglikelihood([('Using', ' the')]) == without.loglikelihood(
    [(ids, without.encode(' the'))]
  )


def test_a_saved_model_is_opened_again(tmp_path):
  source = tiny_model.llada(tmp_path / 'source', chat=tiny_model.TEMPLATE)
  model = dllm_jax.Model.open(source, mesh=mesh())
  model.save(tmp_path / 'saved')
  again = dllm_jax.Model.open(str(tmp_path / 'saved'), mesh=mesh())
  assert (
    again.vocab
    == model.vocab
    == types.Vocabulary(
      size=23, mask_token=19, eos_token=18, stop_tokens=(18, 20)
    )
  )
  assert again.template == model.template != chat.PLAIN
  assert again.record.model == model.record.model
  jax.tree.map(np.testing.assert_array_equal, again.params, model.params)
  with pytest.raises(errors.UserError, match='already exists'):
    model.save(tmp_path / 'saved')


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """What a run leaves, untrained, with a prefill and guidance."""
  return test_eval.keep_model(
    tmp_path_factory.mktemp('run'),
    rollout__cfg_scale=0.5,
    eval__threshold=0.7,
    model__dtype='bfloat16',
  )


def test_a_workdir_says_how_its_models_are_decoded(run):
  model = dllm_jax.Model.open(run, mesh=mesh())
  cfg, _ = tiny_run.parts('ag_grpo')
  assert model.decoders == decoding.greedy(
    {
      name: dataclasses.replace(decoder, cfg_scale=0.5)
      for name, decoder in cfg.decoders.items()
    },
    threshold=0.7,
  )
  assert model.denoiser.cfg.dtype == 'bfloat16'
  assert model.denoiser.cfg.param_dtype == 'float32'
  assert model.template == chat.PLAIN == model.prompt_template(None)
  same = dllm_jax.Model.describe(run / 'final')
  assert same.decoders == model.decoders and same.overrides == model.overrides


def rows_of(name, prompts, out, **overrides):
  """The rows of `launch/generate.py`."""
  generate.generate(
    name,
    [
      prompt_file.Request(str(i), 'here', text, None)
      for i, text in enumerate(prompts)
    ],
    overrides=overrides,
    mesh=mesh(),
    screen=console.Console(file=io.StringIO()),
    out=out,
  )
  return [json.loads(line) for line in out.read_text().splitlines()]


@pytest.mark.parametrize('kind', ['run', 'final', 'folder'])
def test_generate_gives_the_rows_of_the_command(run, tmp_path, kind):
  if kind == 'folder':
    name, prompts = tiny_model.llada(tmp_path / 'model'), ['ab', 'c']
    changes = {'gen_length': 16, 'block_length': 8, 'num_steps': 8}
  else:
    name, changes = run / ('' if kind == 'run' else 'final'), {'num_steps': 4}
    prompts = [' 3 5 7 = 15', ' 2 4 6 = 12']
  model = dllm_jax.Model.open(name, mesh=mesh())
  rows = rows_of(name, prompts, tmp_path / 'rows.jsonl', **changes)
  made = model.generate(prompts, model.decoder(overrides=changes))
  got = [{'id': str(i)} | x.row() for i, x in enumerate(made)]
  assert json.loads(json.dumps(got)) == rows
  if kind != 'folder':
    rows = rows_of(name, prompts, tmp_path / 'own.jsonl')
    own = [x.completion_ids for x in model.generate(prompts)]
    assert own == [row['completion_ids'] for row in rows]
    gated = model.generate(prompts, model.decoder('gated', {'threshold': 0.01}))
    assert {x.num_steps for x in gated} != {row['num_steps'] for row in rows}


@pytest.mark.parametrize('kind', ['run', 'folder'])
def test_loglikelihood_of_texts_is_that_of_their_ids(run, tmp_path, kind):
  name, pair = run, (' 3 5 7 = 15\n', ' 3 5')
  if kind == 'folder':
    name, pair = tiny_model.llada(tmp_path / 'model'), ('ab', 'c')
  model = dllm_jax.Model.open(name, mesh=mesh())
  ids = tuple(model.encode(text) for text in pair)
  [value] = model.loglikelihood([pair], num_samples=8)
  assert [value] == model.loglikelihood([ids], num_samples=8)
  assert -100 < value < 0


def test_what_a_workdir_lacks_is_one_line(run, tmp_path):
  for name, params, line in (
    (run, 'base', "holds no model 'base'; it has final"),
    (run / 'final', 'base', '--params base is for the workdir of a run'),
    (tmp_path, None, 'config.json is missing'),
    (tmp_path / 'no', None, 'there is no folder'),
    ('org/name', None, 'add the commit'),
  ):
    with pytest.raises(errors.UserError, match=line):
      dllm_jax.Model.describe(name, params=params)


def test_a_config_of_another_version_is_one_line(run, tmp_path):
  shutil.copytree(run / 'final', tmp_path / 'final')
  for config in ({'a': 1}, {'base': 3}, {'base': {'path': ''}}):
    text = json.dumps({'config': config})
    (tmp_path / 'config.json').write_text(text)
    with pytest.raises(errors.UserError, match='is not of this version'):
      dllm_jax.Model.describe(tmp_path)


def test_a_model_that_is_not_loaded_is_one_line(run):
  model = dllm_jax.Model.describe(run)
  for call in (
    lambda: model.generate([[1]]),
    lambda: model.complete([[1]], model.decoder()),
    lambda: model.loglikelihood([([1], [2])]),
  ):
    with pytest.raises(errors.UserError, match='no parameters on a mesh yet'):
      call()
  new = dataclasses.replace(model, folder=None)
  with pytest.raises(errors.UserError, match='new model has no chat template'):
    new.prompt_template(True)


def test_nothing_is_completed_and_scored(run, monkeypatch):
  model = dllm_jax.Model.open(run, mesh=mesh())
  assert model.generate([]) == model.loglikelihood([]) == []
  monkeypatch.setattr(processes, 'several', lambda: True)
  with pytest.raises(errors.UserError, match='completed by one process'):
    model.generate([[1]])


def test_the_name_says_that_a_model_is_a_base_model(tmp_path):
  for name, has in (('m-base', False), ('m', True)):
    path = tiny_model.llada(tmp_path / name, chat=tiny_model.TEMPLATE)
    model = dllm_jax.Model.describe(path)
    assert model.name == str(path)
    assert (model.prompt_template(None) != chat.PLAIN) == has


def test_a_run_of_the_library_is_read_by_tokenizers(run):
  own = dllm_jax.Model.describe(run)
  theirs = tokenizers.Tokenizer.from_file(str(run / 'final/tokenizer.json'))
  text = own.tokenizer.decode(range(5))
  assert theirs.encode(text).ids == own.tokenizer.encode(text)


def test_the_final_of_a_run_is_saved_and_opened_again(run, tmp_path):
  model = dllm_jax.Model.open(run / 'final', mesh=mesh())
  model.save(tmp_path / 'saved')
  again = dllm_jax.Model.open(tmp_path / 'saved', mesh=mesh())
  jax.tree.map(np.testing.assert_array_equal, again.params, model.params)
  assert again.vocab == model.vocab and again.prefill == ''
  assert again.decoder().gen_length == 128  # not the model of a run any more


def theirs_of(folder, adapters=None):
  """The logits of transformers, and of peft where there are adapters."""
  transformers = pytest.importorskip('transformers')
  torch = pytest.importorskip('torch')
  model = transformers.AutoModelForCausalLM.from_pretrained(
    folder, dtype=torch.float32
  )
  if adapters is not None:
    peft = pytest.importorskip('peft')
    model = peft.PeftModel.from_pretrained(model, adapters)

  def call(tokens):
    with torch.no_grad():
      return model.eval()(torch.tensor(np.int64(tokens))).logits.numpy()

  return call


@pytest.mark.parametrize('family', ['llama', 'qwen2', 'qwen3'])
def test_transformers_computes_the_same_logits(shared_dir, tmp_path, family):
  source = shared_dir / 'golden' / f'{family}_tiny'
  model = dllm_jax.Model.open(source, mesh=mesh())
  model.save(tmp_path / 'saved')
  tokens = tiny.recorded(source, 'golden.npz')['tokens']
  want = theirs_of(tmp_path / 'saved')(tokens)
  got = logits(model.denoiser, model.params, tokens)
  np.testing.assert_allclose(got, want, atol=1e-4, rtol=1e-5)


def test_transformers_computes_the_same_with_a_shared_expert(tmp_path):
  cfg = dataclasses.replace(
    tiny.MODEL,
    causal=True,
    attention_bias=True,
    feed_forward='experts',
    num_experts=5,
    experts_per_token=2,
    shared_size=20,
    norm_eps=1e-6,
  )
  denoiser, params = transformer.of_config(cfg), tiny.params(cfg)
  name = hf_config.family_of(cfg)
  assert name == 'qwen2_moe'
  record = hf_config.Record(name, denoiser, hf_config.Special(eos_tokens=(2,)))
  save.save(tmp_path / 'saved', params, record)
  stored = safetensors.numpy.load_file(tmp_path / 'saved/model.safetensors')
  linears = ['gate_proj', 'up_proj', 'down_proj']
  experts = ['shared_expert', *(f'experts.{i}' for i in range(5))]
  mlp = [f'{expert}.{linear}' for expert in experts for linear in linears]
  assert {name for name in stored if name.startswith('model.layers.1.mlp')} == {
    f'model.layers.1.mlp.{name}.weight'
    for name in ['gate', 'shared_expert_gate', *mlp]
  }
  for linear in linears:
    kernel = params['layers']['mlp']['shared_expert'][linear]['kernel'][1]
    name = f'model.layers.1.mlp.shared_expert.{linear}.weight'
    np.testing.assert_array_equal(stored[name], kernel.T)
  tokens = np.random.default_rng(0).integers(0, cfg.vocab_size, (3, 9))
  again, leaves = load.load(load.read(tmp_path / 'saved'), mesh())
  jax.tree.map(np.testing.assert_array_equal, leaves, params)
  want = theirs_of(tmp_path / 'saved')(tokens)
  got = logits(again, leaves, tokens)
  np.testing.assert_allclose(got, want, atol=1e-4, rtol=1e-5)


@pytest.mark.filterwarnings('ignore')
def test_peft_reads_saved_adapters(shared_dir, tmp_path):
  source = shared_dir / 'golden' / 'qwen2_tiny'
  model = dllm_jax.Model.open(source, mesh=mesh())
  cfg = dataclasses.replace(model.denoiser.cfg, lora_rank=2, lora_alpha=3.0)
  adapters, _ = lora.split(tiny.params(cfg))
  adapted = dataclasses.replace(
    model,
    denoiser=transformer.TransformerDenoiser(cfg=cfg),
    params=lora.join(model.params, adapters),
  )
  adapted.save(tmp_path / 'adapters')
  tokens = tiny.recorded(source, 'golden.npz')['tokens']
  want = theirs_of(source, tmp_path / 'adapters')(tokens)
  again = dllm_jax.Model.open(tmp_path / 'adapters', mesh=mesh())
  assert again.denoiser.cfg == cfg
  got = logits(again.denoiser, again.params, tokens)
  np.testing.assert_allclose(got, want, atol=1e-4, rtol=1e-5)
  plain = logits(model.denoiser, model.params, tokens)
  assert np.abs(plain - want).max() > 0.1


def test_the_folder_of_a_described_model(shared_dir):
  folder = load.read(shared_dir / 'golden' / 'dream_tiny')
  assert model_lib.of_folder(folder).folder.base == folder.path
