"""Two evaluations compared item by item, by hand."""

import json
import math

import pytest

from dllm_jax import errors
from dllm_jax.analysis import evaluations

RESULTS = {
  'task': 'gsm8k',
  'accuracy': 0.5,
  'seed': 0,
  'decoding': {'decode': 'fixed', 'num_steps': 8},
  'profile': None,
}


def write(path, verdicts, *, samples=1, **changes):
  """A results file with the verdicts of items a, b, ..., and their file."""
  path.write_text(json.dumps(RESULTS | changes))
  rows = [
    {'id': name, 'correct': right, 'sample': number}
    for name, of in verdicts.items()
    for number, right in enumerate(of if samples > 1 else [of])
  ]
  items = ''.join(f'{json.dumps(row)}\n' for row in rows)
  path.with_suffix('.generations.jsonl').write_text(items)
  return path


def compared(first, second):
  return evaluations.compare(evaluations.read(first), evaluations.read(second))


def items(text):
  marks = {'1': True, '0': False, '-': None}
  return {f'q{i}': marks[c] for i, c in enumerate(text)}


def test_a_comparison_by_hand(tmp_path):
  """d of the judged items is 1, 1, 1, -1, 0, 0: mean 1/3."""
  first = write(tmp_path / 'a.json', items('00011-0'))
  second = write(
    tmp_path / 'b.json',
    items('111010-'),
    decoding={'decode': 'fixed', 'num_steps': 4},
  )
  # q0 q1 q2 gained, q3 lost, q4 solved by both, q5 and q6 not judged in both
  found = compared(first, second)
  assert (found.num, found.left_out) == (5, 2)
  changes = [1, 1, 1, -1, 0]
  mean = sum(changes) / 5
  spread = math.sqrt(sum((d - mean) ** 2 for d in changes) / 4)
  assert found.gain.difference == pytest.approx(mean) and found.gain.paired
  assert found.gain.half_width == pytest.approx(1.96 * spread / math.sqrt(5))
  assert found.accuracies == (pytest.approx(0.4), pytest.approx(0.8))
  assert (found.gained, found.lost) == (['q0', 'q1', 'q2'], ['q3'])
  # Two-sided: 2 (C(4, 3) + C(4, 4)) / 16.
  assert found.p_value == pytest.approx(10 / 16)
  assert found.differing == [('decoding.num_steps', 8, 4)]
  told = '\n'.join(evaluations.lines(found))
  assert 'second - first = +40.0 ± 78.4 points' in told
  assert 'the second solves 3 items more often: q0, q1, q2' in told
  assert 'decoding.num_steps: 8 -> 4' in told


def test_several_completions_of_an_item_are_one_change(tmp_path):
  first = write(tmp_path / 'a.json', {'x': [1, 0], 'y': [0, 0]}, samples=2)
  second = write(tmp_path / 'b.json', {'x': [1, 1], 'y': [0, 0]}, samples=2)
  found = compared(first, second)
  assert found.num == 2 and found.gained == ['x'] and found.lost == []
  assert found.gain.difference == pytest.approx(0.25)
  # The first solves x too, once of two times.
  told = evaluations.lines(found)
  assert told[1:3] == [
    'the second solves 1 items more often: x',
    'the first solves 0 items more often',
  ]


def test_choices_are_compared_too(tmp_path):
  for name, chosen in (('a', [0, 1]), ('b', [0, 0])):
    path = tmp_path / f'{name}.json'
    path.write_text(json.dumps(RESULTS | {'by': 'likelihood'}))
    rows = [{'id': i, 'chosen': c, 'gold': 0} for i, c in enumerate(chosen)]
    lines = ''.join(f'{json.dumps(row)}\n' for row in rows)
    path.with_suffix('.choices.jsonl').write_text(lines)
  found = compared(tmp_path / 'a.json', tmp_path / 'b.json')
  assert found.gained == ['1'] and found.accuracies == (0.5, 1.0)
  assert 'the protocols are the same' in evaluations.lines(found)


def test_the_same_evaluation_has_no_difference(tmp_path):
  path = write(tmp_path / 'a.json', items('0110'))
  found = compared(path, path)
  assert found.gain.difference == found.gain.half_width == 0
  assert found.p_value == 1 and not found.gained + found.lost


@pytest.mark.parametrize(
  ('spoil', 'line'),
  [
    (lambda a, b: b.unlink(), 'there is no results file'),
    (lambda a, b: b.write_text('[]'), 'is not a JSON object'),
    (
      lambda a, b: b.write_text('{"task": 1}'),
      'is not the results of',
    ),
    (
      lambda a, b: b.with_suffix('.generations.jsonl').unlink(),
      'is missing: keep it beside b.json',
    ),
    (
      lambda a, b: b.with_suffix('.generations.jsonl').write_text('{}\n'),
      'line 1, is no item',
    ),
    (
      lambda a, b: write(b, items('01'), task='math'),
      "task 'gsm8k', .*math",
    ),
    (lambda a, b: write(b, {'other': True}), 'no items in common'),
  ],
)
def test_what_cannot_be_compared_is_one_line(tmp_path, spoil, line):
  first = write(tmp_path / 'a.json', items('01'))
  second = write(tmp_path / 'b.json', items('11'))
  spoil(first, second)
  with pytest.raises(errors.UserError, match=line):
    compared(first, second)
