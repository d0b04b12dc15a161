"""The study of speculative decoding: counts by hand, and a tiny model."""

import dataclasses
import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dllm_jax import errors, types
from dllm_jax.eval import speculation
from dllm_jax.models import transformer
from dllm_jax.run import speculation as run_speculation
from dllm_jax.runtime import console, sharding
from tests import tiny

LM = transformer.of_config(dataclasses.replace(tiny.MODEL, causal=True))
VOCAB = types.Vocabulary(size=30, mask_token=None, eos_token=28)
CFG = speculation.StudyConfig(
  num_prompts=4,
  gen_length=12,
  modules=(1, 2),
  compressions=('int8', 'noise'),
  repeats=1,
)
MESH = sharding.make_mesh(sharding.MeshConfig(data=1))


def test_decoders_are_both_drafters_in_both_regimes():
  decoders = CFG.decoders()
  assert len({repr(d) for d in decoders}) == len(decoders)
  # Draft, D = 1 and D = 0 with a cache; draft and D = 0 without, int8 alone.
  assert len(decoders) == 3 * 4 + 2 * 2
  assert {d.compression for d in decoders if not d.use_cache} == {'int8'}
  few = dataclasses.replace(CFG, no_cache=False, placeholders=(0,))
  assert len(few.decoders()) == 2 * 4


@pytest.mark.parametrize(
  ('changes', 'words'),
  [
    ({'modules': ()}, 'modules is empty'),
    ({'modules': (0,)}, 'draft_length 0'),
    ({'compressions': ()}, 'compressions is empty'),
    ({'placeholders': (-1,)}, 'num_placeholders -1'),
    ({'repeats': -1}, 'repeats -1'),
  ],
)
def test_a_wrong_value_is_refused(changes, words):
  with pytest.raises(ValueError, match=words):
    dataclasses.replace(CFG, **changes)


def test_rounds_near_the_end_of_the_text_do_not_count():
  # Rounds of 3, 1 and 2 tokens; of 2 and 4; the first texts have 6 tokens.
  made = types.Trajectory(
    tokens=np.zeros((2, 6), np.int32),
    logp=np.zeros((2, 6), np.float32),
    commit_step=np.array([[0, 0, 0, 1, 2, 2], [0, 0, 1, 1, 1, 1]]),
    num_steps=np.array([3, 2]),
  )
  mask = np.ones((2, 6), bool)
  count = lambda width: speculation._full_rounds(made, mask, width).tolist()
  assert count(6) == [3, 2]
  assert count(3) == [3, 1, 2, 4]
  assert count(7) == []
  mask[0, 4:] = False  # a stop token in column 3
  assert count(4) == [3, 2, 4]


def test_a_study_is_of_greedy_completions_and_its_law():
  params = jax.tree.map(jnp.asarray, tiny.params(LM.cfg))
  rows = [[3, 4, 5], [6], [7, 8], [9, 1, 2, 3]]
  cfg = dataclasses.replace(CFG, modules=(2,), placeholders=(0,))
  study = speculation.Study(LM, params, rows, cfg, vocab=VOCAB, mesh=MESH)
  summary = study.summary()
  assert summary['num'] == 4
  assert summary['greedy']['no_cache']['identical'] == 4
  p = summary['agreement']['noise']
  assert 0 <= p < summary['agreement']['int8'] <= 1
  for decoder in cfg.decoders():
    row, made = study.compare(decoder)
    assert (row['identical'], row['worst_gap']) == (4, None)
    np.testing.assert_array_equal(made.tokens, study.greedy.tokens)
    assert min(row['c'], row['cost'], row['predicted_cost']) > 0
    if (decoder.compression, row['m']) == ('noise', 2):
      own = 2 if row['decode'] == 'fractal' else 1
      assert row['predicted_tokens'] == pytest.approx(own + p + p * p)
  shown = io.StringIO()
  screen = console.Console(file=shown)
  run_speculation.show_result(summary | {'rows': [row]}, screen)
  text = ' '.join(shown.getvalue().split())
  assert '4 of 4 completions (1 decoders' in text
  assert 'with a cache' in text and 'without cache' in text


def test_what_cannot_be_compared_is_refused():
  check = run_speculation.check
  check(dataclasses.replace(CFG, num_prompts=0), tiny.DENOISER, MESH)
  with pytest.raises(errors.UserError, match='causal'):
    check(CFG, tiny.DENOISER, MESH)
  deep = dataclasses.replace(CFG, modules=(3,))
  with pytest.raises(errors.UserError, match='more than the 2 layers'):
    check(deep, LM, MESH)
  mesh = sharding.make_mesh(sharding.MeshConfig(data=3))
  with pytest.raises(errors.UserError, match=r'speculation\.num_prompts is 4'):
    check(CFG, LM, mesh)
