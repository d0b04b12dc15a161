"""What every configuration starts from: the tiny run on a CPU.

Not a run by itself. Countdown with three numbers, a transformer of 0.24M
parameters, a base model trained on a limited set of demonstrations, and RL on
prompts of the whole training split.
"""

from ml_collections import config_dict

PLACEHOLDER = config_dict.placeholder


def get_config(arg: str = '') -> config_dict.ConfigDict:
  """The shared defaults; `arg` is not used here."""
  del arg
  config = config_dict.ConfigDict()
  config.seed = 0
  config.data_dir = ''  # public test files; '' is the generated test split
  config.wandb_project = ''  # '' sends nothing

  config.task = config_dict.ConfigDict(
    {
      'name': 'countdown',
      'count': 3,
      'max_number': 30,
      'max_target': 90,
      'operators': '+-',
      'prompt_style': 'terse',
      'reasoning': 'values',
      'parity': False,
    }
  )
  config.data = config_dict.ConfigDict(
    {
      'cache_dir': '',
      'num_demonstrations': 1000,
      'num_validation': 512,
      'num_test': 896,
      # Rows of your own (docs/your_own_data.md); other tasks do not read them.
      'train': '',  # a file of JSON lines
      'test': '',  # another one; '' for the rows that are held out
      'held_out': 0.1,  # share of the rows of `train`
    }
  )
  config.model = config_dict.ConfigDict(
    {
      'name': 'transformer',  # one of dllm_jax.models.MODELS
      'hidden_size': 96,
      'num_layers': 2,
      'num_heads': 4,
      'num_kv_heads': 4,
      'head_dim': 24,
      'mlp_size': 256,
      'rope_theta': 10_000.0,
      'norm': 'rms',  # or 'layer'
      'norm_eps': 1e-5,
      'max_positions': 0,  # of a table, instead of RoPE
      'causal': False,  # True: rollout.decode is one for causal models
      'block_causal': 0,  # tokens of a block that reads those before it
      'qk_norm': False,
      'attention_bias': False,
      'output_bias': False,
      'tie_embeddings': False,
      'logit_shift': False,
      'feed_forward': 'swiglu',
      'dtype': 'float32',
      'param_dtype': 'float32',
      'remat': 'none',  # or 'block', 'dots'
      'attention': 'xla',  # or 'cudnn', on NVIDIA GPUs
      'unroll': 4,  # deeper models are a loop over their layers
      'lora_rank': 0,
      'lora_alpha': 64.0,
      'embed_init_std': 0.3,
    }
  )
  config.rollout = config_dict.ConfigDict(
    {
      'num_prompts': 32,
      'group_size': 8,
      'max_prompt_length': 6,
      'gen_length': 12,
      'block_length': 12,
      'num_steps': 6,
      'temperature': 1.0,
      'stop_at_eos': False,
      'cfg_scale': 0.0,
      'cache': 'none',  # or 'prefix', 'dual', 'block'; see docs/decoding.md
      'refresh_every': 0,  # steps; 0: once a block
      'vicinity': 0,
      'published': 'none',  # or 'llada', 'dream'
      'prefill': '',  # such as '<reasoning>'; a part of the prompt
      # 'fixed' (also top_p) or 'gated' (from gate to top_p); of causal models
      # 'autoregressive', 'draft' or 'fractal' (the keys from top_p on).
      'decode': 'fixed',
      'order': 'confidence',
      'schedule': 'even',  # or 'linear', Dream's
      'gate': 'bernoulli',
      'threshold': 0.7,
      'exponent': 0.5,
      'min_commits': 1,
      'top_p': 1.0,
      'top_k': 0,  # 0 is all
      'use_cache': True,
      'compression': 'int8',  # of the model that drafts; or 'int4'
      'draft_length': 4,
      'num_modules': 4,
      'layers': 'even',  # or 'late', or numbers such as '1,3,5,7'
      'num_placeholders': 1,
    }
  )
  config.method = config_dict.ConfigDict(
    {
      'name': 'sft',
      'policy': {
        'num_inner': 1,
        'num_micro': 4,
        'eps': 0.2,
        'beta': 0.0,
        'guided_beta': PLACEHOLDER(float),
        'max_kl_difference': 10.0,
        'estimator': 'trajectory',
        'mask_prob': 0.15,
        'num_views': 3,
        'max_sampler_ratio': PLACEHOLDER(float),  # such as 2, with a cache
      },
      'advantage': {
        'baseline': 'shared',
        'leave_one_out': False,
        'divide_by_std': True,
        'min_std': 0.0,
      },
      'reward': {'solution': 1.0, 'valid': 0.2},
      'reward_past_eos': False,
    }
  )
  # The base model; 'sft' trains the folder at `path` with these and `train`.
  config.base = config_dict.ConfigDict(
    {
      'path': '',  # '' trains one; or a pretrained folder, RUN/base, RUN/final
      'batch_size': 64,
      'num_steps': 2400,
      'eval_every': 150,
      'patience': 4,
      'min_ratio': 1e-3,
      'eos_padding': True,  # of masked diffusion: learn the EOS up to the end
      'num_micro': 1,
      'optim': _optim(learning_rate=3e-3, warmup_steps=100, weight_decay=0.01),
    }
  )
  config.train = config_dict.ConfigDict(
    {
      'num_steps': 300,
      'eval_every': 50,
      'patience': 0,
      'floor_patience': 0,
      'control': True,
      'watchdog_seconds': 300.0,  # of silence, or 10 steps; 0 does not look
      'optim': _optim(learning_rate=5e-4, warmup_steps=10, max_grad_norm=0.5),
    }
  )
  config.eval = config_dict.ConfigDict(
    {
      # Causal models are evaluated token by token: the first three keys are
      # not read.
      'num_steps': (12, 6, 4, 3),
      'threshold': 0.8,
      'thresholds': (),
      'batch_size': 128,
      'num_samples': 1,  # of launch/eval.py: completions a prompt
      'pass_at': (1,),  # of launch/eval.py: k of pass@k, up to num_samples
      'profile': '',  # of launch/eval.py: a key of eval.profiles.PROFILES
    }
  )
  config.speculation = config_dict.ConfigDict(
    {
      'num_prompts': 0,  # of causal models: compares the decoders on them
      'modules': (1, 2, 4, 8),
      'compressions': ('int8', 'int4'),
      'placeholders': (1, 0),
      'no_cache': True,  # compare without a cache too, as the paper does
      'repeats': 1,
    }
  )
  # By name, further trainings from the same base, which the method is compared
  # with: the keys in which each differs from this config.
  config.arms = config_dict.ConfigDict()
  config.checkpoint = config_dict.ConfigDict({'every': 100, 'keep': 2})
  config.mesh = config_dict.ConfigDict(
    {'data': -1, 'fsdp': 1, 'tensor': 1, 'cpu_devices': 2}
  )
  return config


def _optim(**changes) -> config_dict.ConfigDict:
  values = {
    'learning_rate': 1e-3,
    'warmup_steps': 0,
    'schedule': 'constant',
    'decay_steps': 0,
    'b1': 0.9,
    'b2': 0.99,
    'eps': 1e-8,
    'weight_decay': 0.0,
    'max_grad_norm': 1.0,
  }
  return config_dict.ConfigDict(values | changes)
