"""diffu-GRPO: groups of draws that no gold answer and no neighbour changes."""

import jax
import numpy as np
import pytest

from dllm_jax.train import loop
from tests import tiny_run

ROWS = tiny_run.rows('5 + 3 - 1', '3 + 5 - 1', '5 - 1 + 3', '3 - 1 + 5')
G = 4


@pytest.fixture(scope='module')
def method():
  cfg, ctx = tiny_run.parts('diffu_grpo')
  method, state = tiny_run.start(cfg, ctx)
  assert isinstance(method, loop.Method)
  return method, state


def collect(method, rows, step=0):
  batch, metrics = method[0].collect(method[1], rows, step)
  return jax.device_get(batch), metrics


def test_collect_samples_a_group_per_prompt(method):
  batch, metrics = collect(method, ROWS)
  tokenizer = method[0].ctx.tokenizer
  for row in range(16):
    ids = batch.prompt_ids[row][batch.prompt_mask[row]].tolist()
    text = tokenizer.decode(ids)
    assert text == method[0].ctx.task.prompt(ROWS[row // G])
  assert not batch.guided.any()
  assert not [name for name in metrics if name.split('/')[0] == 'guided']
  # Rows of a group are different draws of one prompt.
  assert len(np.unique(batch.tokens, axis=0)) > 12
  np.testing.assert_array_equal(
    np.sort(batch.commit_step), np.tile(np.repeat(np.arange(6), 2), (16, 1))
  )
  # What a row is worth follows from its group alone.
  reward = batch.advantage[:, 0].reshape(4, G)
  np.testing.assert_allclose(reward.sum(1), 0, atol=1e-6)


def test_collect_does_not_read_gold_answers_while_decoding(method):
  want, metrics = collect(method, ROWS)
  got, others = collect(method, tiny_run.rows('9', '9', '9', '9'))
  tiny_run.assert_same(got, want)
  assert metrics['reward/mean'] == others['reward/mean']


def test_collect_is_a_function_of_the_step(method):
  tiny_run.assert_same(
    collect(method, ROWS, step=3)[0], collect(method, ROWS, step=3)[0]
  )
  first, second = (collect(method, ROWS, step=s)[0] for s in (3, 4))
  assert (first.tokens != second.tokens).any()


def test_collect_depends_on_the_seed(method):
  cfg, ctx = tiny_run.parts('diffu_grpo', seed=1)
  other = tiny_run.start(cfg, ctx)[0]
  got = jax.device_get(other.collect(method[1], ROWS, 0)[0])
  assert (got.tokens != collect(method, ROWS)[0].tokens).any()
