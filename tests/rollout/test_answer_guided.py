"""Answer-guided rollouts: the gold answer guides, and never leaks."""

import dataclasses

import jax
import numpy as np
import pytest

from dllm_jax.decoding import fixed
from dllm_jax.ops import schedules
from dllm_jax.rollout import answer_guided
from tests import tiny

L, A = 16, 6
TABLE = tiny.Table(gen_length=L)
TEXTS = tiny.random_prompts(0, [3, 5, 1, 4, 2, 5, 5, 1])
LENGTHS = [6, 3, 1, 5, 4, 6, 2, 3]
CFG = answer_guided.GuidedConfig(
  num_guided=2, num_steps=5, answer_steps=4, margin=1, max_anchor=A
)
FREE = fixed.Fixed(gen_length=L, block_length=4, num_steps=8)
GOLD = range(20, 26)  # ids that the model reads and never writes


def gold_params(seed=0):
  params = tiny.table_params(seed, L)
  params['table'][:, GOLD] = -64.0
  params['context'][:, GOLD] = 0.0
  return params


PARAMS = gold_params()


def anchors_of(seed=0):
  rng = np.random.default_rng(seed)
  return [rng.choice(list(GOLD), n).tolist() for n in LENGTHS]


def sample(
  rows,
  *,
  anchors=None,
  data=1,
  temperature=1.0,
  params=PARAMS,
  cfg=CFG,
  width=5,
  texts=TEXTS,
  **free,
):
  """Rows by their place in `texts`, which is their number too.

  Args:
    free: other fields of the decoder of the answer-free rows.
  """
  anchors = anchors_of() if anchors is None else anchors
  decoder = dataclasses.replace(FREE, temperature=temperature, **free)
  return answer_guided.sample(
    TABLE,
    params,
    jax.random.key(0),
    answer_guided.Anchored(
      tiny.row_prompts([texts[i] for i in rows], width, rows),
      *tiny.pad([anchors[i] for i in rows], A, 20),
    ),
    answer_guided.passes(decoder, cfg),
    mesh=tiny.context_of(TABLE, data=data).mesh,
    vocab=tiny.VOCAB,
  )


def same(a, b):
  for name in ('tokens', 'commit_step', 'num_steps'):
    np.testing.assert_array_equal(getattr(a, name), getattr(b, name), name)
  np.testing.assert_allclose(a.logp, b.logp, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize('order', ['confidence', 'random'])
@pytest.mark.parametrize('temperature', [0.0, 1.0])
def test_completions_have_no_gold_token_and_keep_quotas(temperature, order):
  got = sample(range(8), temperature=temperature, order=order)
  tokens, when = np.asarray(got.tokens), np.asarray(got.commit_step)
  assert not np.isin(tokens, GOLD).any()
  assert tokens.min() >= 0 and tokens.max() < tiny.MASK
  assert (np.asarray(got.logp) < 0).all()
  for row, n in enumerate(LENGTHS):
    reasoning, answer = when[row, : L - n], when[row, L - n :]
    quota = [(L - n) // 5 + (t < (L - n) % 5) for t in range(5)]
    np.testing.assert_array_equal(np.bincount(reasoning), quota)
    steps = min(4, n)
    quota = [n // 4 + (t < n % 4) for t in range(steps)]
    assert answer.min() == 5
    np.testing.assert_array_equal(np.bincount(answer - 5), quota)
    assert got.num_steps[row] == 5 + steps


def one_block(prompt, completion, columns, steps, params=PARAMS):
  """Greedy denoising of the given columns, from the definition."""
  tokens, left, t = list(completion), list(columns), 0
  total, when = len(left), {}
  while left:
    visible = params['context'][prompt + tokens].sum(0)
    best = []
    for k in left:
      logp = tiny.allowed_logp(params['table'][k] + visible)
      best.append((-logp.max(), k, int(logp.argmax())))
    for _, k, token in sorted(best)[: total // steps + (t < total % steps)]:
      tokens[k], when[k] = token, t
      left.remove(k)
    t += 1
  return tokens, when, t


def test_greedy_sample_equals_numpy():
  got = sample(range(8), temperature=0.0)
  for row, n in enumerate(LENGTHS):
    blank = [tiny.MASK] * (L - n)
    first, when, taken = one_block(
      TEXTS[row], blank + anchors_of()[row], range(L - n), 5
    )
    assert first[L - n :] == anchors_of()[row]
    again = first[: L - n] + [tiny.MASK] * n
    tokens, later, _ = one_block(TEXTS[row], again, range(L - n, L), 4)
    when |= {k: taken + t for k, t in later.items()}
    np.testing.assert_array_equal(got.tokens[row], tokens)
    np.testing.assert_array_equal(
      got.commit_step[row], [when[k] for k in range(L)]
    )


def test_anchor_affects_tokens_only_through_the_model():
  one = sample(range(8), temperature=0.0)
  two = sample(range(8), temperature=0.0, anchors=anchors_of(1))
  changed = [
    (np.asarray(one.tokens)[i, :-n] != np.asarray(two.tokens)[i, :-n]).any()
    for i, n in enumerate(LENGTHS)
  ]
  assert sum(changed) >= 6
  # A model to which all gold ids look alike gives the same whatever they are.
  deaf = gold_params()
  deaf['context'][list(GOLD)] = deaf['context'][20]
  for temperature in (0.0, 1.0):
    args = {'params': deaf, 'temperature': temperature}
    same(
      sample(range(8), **args), sample(range(8), anchors=anchors_of(1), **args)
    )


def test_suppress_eos_applies_to_the_reasoning_only():
  params = gold_params()
  params['table'][:, tiny.EOS] = 60.0
  cfg = dataclasses.replace(CFG, suppress_eos=True)
  tokens = np.asarray(sample(range(8), params=params, cfg=cfg).tokens)
  assert (sample(range(8), params=params).tokens == tiny.EOS).all()
  for row, n in enumerate(LENGTHS):
    assert (tokens[row, :-n] != tiny.EOS).all()
    assert (tokens[row, -n:] == tiny.EOS).all()


def test_rows_do_not_depend_on_their_batch():
  whole = sample(range(8))
  order = [5, 2, 7, 0, 1, 6, 4, 3]
  pick = lambda rows: jax.tree.map(lambda x: x[np.array(rows)], whole)
  same(sample(order), pick(order))
  same(sample([4], width=9), pick([4]))


def test_sample_is_the_same_on_any_number_of_devices():
  one, eight = sample(range(8)), sample(range(8), data=8)
  assert len(eight.tokens.sharding.device_set) == 8
  same(eight, one)


def test_passes_draw_from_different_streams():
  # A uniform model: equal draws would show as equal tokens.
  flat = {
    'table': np.zeros((L, tiny.ROWS), np.float32),
    'context': np.zeros((tiny.ROWS, tiny.ROWS), np.float32),
  }
  free = sample(range(8), params=flat)
  tokens = np.asarray(free.tokens)
  assert len(np.unique(tokens, axis=0)) == 8
  assert (tokens[:, :A] != tokens[:, -A:]).mean() > 0.8


def test_repeated_rows_as_padding_change_nothing():
  got = sample([0, 1, 2, 2, 2, 2, 2, 2])
  pick = lambda rows: jax.tree.map(lambda x: np.asarray(x)[rows], got)
  same(pick([0, 1, 2]), jax.tree.map(lambda x: x[:3], sample(range(8))))
  same(pick([3, 4, 5, 6, 7]), pick([2] * 5))


def test_guidance_masks_the_prompt_in_both_passes():
  plain = sample(range(8))
  same(sample(range(8), cfg_scale=0.0), plain)
  more = sample(range(8), cfg_scale=4.0)
  differs = np.asarray(more.tokens) != plain.tokens
  assert differs[:, : L - A].any() and differs[:, L - A :].any()
  # Without a prompt there is nothing to guide by.
  bare = lambda scale: sample(
    range(8), texts=[[tiny.MASK]] * 8, width=1, cfg_scale=scale
  )
  same(bare(4.0), bare(0.0))


def test_guidance_scale_does_not_recompile():
  sample(range(8), cfg_scale=0.5)
  size = answer_guided.sample._cache_size()
  sample(range(8), cfg_scale=0.75, temperature=0.5)
  assert answer_guided.sample._cache_size() == size


def test_passes_have_one_block_and_keep_other_fields():
  free = dataclasses.replace(
    FREE,
    temperature=0.7,
    order='random',
    cfg_scale=2.0,
    stop_at_eos=True,
    suppress_eos=True,
  )
  reasoning, answer = answer_guided.passes(free, CFG)
  assert reasoning == fixed.Fixed(
    gen_length=L,
    block_length=L,
    num_steps=5,
    temperature=0.7,
    order='random',
    cfg_scale=2.0,
  )
  assert answer == fixed.Fixed(
    gen_length=A,
    block_length=A,
    num_steps=4,
    temperature=0.7,
    order='random',
  )
  cfg = dataclasses.replace(CFG, suppress_eos=True)
  assert [p.suppress_eos for p in answer_guided.passes(FREE, cfg)] == [
    True,
    False,
  ]


# Anchors.

ROWS = [{'gold': '42'}, {'gold': '7'}, {'gold': '12345'}]


def test_anchors_by_template_and_margin():
  words, task = tiny.words(), tiny.Task()
  cfg = dataclasses.replace(CFG, max_anchor=9, margin=2)
  got = answer_guided.anchors(task, words, ROWS, cfg)
  assert (
    got[0] == words.encode('<answer>\n42\n</answer>') + [words.eos_token] * 2
  )
  assert [None if a is None else len(a) for a in got] == [8, 7, None]
  released = dataclasses.replace(cfg, template='released', margin=1)
  got = answer_guided.anchors(task, words, ROWS, released)
  assert [len(a) for a in got] == [5, 4, 8]
  assert got[1] == words.encode('<answer>7</answer>') + [words.eos_token]


def test_anchors_longer_than_the_cap_are_none():
  # 2 tags, 2 newlines, digits and the margin.
  for digits, margin in (('42', 0), ('4', 1)):
    for cap, kept in ((6, True), (5, False)):
      cfg = dataclasses.replace(CFG, max_anchor=cap, margin=margin)
      (got,) = answer_guided.anchors(
        tiny.Task(), tiny.words(), [{'gold': digits}], cfg
      )
      assert (got is not None) == kept


def test_steps_of_answer_by_hand():
  cfg = dataclasses.replace(CFG, num_steps=64, answer_steps=None)
  steps = lambda cap: dataclasses.replace(cfg, max_anchor=cap).steps_of_answer(
    256
  )
  assert [steps(n) for n in (1, 12, 16, 64)] == [1, 3, 4, 16]
  assert CFG.steps_of_answer(256) == 4
  assert schedules.largest_quota(12, steps(12)) == 4


@pytest.mark.parametrize(
  'wrong',
  [
    {'num_guided': -1},
    {'template': 'none'},
    {'num_steps': 0},
    {'max_anchor': 0},
    {'margin': -1},
    {'answer_steps': 0},
  ],
)
def test_guided_config_refuses_bad_values(wrong):
  with pytest.raises(ValueError, match=next(iter(wrong))):
    dataclasses.replace(CFG, **wrong)
