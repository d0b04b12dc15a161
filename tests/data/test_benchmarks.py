"""Public data sets: real files, records by hand, malformed ones."""

import gzip
import json

import pytest

from dllm_jax import errors, tasks
from dllm_jax.data import benchmarks, catalog, json_rows
from dllm_jax.tasks import coding

SIZES = {
  ('gsm8k', 'train'): 7473,
  ('gsm8k', 'test'): 1319,
  ('math', 'train'): 7498,  # two solutions box nothing
  ('math', 'test'): 500,
  ('math', 'test5000'): 5000,
  ('aqua', 'validation'): 254,
  ('aqua', 'test'): 254,
  ('openbookqa', 'train'): 4957,
  ('openbookqa', 'test'): 500,
  ('humaneval', 'test'): 164,
  ('mbpp', 'prompt'): 10,
  ('mbpp', 'train'): 374,
  ('mbpp', 'validation'): 90,
  ('mbpp', 'test'): 500,
  ('mbpp', 'sanitized_test'): 257,
  ('scitldr', 'train'): 1992,
  ('scitldr', 'validation'): 619,
  ('scitldr', 'test'): 618,
  ('squad', 'train'): 1190,
}
# Their demonstrations are the answer alone.
PLAIN = ('scitldr', 'squad')


class Judge:
  def judge(self, submissions):
    raise AssertionError('nothing is judged here')


@pytest.mark.parametrize(('name', 'split'), SIZES)
def test_demonstrations_of_real_files_score_correct(shared_dir, name, split):
  rows = benchmarks.load(name, split, shared_dir / 'data')
  assert len(rows) == SIZES[name, split]
  assert len({row['id'] for row in rows}) == len(rows)
  task = (
    tasks.TASKS[name]() if name in tasks.TASKS else coding.Coding(judge=Judge())
  )
  rows = rows[:: max(len(rows) // 100, 1)]
  for row in rows:
    assert task.prompt(row).endswith(':' if name in PLAIN else '\n')
    assert task.gold(row) in task.demonstration(row)
  if name in ('gsm8k', 'aqua', 'openbookqa', *PLAIN):
    for row in rows:
      assert task.score(row, task.demonstration(row)).correct


def test_math_answers_are_the_boxed_ones_of_the_solutions(shared_dir):
  """The training file's own `answer` has lost its \\text and its commas."""
  path = shared_dir / 'data' / 'math' / 'math500_test.jsonl'
  answers = [json.loads(x)['answer'] for x in path.read_text().splitlines()]
  rows = benchmarks.load('math', 'test', shared_dir / 'data')
  assert [row['answer'] for row in rows] == answers
  train = benchmarks.load('math', 'train', shared_dir / 'data')
  assert sum(row['answer'] == r'\text{Friday}' for row in train) == 1
  assert not any(row['answer'] == '{Friday}' for row in train)


def test_first_rows_of_real_files(shared_dir):
  first = lambda *args: benchmarks.load(*args, shared_dir / 'data')[0]
  gsm8k = first('gsm8k', 'train')
  assert gsm8k['answer'] == '72' and '<<' not in gsm8k['reasoning']
  assert gsm8k['reasoning'].startswith('Natalia sold 48/2 = 24 clips')
  math = first('math', 'test')
  assert math['answer'] == r'\left( 3, \frac{\pi}{2} \right)'
  assert (math['level'], math['subject']) == (2, 'Precalculus')
  book = first('openbookqa', 'test')
  assert book['answer'] == 'B' and book['options'][1] == 'quit eating lunch out'
  aqua = first('aqua', 'test')
  assert aqua['options'][0] == '5(√3 + 1)' and len(aqua['options']) == 5
  code = first('humaneval', 'test')
  assert code['entry_point'] == 'has_close_elements'
  assert 'def check(candidate)' in code['test']


def test_humaneval_test_includes_the_helpers_it_calls(shared_dir):
  """HumanEval/32, 38 and 50 call functions that their prompts define."""
  rows = benchmarks.load('humaneval', 'test', shared_dir / 'data')
  with_helpers = [
    i
    for i, row in enumerate(rows)
    if not row['test'].lstrip().startswith(('METADATA', 'def check'))
  ]
  assert with_helpers == [32, 38, 50]
  assert 'def poly(xs: list, x: float):' in rows[32]['test']
  assert 'def find_zero' not in rows[32]['test']


def test_both_formats_of_openbookqa_give_the_same_rows(shared_dir, monkeypatch):
  """The other file of the test questions has them in the same order."""
  file = 'openbookqa/llm_adapters_test.json'
  rows = benchmarks.load('openbookqa', 'test', shared_dir / 'data')
  monkeypatch.setitem(benchmarks.SPLITS, 'openbookqa', {'test': file})
  others = benchmarks.load('openbookqa', 'test', shared_dir / 'data')
  assert [r['answer'] for r in rows] == [r['answer'] for r in others]
  same = [
    a['question'] == b['question'] for a, b in zip(rows, others, strict=True)
  ]
  assert sum(same) > 490


def _write(folder, file, text):
  path = folder / file
  path.parent.mkdir(exist_ok=True, parents=True)
  data = text.encode() if isinstance(text, str) else text
  path.write_bytes(gzip.compress(data) if path.suffix == '.gz' else data)


@pytest.fixture
def unpinned(monkeypatch):
  monkeypatch.setattr(catalog, 'FILES', {})


KODCODE = {
  'question': 'Write f.',
  'solution': 'def f():\n  return 1\n',
  'test': 'from solution import f\n\ndef test_f():\n  assert f() == 1\n',
}


def test_kodcode_rows_of_both_spellings(tmp_path):
  info = {'test_info': [{'function_name': 'f'}]}
  text = '\n'.join(json.dumps(KODCODE | extra) for extra in ({}, info))
  _write(tmp_path, 'kodcode/train.jsonl', text)
  first, second = benchmarks.load('kodcode', 'train', tmp_path)
  assert first == {
    'id': 'kodcode/train.jsonl:1',
    'prompt': 'Write f.',
    'entry_point': '',
    'test': KODCODE['test'],
    'solution': KODCODE['solution'],
    'setup': '',
  }
  assert second['entry_point'] == 'f'


def test_instructions_with_their_paraphrases(tmp_path):
  """As in RobustAlpacaEval, whose rows have an index too."""
  row = {'instruction': ' Name it.\n', 'paraphrases': ['Say it.'], 'index': 0}
  _write(tmp_path, 'paraphrases/train.jsonl', json.dumps(row))
  assert benchmarks.load('paraphrases', 'train', tmp_path) == [
    {
      'id': 'paraphrases/train.jsonl:1',
      'prompt': 'Name it.',
      'paraphrases': ['Say it.'],
    }
  ]


def test_articles_by_their_titles(tmp_path, unpinned):
  text = ' \n = A = \n \n x = y \n = = B = = \n z \n = C = \n \n w \n'
  _write(tmp_path, 'wikitext-2/test.txt', text)
  first, second = benchmarks.load('wikitext-2', 'test', tmp_path)
  assert first == {
    'id': 'wikitext-2/test.txt:2',
    'text': '= A = \n \n x = y \n = = B = = \n z',
  }
  assert second == {'id': 'wikitext-2/test.txt:7', 'text': '= C = \n \n w'}
  _write(tmp_path, 'wikitext-2/test.txt', b'\xff\xfe')
  with pytest.raises(errors.UserError, match="test.txt: 'utf-8' codec"):
    benchmarks.load('wikitext-2', 'test', tmp_path)


def test_articles_of_wikitext(shared_dir):
  rows = benchmarks.load('wikitext-2', 'train', shared_dir / 'data')
  assert len(rows) == 60
  assert rows[0]['text'].startswith('= Homarus gammarus = \n')
  assert sum(len(row['text']) for row in rows) > 1_119_000


PARAGRAPH = {
  'context': ' c ',
  'qas': [{'question': 'q', 'answers': [{'text': 'x'}, {'text': 'x'}]}],
}


def test_questions_of_nested_articles(tmp_path, unpinned):
  article = {'title': 't', 'paragraphs': [PARAGRAPH, PARAGRAPH]}
  _write(tmp_path, 'squad/xquad.en.json', json.dumps({'data': [article]}))
  rows = benchmarks.load('squad', 'train', tmp_path)
  assert [row['id'] for row in rows] == [
    'squad/xquad.en.json:1',
    'squad/xquad.en.json:2',
  ]
  assert {k: v for k, v in rows[1].items() if k != 'id'} == {
    'title': 't',
    'context': 'c',
    'question': 'q',
    'references': ['x'],
  }


def test_abstracts_are_joined(tmp_path, unpinned):
  record = {'source': ['One.', ' Two.\n'], 'target': ['s', ' ', 's', 't']}
  _write(tmp_path, 'scitldr/test.jsonl', json.dumps(record))
  [row] = benchmarks.load('scitldr', 'test', tmp_path)
  assert (row['text'], row['references']) == ('One. Two.', ['s', 't'])


@pytest.mark.parametrize(
  ('text', 'message'),
  [
    ('{', 'not in the format of SQuAD 1.1'),
    ('[]', 'not an object'),
    ('{"data": 3}', "'data' must be a list"),
    ('{"data": [3]}', "'data' must contain objects"),
    ('{"data": [{"paragraphs": [{}], "title": ""}]}', "no 'context'"),
    ('{"data": []}', 'has no rows'),
    (
      json.dumps(
        {
          'data': [
            {'title': 't', 'paragraphs': [{'context': 'c', 'qas': ['q']}]}
          ]
        }
      ),
      "'qas' must contain objects",
    ),
    (
      json.dumps(
        {
          'data': [
            {
              'title': 't',
              'paragraphs': [
                {'context': 'c', 'qas': [{'question': 'q', 'answers': []}]}
              ],
            }
          ]
        }
      ),
      ':1: no text to compare with',
    ),
  ],
)
def test_malformed_articles_are_refused_in_one_line(
  tmp_path, unpinned, text, message
):
  _write(tmp_path, 'squad/xquad.en.json', text)
  with pytest.raises(errors.UserError, match=message) as caught:
    benchmarks.load('squad', 'train', tmp_path)
  assert '\n' not in str(caught.value)


GSM8K = json.dumps({'question': 'q', 'answer': 'r\n#### 1'})


AQUA = {'question': 'q', 'options': ['A)x'], 'correct': 'A', 'rationale': ''}
MBPP = {'task_id': 11, 'text': 't', 'test_list': ['assert 1'], 'code': ''}
MATH = {'problem': 'p', 'solution': 's', 'answer': '1'}
INFO = r"'test_info' must contain objects, got \[1\]"


@pytest.mark.parametrize(
  ('name', 'split', 'record', 'message'),
  [
    ('kodcode', 'train', KODCODE | {'test_info': {'f': 1}}, 'be a list'),
    ('kodcode', 'train', KODCODE | {'test_info': 'ab'}, 'be a list'),
    ('kodcode', 'train', KODCODE | {'test_info': [[1]]}, INFO),
    (
      'kodcode',
      'train',
      KODCODE | {'test_info': [{'function_name': ['f']}]},
      "'function_name' must be text",
    ),
    ('aqua', 'test', AQUA | {'options': [1]}, "'options' must be text"),
    ('aqua', 'test', AQUA | {'options': 'A)x'}, "'options' must be a list"),
    ('aqua', 'test', AQUA | {'correct': ['A']}, "'correct' must be text"),
    ('aqua', 'test', AQUA | {'correct': None}, "'correct' must be text"),
    ('mbpp', 'test', MBPP | {'task_id': '11'}, "'task_id' must be an integer"),
    ('mbpp', 'test', MBPP | {'task_id': [1]}, "'task_id' must be an integer"),
    ('mbpp', 'test', MBPP | {'test_list': []}, "'test_list' is empty"),
    ('mbpp', 'test', MBPP | {'test_list': 'assert'}, "'test_list' must be a"),
    ('mbpp', 'test', MBPP | {'test_imports': 5}, "'test_imports' must be a"),
    ('mbpp', 'test', MBPP | {'test_imports': [5]}, "'test_imports' must be"),
    ('mbpp', 'test', MBPP | {'test_setup_code': 5}, 'must be text'),
    ('math', 'test', MATH | {'answer': ['1']}, "'answer' must be text"),
    ('math', 'test', MATH | {'subject': {}}, "'subject' must be text"),
    ('paraphrases', 'train', {'instruction': 'a', 'paraphrases': []}, 'empty'),
    (
      'paraphrases',
      'train',
      {'instruction': 'a', 'paraphrases': 'b'},
      'a list',
    ),
    ('paraphrases', 'train', {'paraphrases': ['b']}, "no 'instruction'"),
    ('gsm8k', 'test', {'question': '\ud800', 'answer': '#### 1'}, 'surrogate'),
  ],
)
def test_fields_of_the_wrong_type_are_refused_in_one_line(
  unpinned, tmp_path, name, split, record, message
):
  _write(tmp_path, benchmarks.SPLITS[name][split], json.dumps(record))
  with pytest.raises(errors.UserError, match=f':1: .*{message}') as caught:
    benchmarks.load(name, split, tmp_path)
  assert '\n' not in str(caught.value) and len(str(caught.value)) < 500


def test_mbpp_record_without_task_id_is_refused(unpinned, tmp_path):
  record = {k: v for k, v in MBPP.items() if k != 'task_id'}
  _write(tmp_path, 'mbpp/mbpp.jsonl', json.dumps(record))
  with pytest.raises(errors.UserError, match=":1: no 'task_id'"):
    benchmarks.load('mbpp', 'test', tmp_path)


@pytest.mark.parametrize(
  ('name', 'split', 'text', 'message'),
  [
    ('gsm8k', 'train', GSM8K + '\n{', ':2: not JSON'),
    ('gsm8k', 'train', GSM8K + '\n"a"', ':2: '),
    ('gsm8k', 'train', '{"question": "q"}', ":1: no 'answer'"),
    ('gsm8k', 'train', '{"question": "q", "answer": 3}', 'must be text'),
    ('gsm8k', 'train', '{"question": "q", "answer": "3"}', '#### NUMBER'),
    ('gsm8k', 'train', GSM8K.replace('"q"', f'"{"q" * 2**16}x"'), '65536'),
    ('gsm8k', 'train', ' ' * (json_rows.MAX_LINE_BYTES + 1), 'a line of more'),
    ('gsm8k', 'train', '', 'has no rows'),
    ('gsm8k', 'train', '[' * 10**5, 'not JSON'),
    ('gsm8k', 'train', b'\xff\xfe', 'not JSON'),
    ('math', 'train', b'not gzip', 'not JSON|gzip'),
    (
      'aqua',
      'test',
      '{"question": "q", "options": ["x"], "correct": "A", "rationale": ""}',
      'does not start with A',
    ),
    (
      'aqua',
      'test',
      '{"question": "q", "options": ["A)x"], "correct": "B", "rationale": ""}',
      'is not an option',
    ),
    ('openbookqa', 'train', '[{"instruction": "x", "answer": "y"}]', 'four'),
    ('kodcode', 'train', json.dumps(KODCODE | {'test': 'def'}), 'not Python'),
    ('mbpp', 'test', '{"text": "t", "test_list": [], "code": ""}', ':1: '),
  ],
)
def test_malformed_files_are_refused_in_one_line(
  unpinned, tmp_path, name, split, text, message
):
  file = benchmarks.SPLITS[name][split]
  _write(tmp_path, file, text)
  if text == b'not gzip':
    (tmp_path / file).write_bytes(text)
  with pytest.raises(errors.UserError, match=message) as caught:
    benchmarks.load(name, split, tmp_path)
  assert '\n' not in str(caught.value) and len(str(caught.value)) < 500


def test_missing_split_or_file_is_refused(tmp_path):
  with pytest.raises(errors.UserError, match='splits: train, test$'):
    benchmarks.load('gsm8k', 'validation', tmp_path)
  with pytest.raises(errors.UserError, match='splits: none'):
    benchmarks.load('chess', 'train', tmp_path)
  with pytest.raises(errors.UserError, match='data.download --task gsm8k'):
    benchmarks.load('gsm8k', 'train', tmp_path)
  with pytest.raises(errors.UserError, match='copy it there yourself'):
    benchmarks.load('kodcode', 'train', tmp_path)
  _write(tmp_path, 'gsm8k/train.jsonl', GSM8K)
  with pytest.raises(errors.UserError, match='another version'):
    benchmarks.load('gsm8k', 'train', tmp_path)
