"""Which completions are kept for replaying, and what is said of them."""

import dataclasses
import json

import numpy as np
import pytest

from dllm_jax.analysis import record
from dllm_jax.eval import accuracy
from dllm_jax.rollout import score
from dllm_jax.run import trajectories
from tests import tiny_run

ROWS = tiny_run.rows('5 + 3 - 1', '5 + 3 - 1')
RIGHT = '<reasoning>\n 8 7\n</reasoning>\n<answer>\n 5 + 3 - 1\n</answer>'
WRONG = RIGHT.replace('5 + 3 - 1', '5 + 3 + 1')


def test_pick_takes_the_first_of_each_kind():
  base = np.array([0, 0, 1, 0, 0, 0, 1, 1], np.float32)
  final = np.array([1, 1, 0, 1, 1, 0, 1, 1], np.float32)
  assert list(trajectories.pick(base, final)) == [
    (0, 'fixed'),
    (1, 'fixed'),
    (3, 'fixed'),
    (2, 'broken'),
    (6, 'both right'),
    (7, 'both right'),
    (5, 'both wrong'),
  ]


@pytest.fixture(scope='module')
def parts():
  return tiny_run.parts()


def evaluation(ctx, texts, correct):
  """Of completions that are committed from right to left, two a step."""
  ids = [ctx.tokenizer.encode(text) for text in texts]
  length = max(map(len, ids)) + 2
  tokens = np.full((len(ids), length), ctx.vocab.eos_token, np.int32)
  for row, own in zip(tokens, ids, strict=True):
    row[: len(own)] = own
  commit = np.tile(np.arange(length)[::-1] // 2, (len(ids), 1))
  return accuracy.Evaluation(
    accuracy=float(np.mean(correct)),
    mean_steps=1.0,
    tokens_per_step=1.0,
    metrics={},
    tokens_per_second=1.0,
    seconds=1.0,
    correct=np.array(correct, np.float32),
    judged=np.ones(len(ids), bool),
    reasons=[''] * len(ids),
    answers=np.zeros(len(ids), np.int64),
    tokens=tokens,
    logp=np.log(np.linspace(0.1, 0.9, length, dtype=np.float32))
    + np.zeros(tokens.shape, np.float32),
    commit_step=commit.astype(np.int32),
    num_steps=np.full(len(ids), (length + 1) // 2, np.int32),
  )


def evaluations(ctx):
  base = evaluation(ctx, [WRONG, RIGHT], [0, 1])
  final = evaluation(ctx, [RIGHT, WRONG], [1, 0])
  return trajectories.Evaluations(
    {'base': {6: base}, 'final': {6: final}},
    {'base': {0.9: base}, 'final': {0.9: final}},
  )


def test_a_gated_policy_stands_beside_the_base_under_its_gate(parts):
  _, ctx = parts
  found = evaluations(ctx)
  assert [s[:2] for s in trajectories.choose(found, 6, None)] == [
    ('base', 'fixed, 6 steps'),
    ('final', 'fixed, 6 steps'),
  ]
  assert [s[:2] for s in trajectories.choose(found, 6, 0.9)] == [
    ('base', 'fixed, 6 steps'),
    ('base', 'gated at 0.9'),
    ('final', 'gated at 0.9'),
  ]


def test_what_is_written_says_what_was_evaluated(parts, tmp_path):
  cfg, ctx = parts
  found = evaluations(ctx)
  shown = trajectories.choose(found, 6, None)
  trajectories.write(tmp_path, ctx, cfg, ROWS, shown)
  lines = (tmp_path / trajectories.FILE).read_text().splitlines()
  written = [json.loads(line) for line in lines]
  assert [row['kind'] for row in written] == ['fixed', 'broken']
  first = written[0]
  assert (first['id'], first['gold']) == ('row0', ' 5 + 3 - 1')
  assert first['prompt'] == ctx.task.prompt(ROWS[0])
  final = first['samples'][1]
  assert final['policy'] == 'final' and final['correct'] is True
  assert ''.join(final['pieces']) == RIGHT
  assert final['length'] == len(ctx.tokenizer.encode(RIGHT)) + 1
  assert final['confidence'] == pytest.approx(
    np.linspace(0.1, 0.9, len(final['pieces'])), abs=1e-4
  )
  # The rewards are those of the canvases, rebuilt from the commit steps.
  own = found.plain['final'][6]
  assert final['steps'] == [*range(1, own.num_steps[0] + 1)]
  for step, reward in zip(final['steps'], final['rewards'], strict=True):
    tokens = own.tokens[0][own.commit_step[0] < step]
    tokens = tokens[
      score.completion_mask(tokens[None], ctx.vocab.stop_tokens)[0]
    ]
    text = ctx.tokenizer.decode(tokens.tolist())
    verdict = ctx.task.score(ROWS[0], text)
    assert reward == pytest.approx(
      score.weigh(verdict, cfg.method.reward), abs=1e-4
    )
  assert len(set(final['rewards'])) > 1


def test_without_rl_there_are_no_rewards(parts, tmp_path):
  cfg, ctx = parts
  shown = trajectories.choose(evaluations(ctx), 6, None)
  cfg = dataclasses.replace(cfg, method=None)
  trajectories.write(tmp_path, ctx, cfg, ROWS, shown)
  lines = (tmp_path / trajectories.FILE).read_text().splitlines()
  for sample in json.loads(lines[0])['samples']:
    assert sample['steps'] == sample['rewards'] == []


def test_verdicts_are_digits_in_the_order_of_the_problems(parts, tmp_path):
  _, ctx = parts
  path = tmp_path / trajectories.VERDICTS_FILE
  trajectories.write_verdicts(path, ROWS, evaluations(ctx))
  assert json.loads(path.read_text()) == {
    'ids': ['row0', 'row1'],
    'base': {'fixed': {'6': '01'}, 'gated': {'0.9': '01'}},
    'final': {'fixed': {'6': '10'}, 'gated': {'0.9': '10'}},
  }


def test_the_files_have_the_names_that_the_report_reads():
  assert trajectories.FILE == record.TRAJECTORIES_FILE
  assert trajectories.VERDICTS_FILE == record.VERDICTS_FILE
