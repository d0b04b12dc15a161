"""From tokens to rewards, by hand and with hostile completions."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dllm_jax import errors
from dllm_jax.rollout import score
from dllm_jax.tasks import countdown
from dllm_jax.tasks import task as task_lib
from dllm_jax.text import tokenizer as tokenizer_lib
from tests import tiny

TOKENIZER = tokenizer_lib.Tokenizer.from_words(['a', 'b', 'c'])
A, B, C, EOS, MASK = range(5)
CTX = dataclasses.replace(tiny.context_of(tiny.DENOISER), tokenizer=TOKENIZER)


@dataclasses.dataclass(frozen=True)
class Letters:
  """Terms that count letters."""

  name = 'letters'

  def words(self):
    return ('a', 'b', 'c')

  def prompt(self, row):
    return 'a'

  def demonstration(self, row):
    return 'b'

  def gold(self, row):
    return row['gold']

  def reasoning_has_gold(self, row, completion):
    return row['gold'] in completion

  def score(self, row, completion):
    terms = {'a': float(completion.count('a')), 'b': 2.0}
    return task_lib.Score(
      terms, completion == row['gold'], {'length': float(len(completion))}
    )


ROWS = [{'id': 'x', 'gold': 'ab'}, {'id': 'y', 'gold': 'ca'}]


def judge(tokens, rows=ROWS, weights=(('a', 1.0),), **changes):
  return score.score(
    dataclasses.replace(CTX, task=Letters()),
    rows,
    np.array(tokens, np.int32),
    score.RewardConfig(weights=weights, **changes),
  )


def test_completion_mask_ends_with_the_first_eos():
  tokens = np.array(
    [[A, EOS, B, EOS], [A, B, C, A], [EOS, EOS, EOS, EOS], [A, B, C, EOS]]
  )
  np.testing.assert_array_equal(
    score.completion_mask(tokens, (EOS,)),
    [[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0], [1, 1, 1, 1]],
  )


def test_completion_mask_ends_with_any_stop_token():
  tokens = np.array([[A, C, EOS, C], [EOS, C, A, B], [A, B, A, C], [A] * 4])
  np.testing.assert_array_equal(
    score.completion_mask(tokens, (C, EOS)),
    [[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1], [1, 1, 1, 1]],
  )


def test_texts_end_before_the_first_eos():
  tokens = np.array([[A, EOS, B, C], [EOS, A, B, C], [C, B, B, A]])
  texts = lambda past: score.texts(TOKENIZER, tokens, past_eos=past)
  assert texts(False) == ['a', '', 'cbba']
  assert texts(True) == ['abc', 'abc', 'cbba']


def test_rewards_by_hand():
  found = judge(
    [[A, B, EOS, A], [A, A, C, A]], weights=(('a', 0.5), ('b', -1.0))
  )
  np.testing.assert_array_equal(found.reward, [0.5 - 2, 1.5 - 2])
  np.testing.assert_array_equal(found.terms['a'], [1, 3])
  np.testing.assert_array_equal(found.terms['b'], [2, 2])
  np.testing.assert_array_equal(found.correct, [True, False])
  np.testing.assert_array_equal(found.metrics['length'], [2, 4])
  np.testing.assert_array_equal(found.leaked, [True, True])
  assert found.texts == ['ab', 'aaca']


def test_past_eos_also_judges_text_after_eos():
  assert judge([[A, EOS, B, EOS], [C, EOS, EOS, A]]).correct.tolist() == [
    False,
    False,
  ]
  found = judge([[A, EOS, B, EOS], [C, EOS, EOS, A]], past_eos=True)
  assert found.correct.tolist() == [True, True]


def test_empty_weights_give_reward_0():
  assert judge([[A, A], [B, B]], weights=()).reward.tolist() == [0, 0]


def test_unknown_reward_term_is_refused():
  with pytest.raises(errors.UserError) as caught:
    judge([[A, A], [B, B]], weights=(('a', 1.0), ('solutoin', 1.0)))
  assert str(caught.value) == (
    "method.reward.solutoin is not a reward term of task 'letters': expected "
    'one of a, b'
  )


def test_score_refuses_unequal_numbers_of_rows_and_completions():
  with pytest.raises(ValueError):
    judge([[A, A]])


COUNTDOWN = countdown.Countdown(count=3, max_number=9, max_target=20)
WORDS = tokenizer_lib.Tokenizer.from_words(COUNTDOWN.words())
COUNTING = dataclasses.replace(CTX, task=COUNTDOWN, tokenizer=WORDS)
ROW = {
  'id': 'r',
  'numbers': [5, 3, 1],
  'target': 7,
  'solution': '5 + 3 - 1',
  'num_solutions': 1,
}


@settings(deadline=None, max_examples=100)
@given(st.lists(st.integers(0, WORDS.vocab_size - 1), min_size=1, max_size=60))
def test_score_judges_arbitrary_tokens(ids):
  tokens = np.array([ids], np.int32)
  for past_eos in (False, True):
    found = score.score(
      COUNTING,
      [ROW],
      tokens,
      score.RewardConfig(weights=(('solution', 1.0),), past_eos=past_eos),
    )
    assert np.isfinite(found.reward).all()
    assert all(np.isfinite(v).all() for v in found.terms.values())


@pytest.mark.parametrize('fill', ['EOS', 'MASK', ' 9', '<answer>\n', ' +'])
def test_score_judges_constant_completions(fill):
  special = {'EOS': WORDS.eos_token, 'MASK': WORDS.mask_token}
  token = special[fill] if fill in special else WORDS.encode(fill)[0]
  tokens = np.full((1, 4000), token, np.int32)
  cfg = score.RewardConfig(weights=(('solution', 1.0),))
  found = score.score(COUNTING, [ROW], tokens, cfg)
  assert not found.correct[0] and found.reward[0] == 0


def test_right_answers_are_correct_in_every_task():
  ids = WORDS.encode(COUNTDOWN.demonstration(ROW)) + [WORDS.eos_token] * 3
  cfg = score.RewardConfig(weights=(('solution', 1.0), ('valid', 0.5)))
  found = score.score(COUNTING, [ROW], np.array([ids], np.int32), cfg)
  assert found.correct[0] and found.reward[0] == 1.5 and not found.leaked[0]


class Together(Letters):
  """Judges a batch at once; fails on empty completions."""

  calls = 0

  def score_batch(self, rows, completions):
    Together.calls += 1
    nan = {'a': float('nan'), 'b': 2.0}
    return [
      self.score(row, text)
      if text
      else task_lib.Score(nan, False, {'length': 0.0}, None, False)
      for row, text in zip(rows, completions, strict=True)
    ]


def test_batch_is_judged_in_one_call_and_failures_are_nan():
  Together.calls = 0
  found = score.score(
    dataclasses.replace(CTX, task=Together()),
    ROWS,
    np.array([[A, B, EOS], [EOS, A, B]], np.int32),
    score.RewardConfig(weights=(('a', 1.0),)),
  )
  assert Together.calls == 1
  assert found.correct.tolist() == [True, False]
  assert found.judged.tolist() == [True, False]
  assert found.reward[0] == 1 and np.isnan(found.reward[1])
  assert score.finite_mean(found.terms['a']) == 1
  assert np.isnan(score.finite_mean(found.terms['a'][1:]))


def test_prefill_is_judged_but_not_in_texts():
  tokens = np.array([[B, EOS], [A, B]], np.int32)
  reward = score.RewardConfig(weights=(('a', 1.0),))
  ctx = dataclasses.replace(CTX, task=Letters(), prefill='a')
  got = score.score(ctx, ROWS, tokens, reward)
  assert got.texts == ['b', 'ab']
  assert got.reward.tolist() == [1.0, 2.0]
  assert got.correct.tolist() == [True, False]
  assert got.leaked.tolist() == [True, False]
