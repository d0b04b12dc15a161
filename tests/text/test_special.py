"""Special tokens by hand: precedence, defaults and contradictions."""

import pytest

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


def test_ids_are_in_the_vocabulary():
  found = special.SpecialTokens(mask=6, eos=5, pad=5, stop=(9,))
  found.check_below(10)
  with pytest.raises(ValueError, match=r'stop id 9 is outside 0\.\.8'):
    found.check_below(9)
  with pytest.raises(ValueError, match='pad id -1 is negative'):
    special.SpecialTokens(mask=6, eos=5, pad=-1)


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
