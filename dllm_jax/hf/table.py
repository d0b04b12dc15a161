"""Which tensors of a folder are which leaves of our parameters."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import flax
import jax
from jax.sharding import Mesh

from dllm_jax.hf import config as hf_config
from dllm_jax.hf.families import FAMILIES
from dllm_jax.models import config as model_config
from dllm_jax.models import parts, transformer
from dllm_jax.runtime import sharding

DTYPES = ('float32', 'bfloat16', 'float16')
TOKENIZERS = ('tokenizer.json', 'vocab.json')
# What goes along with the weights: text alone, none of it program code.
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
  """The place of one tensor in our parameters.

  Attributes:
    path: of the leaf.
    layer: of a stacked leaf, which has a tensor a layer; else None.
    shape: of the tensor.
    turned: whether the tensor is the transpose of the leaf.
  """

  path: str
  layer: int | None
  shape: tuple[int, ...]
  turned: bool


def targets(
  cfg: model_config.ModelConfig, mesh: Mesh
) -> dict[str, jax.ShapeDtypeStruct]:
  """{'layers/.../kernel': shape, dtype and sharding} of every leaf.

  Raises:
    UserError: the mesh does not divide the model.
  """
  parts.layout_on(mesh, cfg)
  leaves = sharding.targets(transformer.shapes(cfg), mesh)
  return flax.traverse_util.flatten_dict(leaves, sep='/')


def tensors(family: str, leaves: Mapping[str, Any]) -> dict[str, Slot]:
  """The tensors of a model, by name.

  Args:
    family: of the names; of the native form they are our paths.
    leaves: what has the shapes of our leaves, by path; no adapters.
  """
  if family == hf_config.NATIVE:
    return {
      path.replace('/', '.'): Slot(path, None, tuple(leaf.shape), False)
      for path, leaf in leaves.items()
    }
  names, slots = FAMILIES[family].names, {}
  for path, leaf in leaves.items():
    stacked, turned = path.startswith('layers/'), path.endswith('kernel')
    shape = tuple(leaf.shape[1:] if stacked else leaf.shape)
    shape = shape[::-1] if turned else shape
    for layer in range(leaf.shape[0]) if stacked else [None]:
      slots[names.tensor(path, layer)] = Slot(path, layer, shape, turned)
  return slots


def is_harmless(name: str, record: hf_config.Record) -> bool:
  """Whether a tensor that no leaf wants says nothing that is not known."""
  if name.endswith('rotary_emb.inv_freq'):
    return True
  if record.family == hf_config.NATIVE or not record.model.tie_embeddings:
    return False
  return name == FAMILIES[record.family].names.top['lm_head/kernel']
