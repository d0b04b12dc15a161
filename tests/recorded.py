"""Decodes through caches that the published samplers recorded."""

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


def read(shared_dir, family: str, name: str) -> Decode:
  """One of `CACHED`, with the decoder that makes the recorded calls."""
  folder = shared_dir / 'golden' / f'{family}_tiny'
  case = next(
    c for c in tiny.cases(folder / 'decode_cases.json') if c['name'] == name
  )
  shape = {
    'gen_length': case['gen_length'],
    'block_length': case['block_length'],
    'cache': 'dual' if 'dual' in name else 'prefix',
    'published': family,
  }
  if case['threshold'] is None:
    decoder = fixed.Fixed(num_steps=case['steps'], **shape)
  else:
    decoder = gated.Gated(threshold=case['threshold'], **shape)
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
