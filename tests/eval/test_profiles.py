"""Published protocols: their records, and the goldens under them."""

import dataclasses
import json

import numpy as np
import pytest

from dllm_jax import decoding, errors
from dllm_jax.eval import profiles
from dllm_jax.models import transformer
from dllm_jax.tasks import TASKS
from tests import tiny

ALL = [
  (profile, task)
  for profile in profiles.PROFILES.values()
  for task, _ in profile.tasks
]
# A recording, the profile and task that it is of, and what it has otherwise:
# lengths, and where the recording is of another threshold.
RECORDED = [
  ('llada', 'llada_g32_b32_s32', 'llada_paper', 'gsm8k'),
  ('llada', 'llada_g32_b8_s16', 'd1', 'gsm8k'),
  ('llada', 'llada_g64_b16_s32', 'd1', 'math'),
  ('llada', 'dual_thr0.7_g32_b16', 'fast_dllm', 'gsm8k'),
  ('llada', 'tagrpo_tau0.8_g32_b16', 'ta_grpo_d', 'math'),
  ('llada', 'tagrpo_tau0.7_g32_b8', 'ta_grpo_d', 'gsm8k'),
  ('dream', 'entropy_g32_s16', 'dream_release', 'gsm8k'),
  ('dream', 'entropy_g48_s48', 'dream_release', 'math'),
]


def decoder_of(protocol, **changes):
  """The decoder of a protocol, with other lengths."""
  fields = dict(protocol.fields) | changes
  made = decoding.make_decoders(fields, is_causal=False)
  return made[protocol.decode]


@pytest.mark.parametrize(('family', 'name', 'profile', 'task'), RECORDED)
def test_recorded_decodes_under_their_profile(
  shared_dir, family, name, profile, task
):
  """Token for token and step for step, with the lengths of the recording."""
  folder = shared_dir / 'golden' / f'{family}_tiny'
  case = next(
    c for c in tiny.cases(folder / 'decode_cases.json') if c['name'] == name
  )
  data = tiny.recorded(folder, 'decode.npz')
  protocol = profiles.PROFILES[profile].protocol(task)
  length = case['gen_length']
  changes = {
    'gen_length': length,
    'block_length': case.get('block_length') or length,
  }
  if protocol.decode == 'gated':
    changes['threshold'] = case['threshold']
  else:
    changes['num_steps'] = case['steps']
  if family == 'dream':
    # The recordings are of the whole distribution.
    assert dict(protocol.fields)['top_p'] == 0.9
    changes['top_p'] = 1.0
  decoder = decoder_of(protocol, **changes)
  cfg, vocab, load = {
    'llada': (tiny.LLADA, tiny.LLADA_VOCAB, tiny.llada),
    'dream': (tiny.DREAM, tiny.DREAM_VOCAB, tiny.dream),
  }[family]
  prompts = [
    row[:n].tolist()
    for row, n in zip(
      data[f'{name}.prompt'], data[f'{name}.prompt_len'], strict=True
    )
  ]
  got = tiny.decode(
    transformer.TransformerDenoiser(cfg=cfg),
    load(folder),
    tiny.row_keys(0, range(len(prompts))),
    tiny.canvas(prompts, length, mask_token=vocab.mask_token),
    decoder,
    vocab=vocab,
  )
  np.testing.assert_array_equal(got.tokens, data[f'{name}.output'])
  np.testing.assert_array_equal(got.commit_step, data[f'{name}.unmask_step'])
  np.testing.assert_array_equal(got.num_steps, data[f'{name}.nfe'])


@pytest.mark.parametrize(
  ('profile', 'task'), ALL, ids=[f'{p.name}-{t}' for p, t in ALL]
)
def test_every_record_is_complete(profile, task):
  """Its decoder takes all of its fields, and a file can hold it."""
  protocol = profile.protocol(task)
  record = profile.record(task)
  assert json.loads(json.dumps(record)) == record and record['source']
  assert (protocol.decode is None) == (not protocol.fields)
  assert protocol.decode or protocol.likelihood
  if protocol.decode:
    decoder = decoder_of(protocol)
    for name, value in protocol.fields:
      kept = getattr(decoder, name)
      assert kept == value or (name == 'cfg_scale' and kept is None)
    # What a protocol is silent about would be the config's.
    told = {name for name, _ in protocol.fields}
    known = {f.name for f in dataclasses.fields(decoder)}
    # The one leaves the text as it is, the other is not read.
    assert known - told <= {'stop_at_eos', 'exponent'}


def test_tasks_with_decoders_are_ours():
  decoded = {t for p, t in ALL if p.protocol(t).decode}
  assert decoded <= set(TASKS)


def test_thresholds_are_as_strict_as_published():
  fields = lambda name: dict(profiles.PROFILES[name].protocol('gsm8k').fields)
  assert fields('fast_dllm')['inclusive']
  assert fields('fast_dllm')['cache'] == 'dual'
  assert fields('fast_dllm')['published'] == 'llada'
  assert not fields('ta_grpo_d')['inclusive']


def test_what_is_no_profile_of_a_task_is_one_line():
  with pytest.raises(errors.UsageError, match='has no protocol for .sudoku.'):
    profiles.PROFILES['llada_paper'].protocol('sudoku')
