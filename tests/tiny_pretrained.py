"""Random pretrained folders in Hugging Face's layout, and a run on them."""

import functools
import json
import pathlib
import shutil

import jax
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from dllm_jax.hf import config as hf_config
from dllm_jax.models import config as model_config
from dllm_jax.models import network, transformer
from dllm_jax.tasks import countdown
from tests import tiny, tiny_run, tiny_text

SPECIAL = (
  '<|startoftext|>',
  '<|endoftext|>',
  '<|start_header_id|>',
  '<|end_header_id|>',
  '<|eot_id|>',
  '<|mdm_mask|>',
)
# Text tokens that are worth a reward each, so that a random model gets some.
TAGS = ('<reasoning>\n', '\n</reasoning>\n', '\n<answer>\n', '\n</answer>')
# What a run on such a folder has otherwise than the tiny one.
CHANGES = {
  'task__prompt_style': 'd1',
  'rollout__max_prompt_length': 160,
  'rollout__num_prompts': 4,
  'train__num_steps': 2,
  'train__eval_every': 0,
  'train__optim__learning_rate': 1e-2,
  'data__num_validation': 4,
  'data__num_test': 8,
  'eval__num_steps': (4,),
}


@functools.cache
def tokenizer_json() -> str:
  """Byte-level BPE of the task's prompts; the tags and special tokens last."""
  task = countdown.Countdown(count=3, max_number=9, prompt_style='d1')
  row = {'numbers': [1, 2, 3], 'target': 6}
  made = tokenizers.Tokenizer(models.BPE())
  made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  made.decoder = decoders.ByteLevel()
  trainer = trainers.BpeTrainer(
    vocab_size=250,
    show_progress=False,
    initial_alphabet=[chr(i) for i in range(33, 127)],
  )
  made.train_from_iterator([task.prompt(row)], trainer)
  made.add_tokens(list(TAGS))
  made.add_special_tokens(list(SPECIAL))
  return made.to_str()


def llada(path: pathlib.Path, family: str = 'llada', **changes) -> pathlib.Path:
  """A LLaDA folder with the tokenizer above; `changes` are of its model."""
  path.mkdir(parents=True)
  (path / 'tokenizer.json').write_text(tokenizer_json(), encoding='utf-8')
  names = {'eos_token': '<|endoftext|>', 'bos_token': '<|startoftext|>'}
  tiny_text.write_json(
    path / 'tokenizer_config.json', names | {'mask_token': '<|mdm_mask|>'}
  )
  known = tokenizers.Tokenizer.from_str(tokenizer_json())
  special = hf_config.Special(
    mask_token=known.token_to_id('<|mdm_mask|>'),
    eos_tokens=(known.token_to_id('<|endoftext|>'),),
  )
  save(path, family, special, {'vocab_size': 320} | changes)
  return path


def sdar(path: pathlib.Path) -> pathlib.Path:
  """The same, causal over blocks of four."""
  return llada(path, 'sdar', block_causal=4, qk_norm=True)


def dream(shared: pathlib.Path, path: pathlib.Path) -> pathlib.Path:
  """A Dream folder with the real Qwen2 tokenizer and its chat template."""
  tiny_text.dream_dir(shared, path)
  special = hf_config.Special(mask_token=151666, eos_tokens=(151643,))
  changes = {'attention_bias': True, 'logit_shift': True}
  save(path, 'dream', special, {'vocab_size': 152064} | changes)
  return path


def qwen3(shared: pathlib.Path, path: pathlib.Path) -> pathlib.Path:
  """The recorded Qwen3 with the tokenizer above; it has no mask."""
  path.mkdir(parents=True)
  (path / 'tokenizer.json').write_text(tokenizer_json(), encoding='utf-8')
  tiny_text.write_json(
    path / 'tokenizer_config.json', {'eos_token': '<|endoftext|>'}
  )
  source = shared / 'golden' / 'qwen3_tiny'
  config = json.loads((source / 'config.json').read_text('utf-8'))
  eos = tokenizers.Tokenizer.from_str(tokenizer_json()).token_to_id(
    '<|endoftext|>'
  )
  config |= {'eos_token_id': eos, 'bos_token_id': None}
  tiny_text.write_json(path / 'config.json', config)
  shutil.copy(source / 'model.safetensors', path)
  return path


def save(path, family, special, changes) -> None:
  """Random weights of a tiny model, and its config.json."""
  cfg = model_config.ModelConfig(**(tiny_run.SHAPE | changes))
  params = jax.jit(network.init, static_argnums=1)(jax.random.key(5), cfg)
  # Nearly uniform logits: every text has its chance.
  params['lm_head']['kernel'] *= 0.2
  record = hf_config.Record(family, transformer.of_config(cfg), special)
  tiny.write_weights(path, params, record)


def flags(folder, **changes) -> list[str]:
  """The run on such a folder, for a command line."""
  return tiny_run.flags(**(CHANGES | {'base__path': folder} | changes))
