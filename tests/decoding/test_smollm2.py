"""A real causal model, SmolLM2-135M-Instruct: another's greedy completions, and
speculative decoding of real prompts."""

import gzip
import json

import jax
import numpy as np
import pytest

import dllm_jax
from dllm_jax.decoding import autoregressive, fractal, speculative
from dllm_jax.eval import speculation
from dllm_jax.runtime import sharding

pytestmark = pytest.mark.slow

NOISE = 5e-3  # of logits, between implementations in float32
NUM, WINDOW, LENGTH = 200, 48, 24  # prompts, their tokens, and new tokens


@pytest.fixture(scope='module')
def model(smollm2_dir):
  mesh = sharding.make_mesh(sharding.MeshConfig(data=1))
  return dllm_jax.Model.open(smollm2_dir, mesh=mesh, param_dtype='float32')


@pytest.fixture(scope='module')
def recorded(shared_dir):
  place = shared_dir / 'golden' / 'smollm2'
  return [
    row
    for name in ('raw.json', 'chat.json')
    for row in json.loads((place / name).read_text('utf-8'))
  ]


@pytest.mark.parametrize('batch_size', [1, 16])
def test_greedy_completions_are_the_recorded_ones(model, recorded, batch_size):
  """Up to the first token whose choice is within the noise."""
  prompts = [row['prompt_ids'] for row in recorded]
  decoder = autoregressive.Autoregressive(gen_length=64)
  made = model.generate(prompts, decoder, batch_size=batch_size)
  for row, got in zip(recorded, made, strict=True):
    close = np.flatnonzero(np.array(row['gap']) < NOISE)
    size = int(close[0]) if len(close) else len(row['completion_ids'])
    assert got.completion_ids[:size] == row['completion_ids'][:size]
    np.testing.assert_allclose(
      got.logp[:size], row['logp'][:size], atol=1e-3, rtol=0
    )


def test_log_likelihoods_are_the_recorded_ones(model, recorded):
  pairs = [(row['prompt_ids'], row['completion_ids']) for row in recorded]
  got = model.loglikelihood(pairs)
  want = [sum(row['logp']) for row in recorded]
  np.testing.assert_allclose(got, want, atol=1e-3 * 64, rtol=0)


def test_the_chat_template_gives_the_recorded_prompts(
  model, recorded, shared_dir
):
  text = (shared_dir / 'data' / 'gsm8k' / 'test.jsonl').read_text('utf-8')
  questions = [json.loads(line)['question'] for line in text.splitlines()]
  chats = [row for row in recorded if '<|im_start|>' in row['text']]
  assert chats
  for row in chats:
    [question] = [q for q in questions if q in row['text']]
    assert model.encode(question, model.template) == row['prompt_ids']


def corpus(shared_dir, name):
  """Texts to complete."""
  data = shared_dir / 'data'
  if name == 'gsm8k':
    lines = (data / 'gsm8k' / 'test.jsonl').read_text('utf-8').splitlines()
    return [f'Q: {json.loads(line)["question"]}\nA:' for line in lines]
  if name == 'humaneval':
    with gzip.open(data / 'humaneval' / 'HumanEval.jsonl.gz', 'rt') as file:
      prompts = [json.loads(line)['prompt'] for line in file]
    return prompts + [f'{prompt}    #' for prompt in prompts]  # it has 164
  lines = (data / 'wikitext-2' / 'test.txt').read_text('utf-8').splitlines()
  return [line.strip() for line in lines if len(line) > 200]


@pytest.mark.parametrize('name', ['gsm8k', 'humaneval', 'wikitext'])
def test_speculation_changes_no_completion(model, shared_dir, name):
  """Of 200 prompts; where one differs, two logits were within 1e-4."""
  texts = corpus(shared_dir, name)[:NUM]
  rows = [model.encode(text)[-WINDOW:] for text in texts]
  assert len(rows) == NUM
  cfg = speculation.StudyConfig(
    num_prompts=NUM,
    gen_length=LENGTH,
    modules=(4,),
    compressions=('int8',),
    no_cache=False,
    repeats=0,
  )
  study = speculation.Study(
    model.denoiser,
    model.params,
    rows,
    cfg,
    vocab=model.vocab,
    mesh=model.mesh,
  )
  for decoder in (
    fractal.Fractal(gen_length=LENGTH),
    speculative.Draft(gen_length=LENGTH),
  ):
    row, _ = study.compare(decoder)
    print(name, row)
    assert row['worst_gap'] is None or row['worst_gap'] < 1e-4
  jax.clear_caches()
