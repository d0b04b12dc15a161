"""Qwen2-MoE: Qwen2 with experts in every layer; one serves every token."""

from dllm_jax.hf.families import family, olmoe, qwen2

_EXPERTS = {
  path: name
  for path, name in olmoe.NAMES.block.items()
  if path.startswith('mlp/')
}
NAMES = qwen2.NAMES._replace(
  block={
    **{k: v for k, v in qwen2.NAMES.block.items() if not k.startswith('mlp/')},
    **_EXPERTS,
    'mlp/shared_expert/gate_proj/kernel': 'mlp.shared_expert.gate_proj.weight',
    'mlp/shared_expert/up_proj/kernel': 'mlp.shared_expert.up_proj.weight',
    'mlp/shared_expert/down_proj/kernel': 'mlp.shared_expert.down_proj.weight',
    'mlp/shared_expert_gate/kernel': 'mlp.shared_expert_gate.weight',
  }
)
FAMILY = family.Family(
  model_type='qwen2_moe',
  architectures=('Qwen2MoeForCausalLM',),
  sizes=olmoe.SIZES
  | {
    'mlp_size': 'moe_intermediate_size',
    'shared_size': 'shared_expert_intermediate_size',
  },
  flags=olmoe.FLAGS,
  must={**qwen2.MUST, 'decoder_sparse_step': 1, 'qkv_bias': True},
  fixed=qwen2.FAMILY.fixed | {'feed_forward': 'experts'},
  names=NAMES,
  # The width of dense layers, which there are none of.
  ignored=qwen2.IGNORED | olmoe.IGNORED | {'intermediate_size'},
  derive=family.defaults(qkv_bias=True),
  writes=qwen2.FAMILY.writes | {'intermediate_size': 'mlp_size'},
  template=qwen2.FAMILY.template,
)
