"""The methods: each file has its config group, and reads top to bottom."""

from dllm_jax.train.methods import ag_grpo, diffu_grpo, ta_grpo_d

# By the name that `method.name` takes; 'sft' trains the base model alone.
METHODS = {
  'sft': None,
  'diffu_grpo': diffu_grpo.DiffuGrpo,
  'ag_grpo': ag_grpo.AgGrpo,
  'ta_grpo_d': ta_grpo_d.TaGrpoD,
}
