"""Tokenizers of Hugging Face directories, the real ones and tiny ones."""

import gzip
import json
import shutil

import pytest
import tokenizers

from dllm_jax import errors, types
from dllm_jax.text import tokenizer, tokenizer_json
from tests import tiny_text

Tokenizer = tokenizer.Tokenizer


@pytest.fixture
def dream(shared_dir):
  return tiny_text.dream(shared_dir)


@pytest.fixture
def dream_dir(shared_dir, tmp_path):
  return tiny_text.dream_dir(shared_dir, tmp_path / 'dream')


def questions(shared_dir, count=200):
  """Texts of GSM8K, MATH and HumanEval."""
  data = shared_dir / 'data'
  read = lambda file: [json.loads(next(file)) for _ in range(count)]
  with (data / 'gsm8k' / 'test.jsonl').open() as file:
    yield from (row['question'] + row['answer'] for row in read(file))
  with (data / 'math' / 'math500_test.jsonl').open() as file:
    yield from (row['problem'] for row in read(file))
  count = 164
  with gzip.open(data / 'humaneval' / 'HumanEval.jsonl.gz', 'rt') as file:
    yield from (row['prompt'] for row in read(file))


def test_dream_from_vocabulary_and_merges(dream):
  assert dream.special == tokenizer.special.SpecialTokens(
    mask=151666, eos=151643, pad=151643, bos=151665, stop=(151643, 151645)
  )
  assert dream.vocab_size == 151667
  assert dream.vocabulary() == types.Vocabulary(
    size=151667, mask_token=151666, eos_token=151643, stop_tokens=(151645,)
  )
  dream.check_rows(152064, 'Dream')
  with pytest.raises(errors.UserError, match='151667 ids.* has 151666 rows'):
    dream.check_rows(151666, 'Dream')
  # Ids that are published for Qwen2.
  assert dream.encode('Hello world!') == [9707, 1879, 0]
  text = 'You are a helpful assistant.'
  assert dream.encode(text) == [2610, 525, 264, 10950, 17847, 13]
  assert dream.encode('system\nuser\nassistant') == [
    8948, 198, 872, 198, 77091
  ]  # fmt: skip
  # One digit a token, and composed characters (NFC).
  assert len(dream.encode('2024')) == 4
  assert dream.encode('e\u0301') == dream.encode('\u00e9')


def test_gpt2(shared_dir, tmp_path):
  source = shared_dir / 'data' / 'tokenizers' / 'gpt2' / 'tokenizer.json'
  got = Tokenizer.from_directory(source.parent)
  assert got.special.eos == 50256 and got.mask_token is None
  assert got.vocab_size == 50257
  assert got.encode('Hello, my dog is cute') == [
    15496, 11, 616, 3290, 318, 13779
  ]  # fmt: skip
  for text in questions(shared_dir, 50):
    assert got.decode(got.encode(text)) == text
  # A mask id beyond the tokenizer's gets a token; from files of the model's
  # own the same tokenizer is built.
  document = json.loads(source.read_text('utf-8'))
  vocab = dict(document['model']['vocab'])
  tiny_text.write_json(tmp_path / 'vocab.json', vocab)
  (tmp_path / 'merges.txt').write_text(
    '#version: 0.2\n' + '\n'.join(document['model']['merges']) + '\n', 'utf-8'
  )
  tiny_text.write_json(
    tmp_path / 'tokenizer_config.json', {'tokenizer_class': 'GPT2Tokenizer'}
  )
  tiny_text.write_json(
    tmp_path / 'config.json', {'vocab_size': 50304, 'mask_token_id': 50259}
  )
  built = Tokenizer.from_directory(tmp_path)
  assert built.mask_token == 50259 and built.vocab_size == 50260
  for text in questions(shared_dir, 50):
    assert built.encode(text) == got.encode(text)
  assert built.decode([15496, 50259, 50258]) == 'Hello'


def test_real_prompts_round_trip(dream, shared_dir):
  texts = list(questions(shared_dir))
  assert len(texts) == 564
  rows = dream.encode_batch(texts)
  assert dream.decode_batch(rows) == texts
  assert max(map(max, rows)) < 151643


def test_llada_manner(tmp_path):
  got = Tokenizer.from_directory(tiny_text.tiny_dir(tmp_path))
  assert got.special == tokenizer.special.SpecialTokens(
    mask=19, eos=18, pad=18, bos=21, stop=(18, 20)
  )
  # ab merges before ' a' does.
  assert got.encode('abc abc ac') == [16, 14, 16, 17, 2]
  assert got.decode([16, 14, 19, 16, 18, 17, 2, 20]) == 'abc abc ac'


@pytest.mark.parametrize(
  'name', ['<|endoftext|>', '<|mdm_mask|>', '<|eot_id|>', '<|b|>']
)
def test_text_cannot_spell_a_special_token(tmp_path, dream, name):
  tiny = Tokenizer.from_directory(tiny_text.tiny_dir(tmp_path))
  got = set(tiny.encode(f'a{name}b'))
  assert got and not got & tiny.special.ids()
  for name in ('<|im_start|>', '<|im_end|>', '<|mask|>', '<|beginoftext|>'):
    ids = dream.encode(f'a{name}b')
    assert max(ids) < 151643 and dream.decode(ids) == f'a{name}b'


def test_a_mask_that_its_file_calls_ordinary_is_special(tmp_path):
  document = tiny_text.tiny_json()
  document['added_tokens'][1]['special'] = False
  got = Tokenizer.from_directory(
    tiny_text.tiny_dir(tmp_path, document=document)
  )
  assert got.mask_token == 19 and 19 not in got.encode('a<|mdm_mask|>')


def test_gaps_between_added_tokens_are_filled(dream, tmp_path):
  # Qwen2.5 has 19 tokens between <|im_end|> and <|beginoftext|>.
  got = dream
  assert got.decode([151657]) == '<tool_call>'  # not special: it is text
  assert got.encode('<tool_call>') == [151657]
  assert got.decode([151650, 151666]) == ''
  config = {'added_tokens_decoder': tiny_text.added_tokens({9000: ('x', True)})}
  with pytest.raises(errors.UserError, match='id 9000, far beyond'):
    Tokenizer.from_directory(tiny_text.tiny_dir(tmp_path, config=config))


def test_the_other_places_of_added_and_special_tokens(tmp_path):
  path = tiny_text.tiny_dir(tmp_path, config={'eos_token': None})
  tiny_text.write_json(path / 'special_tokens_map.json', {'eos_token': '<|x|>'})
  tiny_text.write_json(path / 'added_tokens.json', {'<|x|>': 24})
  tiny_text.write_json(path / 'generation_config.json', {'eos_token_id': [20]})
  got = Tokenizer.from_directory(path)
  assert got.eos_token == 24 and got.vocab_size == 25
  assert got.special.stop == (18, 20, 24)


@pytest.mark.parametrize(
  ('files', 'match'),
  [
    ({'model': {'mask_token_id': 18}}, 'mask and eos are one id, 18'),
    ({'model': {'mask_token_id': 3}}, "is the ordinary token 'd'"),
    ({'model': {'mask_token_id': 99, 'vocab_size': 64}}, 'beyond the 64 rows'),
    ({'model': {'vocab_size': 20}}, 'id 22 is beyond the 20 rows'),
    (
      {'model': {'vocab_size': '20'}},
      'vocab_size of config.json is not a number',
    ),
    ({'config': {'mask_token': '<|eot_id|>'}}, 'mask_token_id is 19'),
    ({'config': {'eos_token': '<|no|>'}}, 'is not in the tokenizer'),
    (
      {
        'config': {
          'added_tokens_decoder': tiny_text.added_tokens({3: ('new', True)})
        }
      },
      'should have id 3, but the tokenizer gives it 23',
    ),
    (
      {
        'config': {
          'added_tokens_decoder': tiny_text.added_tokens({30: ('a', True)})
        }
      },
      'should have id 30, but the tokenizer gives it 0',
    ),
  ],
)
def test_contradictions_are_refused_in_one_line(tmp_path, files, match):
  with pytest.raises(errors.UserError, match=match) as caught:
    Tokenizer.from_directory(tiny_text.tiny_dir(tmp_path, **files))
  assert str(tmp_path) in str(caught.value) and '\n' not in str(caught.value)


def test_missing_files_are_named(tmp_path, dream_dir):
  refused = lambda path, match: pytest.raises(errors.UserError, match=match)
  with refused(tmp_path, 'is not a directory'):
    Tokenizer.from_directory(tmp_path / 'none')
  with refused(tmp_path, 'neither tokenizer.json nor vocab.json'):
    Tokenizer.from_directory(tmp_path)
  tiny_text.write_json(tmp_path / 'vocab.json', {'a': 0})
  with refused(tmp_path, 'names the tokenizer_class None'):
    Tokenizer.from_directory(tmp_path)
  shutil.copy(dream_dir / 'tokenizer_config.json', tmp_path)
  with refused(tmp_path, 'merges.txt is not a file'):
    Tokenizer.from_directory(tmp_path)


@pytest.mark.parametrize(
  'pattern',
  [
    '(?:j|j)*$',
    '(j+)+$',
    '(?:j|jj)+(?<=x)$',
    '(?x:(j+) *)+$',
    'j?' * 30 + 'j' * 30 + 'd',
  ],
)
def test_a_pattern_that_takes_too_long_is_an_error_of_the_text(pattern):
  def wrapped(eos):
    made = tokenizers.Tokenizer.from_str(json.dumps(tiny_text.tiny_json()))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Split(
      tokenizers.Regex(pattern), behavior='isolated'
    )
    made.add_special_tokens([eos])
    special = tokenizer.special.SpecialTokens(mask=19, eos=23, pad=23)
    return Tokenizer(made, special)

  got = wrapped('<eos>')
  assert got.encode('c') == [2]
  hostile = 'j' * 40 + 'c'
  with pytest.raises(ValueError, match='fails on a text: .*retry-limit'):
    got.encode(hostile)
  with pytest.raises(ValueError, match='fails on the text .*retry-limit'):
    wrapped(hostile)


def test_what_grows_a_little_loads(tmp_path):
  document = tiny_text.tiny_json(
    normalizer={
      'type': 'Replace',
      'pattern': {'Regex': ' {2,}'},
      'content': 'j',
    }
  )
  document['model']['dropout'] = 0.0
  path = tiny_text.tiny_dir(tmp_path, document=document)
  assert Tokenizer.from_directory(path).encode('c   b') == [2, 9, 1]


def test_links_inside_a_folder_and_to_a_hubs_blobs(tmp_path):
  folder = tmp_path / 'models--a--b' / 'snapshots' / 'revision'
  folder.mkdir(parents=True)
  (tmp_path / 'models--a--b' / 'blobs').mkdir()
  tiny_text.tiny_dir(folder)
  blob = tmp_path / 'models--a--b' / 'blobs' / 'sum'
  (folder / 'tokenizer.json').rename(blob)
  (folder / 'tokenizer.json').symlink_to('../../blobs/sum')
  (folder / 'config.json').rename(folder / 'c.json')
  (folder / 'config.json').symlink_to('c.json')
  assert Tokenizer.from_directory(folder).mask_token == 19


def test_a_model_config_may_be_elsewhere(tmp_path):
  path = tiny_text.tiny_dir(tmp_path / 'tiny')
  want = Tokenizer.from_directory(path).special
  (path / 'config.json').unlink()
  model = tiny_text.TINY_MODEL | {'mask_token_id': 23}
  got = Tokenizer.from_directory(path, model=model)
  assert (want.mask, got.special.mask) == (19, 23)


def test_full_match_gives_up_on_a_pattern_that_takes_too_long():
  ends = tokenizer_json.full_match(r'.*\.(q|k)_proj', 'here')
  names = ['a.q_proj', 'a.k_proj.b', 'a.v_proj', 'q_proj', 'a.q_proj\nb']
  assert [ends(name) for name in names] == [True, False, False, False, False]
  either = tokenizer_json.full_match('a|b', 'here')
  assert [either(text) for text in ('a', 'b', 'ab')] == [True, True, False]
  slow = tokenizer_json.full_match('(?:.|..)+[^a-z]', 'here')
  with pytest.raises(errors.UserError, match='^here is .*retry-limit'):
    slow('a' * 60)
  with pytest.raises(errors.UserError, match='^here is .*char-class'):
    tokenizer_json.full_match('[a', 'here')
