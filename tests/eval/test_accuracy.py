"""Evaluation: a row's result is its own, and the summary is by the formula."""

import dataclasses

import numpy as np
import pytest

from dllm_jax import errors
from dllm_jax.eval import accuracy
from dllm_jax.rollout import score
from dllm_jax.run import setup
from dllm_jax.tasks import task as task_lib
from tests import tiny_run

ROWS = [
  row | {'id': f'n{i}', 'numbers': [1 + i, 9 - i, 2]}
  for i, row in enumerate(tiny_run.rows('5 + 3 - 1', *['1 + 1 + 1'] * 6))
]


@pytest.fixture(scope='module')
def parts():
  cfg, ctx = tiny_run.parts()
  return ctx, setup.fresh_params(ctx), cfg.rollout.decoder


def evaluate(
  parts,
  rows=ROWS,
  *,
  batch_size=8,
  temperature=0.0,
  max_prompt_length=6,
  **changes,
):
  ctx, params, decoder = parts
  ctx = dataclasses.replace(ctx, max_prompt_length=max_prompt_length)
  decoder = dataclasses.replace(decoder, temperature=temperature, **changes)
  return accuracy.evaluate(ctx, params, rows, decoder, batch_size=batch_size)


PER_ROW = ('tokens', 'commit_step', 'num_steps', 'correct')


def assert_same_rows(got, want, order):
  for name in PER_ROW:
    np.testing.assert_array_equal(
      getattr(got, name), getattr(want, name)[order], err_msg=name
    )


@pytest.mark.parametrize('temperature', [0.0, 1.0])
@pytest.mark.parametrize('batch_size', [4, 7, 16])
def test_evaluate_does_not_depend_on_batch_size(parts, batch_size, temperature):
  want = evaluate(parts, temperature=temperature)
  got = evaluate(parts, batch_size=batch_size, temperature=temperature)
  assert_same_rows(got, want, range(7))
  for name in ('accuracy', 'mean_steps', 'metrics'):
    assert getattr(got, name) == getattr(want, name)


def test_evaluate_does_not_depend_on_prompt_width(parts):
  """Prompts of six tokens, in 6, 32 and 40 columns."""
  want = evaluate(parts, temperature=1.0)
  got = evaluate(parts, temperature=1.0, max_prompt_length=32)
  assert_same_rows(got, want, range(7))
  long = ROWS[0] | {'numbers': [1, 2] * 17}
  other = evaluate(
    parts, [*ROWS, long], temperature=1.0, max_prompt_length=40, batch_size=8
  )
  first = other._replace(**{name: getattr(other, name)[:7] for name in PER_ROW})
  assert_same_rows(first, want, range(7))


def test_evaluate_draws_differ_and_default_is_draw_0(parts):
  ctx, params, decoder = parts
  decoder = dataclasses.replace(decoder, temperature=1.0)
  first, second = (
    accuracy.evaluate(ctx, params, ROWS, decoder, batch_size=8, draw=draw)
    for draw in (0, 1)
  )
  assert_same_rows(first, evaluate(parts, temperature=1.0), range(7))
  assert (first.tokens != second.tokens).any(axis=1).all()


def test_evaluate_does_not_depend_on_row_order(parts):
  order = [3, 0, 6, 1, 5, 2, 4]
  got = evaluate(parts, [ROWS[i] for i in order])
  want = evaluate(parts)
  assert_same_rows(got, want, order)
  assert got.accuracy == want.accuracy
  assert len(np.unique(want.tokens, axis=0)) > 1  # prompts decide


def test_evaluate_does_not_read_gold_answers_while_decoding(parts):
  other = [row | {'solution': '9 + 9 + 9'} for row in ROWS]
  np.testing.assert_array_equal(
    evaluate(parts, other).tokens, evaluate(parts).tokens
  )


def test_evaluate_means_by_hand(parts):
  found = evaluate(parts)
  ctx = parts[0]
  texts = score.texts(ctx.tokenizer, found.tokens, past_eos=False)
  scores = [ctx.task.score(r, t) for r, t in zip(ROWS, texts, strict=True)]
  assert found.accuracy == np.mean([s.correct for s in scores])
  for name in ('solution', 'xmlcount'):
    want = np.mean([s.terms[name] for s in scores])
    assert found.metrics[name] == pytest.approx(want, abs=1e-6)
  assert found.mean_steps == 6 and (found.num_steps == 6).all()
  assert found.seconds > 0 and found.tokens_per_second > 0


def test_evaluate_reports_progress_of_every_row(parts):
  ctx, params, decoder = parts
  done = []
  accuracy.evaluate(
    ctx, params, ROWS, decoder, batch_size=4, advance=done.append
  )
  assert done == [4, 3, 0, 0]  # verdicts are told of too


def test_sweep_equals_separate_evaluations(parts):
  ctx, params, decoder = parts
  settings = {
    n: dataclasses.replace(decoder.greedy(), num_steps=n) for n in (12, 6, 1)
  }
  found = accuracy.sweep(ctx, params, ROWS, settings, batch_size=8)
  assert list(found) == [12, 6, 1]
  for steps, evaluation in found.items():
    assert evaluation.mean_steps == steps
    alone = evaluate(parts, num_steps=steps)
    np.testing.assert_array_equal(evaluation.tokens, alone.tokens)


def make(correct):
  n = len(correct)
  return accuracy.Evaluation(
    accuracy=float(np.mean([c for c in correct if c is not None])),
    mean_steps=3.0,
    tokens_per_step=4.0,
    metrics={'solution': 0.25},
    tokens_per_second=100.0,
    seconds=1.0,
    correct=np.array([bool(c) for c in correct], np.float32),
    judged=np.array([c is not None for c in correct]),
    reasons=[''] * n,
    answers=np.zeros(n, np.int64),
    tokens=np.zeros((n, 2), np.int32),
    logp=np.zeros((n, 2), np.float32),
    commit_step=np.zeros((n, 2), np.int32),
    num_steps=np.full(n, 3, np.int32),
  )


def test_summary_by_hand():
  # 1.96 sqrt(0.25 * 0.75 / 16)
  found = make([1] * 4 + [0] * 12).summary()
  assert found.pop('interval') == pytest.approx(0.21217622, abs=1e-7)
  assert found == {
    'accuracy': 0.25,
    'num': 16,
    'unjudged': 0,
    'mean_steps': 3.0,
    'tokens_per_step': 4.0,
    'tokens_per_second': 100.0,
    'solution': 0.25,
  }
  assert make([1, 1, 1]).summary()['interval'] == 0
  assert make([0]).summary()['interval'] == 0
  # What was not judged says nothing, of the interval neither.
  masked = make([1] * 4 + [0] * 12 + [None] * 9).summary()
  assert masked['interval'] == pytest.approx(0.21217622, abs=1e-7)
  assert (masked['num'], masked['unjudged']) == (25, 9)


def test_accuracy_leaves_out_unjudged_rows(parts, monkeypatch):
  ctx, _, _ = parts
  nan = {'solution': float('nan')}
  verdict = lambda correct, judged: task_lib.Score(
    {'solution': 1.0} if judged else nan, correct, {}, None, judged
  )
  given = [verdict(True, True), verdict(False, True)]
  given += [verdict(False, False)] * 5
  monkeypatch.setattr(task_lib, 'score_all', lambda *args: given)
  found = evaluate(parts)
  assert found.accuracy == 0.5 and found.metrics['solution'] == 1
  given[:2] = [verdict(False, False)] * 2
  with pytest.raises(errors.UserError, match='none of the 7 completions'):
    evaluate(parts)


@pytest.mark.parametrize('field', ['terms', 'metrics'])
@pytest.mark.parametrize('name', ['accuracy', 'mean_steps', 'seed'])
def test_task_metric_with_reserved_name_is_refused(
  parts, monkeypatch, field, name
):
  given = task_lib.Score({}, True, {})._replace(**{field: {name: 1.0}})
  monkeypatch.setattr(task_lib, 'score_all', lambda *args: [given] * 7)
  with pytest.raises(
    errors.UserError, match=f"reports '{name}', a reserved key"
  ):
    evaluate(parts)


def test_reserved_names_include_every_key_of_results_files():
  assert make([1]).summary().keys() - {'solution'} <= accuracy.RESERVED
