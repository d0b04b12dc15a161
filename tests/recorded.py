"""Decodes that the published samplers recorded, with caches and without."""

from typing import NamedTuple

import numpy as np

from dllm_jax import types
from dllm_jax.decoding import fixed, gated
from dllm_jax.models import transformer
from tests import tiny

CACHED = [
  ('llada', 'prefix_g32_b8_s16'),
  ('llada', 'prefix_g64_b16_s32'),
  ('llada', 'prefix_thr0.7_g32_b16'),
  ('llada', 'dual_g32_b8_s16'),
  ('llada', 'dual_g64_b16_s32'),
  ('llada', 'dual_thr0.7_g32_b16'),
  ('dream', 'block_prefix_thr0.7_g32_b16'),
  ('dream', 'block_dual_thr0.7_g32_b16'),
]


class Decode(NamedTuple):
  """A recorded decode: what went in, and what came out."""

  denoiser: transformer.TransformerDenoiser
  vocab: types.Vocabulary
  params: types.Params
  prompts: list[list[int]]
  decoder: types.Decoder
  tokens: np.ndarray
  commit_step: np.ndarray
  num_steps: np.ndarray

  def check(self, rows, side: str) -> None:
    """The decoder gives what was recorded of some rows, padded on a side."""
    got = tiny.decode(
      self.denoiser,
      self.params,
      tiny.row_keys(0, rows),
      tiny.canvas(
        [self.prompts[i] for i in rows],
        self.decoder.gen_length,
        width=max(map(len, self.prompts)),
        side=side,
        mask_token=self.vocab.mask_token,
      ),
      self.decoder,
      vocab=self.vocab,
    )
    for name in ('tokens', 'commit_step', 'num_steps'):
      np.testing.assert_array_equal(
        getattr(got, name), getattr(self, name)[rows], name
      )

  def check_all(self) -> None:
    """All rows together, then each alone with its padding on the right."""
    everyone = list(range(len(self.prompts)))
    assert len({len(p) for p in self.prompts}) > 1
    self.check(everyone, 'left')
    for row in everyone:
      self.check([row], 'right')


def case(shared_dir, family: str, name: str) -> dict:
  """The settings of a recorded decode."""
  path = shared_dir / 'golden' / f'{family}_tiny' / 'decode_cases.json'
  return next(c for c in tiny.cases(path) if c['name'] == name)


def read_cached(shared_dir, family: str, name: str) -> Decode:
  """One of `CACHED`, with the decoder that makes the recorded calls."""
  how = case(shared_dir, family, name)
  shape = {
    'gen_length': how['gen_length'],
    'block_length': how['block_length'],
    'cache': 'dual' if 'dual' in name else 'prefix',
    'published': family,
  }
  if how['threshold'] is None:
    decoder = fixed.Fixed(num_steps=how['steps'], **shape)
  else:
    decoder = gated.Gated(threshold=how['threshold'], **shape)
  return read(shared_dir, family, name, decoder)


def read(shared_dir, family: str, name: str, decoder: types.Decoder) -> Decode:
  """What was recorded, for a decoder that should repeat it."""
  folder = shared_dir / 'golden' / f'{family}_tiny'
  cfg, vocab, load = {
    'llada': (tiny.LLADA, tiny.LLADA_VOCAB, tiny.llada),
    'dream': (tiny.DREAM, tiny.DREAM_VOCAB, tiny.dream),
  }[family]
  data = tiny.recorded(folder, 'decode.npz')
  lengths = data[f'{name}.prompt_len']
  return Decode(
    denoiser=transformer.TransformerDenoiser(cfg=cfg),
    vocab=vocab,
    params=load(folder),
    prompts=[
      row[:n].tolist()
      for row, n in zip(data[f'{name}.prompt'], lengths, strict=True)
    ],
    decoder=decoder,
    tokens=data[f'{name}.output'],
    commit_step=data[f'{name}.unmask_step'],
    num_steps=data[f'{name}.nfe'],
  )
