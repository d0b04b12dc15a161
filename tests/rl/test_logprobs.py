"""Estimators, their views, and recorded log-probabilities and gradients."""

import dataclasses
import functools

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from dllm_jax import types
from dllm_jax.decoding import fixed
from dllm_jax.hf import table
from dllm_jax.models import transformer
from dllm_jax.rl import logprobs
from tests import tiny

read_views = jax.jit(
  logprobs.read_views, static_argnames=('denoiser', 'vocab', 'gen_length')
)


@functools.partial(jax.jit, static_argnames=('estimator', 'vocab'))
def views_of(key, batch, *, estimator, vocab=tiny.VOCAB):
  return estimator(key, batch, vocab)


# Recordings.


def one_step_views(prompts, completions, hide, mask_token):
  """One view per row: partly masked prompts, fully masked completions."""
  width = max(map(len, prompts))
  length = max(map(len, completions))
  ids, real = tiny.pad(prompts, width)
  hidden, _ = tiny.pad([np.int32(h) for h in hide], width)
  ids = np.where(hidden, mask_token, ids)
  target, credit = tiny.pad(completions, length, side='right')
  slot = np.broadcast_to(np.arange(length, dtype=np.int32), target.shape)
  view = logprobs.Views(
    tokens=np.concatenate([ids, np.full_like(target, mask_token)], 1),
    attention_mask=np.concatenate([real, credit], 1),
    slot=slot,
    target=target,
    credit=credit,
    weight=np.ones(len(ids), np.float32),
  )
  return jax.tree.map(lambda x: jnp.asarray(x)[:, None], view)


def cut(rows, lengths=None):
  lengths = [rows.shape[1]] * len(rows) if lengths is None else lengths
  return [row[:n].tolist() for row, n in zip(rows, lengths, strict=True)]


@pytest.mark.parametrize(
  ('name', 'which'),
  [('llada', 'onestep'), ('llada', 'ragged'), ('dream', 'onestep')],
)
def test_logprobs_equal_recordings(shared_dir, name, which):
  folder = shared_dir / 'golden' / f'{name}_tiny'
  data = tiny.recorded(folder, 'loglik.npz')
  cfg, vocab, load = {
    'llada': (tiny.LLADA, tiny.LLADA_VOCAB, tiny.llada),
    'dream': (tiny.DREAM, tiny.DREAM_VOCAB, tiny.dream),
  }[name]
  prompt_len = data.get(f'{which}.prompt_len')
  length = data.get(f'{which}.completion_len')
  views = one_step_views(
    cut(data[f'{which}.prompt'], prompt_len),
    cut(data[f'{which}.completion'], length),
    cut(data[f'{which}.prompt_mask'], prompt_len),
    vocab.mask_token,
  )
  got = read_views(
    transformer.TransformerDenoiser(cfg=cfg),
    load(folder),
    views,
    vocab,
    gen_length=views.slot.shape[-1],
  ).logp[:, 0]
  want = data[f'{which}.logps']
  if length is not None:
    assert len(set(length.tolist())) > 1
    np.testing.assert_array_equal(got[~views.credit[:, 0]], 0.0)
    want = np.where(views.credit[:, 0], want, 0.0)
  np.testing.assert_allclose(got, want, atol=5e-4, rtol=0)


def test_gradients_equal_recordings(shared_dir):
  folder = shared_dir / 'golden' / 'llada_tiny'
  data = tiny.recorded(folder, 'loglik.npz')
  views = one_step_views(
    *(
      cut(data[f'onestep.{name}'])
      for name in ('prompt', 'completion', 'prompt_mask')
    ),
    tiny.LLADA_VOCAB.mask_token,
  )

  @jax.jit
  def loss(params):
    return -jnp.mean(
      logprobs.read_views(
        transformer.TransformerDenoiser(cfg=tiny.LLADA),
        params,
        views,
        tiny.LLADA_VOCAB,
        gen_length=views.slot.shape[-1],
      ).logp
    )

  params = jax.tree.map(jnp.asarray, tiny.llada(folder))
  value, grads = jax.jit(jax.value_and_grad(loss))(params)
  np.testing.assert_allclose(value, data['grad.loss'], rtol=1e-5)
  layers = grads['layers']
  ours = {
    'ln_f.weight': grads['norm']['weight'],
    'blocks.0.q_proj.weight': layers['self_attn']['q_proj']['kernel'][0].T,
    'blocks.0.attn_norm.weight': layers['input_layernorm']['weight'][0],
    'blocks.1.ff_out.weight': layers['mlp']['down_proj']['kernel'][1].T,
  }
  pairs = [
    (value, data[f'grad.model.transformer.{name}'])
    for name, value in ours.items()
  ]
  rows = data['grad.wte_rows']
  pairs.append((grads['embed_tokens'][rows], data['grad.wte_rows_grad']))
  for got, want in pairs:
    np.testing.assert_allclose(
      got, want, rtol=0, atol=1e-4 * np.abs(want).max()
    )
  others = np.delete(np.asarray(grads['embed_tokens']), rows, axis=0)
  np.testing.assert_array_equal(others, 0.0)
  # The gradient norm of each parameter, by its recorded name.
  flat = flax.traverse_util.flatten_dict(grads, sep='/')
  tensors = table.tensors('llada', flat)
  assert set(tensors) == set(data['grad.norms_names'])
  for name, want in zip(
    data['grad.norms_names'], data['grad.norms'], strict=True
  ):
    path, layer, *_ = tensors[name][0]
    leaf = flat[path] if layer is None else flat[path][layer]
    got = jnp.linalg.norm(leaf.ravel())
    np.testing.assert_allclose(got, want, rtol=1e-4, err_msg=name)


# The one-step estimate.

L = 8
BATCH = tiny.rollouts(0, rows=6, gen_length=L)


def test_one_step_masks_only_maskable_tokens():
  maskable = BATCH.maskable.at[:, -1].set(False)
  batch = BATCH._replace(maskable=maskable)
  views = views_of(
    jax.random.key(0), batch, estimator=logprobs.OneStep(mask_prob=1.0)
  )
  prompt = np.asarray(views.tokens[:, 0, :-L])
  may = np.asarray(maskable)
  assert (prompt[may] == tiny.MASK).all()
  np.testing.assert_array_equal(
    prompt[~may], np.asarray(batch.prompt_ids)[~may]
  )
  assert (np.asarray(views.tokens[:, 0, -L:]) == tiny.MASK).all()
  np.testing.assert_array_equal(views.credit[:, 0], batch.completion_mask)
  np.testing.assert_array_equal(views.target[:, 0], batch.tokens)
  np.testing.assert_array_equal(views.weight, 1.0)
  np.testing.assert_array_equal(
    views.attention_mask[:, 0, :-L], batch.prompt_mask
  )
  assert views.attention_mask[:, 0, -L:].all()
  nothing = views_of(
    jax.random.key(0), batch, estimator=logprobs.OneStep(mask_prob=0.0)
  )
  np.testing.assert_array_equal(nothing.tokens[:, 0, :-L], batch.prompt_ids)


def test_one_step_masks_the_same_tokens_with_more_padding():
  pad = lambda x, fill: jnp.pad(x, ((0, 0), (3, 0)), constant_values=fill)
  wide = BATCH._replace(
    prompt_ids=pad(BATCH.prompt_ids, tiny.EOS),
    prompt_mask=pad(BATCH.prompt_mask, False),
    maskable=pad(BATCH.maskable, False),
  )
  estimator = logprobs.OneStep(mask_prob=0.5)
  views = [
    views_of(jax.random.key(0), batch, estimator=estimator)
    for batch in (BATCH, wide)
  ]
  np.testing.assert_array_equal(views[0].tokens, views[1].tokens[..., 3:])
  hidden = np.asarray(views[0].tokens[..., :-L]) == tiny.MASK
  assert hidden.any() and not hidden.all()


def test_one_step_masks_tokens_independently_at_the_given_rate():
  many = jax.tree.map(lambda x: jnp.repeat(x[:1], 2000, 0), BATCH)
  many = many._replace(
    row_id=jnp.arange(2000), maskable=jnp.ones_like(many.maskable)
  )
  views = views_of(
    jax.random.key(1), many, estimator=logprobs.OneStep(mask_prob=0.3)
  )
  hidden = np.asarray(views.tokens[:, 0, :-L]) == tiny.MASK
  for column in hidden.T:
    assert stats.binomtest(int(column.sum()), 2000, 0.3).pvalue > 1e-3
  p = stats.binom.pmf(np.arange(6), 5, 0.3)
  count = np.bincount(hidden.sum(1), minlength=6)
  count, p = [*count[:4], count[4:].sum()], [*p[:4], p[4:].sum()]
  assert stats.chisquare(count, np.array(p) * 2000).pvalue > 1e-3


ESTIMATORS = [
  logprobs.OneStep(mask_prob=0.5),
  logprobs.SampledSteps(num_steps=2, max_commits=2),
]


@pytest.mark.parametrize('estimator', ESTIMATORS)
def test_views_depend_only_on_key_and_row_number(estimator):
  a = views_of(jax.random.key(3), BATCH, estimator=estimator)
  b = views_of(jax.random.key(3), BATCH, estimator=estimator)
  jax.tree.map(np.testing.assert_array_equal, a, b)
  c = views_of(jax.random.key(4), BATCH, estimator=estimator)
  assert (np.asarray(a.tokens) != np.asarray(c.tokens)).any()
  order = jnp.array([5, 1, 0, 3, 2, 4])
  shuffled = jax.tree.map(lambda x: x[order], BATCH)
  d = views_of(jax.random.key(3), shuffled, estimator=estimator)
  jax.tree.map(lambda x, y: np.testing.assert_array_equal(x[order], y), a, d)
  other = BATCH._replace(row_id=BATCH.row_id + 100)
  e = views_of(jax.random.key(3), other, estimator=estimator)
  assert (np.asarray(a.tokens) != np.asarray(e.tokens)).any()


# The trajectory estimate.


def test_sampled_steps_are_distinct_and_unbiased():
  # Rows of 4, 1 and 3 steps; two views; one value per token.
  rng = np.random.default_rng(0)
  batch = jax.tree.map(lambda x: x[:3], tiny.rollouts(1, rows=6, gen_length=L))
  batch = batch._replace(
    num_steps=jnp.array([4, 1, 3]),
    commit_step=jnp.array(
      [[0, 1, 2, 3, 0, 1, 2, 3], [0] * 8, [2, 2, 2, 1, 1, 0, 0, 0]], jnp.int32
    ),
    completion_mask=jnp.ones((3, L), bool).at[0, 6:].set(False),
  )
  value = rng.standard_normal((3, L))
  estimator = logprobs.SampledSteps(num_steps=2, max_commits=8)
  n = 1500
  many = jax.vmap(lambda key: estimator(key, batch, tiny.VOCAB))
  views = jax.tree.map(np.asarray, many(jax.random.split(jax.random.key(0), n)))
  picked = np.take_along_axis(
    np.broadcast_to(value[:, None], (n, 3, 2, L)), views.slot, -1
  )
  sums = (picked * views.credit * views.weight[..., None]).sum((2, 3))
  exact = (value * np.asarray(batch.completion_mask)).sum(1)
  error = np.abs(sums.mean(0) - exact)
  assert (error <= 4 * sums.std(0) / np.sqrt(n) + 1e-5).all()
  # The only step of row 1 is credited exactly once in every draw.
  np.testing.assert_allclose(sums[:, 1], exact[1], rtol=1e-5)
  credited = np.zeros((n, 3, L), int)
  at = np.indices(views.slot.shape)
  np.add.at(credited, (at[0], at[1], views.slot), views.credit)
  assert credited.max() == 1
  # Rows with more steps credit tokens in both views, each step equally often.
  assert (views.credit[:, 2].sum(-1) > 0).all()
  step = np.stack([credited[:, 2, [5, 3, 0]].sum(0)]).ravel()
  assert stats.chisquare(step).pvalue > 1e-3
  np.testing.assert_allclose(views.weight[:, :, 0], [[2.0, 1.0, 1.5]] * n)


def test_rows_with_few_steps_use_each_step_once():
  estimator = logprobs.SampledSteps(num_steps=7, max_commits=2)
  views = views_of(jax.random.key(0), BATCH, estimator=estimator)
  np.testing.assert_array_equal(views.weight, 1.0)
  credited = np.zeros((6, L), int)
  for row in range(6):
    for view in range(7):
      slot = np.asarray(views.slot[row, view])
      credit = np.asarray(views.credit[row, view])
      steps = np.asarray(BATCH.commit_step)[row, slot[credit]]
      assert len(set(steps)) <= 1
      np.add.at(credited[row], slot[credit], 1)
      if credit.any():
        # The view is the canvas before the step, masked from then on.
        seen = np.asarray(BATCH.commit_step[row]) < steps[0]
        want = np.where(seen, BATCH.tokens[row], tiny.MASK)
        np.testing.assert_array_equal(views.tokens[row, view, -L:], want)
        np.testing.assert_array_equal(
          views.tokens[row, view, :-L], BATCH.prompt_ids[row]
        )
        np.testing.assert_array_equal(
          views.target[row, view][credit], BATCH.tokens[row][slot[credit]]
        )
  # Tokens past EOS are never credited, all others exactly once.
  assert not BATCH.completion_mask.all()
  np.testing.assert_array_equal(credited, BATCH.completion_mask)


def test_tokens_that_no_step_committed_get_no_credit():
  late = BATCH.commit_step.at[:, 3].set(4)  # == num_steps
  batch = BATCH._replace(
    commit_step=late, completion_mask=jnp.ones_like(BATCH.completion_mask)
  )
  estimator = logprobs.SampledSteps(num_steps=9, max_commits=8)
  views = views_of(jax.random.key(0), batch, estimator=estimator)
  slots = np.asarray(views.slot)[np.asarray(views.credit)]
  assert 3 not in slots
  assert len(slots) == 6 * 7


@pytest.mark.parametrize('steps', [1, 3])
@pytest.mark.parametrize('order', ['confidence', 'random'])
@pytest.mark.parametrize('block', [0, 4], ids=['whole', 'blocks'])
def test_learner_logp_equals_sampler_logp(steps, order, block):
  denoiser = transformer.TransformerDenoiser(
    cfg=dataclasses.replace(tiny.MODEL, block_causal=block)
  )
  cfg = fixed.Fixed(
    gen_length=L,
    block_length=4,
    num_steps=2 * steps,
    temperature=1.0,
    order=order,
  )
  prompts = tiny.random_prompts(4, [5, 2, 3, 1])
  canvas = tiny.canvas(prompts, L)
  trajectory = tiny.decode(
    denoiser,
    tiny.params(),
    tiny.row_keys(0, [0, 1, 2, 3]),
    canvas,
    cfg,
  )
  rows = jax.tree.map(lambda x: x[:4], BATCH)
  batch = rows._replace(
    prompt_ids=canvas.tokens[:, :-L],
    prompt_mask=canvas.attention_mask[:, :-L],
    tokens=trajectory.tokens,
    sampler_logp=trajectory.logp,
    commit_step=trajectory.commit_step,
    num_steps=trajectory.num_steps,
    completion_mask=jnp.ones((4, L), bool),
  )
  # Blocks that begin within the prompt are one more.
  estimator = logprobs.SampledSteps(
    num_steps=3 * steps, max_commits=cfg.largest_commit()
  )
  views = views_of(jax.random.key(0), batch, estimator=estimator)
  got = read_views(
    denoiser, tiny.params(), views, tiny.VOCAB, gen_length=L
  ).logp
  want = jnp.take_along_axis(trajectory.logp[:, None], views.slot, axis=-1)
  credit = np.asarray(views.credit)
  assert credit.sum() == 4 * L
  np.testing.assert_allclose(
    np.asarray(got)[credit], np.asarray(want)[credit], atol=1e-5, rtol=1e-5
  )


# Log-probabilities of views.


def test_slots_without_credit_have_0_logp_and_gradient():
  # One row, so that the rows of the table are the logits of the slots.
  row = jax.tree.map(lambda x: x[:1], BATCH)
  bad = jnp.array([tiny.MASK, 31], jnp.int32)
  row = row._replace(
    tokens=row.tokens.at[0, -2:].set(bad),
    completion_mask=jnp.arange(L)[None] < 4,
  )
  views = views_of(jax.random.key(0), row, estimator=logprobs.OneStep())
  params = jax.tree.map(jnp.asarray, tiny.table_params(0, L))

  def total(params):
    logp = logprobs.read_views(
      tiny.Table(gen_length=L), params, views, tiny.VOCAB, gen_length=L
    ).logp
    return logp.sum(), logp

  (_, logp), grads = jax.value_and_grad(total, has_aux=True)(params)
  np.testing.assert_array_equal(logp[0, 0, 4:], 0.0)
  assert (np.asarray(logp[0, 0, :4]) < 0).all()
  np.testing.assert_array_equal(grads['table'][4:], 0.0)
  assert (np.abs(np.asarray(grads['table'][:4])).max(1) > 0).all()
  # [MASK] and padding of the vocabulary have probability 0.
  np.testing.assert_array_equal(grads['table'][:, tiny.MASK :], 0.0)


def test_logprobs_equal_numpy():
  views = views_of(jax.random.key(2), BATCH, estimator=ESTIMATORS[1])
  params = tiny.table_params(0, L)
  got = read_views(
    tiny.Table(gen_length=L), params, views, tiny.VOCAB, gen_length=L
  ).logp
  for row, view, q in np.argwhere(views.credit):
    real = np.asarray(views.attention_mask[row, view])
    tokens = np.asarray(views.tokens[row, view])[real]
    slot, target = views.slot[row, view, q], views.target[row, view, q]
    logits = params['table'][slot] + params['context'][tokens].sum(0)
    want = tiny.allowed_logp(logits)[target]
    np.testing.assert_allclose(got[row, view, q], want, rtol=1e-5, atol=1e-5)


def test_estimators_reject_bad_settings():
  with pytest.raises(ValueError, match='mask_prob .*got 1.5'):
    logprobs.OneStep(mask_prob=1.5)
  with pytest.raises(ValueError, match='num_steps .*got 0 and'):
    dataclasses.replace(ESTIMATORS[1], num_steps=0)
  assert isinstance(ESTIMATORS[0], logprobs.Estimator)
  assert isinstance(tiny.Table(gen_length=L), types.Denoiser)


@pytest.mark.parametrize('slots', [3, 8])
def test_chunked_logprobs_equal_unchunked(monkeypatch, slots):
  # Values and gradients of all parameters; the last chunk is padded.
  batch = tiny.rollouts(3, rows=4, gen_length=L)
  views = logprobs.SampledSteps(num_steps=2, max_commits=slots)(
    jax.random.key(1), batch, tiny.VOCAB
  )
  params = tiny.params()

  def read(params):
    found = logprobs.read_views(
      tiny.DENOISER, params, views, tiny.VOCAB, gen_length=L
    )
    return jnp.sum(found.logp[..., -1]) + jnp.sum(found.logp), found

  want = jax.value_and_grad(read, has_aux=True)(params)
  monkeypatch.setattr(logprobs, 'CHUNK', 2 if slots == 3 else 3)
  got = jax.value_and_grad(read, has_aux=True)(params)
  assert np.abs(want[0][1].logp).sum() > 0
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
    got,
    want,
  )
