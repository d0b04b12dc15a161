"""The token ids with a meaning of their own, and the files that name them.

A Hugging Face folder spreads them over tokenizer_config.json (texts),
special_tokens_map.json (texts), config.json and generation_config.json (ids).
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dllm_jax import types

# Names by which families call a token that no file points to.
KNOWN = {
  'mask': ('<|mdm_mask|>', '<|mask|>', '<[MASK]>', '[MASK]'),
  'eos': ('<|endoftext|>', '<|eos|>', '</s>'),
  'pad': (),
  'bos': (),
}
# They end a turn wherever a tokenizer has them as special tokens.
TURN_ENDS = ('<|eot_id|>', '<|im_end|>')


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpecialTokens:
  """Ids that text cannot spell: the one record of them.

  Attributes:
    mask: [MASK]; None where the model is not a masked diffusion model.
    eos: ends a completion, and fills what follows it; None where no file names
      one, as config.json need not.
    pad: fills a batch's rows; `eos` unless given.
    bos: opens a text; None where the family has none.
    stop: all that end a completion or a turn, `eos` among them, ascending.
  """

  mask: int | None = None
  eos: int | None = None
  pad: int | None = None
  bos: int | None = None
  stop: tuple[int, ...] = ()

  def __post_init__(self):
    stop = {*self.stop, self.eos} - {None}
    object.__setattr__(self, 'stop', tuple(sorted(stop)))
    if self.pad is None:
      object.__setattr__(self, 'pad', self.eos)
    for name, value in self._named():
      if value < 0:
        raise ValueError(f'{name} id {value} is negative')
      if name != 'mask' and value == self.mask:
        raise ValueError(f'mask and {name} are one id, {value}')

  def _named(self) -> list[tuple[str, int]]:
    pairs = [(name, getattr(self, name)) for name in KNOWN]
    pairs += [('stop', value) for value in self.stop]
    return [(name, value) for name, value in pairs if value is not None]

  def ids(self) -> frozenset[int]:
    """All of them."""
    return frozenset(value for _, value in self._named())

  def vocabulary(self, size: int) -> types.Vocabulary:
    """What decoders and losses must know of the ids.

    Args:
      size: number of ids that text can use: the tokenizer's, or without one the
        rows of the model's embedding.

    Raises:
      ValueError: there is no EOS, or an id is outside the vocabulary.
    """
    if self.eos is None:
      raise ValueError('no file names an EOS; set eos_token_id in config.json')
    return types.Vocabulary(
      size=size,
      mask_token=self.mask,
      eos_token=self.eos,
      stop_tokens=self.stop,
    )


def name_of(value: Any, what: str) -> str | None:
  """The text of a special token as configuration files write it."""
  if isinstance(value, Mapping):
    value = value.get('content')
  if value is None or value == '':
    return None
  if not isinstance(value, str) or len(value) > 256:
    raise ValueError(f'{what} is not the text of a token: {value!r:.80}')
  return value


def names(
  config: Mapping[str, Any], token_map: Mapping[str, Any]
) -> tuple[dict[str, str], list[str]]:
  """The texts of special tokens, as transformers reads them.

  Beside an `added_tokens_decoder` the map is not read, and otherwise it wins.

  Args:
    config: tokenizer_config.json.
    token_map: special_tokens_map.json.

  Returns:
    Those with a name (`bos_token`), which templates may use, and the others.
  """
  if 'added_tokens_decoder' not in config:
    config = {**config, **token_map}
  roles = {f'{role}_token' for role in ('unk', 'sep', 'cls', *KNOWN)}
  named = {
    key: name_of(value, key)
    for key, value in config.items()
    if key in roles or (key.endswith('_token') and isinstance(value, str))
  }
  key = 'extra_special_tokens'
  extra = config.get(key) or config.get('additional_special_tokens') or []
  extra = list(extra.values()) if isinstance(extra, dict) else extra
  if not isinstance(extra, list):
    raise ValueError(f'{key} is not a list of tokens: {extra!r:.80}')
  others = [name for value in extra if (name := name_of(value, key))]
  return {key: name for key, name in named.items() if name}, others


def ids_of(value: Any, what: str) -> tuple[int, ...]:
  """One id, a list of ids, or none, as configuration files write them."""
  values = value if isinstance(value, list) else [value]
  values = [v for v in values if v is not None]
  for v in values:
    if isinstance(v, bool) or not isinstance(v, int) or not 0 <= v < 2**31:
      raise ValueError(f'{what} is not a token id: {v!r:.80}')
  return tuple(values)


def find(
  texts: Sequence[Mapping[str, Any]],
  numbers: Sequence[Mapping[str, Any]],
  id_of: Callable[[str], int | None],
  is_special: Callable[[int], bool],
) -> SpecialTokens:
  """The special tokens that configuration files name.

  Args:
    texts: files with `mask_token` and so on; the first that names one wins.
    numbers: files with `mask_token_id` and so on, likewise.
    id_of: id of a token's text, None where the tokenizer lacks it.
    is_special: whether the tokenizer calls an id special.

  Raises:
    ValueError: if names and ids contradict each other, a name is unknown, or
      there is no EOS.
  """
  role = {name: _role(name, texts, numbers, id_of) for name in KNOWN}
  if role['eos'] is None:
    raise ValueError('no file names an EOS token; set eos_token')
  stop = [i for file in numbers for i in _ids(file, 'eos')]
  ends = [id_of(name) for name in TURN_ENDS]
  stop += [i for i in ends if i is not None and is_special(i)]
  return SpecialTokens(**role, stop=tuple(stop))


def _ids(file: Mapping[str, Any], role: str) -> tuple[int, ...]:
  return ids_of(file.get(f'{role}_token_id'), f'{role}_token_id')


def _role(
  role: str,
  texts: Sequence[Mapping[str, Any]],
  numbers: Sequence[Mapping[str, Any]],
  id_of: Callable[[str], int | None],
) -> int | None:
  key = f'{role}_token'
  name = next((n for file in texts if (n := name_of(file.get(key), key))), None)
  by_number = next((ids[0] for f in numbers if (ids := _ids(f, role))), None)
  if name is not None:
    value = id_of(name)
    if value is None:
      raise ValueError(f'{role}_token {name!r} is not in the tokenizer')
    # An instruct model's EOS differs from its base model's, and files keep
    # both; a model has one [MASK].
    if role == 'mask' and by_number not in (None, value):
      raise ValueError(
        f'mask_token {name!r} has id {value}, but mask_token_id is {by_number}'
      )
    return value
  if by_number is not None:
    return by_number
  ids = (id_of(name) for name in KNOWN[role])
  return next((value for value in ids if value is not None), None)
