"""Our parameters and Hugging Face's tensors, one table a family. Pure data.

Keys are paths of our tree (layers/ left out in `block`), values are tensor
names (what follows `blocks` in `block`). A model has those leaves of its table
that its `ModelConfig` asks for. Our kernels are [in, out], theirs [out, in].
"""

from collections.abc import Mapping
from typing import NamedTuple


class Names(NamedTuple):
  """The table of one family.

  Attributes:
    top: leaves outside the blocks.
    blocks: where block {layer} is.
    block: leaves of a block.
  """

  top: Mapping[str, str]
  blocks: str
  block: Mapping[str, str]

  def tensor(self, path: str, layer: int | None) -> str:
    """The tensor of our leaf `path`; of one layer where it is stacked."""
    if layer is None:
      return self.top[path]
    name = self.block[path.removeprefix('layers/')]
    return self.blocks.format(layer=layer) + name

  def module(self, path: str, layer: int) -> str:
    """The module of a stacked kernel, without '.weight'."""
    return self.tensor(path, layer).removesuffix('.weight')


_LLADA = Names(
  top={
    'embed_tokens': 'model.transformer.wte.weight',
    'norm/weight': 'model.transformer.ln_f.weight',
    'lm_head/kernel': 'model.transformer.ff_out.weight',
  },
  blocks='model.transformer.blocks.{layer}.',
  block={
    'input_layernorm/weight': 'attn_norm.weight',
    'post_attention_layernorm/weight': 'ff_norm.weight',
    'self_attn/q_proj/kernel': 'q_proj.weight',
    'self_attn/k_proj/kernel': 'k_proj.weight',
    'self_attn/v_proj/kernel': 'v_proj.weight',
    'self_attn/o_proj/kernel': 'attn_out.weight',
    'mlp/gate_proj/kernel': 'ff_proj.weight',
    'mlp/up_proj/kernel': 'up_proj.weight',
    'mlp/down_proj/kernel': 'ff_out.weight',
  },
)
_LLAMA = Names(
  top={
    'embed_tokens': 'model.embed_tokens.weight',
    'norm/weight': 'model.norm.weight',
    'lm_head/kernel': 'lm_head.weight',
  },
  blocks='model.layers.{layer}.',
  block={
    'input_layernorm/weight': 'input_layernorm.weight',
    'post_attention_layernorm/weight': 'post_attention_layernorm.weight',
    'self_attn/q_proj/kernel': 'self_attn.q_proj.weight',
    'self_attn/k_proj/kernel': 'self_attn.k_proj.weight',
    'self_attn/v_proj/kernel': 'self_attn.v_proj.weight',
    'self_attn/o_proj/kernel': 'self_attn.o_proj.weight',
    'mlp/gate_proj/kernel': 'mlp.gate_proj.weight',
    'mlp/up_proj/kernel': 'mlp.up_proj.weight',
    'mlp/down_proj/kernel': 'mlp.down_proj.weight',
  },
)
_QWEN2 = _LLAMA._replace(
  block={
    **_LLAMA.block,
    'self_attn/q_proj/bias': 'self_attn.q_proj.bias',
    'self_attn/k_proj/bias': 'self_attn.k_proj.bias',
    'self_attn/v_proj/bias': 'self_attn.v_proj.bias',
  }
)
_QWEN3 = _LLAMA._replace(
  block={
    **_LLAMA.block,
    'self_attn/q_norm/weight': 'self_attn.q_norm.weight',
    'self_attn/k_norm/weight': 'self_attn.k_norm.weight',
  }
)
NAMES = {
  'llada': _LLADA,
  'dream': _QWEN2,
  'llama': _LLAMA,
  'qwen2': _QWEN2,
  'qwen3': _QWEN3,
}
