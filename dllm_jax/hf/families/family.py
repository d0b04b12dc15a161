"""What a family of models is: its config.json, its tensors, its chat.

Our kernels are [in, out], Hugging Face's are [out, in], except for GPT-2's. In
tables of tensors keys are paths of our parameters, values are their names.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from dllm_jax.text import chat

# Bounds far above every model: they keep nonsense out of shape arithmetic.
LIMITS = {
  'vocab_size': 2**22,
  'hidden_size': 2**17,
  'num_layers': 2**10,
  'num_heads': 2**12,
  'num_kv_heads': 2**12,
  'head_dim': 2**12,
  'mlp_size': 2**20,
  'max_positions': 2**24,
  'num_experts': 2**12,
  'experts_per_token': 2**12,
  'shared_size': 2**20,
  'block_causal': 2**20,
}
# Fields that change nothing that we compute.
IGNORED = frozenset(
  (
    'architectures',
    'auto_map',
    'model_type',
    'torch_dtype',
    'dtype',
    'transformers_version',
    'use_cache',
    '_name_or_path',
    '_attn_implementation',
    '_attn_implementation_autoset',
    'initializer_range',
    'attention_dropout',
    'max_position_embeddings',
    'pretraining_tp',
  )
)
SPECIAL = frozenset(
  ('mask_token_id', 'eos_token_id', 'bos_token_id', 'pad_token_id')
)
ROPE = frozenset(('rope_theta', 'rope_scaling', 'rope_parameters'))
# Of the object in rope_scaling or rope_parameters.
ROPE_INNER = frozenset(
  (
    'rope_theta',
    'rope_type',
    'type',
    'factor',
    'low_freq_factor',
    'high_freq_factor',
    'original_max_position_embeddings',
  )
)


class Names(NamedTuple):
  """The tensor names of a family.

  Attributes:
    top: tensor names of the leaves outside the blocks.
    blocks: prefix of block {layer}.
    block: tensor names of a block's leaves, without the prefix; {expert} is
      the number of an expert. Leaves of one name are equal parts of the last
      axis of that tensor, in this order.
    prefix: what names of a folder may begin with besides.
    is_in_out: whether kernels of blocks are [in, out] in the folder too.
    buffers: ends of names of tensors that are no weights.
  """

  top: Mapping[str, str]
  blocks: str
  block: Mapping[str, str]
  prefix: str = ''
  is_in_out: bool = False
  buffers: tuple[str, ...] = ('rotary_emb.inv_freq',)

  def part(self, path: str) -> tuple[int, int]:
    """(i, n): our leaf is the part i of n of its tensors."""
    name = self.block.get(path.removeprefix('layers/'))
    if name is None:
      return 0, 1
    own = [f'layers/{k}' for k, v in self.block.items() if v == name]
    return own.index(path), len(own)

  def is_transposed(self, path: str) -> bool:
    """Whether the tensors of our leaf `path` are its transpose."""
    is_same = self.is_in_out and path.startswith('layers/')
    return path.endswith('kernel') and not is_same

  def num_stacked(self, path: str) -> int:
    """Leading axes of our leaf `path` that tensors lack: layers, experts."""
    if not path.startswith('layers/'):
      return 0
    return 1 + ('{expert}' in self.block[path.removeprefix('layers/')])

  def tensor(self, path: str, *index: int) -> str:
    """The tensor of our leaf `path`; of one layer, or expert, if stacked."""
    if not index:
      return self.top[path]
    layer, *expert = index
    name = self.block[path.removeprefix('layers/')]
    name = name.format(expert=expert[0]) if expert else name
    return self.blocks.format(layer=layer) + name

  def module(self, path: str, layer: int) -> str:
    """The module of a stacked kernel, without '.weight'."""
    return self.tensor(path, layer).removesuffix('.weight')


def defaults(
  **values: Any,
) -> Callable[[Mapping[str, Any]], Mapping[str, Any]]:
  """A `Family.derive` with values for fields that are missing or null."""
  return lambda config: (
    values | {k: v for k, v in config.items() if v is not None}
  )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
  """How one `model_type` maps to a `ModelConfig` and its parameters.

  Attributes:
    model_type: its name in config.json.
    architectures: the class names it goes by, the first the one we write.
    sizes: our integer field -> theirs.
    flags: of their true-or-false fields: the field of ours that it sets, and
      our values for true and for false.
    must: fields of which only this value is ours; null and absence are right
      too where the value is false or null.
    fixed: `ModelConfig` fields that are the same for all of the family.
    names: names of its tensors.
    tie: the field that ties the unembedding.
    norm_eps: the field of the norms' epsilon.
    ignored: more fields that change nothing that we compute.
    derive: adds the values of fields that its config.json may leave out.
    head_dim: where config.json does not say; None is hidden_size / num_heads.
    writes: further fields of a new config.json: theirs -> our field.
    template: chat template for folders without one; None if it has none.
  """

  model_type: str
  architectures: tuple[str, ...]
  sizes: Mapping[str, str]
  must: Mapping[str, Any]
  fixed: Mapping[str, Any]
  names: Names
  flags: Mapping[str, tuple[str, Any, Any]] = dataclasses.field(
    default_factory=dict
  )
  tie: str = 'tie_word_embeddings'
  norm_eps: str = 'rms_norm_eps'
  ignored: frozenset[str] = frozenset()
  derive: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict
  head_dim: int | None = None
  writes: Mapping[str, str] = dataclasses.field(
    default_factory=lambda: {'head_dim': 'head_dim'}
  )
  template: chat.ChatTemplate | None = None

  @property
  def has_rope(self) -> bool:
    """Whether positions turn queries and keys; else they have a table."""
    return 'max_positions' not in self.sizes

  def known(self) -> frozenset[str]:
    """The fields of config.json that are read, checked or ignored."""
    own = {*self.sizes.values(), *self.flags, *self.must, self.tie}
    own |= {self.norm_eps, 'head_dim', 'layer_types'}
    own |= ROPE if self.has_rope else set()
    return IGNORED | SPECIAL | self.ignored | own
