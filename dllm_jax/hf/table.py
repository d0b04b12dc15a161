"""Which tensor of a model folder is which leaf of the parameters."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import flax
import jax
import numpy as np
from jax.sharding import Mesh

from dllm_jax import types
from dllm_jax.hf import config as hf_config
from dllm_jax.hf.families import FAMILIES
from dllm_jax.runtime import sharding

DTYPES = ('float32', 'bfloat16', 'float16')
TOKENIZERS = ('tokenizer.json', 'vocab.json')
# Copied along with the weights; none of them is code.
TEXT_FILES = (
  'tokenizer.json',
  'tokenizer_config.json',
  'vocab.json',
  'merges.txt',
  'added_tokens.json',
  'special_tokens_map.json',
  'chat_template.jinja',
  'generation_config.json',
)


class Slot(NamedTuple):
  """Where one tensor goes in the parameters.

  Attributes:
    path: '/'-joined path of the leaf.
    index: where in the leaf the tensor is, if the leaf stacks one tensor per
      layer, or per layer and expert; () if it is the whole leaf.
    shape: shape of the tensor.
    is_transposed: whether the tensor is the transpose of the leaf.
  """

  path: str
  index: tuple[int, ...]
  shape: tuple[int, ...]
  is_transposed: bool


def targets(
  denoiser: types.Trainable, mesh: Mesh
) -> dict[str, jax.ShapeDtypeStruct]:
  """{'layers/.../kernel': shape, dtype and sharding} of every leaf.

  Raises:
    UserError: the mesh does not divide the model.
  """
  if isinstance(denoiser, types.Divisible):
    denoiser.part(mesh)
  leaves = sharding.param_targets(denoiser, mesh)
  return flax.traverse_util.flatten_dict(leaves, sep='/')


def tensors(family: str, leaves: Mapping[str, Any]) -> dict[str, Slot]:
  """Where each tensor of a model folder goes, by its name.

  Args:
    family: the family that names the tensors; in the native form a tensor is
      named after its leaf, with dots.
    leaves: arrays or shapes of the leaves, by '/'-joined path, without
      adapters.
  """
  if family == hf_config.NATIVE:
    return {
      path.replace('/', '.'): Slot(path, (), tuple(leaf.shape), False)
      for path, leaf in leaves.items()
    }
  names, slots = FAMILIES[family].names, {}
  for path, leaf in leaves.items():
    is_transposed = path.endswith('kernel')
    num_axes = names.num_stacked(path)
    shape = tuple(leaf.shape[num_axes:])
    shape = shape[::-1] if is_transposed else shape
    for index in np.ndindex(leaf.shape[:num_axes]):
      slots[names.tensor(path, *index)] = Slot(
        path, index, shape, is_transposed
      )
  return slots


def is_harmless(name: str, record: hf_config.Record) -> bool:
  """Whether a tensor that is not a leaf can be ignored."""
  if name.endswith('rotary_emb.inv_freq'):
    return True
  if record.family == hf_config.NATIVE or not record.model.tie_embeddings:
    return False
  return name == FAMILIES[record.family].names.top['lm_head/kernel']
