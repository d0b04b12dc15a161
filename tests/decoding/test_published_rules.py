"""Rules of published evaluations: stop tokens, tempered orders, gates."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dllm_jax.decoding import blocks, fixed, gated
from dllm_jax.ops import sampling
from tests import tiny

L, W = 12, 4
TABLE = tiny.Table(gen_length=L)
PARAMS = tiny.table_params(0, L)
# Stop tokens are proposed about every third time.
PARAMS = PARAMS | {'table': PARAMS['table'].copy()}
VOCAB = dataclasses.replace(tiny.VOCAB, stop_tokens=(27, tiny.EOS))
for stop in VOCAB.stop_tokens:
  PARAMS['table'][:, stop] += 7
PARAMS['table'][[2, 9], tiny.EOS] += 8
PROMPTS = tiny.random_prompts(1, [3, 5, 1, 4, 2, 5])
CFG = fixed.Fixed(gen_length=L, block_length=W, num_steps=6)
STOP = list(VOCAB.stop_tokens)


def run(cfg, params=PARAMS):
  rows = tiny.row_keys(0, list(range(len(PROMPTS))))
  canvas = tiny.canvas(PROMPTS, L)
  return tiny.decode(TABLE, params, rows, canvas, cfg, vocab=VOCAB)


def without(logits, ids):
  logits = np.array(logits, np.float64)
  logits[..., ids] = -np.inf
  return tiny.allowed_logp(logits)


def nucleus(p, share):
  """The fewest most probable tokens that reach the share, renormalised."""
  order = np.argsort(-p)
  kept = order[: np.searchsorted(np.cumsum(p[order]), share) + 1]
  out = np.zeros_like(p)
  out[kept] = p[kept] / p[kept].sum()
  return out


# What is proposed, and how sure the rule is of it, from raw logits.
def by_confidence(logits):
  token = int(tiny.allowed_logp(logits).argmax())
  return token, without(logits, STOP)[token]


def by_logits(logits):
  logp = without(logits, [tiny.EOS])
  return int(logp.argmax()), logp.max()


def by_nucleus(logits):
  p = nucleus(np.exp(tiny.allowed_logp(logits)), 0.4)
  return int(p.argmax()), p.max()


def numpy_row(prompt, rule, quota=2):
  """Greedy decoding of one row, from the definition."""
  tokens, logp, when, now = [tiny.MASK] * L, np.zeros(L), np.zeros(L, int), 0
  for first in range(0, L, W):
    columns = list(range(first, first + W))
    while columns:
      seen = PARAMS['context'][prompt + tokens].sum(0)
      best = []
      for k in columns:
        logits = PARAMS['table'][k] + seen
        token, sure = rule(logits)
        best.append((-sure, k, token, tiny.allowed_logp(logits)[token]))
      for _, k, token, value in sorted(best)[:quota]:
        tokens[k], logp[k], when[k] = token, value, now
        columns.remove(k)
      now += 1
  return tokens, logp, when


@pytest.mark.parametrize(
  ('rule', 'fields'),
  [
    (by_confidence, {'eos_rule': 'confidence'}),
    (by_logits, {'eos_rule': 'logits'}),
    (by_nucleus, {'tempered': True, 'top_p': 0.4}),
  ],
)
def test_a_rule_is_its_definition(rule, fields):
  got = run(dataclasses.replace(CFG, **fields))
  plain = run(CFG)
  assert (got.commit_step != plain.commit_step).any()
  for row, prompt in enumerate(PROMPTS):
    tokens, logp, when = numpy_row(prompt, rule)
    np.testing.assert_array_equal(got.tokens[row], tokens)
    np.testing.assert_array_equal(got.commit_step[row], when)
    np.testing.assert_allclose(got.logp[row], logp, rtol=1e-4, atol=1e-5)


def test_eos_is_never_proposed_and_other_stop_tokens_may_be():
  got = run(dataclasses.replace(CFG, eos_rule='logits'))
  assert 27 in np.asarray(got.tokens)
  assert tiny.EOS in np.asarray(run(CFG).tokens)
  assert tiny.EOS not in np.asarray(got.tokens)


def test_stop_tokens_come_last_in_their_blocks():
  got = run(dataclasses.replace(CFG, eos_rule='confidence', num_steps=12))
  found = 0
  for tokens, when in zip(got.tokens, got.commit_step, strict=True):
    for first in range(0, L, W):
      own = np.argsort(when[first : first + W])
      is_stop = np.isin(tokens[first : first + W][own], STOP)
      found += is_stop.sum()
      # A later step may propose another token, never an earlier stop.
      assert list(is_stop) == sorted(is_stop)
  assert found


@pytest.mark.parametrize('tempered', [False, True])
def test_draws_come_from_the_nucleus_and_may_be_ordered_by_it(tempered):
  """One step of each row: Dream's confidence is that of softmax(l / T)."""
  cfg = dataclasses.replace(
    CFG, temperature=0.5, top_p=0.7, tempered=tempered, num_steps=6
  )
  canvas = tiny.canvas(PROMPTS, L)
  state = blocks.init_state(canvas, VOCAB, cfg)
  rows = tiny.row_keys(3, list(range(len(PROMPTS))))
  column = jnp.broadcast_to(5 + jnp.arange(W), (len(PROMPTS), W))
  logits = TABLE(PARAMS, state.tokens, canvas.attention_mask, column)
  logits = sampling.allowed_logits(logits, VOCAB)
  eligible = jnp.ones(column.shape, bool)
  block = blocks.Block(
    index=column - 5,
    column=column,
    tokens=state.tokens[:, 5 : 5 + W],
    eligible=eligible,
    live=eligible[:, 0],
  )
  choice = cfg.choose(rows, state, block, logits, vocab=VOCAB)
  rows = tiny.row_keys(3, list(range(len(PROMPTS))))
  draw = jax.vmap(jax.random.split)(rows)[:, 1]
  cut = sampling.nucleus(logits, 0.7, jnp.float32(0.5))
  want = sampling.gumbel_argmax(draw, cut, jnp.float32(0.5))
  np.testing.assert_array_equal(choice.proposal, want)
  raw = np.asarray(logits, np.float64)
  for i in range(len(PROMPTS)):
    sure = []
    for k in range(W):
      p = np.exp(tiny.allowed_logp(raw[i, k] / (0.5 if tempered else 1)))
      p = nucleus(p, 0.7) if tempered else p
      sure.append(p[want[i, k]])
      assert sure[-1] > 0
    best = sorted(np.argsort(-np.array(sure), kind='stable')[:2])
    assert np.flatnonzero(choice.chosen[i]).tolist() == best


def test_confidences_that_tie_at_a_low_temperature_are_taken_from_the_left():
  """1 - p is below float32's resolution: what a low T does to Dream's order."""
  params = jax.tree.map(np.zeros_like, PARAMS)
  params['table'][:, 7] = np.linspace(1, 2, L)
  low = dataclasses.replace(CFG, temperature=1e-3, num_steps=12, tempered=True)
  np.testing.assert_array_equal(
    run(low, params).commit_step, np.tile(np.arange(L), (len(PROMPTS), 1))
  )
  plain = run(dataclasses.replace(low, tempered=False), params)
  assert plain.commit_step[0, :W].tolist() == [3, 2, 1, 0]


def test_greedy_leaves_the_nucleus_out():
  cfg = dataclasses.replace(CFG, temperature=0.5, top_p=0.5, tempered=True)
  assert cfg.greedy() == CFG


def test_a_gate_may_include_its_threshold():
  """All confidences are equal: at the threshold all pass, or one a step."""
  params = jax.tree.map(np.zeros_like, PARAMS)
  logits = sampling.allowed_logits(jnp.zeros(tiny.ROWS), VOCAB)
  confidence = jnp.exp(sampling.token_logp(logits, jnp.int32(0)))
  for inclusive, steps in ((True, 3), (False, 12)):
    cfg = gated.Gated(
      gen_length=L,
      block_length=W,
      threshold=float(confidence),
      inclusive=inclusive,
    )
    assert (run(cfg, params).num_steps == steps).all()


@pytest.mark.parametrize(
  ('changes', 'line'),
  [
    ({'top_p': 0.0}, 'top_p 0.0 is outside'),
    ({'tempered': True, 'eos_rule': 'confidence'}, 'not tempered'),
    ({'order': 'margin', 'eos_rule': 'confidence'}, "order 'confidence'"),
  ],
)
def test_rules_that_make_no_sense_are_refused(changes, line):
  with pytest.raises(ValueError, match=line):
    dataclasses.replace(CFG, **changes)
