"""Recorded completions: d1's figures item by item, ours, malformed files."""

import gzip
import json
import pathlib

import pytest

from dllm_jax import errors
from dllm_jax.data import json_rows
from dllm_jax.eval import divergences, recordings
from dllm_jax.tasks import math_equal

REPO = pathlib.Path(__file__).resolve().parents[2]
NAMES = {'countdown': 'countdown', 'gsm8k': 'gsm8k', 'math500': 'math'}
NAMES['sudoku'] = 'sudoku'


@pytest.mark.parametrize('name', NAMES)
def test_d1_rules_equal_published_evaluations_on_every_item(shared_dir, name):
  folder = shared_dir / 'golden' / 'recordings'
  entries = json.loads((folder / 'accuracy.json').read_text())['entries']
  entry = next(e for e in entries if e['task'] == name)
  found = recordings.read(folder / entry['file'], NAMES[name])
  report = recordings.evaluate(NAMES[name], found, 'd1')
  assert report['num'] == entry['items'] and report['unjudged'] == 0
  assert report['numerator'] == entry['numerator']
  assert report['denominator'] == entry['denominator']
  assert 100 * report['accuracy'] == pytest.approx(entry['accuracy'], rel=1e-12)
  items = report['items']
  assert [int(i['correct']) for i in items] == entry['is_correct']
  assert [i['parsed'] for i in items] == entry['extracted_answer']
  if name == 'sudoku':
    cells = [[i['cells_right'], i['cells_empty']] for i in items]
    assert cells == entry['correct_empty_cells']
    assert report['solved'] == entry['fully_solved'] / entry['items']


@pytest.mark.slow
def test_divergences_page_is_up_to_date(shared_dir):
  text = divergences.report(shared_dir / 'golden' / 'recordings')
  assert text == (REPO / 'docs' / 'divergences.md').read_text('utf-8')


RIGHT = {
  'countdown': ([[3, 4], 7], '3 + 4', '', 1.0),
  'sudoku': ('3142243142131324',) * 2 + ('3102200002100320', 1.0),
  'gsm8k': (18.0, '18 eggs', '', 1.0),
  'math': (r'\frac12', '0.5', '', 1.0),
  'aqua': ('B', 'B', '', 1.0),
  'openbookqa': ('B', '(B)', '', 1.0),
}


def _write(path, rows):
  text = ''.join(json.dumps(row) + '\n' for row in rows)
  if path.suffix == '.gz':
    path.write_bytes(gzip.compress(text.encode()))
  else:
    path.write_text(text)
  return path


@pytest.mark.parametrize('task', RIGHT)
@pytest.mark.parametrize('file', ['a.jsonl', 'a.jsonl.gz'])
def test_evaluate_scores_right_and_wrong_completions(tmp_path, task, file):
  truth, answer, question, score = RIGHT[task]
  row = {'question': question, 'ground_truth': truth}
  texts = (
    f'<answer>{answer}</answer><|eot_id|><answer>7</answer>',
    f'<answer>{answer}<|eot_id|></answer>',
    '',
  )
  path = _write(tmp_path / file, [row | {'generation': t} for t in texts])
  found = recordings.read(path, task)
  assert [r.row['id'] for r in found] == [f'{file}:{i}' for i in (1, 2, 3)]
  report = recordings.evaluate(task, found, 'strict')
  assert [i['correct'] for i in report['items']] == [True, False, False]
  assert report['items'][0]['score'] == score
  assert report['accuracy'] == 1 / 3 and report['num'] == 3
  assert (report['task'], report['rules']) == (task, 'strict')
  assert json.loads(json.dumps(report)) == report


def test_options_are_checked_if_recorded(tmp_path):
  row = {'question': '', 'ground_truth': 'B', 'options': ['1', '2']}
  texts = ['<answer>B) 2</answer>', '<answer>B) 1</answer>']
  path = _write(tmp_path / 'a', [row | {'generation': t} for t in texts])
  report = recordings.evaluate('aqua', recordings.read(path, 'aqua'), 'strict')
  assert [i['correct'] for i in report['items']] == [True, False]


def test_mask_token_does_not_end_the_text(tmp_path):
  row = {'question': '', 'ground_truth': 18}
  text = '<|mdm_mask|><answer>18</answer>'
  path = _write(tmp_path / 'a', [row | {'generation': text}])
  found = recordings.read(path, 'gsm8k')
  assert recordings.evaluate('gsm8k', found, 'strict')['accuracy'] == 1


def test_evaluate_leaves_out_unjudged_items(tmp_path, monkeypatch):
  row = {'question': '', 'ground_truth': '2', 'generation': ''}
  texts = ['<answer>1</answer>', '<answer>2</answer>']
  path = _write(tmp_path / 'a', [row | {'generation': t} for t in texts])
  found = recordings.read(path, 'math')
  monkeypatch.setattr(math_equal, 'equal', lambda pairs: [None, True])
  report = recordings.evaluate('math', found, 'strict')
  assert (report['accuracy'], report['unjudged']) == (1.0, 1)
  assert report['items'][0]['correct'] is None
  assert report['items'][0]['score'] is None
  monkeypatch.setattr(math_equal, 'equal', lambda pairs: [None, None])
  with pytest.raises(errors.UserError, match='no completion'):
    recordings.evaluate('math', found, 'strict')


def test_non_finite_parsed_numbers_become_strings(tmp_path):
  row = {'question': '', 'ground_truth': 5, 'generation': r'\boxed{nan}'}
  path = _write(tmp_path / 'a', [row])
  report = recordings.evaluate('gsm8k', recordings.read(path, 'gsm8k'), 'd1')
  assert report['items'] == [{'correct': False, 'score': 0, 'parsed': 'nan'}]


GOOD = {'question': '', 'generation': '', 'ground_truth': 1}


@pytest.mark.parametrize(
  ('task', 'line', 'message'),
  [
    ('gsm8k', '{', 'a:2: not JSON'),
    ('gsm8k', '[' * 100000, 'a:2: not JSON'),
    ('gsm8k', '[]', 'a:2: not a JSON object'),
    ('gsm8k', '{"ground_truth": 1}', "a:2: 'generation' must be a string"),
    ('gsm8k', {'generation': 3}, "a:2: 'generation' must be a string, got 3"),
    (
      'gsm8k',
      '{"question": "", "generation": ""}',
      "a:2: 'ground_truth' is missing",
    ),
    ('gsm8k', {'ground_truth': 'x'}, "a:2: 'ground_truth' must be a number"),
    ('gsm8k', {'ground_truth': True}, "a:2: 'ground_truth' must be a number"),
    ('gsm8k', {'ground_truth': 1e300}, 'a:2: .* too large'),
    ('gsm8k', '{"generation": "", "ground_truth": NaN}', 'a:2: .* too large'),
    ('countdown', {'ground_truth': [1]}, r'\[\[numbers\], target\]'),
    ('countdown', {'ground_truth': [[1, 'a'], 2]}, 'target'),
    ('countdown', {'ground_truth': [[1] * 9, 2]}, 'target'),
    ('countdown', {'ground_truth': [[True], 2]}, 'target'),
    ('sudoku', {'question': 'x', 'ground_truth': '1' * 16}, 'a puzzle of 16'),
    (
      'sudoku',
      {'question': '0' * 16, 'ground_truth': '1' * 15},
      '16 digits 1-4',
    ),
    ('math', {'ground_truth': None}, "'ground_truth' must be a string"),
    ('aqua', {'ground_truth': 'K'}, 'the letter of an option'),
    ('aqua', {'ground_truth': 'C', 'options': ['a', 'b']}, 'letter'),
    ('aqua', {'ground_truth': 'A', 'options': 'ab'}, "'options' must be"),
    ('gsm8k', b'{"generation": "\xff"}', 'a:2: not JSON'),
    ('gsm8k', b' ' * (json_rows.MAX_LINE_BYTES + 1), 'a:2: a line of more'),
  ],
)
def test_malformed_lines_are_refused_with_their_number(
  tmp_path, task, line, message
):
  if isinstance(line, dict):
    line = json.dumps(GOOD | line)
  if isinstance(line, str):
    line = line.encode()
  path = tmp_path / 'a'
  path.write_bytes(b'\n' + line + b'\n')
  with pytest.raises(errors.UserError, match=message) as caught:
    recordings.read(path, task)
  assert '\n' not in str(caught.value) and len(str(caught.value)) < 400


def test_unreadable_files_are_refused(tmp_path):
  empty = _write(tmp_path / 'empty', [])
  with pytest.raises(errors.UserError, match='has no rows'):
    recordings.read(empty, 'gsm8k')
  with pytest.raises(errors.UserError, match='No such file'):
    recordings.read(tmp_path / 'nowhere', 'gsm8k')
  with pytest.raises(errors.UserError, match='directory'):
    recordings.read(tmp_path, 'gsm8k')
  whole = _write(tmp_path / 'a.gz', [GOOD] * 100)
  for name, data in (
    ('cut.gz', whole.read_bytes()[:-9]),
    ('plain.gz', b'{}'),
    ('bad.gz', whole.read_bytes()[:20] + b'\0' * 40),
  ):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(errors.UserError, match='gzip'):
      recordings.read(tmp_path / name, 'gsm8k')


def test_d1_rules_of_other_tasks_are_refused():
  with pytest.raises(errors.UserError, match='--rules strict'):
    recordings.make_task('aqua', 'd1')


@pytest.mark.parametrize(
  ('task', 'row'),
  [
    ('countdown', {'numbers': [5, 3, 1], 'target': 7}),
    ('sudoku', {'puzzle': '0' * 16, 'solution': '1234341221434321'}),
    ('gsm8k', {'answer': '1,080'}),
    ('math', {'answer': '2^{10}'}),
    ('aqua', {'answer': 'B', 'options': ['16', '20']}),
  ],
)
def test_truth_is_the_inverse_of_read(tmp_path, task, row):
  record = {'question': row.get('puzzle', ''), 'generation': 'x'}
  path = tmp_path / 'a.jsonl'
  path.write_text(json.dumps(record | recordings.truth(task, row)))
  (found,) = recordings.read(path, task)
  assert {k: v for k, v in found.row.items() if k != 'id'} == row


@pytest.mark.parametrize(
  ('name', 'row', 'truth'),
  [
    ('squad', {'context': 'c', 'references': ['a', 'b']}, ['a', 'b']),
    ('scitldr', {'text': 'abstract', 'references': ['a']}, ['a']),
    ('wikitext-2', {'prompt': 'p', 'text': 't'}, 't'),
  ],
)
def test_the_truth_of_texts(name, row, truth):
  assert recordings.truth(name, row) == {'ground_truth': truth}
