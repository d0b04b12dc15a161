"""RL methods, one per file with its config group."""

from dllm_jax.train.methods import ag_grpo, diffu_grpo, ta_grpo_d

# By the value of `method.name`; 'sft' trains only the base model.
METHODS = {
  'sft': None,
  'diffu_grpo': diffu_grpo.DiffuGrpo,
  'ag_grpo': ag_grpo.AgGrpo,
  'ta_grpo_d': ta_grpo_d.TaGrpoD,
}
