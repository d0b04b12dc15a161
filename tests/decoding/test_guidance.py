"""Guidance: recordings, the formula, and that off costs nothing."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dllm_jax.decoding import fixed, gated, guidance
from dllm_jax.models import transformer
from dllm_jax.rl import logprobs
from dllm_jax.rollout import answer_free
from tests import recorded, tiny

L = 12
TABLE = tiny.Table(gen_length=L)
PARAMS = tiny.table_params(0, L)
PROMPTS = tiny.random_prompts(1, [3, 5, 1, 4])


def guided(
  scale, denoiser=TABLE, params=PARAMS, gen_length=L, vocab=tiny.VOCAB
):
  return guidance.guided(
    denoiser, params, scale, gen_length=gen_length, vocab=vocab
  )


def run(prompts, scale, cfg, *, width=None, side='left', row_id=None):
  return tiny.decode(
    TABLE,
    PARAMS,
    tiny.row_keys(0, list(range(len(prompts)) if row_id is None else row_id)),
    tiny.canvas(prompts, L, width=width, side=side),
    dataclasses.replace(cfg, cfg_scale=scale),
  )


BLOCKS = {'gen_length': L, 'block_length': 4, 'temperature': 0.7}
CONFIGS = [
  fixed.Fixed(num_steps=6, **BLOCKS),
  gated.Gated(threshold=0.3, top_p=0.9, **BLOCKS),
]


def same(a, b):
  for name in ('tokens', 'commit_step', 'num_steps'):
    np.testing.assert_array_equal(getattr(a, name), getattr(b, name), name)
  np.testing.assert_allclose(a.logp, b.logp, rtol=1e-5, atol=1e-5)


def test_recorded_guided_decode(shared_dir):
  name = 'llada_cfg0.5_g32_b16_s16'
  case = recorded.case(shared_dir, 'llada', name)
  assert case['cfg_scale'] == 0.5
  cfg = fixed.Fixed(
    gen_length=case['gen_length'],
    block_length=case['block_length'],
    num_steps=case['steps'],
    cfg_scale=case['cfg_scale'],
  )
  recorded.read(shared_dir, 'llada', name, cfg).check_all()


@pytest.mark.parametrize('which', ['mc', 'mc_cfg'])
def test_recorded_log_likelihoods(shared_dir, which):
  folder = shared_dir / 'golden' / 'llada_tiny'
  data = tiny.recorded(folder, 'loglik.npz')
  mask = data['mc.answer_mask']
  count, length = mask.shape
  answer = np.broadcast_to(data['mc.answer'], mask.shape)
  prompt = np.broadcast_to(data['mc.prompt'], (count, len(data['mc.prompt'])))
  hidden = np.where(mask, tiny.LLADA_VOCAB.mask_token, answer)
  tokens = np.concatenate([prompt, hidden], 1)
  views = logprobs.Views(
    tokens=tokens,
    attention_mask=np.ones(tokens.shape, bool),
    slot=np.broadcast_to(np.arange(length, dtype=np.int32), mask.shape),
    target=answer,
    credit=mask,
    weight=(1 / data['mc.p_mask']).astype(np.float32),
  )
  scale = float(data[f'{which}.cfg_scale'])
  assert (scale > 0) == (which == 'mc_cfg')
  denoiser, params = guided(
    scale,
    transformer.TransformerDenoiser(cfg=tiny.LLADA),
    tiny.llada(folder),
    length,
    tiny.LLADA_VOCAB,
  )
  read_views = jax.jit(
    logprobs.read_views, static_argnames=('denoiser', 'vocab', 'gen_length')
  )
  got = read_views(
    denoiser,
    params,
    jax.tree.map(lambda x: jnp.asarray(x)[:, None], views),
    tiny.LLADA_VOCAB,
    gen_length=length,
  ).logp[:, 0]
  np.testing.assert_allclose(
    got, data[f'{which}.token_logps'], atol=5e-4, rtol=0
  )
  loss = -got.sum(1) * views.weight
  np.testing.assert_allclose(loss, data[f'{which}.sample_loss'], atol=2e-3)
  np.testing.assert_allclose(
    -loss.mean(), data[f'{which}.log_likelihood'], atol=2e-3
  )


@pytest.mark.parametrize('scale', [0.25, 1.0, 3.0])
def test_guided_logits_equal_the_formula(scale):
  canvas = tiny.canvas(PROMPTS, L)
  query = jnp.broadcast_to(jnp.arange(5, 9)[None], (4, 4))
  denoiser, params = guided(scale)
  got = denoiser(params, canvas.tokens, canvas.attention_mask, query)
  for row, prompt in enumerate(PROMPTS):
    table = PARAMS['table'][:4].astype(np.float64)
    blanks = PARAMS['context'][[tiny.MASK] * L].sum(0)
    given = table + PARAMS['context'][prompt].sum(0) + blanks
    free = table + PARAMS['context'][[tiny.MASK] * len(prompt)].sum(0) + blanks
    np.testing.assert_allclose(
      got[row], free + (scale + 1) * (given - free), rtol=1e-5, atol=1e-4
    )


def test_guidance_off_returns_the_model():
  assert guided(None) == (TABLE, PARAMS)
  for cfg in CONFIGS:
    assert dataclasses.replace(cfg, cfg_scale=0.0) == cfg
    for wrong in (-0.1, float('nan'), float('inf')):
      with pytest.raises(ValueError, match='cfg_scale'):
        dataclasses.replace(cfg, cfg_scale=wrong)


@pytest.mark.parametrize('cfg', CONFIGS)
def test_small_scales_change_little_and_large_ones_much(cfg):
  off = run(PROMPTS, 0.0, cfg)
  same(run(PROMPTS, 1e-9, cfg), off)
  assert (np.asarray(run(PROMPTS, 2.0, cfg).tokens) != off.tokens).any()


@pytest.mark.parametrize('cfg', CONFIGS)
def test_scales_share_a_compilation(cfg):
  run(PROMPTS, 0.5, cfg)
  size = tiny.decode._cache_size()
  run(PROMPTS, 0.75, cfg)
  assert tiny.decode._cache_size() == size


@pytest.mark.parametrize('cfg', CONFIGS)
def test_rows_do_not_depend_on_padding_batch_or_place(cfg):
  whole = run(PROMPTS, 1.0, cfg)
  pick = lambda rows: jax.tree.map(lambda x: x[jnp.asarray(rows)], whole)
  for row, prompt in enumerate(PROMPTS):
    same(run([prompt], 1.0, cfg, row_id=[row]), pick([row]))
  order = [2, 0, 3, 1]
  got = run(
    [PROMPTS[i] for i in order], 1.0, cfg, width=9, side='right', row_id=order
  )
  same(got, pick(order))


@pytest.mark.parametrize('cfg', CONFIGS)
def test_guided_decode_is_the_same_on_any_number_of_devices(cfg):
  def sample(data):
    return answer_free.sample(
      TABLE,
      PARAMS,
      jax.random.key(0),
      tiny.row_prompts(PROMPTS, 5, range(4)),
      dataclasses.replace(cfg, cfg_scale=1.0),
      mesh=tiny.context_of(TABLE, data=data).mesh,
      vocab=tiny.VOCAB,
    )

  whole = run(PROMPTS, 1.0, cfg, width=5)
  for data in (1, 4):
    same(jax.device_get(sample(data)), whole)


@pytest.mark.parametrize('cfg', CONFIGS)
def test_guided_decode_never_proposes_mask(cfg):
  # Guidance turns the table's top logits, [MASK] and beyond, into more so.
  got = run(PROMPTS, 3.0, cfg)
  tokens = np.asarray(got.tokens)
  assert tokens.min() >= 0 and tokens.max() < tiny.MASK
  assert np.isfinite(got.logp).all() and (np.asarray(got.logp) <= 0).all()


def test_empty_prompt_has_no_guidance():
  # Nothing is masked in the free half, so both halves are one.
  cfg = CONFIGS[0]
  same(run([[], []], 2.0, cfg, width=2), run([[], []], 0.0, cfg, width=2))


def test_guidance_does_not_mask_completion_tokens():
  # An anchor in the completion stays in sight of both halves.
  denoiser, params = guided(1.0)
  canvas = tiny.canvas([[1, 2]], L)
  tokens = canvas.tokens.at[0, -1].set(7)
  seen = []

  @dataclasses.dataclass(frozen=True)
  class Spy:
    def __call__(self, params, tokens, attention_mask, query):
      seen.append(np.asarray(tokens))
      return TABLE(params, tokens, attention_mask, query)

  spied = dataclasses.replace(denoiser, denoiser=Spy())
  spied(params, tokens, canvas.attention_mask, jnp.array([[5]]))
  assert len(seen) == 1
  given, free = seen[0]
  np.testing.assert_array_equal(given, tokens[0])
  np.testing.assert_array_equal(free, [*[tiny.MASK] * (L + 1), 7])
