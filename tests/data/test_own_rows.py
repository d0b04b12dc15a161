"""Rows of one's own: what a file may hold, what is refused or held out."""

import json

import pytest

from dllm_jax import errors
from dllm_jax.data import own_rows, sources
from dllm_jax.tasks import rows
from tests import tiny_rows

TALK = rows.make_task()


def files(place, records, test=None, held_out=0.25):
  train = tiny_rows.write(place / 'train.jsonl', records)
  if test is not None:
    test = tiny_rows.write(place / 'test.jsonl', test)
  return own_rows.Files(
    train=str(train), test=str(test or ''), held_out=held_out
  )


def every(task, place, *records):
  """All rows of a file by their line, without their ids."""
  found = own_rows.load(task, files(place, records))
  by_line = {
    int(row['id'].rpartition(':')[2]): row
    for row in found['train'] + found['test']
  }
  assert sorted(by_line) == list(range(1, len(records) + 1))
  return [
    {k: v for k, v in by_line[i].items() if k != 'id'} for i in sorted(by_line)
  ]


def test_conversations_by_hand(tmp_path):
  talk = tiny_rows.messages('system: s', 'user: a', 'assistant: b\n')
  got = every(
    TALK,
    tmp_path,
    {'prompt': ' q ', 'completion': 'c\r\nd', 'source': 'kept out'},
    {'messages': talk, 'id': 7},
  )
  assert got == [
    {'messages': tiny_rows.messages('user:  q ', 'assistant: c\nd')},
    {'messages': talk},
  ]


def test_problems_by_hand(tmp_path):
  first = {'prompt': 'p', 'answer': 12, 'level': 3}
  second = {'prompt': 'q', 'answer': ' 1,080 ', 'completion': 'so'}
  got = every(rows.make_task(verifier='number'), tmp_path, first, second)
  asked = lambda p, a: {'question': p, 'reasoning': '', 'answer': a}
  assert got == [
    {**asked('p', '12'), 'completion': '', 'record': first},
    {**asked('q', ' 1,080 '), 'completion': 'so', 'record': second},
  ]
  [one, _] = every(rows.make_task(verifier='math'), tmp_path, first, second)
  assert (one['problem'], one['answer'], one['solution']) == ('p', '12', '')
  code = {'prompt': 'p', 'answer': 'f = 1', 'test': 'assert f', 'n': 0}
  bare = {'prompt': 'q', 'test': 'assert g', 'entry_point': 'g'}
  one, two = every(rows.make_task(verifier='code'), tmp_path, code, bare)
  assert (one['prompt'], one['solution'], one['test']) == (
    'p',
    'f = 1',
    'assert f',
  )
  assert (two['solution'], two['entry_point']) == ('', 'g')


def test_a_share_is_held_out_by_what_is_asked(tmp_path):
  """Not by the order of the lines, nor by the answers."""
  talk = [
    {'prompt': f'ask {i // 2}', 'completion': f'say {i}'} for i in range(80)
  ]
  found = own_rows.load(TALK, files(tmp_path, talk))
  assert found['validation'] == found['test'] and len(found['test']) == 20
  assert len(found['train']) == 60
  question = lambda row: row['messages'][0]['content']
  held = {question(row) for row in found['test']}
  assert len(held) == 10 and not held & set(map(question, found['train']))
  (tmp_path / 'b').mkdir()
  other = [{**row, 'completion': 'x' + row['completion']} for row in talk[::-1]]
  again = own_rows.load(TALK, files(tmp_path / 'b', other))
  assert {question(row) for row in again['test']} == held


def test_a_test_file_is_the_test_split(tmp_path):
  talk = [{'prompt': f'{i}', 'completion': 'a'} for i in range(8)]
  test = [{'prompt': 'x', 'completion': 'a'}]
  found = own_rows.load(TALK, files(tmp_path, talk, test))
  assert [row['id'] for row in found['test']] == [f'{tmp_path}/test.jsonl:1']
  assert len(found['train']) == 6 and len(found['validation']) == 2
  with pytest.raises(errors.UserError) as caught:
    own_rows.load(
      TALK, files(tmp_path, talk, [*test, {'prompt': ' 3 ', 'completion': 'b'}])
    )
  line = str(caught.value)
  assert 'train.jsonl:4 asks what' in line and 'test.jsonl:2 asks' in line


def test_questions_that_differ_by_a_sign_are_two(tmp_path):
  talk = [{'prompt': f'{i}!', 'completion': 'a'} for i in range(8)]
  test = [{'prompt': '3', 'completion': 'a'}]
  assert len(own_rows.load(TALK, files(tmp_path, talk, test))['test']) == 1


def test_a_large_share_leaves_a_row(tmp_path):
  talk = [{'prompt': f'{i}', 'completion': 'a'} for i in range(3)]
  made = files(tmp_path, talk, held_out=0.9)
  assert len(own_rows.load(TALK, made)['train']) == 1


def test_a_function_reads_answers_of_any_form(tmp_path):
  task = rows.Problems(verifier='math:gcd')
  of = lambda answer: {'prompt': f'{answer}', 'answer': answer}
  for answer, gold in ((0, '0'), ([1, 2], ''), (True, ''), ('x', 'x')):
    [one, _] = every(task, tmp_path, of(answer), of('other'))
    assert (one['answer'], one['record']['answer']) == (gold, answer)
    assert task.has_answer(one) == bool(gold)


def test_a_file_that_changes_is_read_again(tmp_path):
  talk = [{'prompt': f'{i}', 'completion': 'a'} for i in range(8)]
  made = files(tmp_path, talk)
  first = sources.digests(TALK, data_dir='', cache_dir=tmp_path, files=made)
  assert first == sources.digests(
    TALK, data_dir='', cache_dir=tmp_path, files=made
  )
  made = files(tmp_path, [*talk, {'prompt': 'new', 'completion': 'a'}])
  second = sources.digests(TALK, data_dir='', cache_dir=tmp_path, files=made)
  assert set(first) == set(second) == {'train', 'validation', 'test'}
  assert first != second


def message(role, content, **more):
  return {'role': role, 'content': content, **more}


ASK, SAY = message('user', 'a'), message('assistant', 'b')


@pytest.mark.parametrize(
  ('record', 'line'),
  [
    ({}, 'expected "messages", or "prompt" and "completion"'),
    ({'prompt': 'a', 'messages': []}, 'expected "messages", or'),
    ({'prompt': 'a', 'answer': 'b'}, "no 'completion'"),
    ({'prompt': 'a', 'completion': 3}, "'completion' must be text, got 3"),
    ({'prompt': ' ', 'completion': 'b'}, "'prompt' is empty"),
    ({'prompt': 'a', 'completion': '\n'}, "'completion' is empty"),
    ({'prompt': 'a' * 70_000, 'completion': 'b'}, 'more than 65536 characters'),
    ({'prompt': '\ud800', 'completion': 'b'}, 'an unpaired surrogate'),
    ({'messages': 'a'}, "'messages' must be a list"),
    ({'messages': []}, "the last of 'messages' must be the assistant's"),
    ({'messages': [ASK]}, "the last of 'messages' must be the assistant's"),
    ({'messages': [SAY]}, "no message of the user's precedes"),
    ({'messages': [ASK, 'b']}, 'message 2: expected "role" and "content"'),
    ({'messages': [{'role': 'user'}, SAY]}, "message 1: no 'content'"),
    ({'messages': [ASK, {'content': 'b'}]}, "message 2: no 'role'"),
    (
      {'messages': [message('bot', 'a'), SAY]},
      "message 1: role 'bot': expected one of system, user, assistant",
    ),
    ({'messages': [ASK, message('assistant', '')]}, "2: 'content' is empty"),
    (
      {'messages': [ASK, message('assistant', 'b', tool_calls=[])]},
      "message 2: 'tool_calls' would not be learnt",
    ),
  ],
)
def test_wrong_conversations_name_the_line(tmp_path, record, line):
  good = [{'prompt': f'{i}', 'completion': 'b'} for i in range(2)]
  with pytest.raises(errors.UserError) as caught:
    own_rows.load(TALK, files(tmp_path, [*good, record]))
  text = str(caught.value)
  assert text.startswith(f'{tmp_path}/train.jsonl:3: ') and line in text
  assert '\n' not in text


@pytest.mark.parametrize(
  ('verifier', 'record', 'line'),
  [
    ('exact', {'prompt': 'a'}, "'answer' must be text, got None"),
    ('exact', {'prompt': 'a', 'answer': ' '}, "'answer' is empty"),
    ('exact', {'prompt': 'a', 'answer': True}, "'answer' must be text"),
    ('exact', {'answer': 'b'}, "no 'prompt'"),
    ('exact', {'prompt': 'a', 'answer': 'b', 'x': float('nan')}, 'JSON comp'),
    ('number', {'prompt': 'a', 'answer': '1 or 2'}, 'must be one number'),
    ('number', {'prompt': 'a', 'answer': float('inf')}, 'compliant'),
    ('math', {'prompt': 'a', 'answer': ['b']}, "'answer' must be text"),
    ('code', {'prompt': 'a', 'answer': 'b'}, "no 'test'"),
    ('code', {'prompt': 'a', 'test': 'assert ('}, "'test' is not Python"),
    ('math:sqrt', {'prompt': 'a', 'answer': 3, 'completion': 4}, 'completion'),
  ],
)
def test_wrong_problems_name_the_line(tmp_path, verifier, record, line):
  task = rows.make_task(verifier=verifier)
  good = {'prompt': 'x', 'answer': '1', 'test': 'assert f'}
  with pytest.raises(errors.UserError) as caught:
    own_rows.load(task, files(tmp_path, [good, record]))
  text = str(caught.value)
  assert text.startswith(f'{tmp_path}/train.jsonl:2: ') and line in text
  assert '\n' not in text


def test_wrong_files_are_one_line(tmp_path):
  def refused(text):
    (tmp_path / 'own.jsonl').write_text(text)
    made = own_rows.Files(train=f'{tmp_path}/own.jsonl', test='', held_out=0.5)
    with pytest.raises(errors.UserError) as caught:
      own_rows.load(TALK, made)
    assert '\n' not in str(caught.value)
    return str(caught.value).removeprefix(f'{tmp_path}/own.jsonl')

  one = json.dumps({'prompt': 'a', 'completion': 'b'})
  assert refused('') == ' has no rows; one JSON object a line'
  assert refused(f'{one}\n\n{{').startswith(':3: not JSON')
  assert refused(f'{one}\n[]\n').startswith(':2: not a JSON object')
  assert refused(f'{one}\n\n{one}\n') == (
    ':3 is the row of line 1 again: remove one'
  )
  assert refused(one).startswith(':1 is the only row of its file')
  with pytest.raises(errors.UserError, match='cannot read .*nowhere'):
    own_rows.load(TALK, own_rows.Files(train='nowhere', test='', held_out=0.5))
