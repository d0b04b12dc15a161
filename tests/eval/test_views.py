"""Accuracy over phrasings: by hand, and against evaluations one by one."""

import functools
import io

import numpy as np
import pytest

import configs.cpc_grpo
from dllm_jax import model as model_lib
from dllm_jax.eval import accuracy, likelihood, masked_likelihood, views
from dllm_jax.run import base_model, settings, setup
from dllm_jax.runtime import console
from tests import tiny_run


@functools.cache
def run(devices=1):
  """(context, parameters, problems, greedy decoder)."""
  cfg, ctx = tiny_run.parts('cpc_grpo', devices=devices)
  problems = [ctx.task.rows('test')[i] for i in range(5)]
  decoder = cfg.plain_decoders()['autoregressive']
  return ctx, setup.fresh_params(ctx), problems, decoder


def test_summary_by_hand():
  right = np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0], [1.0, np.nan]])
  answers = np.array([[3, 3], [3, 5], [0, 0], [7, 7]])
  got = views.summary(right, answers)
  assert got['same'] == 0.5  # views without an answer do not agree
  assert got['views'] == [0.75, 1 / 3]
  assert (got['worst'], got['best']) == (1 / 3, 0.75)
  np.testing.assert_allclose(got['mean'], (0.75 + 1 / 3) / 2)
  np.testing.assert_allclose(got['std'], (0.75 - 1 / 3) / 2)
  error = np.std([0.5, 1.0, 0.0, 1.0]) / 2
  np.testing.assert_allclose(got['interval'], 1.96 * error)


def test_every_view_of_every_problem_counts(monkeypatch):
  """A verifier that is right about texts which it has seen before."""
  ctx, params, problems, decoder = run()
  seen = []

  def evaluate(ctx, params, rows, decoder, **kwargs):
    seen.append([(row['id'], row['view']) for row in rows])
    return accuracy_of(np.array([row['view'] % 3 == 0 for row in rows]))

  def accuracy_of(right):
    blank = accuracy.Evaluation(*[None] * len(accuracy.Evaluation._fields))
    return blank._replace(
      correct=right.astype(np.float32),
      judged=np.ones(len(right), bool),
      answers=right.astype(np.int64),
    )

  monkeypatch.setattr(accuracy, 'evaluate', evaluate)
  got = views.evaluate(ctx, params, problems, decoder, batch_size=8)
  ids = [row['id'] for row in problems]
  assert seen[0] == [(i, v) for i in ids for v in range(8)]
  assert seen[1] == [(i, v) for i in ids for v in range(8, 16)]
  assert got['seen']['views'] == [1, 0, 0, 1, 0, 0, 1, 0]
  assert got['seen']['mean'] == 3 / 8 and got['seen']['interval'] == 0
  assert got['seen']['same'] == 3 / 28  # of the pairs of 8 views
  assert 0 <= got['ensemble'] <= 1


def test_the_ensemble_does_not_depend_on_batches_or_devices():
  ctx, params, problems, decoder = run()
  get = functools.partial(views.evaluate, ctx, params, problems, decoder)
  want = get(batch_size=64)
  assert get(batch_size=16) == want
  other = run(8)
  assert views.evaluate(*other, batch_size=64)['ensemble'] == want['ensemble']


def test_matrices_score_what_every_view_wrote():
  ctx, params, problems, decoder = run()
  got = views.matrices(
    ctx, params, problems[:2], ctx.task.views, decoder, batch_size=64
  )
  rows = [view for row in problems[:2] for view in ctx.task.views(row)]
  made = accuracy.evaluate(ctx, params, rows, decoder, batch_size=16)
  asked = [ctx.tokenizer.encode(ctx.task.prompt(row)) for row in rows]
  stop = ctx.vocab.stop_tokens
  for n, i, m in ((0, 0, 0), (0, 3, 5), (1, 7, 2)):
    tokens = made.tokens[8 * n + m].tolist()
    at = [k for k, token in enumerate(tokens) if token in stop]
    tokens = tokens[: at[0] + 1] if at else tokens
    [want] = likelihood.score(
      ctx.denoiser,
      params,
      [(asked[8 * n + i], tokens)],
      vocab=ctx.vocab,
      mesh=ctx.mesh,
      estimate=masked_likelihood.Estimate(num_samples=1),
      seed=0,
      batch_size=1,
    ).logp
    np.testing.assert_allclose(
      got[n]['scores'][i][m], want / len(tokens), atol=2e-4
    )
  assert len(got[0]['texts']) == len(got[0]['correct']) == 8


def test_agreement_by_hand():
  """Two seen views and an unseen one, two problems."""
  scores = [
    [[-1.0, -3.0, -9.0], [-2.0, -1.0, -9.0], [-4.0, -6.0, -9.0]],
    [[-3.0, -5.0, -9.0], [-4.0, -3.0, -9.0], [-6.0, -8.0, -9.0]],
  ]
  got = views.agreement([{'scores': of} for of in scores], 2)
  means = {'own': (-1, -3), 'seen': (-2.5, -4.5), 'unseen': (-5, -7)}
  for kind, (one, other) in means.items():
    assert got[kind]['mean'] == (one + other) / 2
    np.testing.assert_allclose(got[kind]['interval'], 1.96 / np.sqrt(2))
  seen_alone = [{'scores': [row[:2] for row in of[:2]]} for of in scores]
  assert views.agreement(seen_alone, 2) == got | {'unseen': None}


def test_same_answers_by_hand():
  same = lambda *rows: views.same_answers(np.array(rows))
  assert same([4, 4, 4]) == 1
  assert same([4, 4, 5]) == 1 / 3
  assert same([0, 0, 4]) == 0
  assert same([4, 4, 4], [1, 2, 3]) == 0.5


@pytest.mark.parametrize('index', range(2))
def test_views_are_the_row_under_other_phrasings(index):
  ctx, _, problems, _ = run()
  row = problems[index]
  every = ctx.task.views(row) + ctx.task.unseen_views(row)
  assert [view['view'] for view in every] == list(range(16))
  assert len({ctx.task.prompt(view) for view in every}) == 16
  assert {ctx.task.gold(view) for view in every} == {ctx.task.gold(row)}


@pytest.mark.slow
def test_a_real_model_finds_its_own_text_likeliest(smollm2_dir):
  """GSM8K-like questions under eight instructions; greedy text of 24 tokens.

  A greedy text need not be the likeliest under its own prompt, but the mean
  over texts is.
  """
  config = configs.cpc_grpo.get_config('gsm8k').unlock()
  config.base.path = str(smollm2_dir)
  config.model.lora_rank = 0
  config.rollout.update(max_prompt_length=256, gen_length=24)
  config.mesh.data = 1
  cfg = settings.from_config(config.to_dict())
  model = model_lib.Model.describe(smollm2_dir)
  ctx = setup.make_context(cfg, model, adapters=False)
  screen = console.Console(file=io.StringIO())
  params = base_model.load_params(model.folder, ctx, screen)
  problems = [
    {
      'id': str(price),
      'question': f'A pen costs {price} dollars. How much do 3 pens cost?',
      'reasoning': '',
      'answer': str(3 * price),
    }
    for price in (2, 7)
  ]
  decoder = cfg.plain_decoders()['autoregressive']
  found = views.matrices(
    ctx, params, problems, ctx.task.views, decoder, batch_size=16
  )
  for of in found:
    scores = np.array(of['scores'])
    assert scores.shape == (8, 8) and np.isfinite(scores).all()
    own = np.eye(8, dtype=bool)
    assert scores[own].mean() > scores[~own].mean() + 0.1
    assert len(set(of['texts'])) > 1  # phrasings matter
  got = views.agreement(found, 8)
  assert got['seen']['mean'] < got['own']['mean'] < 0
