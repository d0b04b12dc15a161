"""Special tokens by hand: precedence, defaults and contradictions."""

import pytest

from dllm_jax import types
from dllm_jax.text import special

IDS = {'<|endoftext|>': 5, '<|mask|>': 6, '<|im_end|>': 7, 'e': 1, 'm': 2}


def find(texts=(), numbers=()):
  return special.find(texts, numbers, IDS.get, lambda i: i >= 5)


def test_by_hand():
  got = find(
    [{'eos_token': '<|im_end|>', 'pad_token': None}, {'pad_token': 'e'}],
    [{'eos_token_id': [5, 7], 'mask_token_id': 6}, {'bos_token_id': 3}],
  )
  assert got == special.SpecialTokens(mask=6, eos=7, pad=1, bos=3, stop=(5, 7))
  assert got.ids() == {1, 3, 5, 6, 7}


def test_what_no_file_names_has_its_usual_name():
  assert find() == special.SpecialTokens(mask=6, eos=5, pad=5, stop=(5, 7))
  assert find([{'eos_token': {'content': 'e'}}]).eos == 1


def test_stop_holds_eos_once_and_in_order():
  got = special.SpecialTokens(mask=None, eos=4, pad=4, stop=(9, 2, 9))
  assert got.stop == (2, 4, 9)
  assert special.SpecialTokens(mask=None, eos=4, pad=0).stop == (4,)


@pytest.mark.parametrize('role', ['eos', 'pad', 'bos'])
def test_the_mask_is_no_other_token(role):
  ids = {'eos': 1, 'pad': 2, 'bos': 3} | {role: 6}
  with pytest.raises(ValueError, match=f'mask and {role} are one id, 6'):
    special.SpecialTokens(mask=6, **ids)
  with pytest.raises(ValueError, match='mask and stop are one id, 6'):
    special.SpecialTokens(mask=6, eos=1, pad=1, stop=(6,))


def test_negative_ids_are_refused():
  with pytest.raises(ValueError, match='pad id -1 is negative'):
    special.SpecialTokens(mask=6, eos=5, pad=-1)


def test_padding_is_eos_unless_given():
  assert special.SpecialTokens(eos=5).pad == 5
  assert special.SpecialTokens(eos=5, pad=4).pad == 4


def test_config_without_eos_has_no_stop_tokens():
  got = special.SpecialTokens(mask=6)
  assert (got.eos, got.pad, got.stop, got.ids()) == (None, None, (), {6})
  with pytest.raises(ValueError, match='no file names an EOS; set'):
    got.vocabulary(9)


def test_vocabulary_has_the_ids_and_the_size():
  tokens = special.SpecialTokens(mask=6, eos=5, pad=4, bos=3, stop=(7,))
  assert tokens.vocabulary(8) == types.Vocabulary(
    size=8, mask_token=6, eos_token=5, stop_tokens=(5, 7)
  )
  with pytest.raises(ValueError, match=r'stop token 7 is outside \[0, 7\)'):
    tokens.vocabulary(7)


def test_names_of_the_map_count_beside_no_decoder():
  config = {'bos_token': 'a', 'x_token': 'x', 'add_bos_token': True}
  token_map = {'bos_token': {'content': 'b'}, 'cls_token': 'c'}
  names, _ = special.names(config, token_map)
  assert names == {'bos_token': 'b', 'x_token': 'x', 'cls_token': 'c'}
  names, _ = special.names(config | {'added_tokens_decoder': {}}, token_map)
  assert names == {'bos_token': 'a', 'x_token': 'x'}


def test_further_special_tokens_are_a_list_or_named():
  further = lambda **config: special.names(config, {})[1]
  assert further(additional_special_tokens=['a', {'content': 'b'}]) == [
    'a',
    'b',
  ]
  assert further(extra_special_tokens={'image_token': 'a'}) == ['a']
  with pytest.raises(ValueError, match="is not a list of tokens: 'a'"):
    further(extra_special_tokens='a')


@pytest.mark.parametrize(
  ('texts', 'numbers', 'match'),
  [
    ([{'mask_token': 'm'}], [{'mask_token_id': 6}], 'mask_token_id is 6'),
    ([{'eos_token': 'zzz'}], [], "eos_token 'zzz' is not in the tokenizer"),
    ([{'eos_token': 3}], [], 'eos_token is not the text of a token: 3'),
    ([], [{'mask_token_id': '6'}], "mask_token_id is not a token id: '6'"),
    ([], [{'eos_token_id': True}], 'eos_token_id is not a token id: True'),
    ([], [{'eos_token_id': [5, -1]}], 'eos_token_id is not a token id: -1'),
  ],
)
def test_contradictions_are_named(texts, numbers, match):
  with pytest.raises(ValueError, match=match):
    find(texts, numbers)


def test_eos_is_needed():
  with pytest.raises(ValueError, match='no file names an EOS token'):
    special.find([], [], {}.get, lambda i: True)
