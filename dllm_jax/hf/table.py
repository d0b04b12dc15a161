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
    shape: shape of the leaf's part of the tensor, which is all of it unless
      `num_parts` leaves share the tensor.
    is_transposed: whether the tensor is the transpose of the leaf.
    part: which of the equal parts of the tensor's last axis the leaf is.
    num_parts: how many there are.
  """

  path: str
  index: tuple[int, ...]
  shape: tuple[int, ...]
  is_transposed: bool
  part: int = 0
  num_parts: int = 1

  @property
  def tensor_shape(self) -> tuple[int, ...]:
    """Shape of the whole tensor."""
    if self.num_parts == 1:
      return self.shape
    return (*self.shape[:-1], self.num_parts * self.shape[-1])


def targets(
  denoiser: types.Trainable, mesh: Mesh
) -> dict[str, jax.ShapeDtypeStruct]:
  """{'layers/.../kernel': shape, dtype and sharding} of every leaf.

  The tables come first: they are the largest tensors, and while they are read
  there is room yet.

  Raises:
    UserError: the mesh does not divide the model.
  """
  if isinstance(denoiser, types.Divisible):
    denoiser.part(mesh)
  leaves = sharding.param_targets(denoiser, mesh)
  flat = flax.traverse_util.flatten_dict(leaves, sep='/')
  order = sorted(flat, key=lambda path: path.startswith('layers/'))
  return {path: flat[path] for path in order}


def tensors(
  family: str, leaves: Mapping[str, Any]
) -> dict[str, tuple[Slot, ...]]:
  """Where each tensor of a model folder goes, by its name.

  Most go to one place. Tensors are in the order in which the last of their
  leaves come.

  Args:
    family: the family that names the tensors; in the native form a tensor is
      named after its leaf, with dots.
    leaves: arrays or shapes of the leaves, by '/'-joined path, without
      adapters.
  """
  if family == hf_config.NATIVE:
    return {
      path.replace('/', '.'): (Slot(path, (), tuple(leaf.shape), False),)
      for path, leaf in leaves.items()
    }
  names, slots = FAMILIES[family].names, {}
  for path, leaf in leaves.items():
    is_transposed = names.is_transposed(path)
    num_axes = names.num_stacked(path)
    shape = tuple(leaf.shape[num_axes:])
    shape = shape[::-1] if is_transposed else shape
    for index in np.ndindex(leaf.shape[:num_axes]):
      name = names.tensor(path, *index)
      slot = Slot(path, index, shape, is_transposed, *names.part(path))
      slots[name] = (*slots.pop(name, ()), slot)
  return slots


def is_harmless(name: str, record: hf_config.Record) -> bool:
  """Whether a tensor that is not a leaf can be ignored."""
  if record.family == hf_config.NATIVE:
    return False
  names = FAMILIES[record.family].names
  if name.endswith(names.buffers):
    return True
  return record.model.tie_embeddings and name == names.top['lm_head/kernel']
