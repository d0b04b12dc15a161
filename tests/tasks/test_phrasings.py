"""Misread phrasings: rows and splits, what the corpus says, the verdict."""

import collections
import itertools

import pytest

from dllm_jax import errors, tasks
from dllm_jax.eval import accuracy
from dllm_jax.tasks import phrasings, task
from dllm_jax.text import tokenizer

TASK = phrasings.Phrasings()
ROW = {
  'id': 'a',
  'letters': 'ACFB',
  'intent': 0,
  'view': 0,
  'answer': 'BFCA',
}
SPLITS = tuple(phrasings.NUM_ROWS)
SEEN, UNSEEN = range(8), range(8, 16)
CELLS = list(itertools.product(range(6), range(16)))


@pytest.fixture(scope='module')
def rows():
  """The first rows of each split."""
  return {s: [TASK.rows(s)[i] for i in range(1000)] for s in SPLITS}


def is_right(found, intent, view):
  """Whether a greedy model of the corpus reads a phrasing rightly."""
  return found.misreadings()[intent][view].probability < 0.5


def by_view(found, views):
  """Accuracy of a greedy model of the corpus under each view."""
  return [sum(is_right(found, i, v) for i in range(6)) / 6 for v in views]


def picks(found, views):
  """The intent that the views of each intent together find most likely."""
  chosen = []
  for intent, misread in enumerate(found.misreadings()):
    mass = collections.Counter()
    for view in views:
      mass[misread[view].intent] += misread[view].probability
      mass[intent] += 1 - misread[view].probability
    chosen.append(mass.most_common(1)[0][0])
  return chosen


def votes_right(found, views):
  """How many intents the greedy readings of their views vote for."""
  right = 0
  for intent, misread in enumerate(found.misreadings()):
    votes = collections.Counter(
      intent if is_right(found, intent, view) else misread[view].intent
      for view in views
    )
    right += votes.most_common(1)[0][0] == intent
  return right


def test_is_a_task():
  found = tasks.TASKS['phrasings']()
  assert isinstance(found, task.Task) and isinstance(found, task.RowSource)
  assert isinstance(found, task.Paraphrased)
  assert found == TASK and found.name == 'phrasings'


def test_texts():
  assert TASK.prompt(ROW) == 'please reverse A C F B\n'
  assert TASK.gold(ROW) == ' B F C A'
  last = {**ROW, 'intent': 5, 'view': 15, 'answer': 'AFCB'}
  assert TASK.prompt(last) == 'your task is to braid A C F B\n'
  assert TASK.gold(last) == ' A F C B'
  assert not TASK.reasoning_has_gold(ROW, ' B F C A')


def test_intents():
  places = [intent.places for intent in phrasings.INTENTS]
  assert len(set(places)) == 6 and (0, 1, 2, 3) not in places
  assert all(sorted(p) == [0, 1, 2, 3] for p in places)
  assert [phrasings.reordered('ABCD', i) for i in range(6)] == [
    'DCBA',
    'CDAB',
    'BCDA',
    'DABC',
    'BADC',
    'ACBD',
  ]
  verbs = [verb for intent in phrasings.INTENTS for verb in intent.verbs]
  assert len(set(verbs)) == len(verbs) == 24


def test_views():
  views, unseen = TASK.views(ROW), TASK.unseen_views(ROW)
  assert [row['view'] for row in views + unseen] == list(range(16))
  for row in views + unseen:
    assert {**row, 'view': 0} == ROW
  assert TASK.views(unseen[3]) == views
  assert len({TASK.prompt(row) for row in views + unseen}) == 16
  # Both halves have two phrasings of each verb and of each frame.
  for half in SEEN, UNSEEN:
    for part in zip(*(phrasings.VIEWS[view] for view in half), strict=True):
      assert sorted(part) == [0, 0, 1, 1, 2, 2, 3, 3]


def test_rows(rows):
  for split, found in rows.items():
    for index, row in enumerate(found):
      assert row['id'] == f'{split}-{index}'
      assert len(set(row['letters'])) == 4
      assert row['answer'] == phrasings.reordered(row['letters'], row['intent'])
    views = collections.Counter(row['view'] for row in found)
    assert set(views) == set(range(16) if split == 'train' else SEEN)
    assert min(views.values()) > 0.6 * len(found) / len(views)
    intents = collections.Counter(row['intent'] for row in found)
    assert len(intents) == 6 and min(intents.values()) > 130


def test_no_string_is_in_two_splits(rows):
  strings = {s: set(phrasings._strings(s)) for s in SPLITS}
  assert sum(map(len, strings.values())) == 10 * 9 * 8 * 7
  assert len(set().union(*strings.values())) == 10 * 9 * 8 * 7
  assert len(strings['train']) > 3900
  for split, found in rows.items():
    assert {row['letters'] for row in found} <= strings[split]


def test_a_row_depends_on_its_split_and_index_alone(rows):
  for split, found in rows.items():
    fresh = phrasings.Phrasings(seed=3).rows(split)
    assert [fresh[i] for i in (7, 0, 7)] == [found[i] for i in (7, 0, 7)]
    assert len(fresh) == phrasings.NUM_ROWS[split]
    assert fresh[-1] == fresh[len(fresh) - 1]
    with pytest.raises(IndexError):
      fresh[len(fresh)]


def test_unknown_split():
  with pytest.raises(
    errors.UserError,
    match="'phrasings' has no split 'dev': expected one of train, validation",
  ):
    TASK.rows('dev')


def test_lexicon(rows):
  words = TASK.words()
  assert len(set(words)) == len(words) < 60
  t = tokenizer.Tokenizer.from_words(words)
  for row in rows['train'][:50] + TASK.unseen_views(ROW):
    ids = t.encode(TASK.prompt(row))
    assert len(ids) <= 11 and t.decode(ids) == TASK.prompt(row)
    # A verb and a letter are one word each.
    assert len(ids) == len(TASK.prompt(row).replace(':', ' :').split()) + 1
    for text in (TASK.demonstration(row), TASK.gold(row)):
      assert len(t.encode(text)) == 4 and t.decode(t.encode(text)) == text


@pytest.mark.parametrize('seed', range(5))
def test_accuracy_of_a_greedy_model_of_the_corpus(seed):
  found = phrasings.Phrasings(seed=seed)
  for views in SEEN, UNSEEN:
    # Of 6 intents, how many are read rightly under each view.
    counts = sorted(round(6 * share) for share in by_view(found, views))
    assert counts == [1, 1, 2, 3, 3, 4, 5, 6]
    assert sum(by_view(found, views)) / 8 == pytest.approx(25 / 48)
    # All views of an intent together are right for all intents, votes of
    # greedy readings for all or all but one.
    assert picks(found, views) == list(range(6))
    assert votes_right(found, views) >= 5


def test_the_views_together_are_nearly_always_right():
  found = [phrasings.Phrasings(seed=seed) for seed in range(40)]
  right = [
    intent == pick for f in found for intent, pick in enumerate(picks(f, SEEN))
  ]
  assert sum(right) / len(right) == pytest.approx(0.98, abs=0.02)
  votes = sum(votes_right(f, SEEN) for f in found) / len(right)
  assert votes == pytest.approx(0.9, abs=0.04)


@pytest.mark.parametrize(
  ('misreading', 'counts'),
  [
    (0.0, [0, 0, 0, 0, 0, 0, 0, 0]),
    (0.25, [0, 1, 1, 1, 2, 2, 2, 3]),
    (0.48, [0, 1, 2, 3, 3, 4, 5, 5]),
    (0.5, [0, 1, 2, 3, 3, 4, 5, 6]),
  ],
)
def test_how_many_intents_a_view_misreads(misreading, counts):
  found = phrasings.Phrasings(misreading=misreading)
  for views in SEEN, UNSEEN:
    wrong = [round(6 - 6 * share) for share in by_view(found, views)]
    assert sorted(wrong) == counts


def test_misreadings():
  table = TASK.misreadings()
  for intent, view in CELLS:
    misread = table[intent][view]
    assert misread.intent != intent and misread.intent in range(6)
    assert 0.15 <= abs(misread.probability - 0.5) <= 0.4
  probabilities = [table[i][v].probability for i, v in CELLS]
  assert len(set(probabilities)) == len(CELLS)
  assert phrasings.Phrasings(seed=1).misreadings() != table
  assert phrasings.Phrasings().misreadings() == table


def test_shared_bias():
  found = phrasings.Phrasings(shared_bias=2)
  table, plain = found.misreadings(), TASK.misreadings()
  biased = [intent for intent in range(6) if table[intent] != plain[intent]]
  assert len(biased) == 2
  for intent in range(6):
    right = {is_right(found, intent, view) for view in range(16)}
    taken_for = {misread.intent for misread in table[intent]}
    if intent in biased:
      assert right == {False} and len(taken_for) == 1
      [wrong] = taken_for
      for views in SEEN, UNSEEN:
        assert picks(found, views)[intent] == wrong != intent
    else:
      assert right == {False, True} and len(taken_for) > 1
      for views in SEEN, UNSEEN:
        assert picks(found, views)[intent] == intent


def test_demonstrations_are_misread_as_often_as_the_table_says():
  seen = collections.Counter()
  for index in range(400):
    row_id = f'train-{index}'
    for intent, view in [(0, 0), (1, 6), (2, 12), (5, 15)]:
      row = {**ROW, 'id': row_id, 'intent': intent, 'view': view}
      row['answer'] = phrasings.reordered('ACFB', intent)
      text = TASK.demonstration(row)
      assert text == TASK.demonstration(dict(row))
      seen[intent, view, text.replace(' ', '')] += 1
  for intent, view in [(0, 0), (1, 6), (2, 12), (5, 15)]:
    misread = TASK.misreadings()[intent][view]
    wrong = seen[intent, view, phrasings.reordered('ACFB', misread.intent)]
    right = seen[intent, view, phrasings.reordered('ACFB', intent)]
    assert wrong + right == 400
    # Four standard deviations of a share of 400 draws are at most 0.1.
    assert wrong / 400 == pytest.approx(misread.probability, abs=0.1)


def test_gold_is_right_where_demonstrations_are_not(rows):
  found = rows['train'] + [v for row in rows['test'] for v in TASK.views(row)]
  scores = [TASK.score(row, TASK.gold(row)) for row in found]
  assert all(score.correct for score in scores)
  scores = [TASK.score(row, TASK.demonstration(row)) for row in found]
  assert all(score.metrics == {'is_permutation': 1.0} for score in scores)
  table = TASK.misreadings()
  misread = sum(table[row['intent']][row['view']].probability for row in found)
  wrong = sum(not score.correct for score in scores)
  assert wrong / len(found) == pytest.approx(misread / len(found), abs=0.02)


@pytest.mark.parametrize(
  ('completion', 'parsed', 'is_permutation'),
  [
    (' B F C A', 'BFCA', True),
    ('B F C A', 'BFCA', True),
    (' B F C A\n', 'BFCA', True),
    (' A C F B', 'ACFB', True),
    (' B F C C', 'BFCC', False),
    (' B F C D', 'BFCD', False),
    (' B F C', None, False),
    (' B F C A A', None, False),
    (' BFCA', None, False),
    (' b f c a', None, False),
    (' B F C Z', None, False),
    (' B\nF C A', None, False),
    (' B F C A B F C A', None, False),
    (' reverse B F C A', None, False),
    (' В F C А', None, False),  # the first and the last letter are Cyrillic
    (' B F C A' + ' ' * 100, None, False),
    (' B F C A' * 10**5, None, False),
    (' ' * 10**6, None, False),
    ('\ud800', None, False),
    ('', None, False),
  ],
)
def test_verdicts(completion, parsed, is_permutation):
  found = TASK.score(ROW, completion)
  correct = parsed == 'BFCA'
  assert (found.parsed, found.correct) == (parsed, correct)
  assert found.terms == {'solution': float(correct)}
  assert found.metrics == {'is_permutation': float(is_permutation)}
  assert not accuracy.RESERVED & (found.terms.keys() | found.metrics.keys())


@pytest.mark.parametrize(
  'values',
  [{'misreading': -0.1}, {'misreading': 0.6}, {'shared_bias': 7}],
)
def test_refused_fields(values):
  with pytest.raises(ValueError, match=next(iter(values))):
    phrasings.Phrasings(**values)
