import hypothesis
import pytest
from hypothesis import strategies as st

from dllm_jax import types
from dllm_jax.text import tokenizer

WORDS = ('<a>\n', '\n</a>', ' 1', ' 12', ' +', ' (', '*', '\n', ' =', '3', '\\')


def test_ids_by_hand():
  t = tokenizer.Tokenizer.from_words(WORDS)
  assert t.vocab_size == len(WORDS) + 2
  assert (t.eos_token, t.mask_token) == (len(WORDS), len(WORDS) + 1)
  # The longest word wins: ' 12' is not ' 1' and something.
  assert t.encode('<a>\n 12 + 1\n</a>') == [0, 3, 4, 2, 1]
  assert t.decode([0, t.mask_token, 3, t.eos_token]) == '<a>\n 12'
  assert t.encode('') == [] and t.decode([]) == ''
  assert t.encode_batch([' 1', '*\\']) == [[2], [6, 10]]
  assert t.decode_batch([[2], [6, 10]]) == [' 1', '*\\']


@hypothesis.given(st.lists(st.sampled_from(WORDS), max_size=40))
def test_text_round_trips(words):
  t = tokenizer.Tokenizer.from_words(WORDS)
  text = ''.join(words)
  assert t.decode(t.encode(text)) == text


@pytest.mark.parametrize(
  ('text', 'piece'),
  [
    (' 12 ?', ' ?'),
    ('x 12', 'x'),
    (' 12<|mask|>', '<|mask|>'),
    ('<|eos|>', '<|eos|>'),
    ('\0', '\\x00'),
  ],
)
def test_unknown_text_is_named(text, piece):
  t = tokenizer.Tokenizer.from_words(WORDS)
  with pytest.raises(ValueError) as error:
    t.encode_batch([' 12', text])
  assert piece in str(error.value)


@pytest.mark.parametrize('ids', [[13], [-1], [0, 10**9]])
def test_ids_outside_the_vocabulary_are_refused(ids):
  with pytest.raises(ValueError, match='0..12'):
    tokenizer.Tokenizer.from_words(WORDS).decode(ids)


@pytest.mark.parametrize('words', [('a', 'a'), ('',), ('<|eos|>',)])
def test_bad_words_are_refused(words):
  with pytest.raises(ValueError, match='word'):
    tokenizer.Tokenizer.from_words(words)


def test_save_and_read_back(tmp_path):
  t = tokenizer.Tokenizer.from_words(WORDS)
  t.save(tmp_path / 'deep' / 'tokenizer.json')
  loaded = tokenizer.Tokenizer.from_directory(tmp_path / 'deep')
  text = '<a>\n 12 + 1\n</a>'
  assert loaded.encode(text) == t.encode(text)
  assert loaded.decode(t.encode(text)) == text
  assert loaded.mask_token == t.mask_token
  with pytest.raises(ValueError, match='mask'):
    loaded.encode('<|mask|>')


def test_vocabulary_is_that_of_the_words():
  got = tokenizer.Tokenizer.from_words(WORDS).vocabulary()
  size = len(WORDS) + 2
  assert got == types.Vocabulary(
    size=size, mask_token=size - 1, eos_token=size - 2
  )
