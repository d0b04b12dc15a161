"""A folder with an untrained LLaDA and the tokenizer of `tiny_text`."""

import json
import pathlib

from dllm_jax.hf import config as hf_config
from dllm_jax.models import config, transformer
from tests import tiny, tiny_text

# Its ids: 'a'..'j' are 0..9, EOS 18, [MASK] 19, end of turn 20, start 21.
SPECIAL = hf_config.Special(mask_token=19, eos_tokens=(18,), pad_token=18)
TEMPLATE = (
  "{{ bos_token }}{% for m in messages %}{{ 'a' + m['content'] }}"
  "{{ '<|eot_id|>' }}{% endfor %}"
  "{% if add_generation_prompt %}{{ 'b' }}{% endif %}"
)


def llada(path: pathlib.Path, *, chat: str | None = None, special=SPECIAL):
  """The folder, made; `chat` is its template."""
  model = config.ModelConfig(
    vocab_size=32,
    hidden_size=16,
    num_layers=1,
    num_heads=2,
    num_kv_heads=2,
    head_dim=8,
    mlp_size=32,
  )
  tiny_text.tiny_dir(path, config={'chat_template': chat} if chat else None)
  record = hf_config.Record('llada', transformer.of_config(model), special)
  tiny.write_weights(path, tiny.params(model), record)
  return path


def write_rows(path: pathlib.Path, rows) -> pathlib.Path:
  """A file of JSON lines."""
  path.write_text(''.join(f'{json.dumps(row)}\n' for row in rows))
  return path


def read_rows(path: pathlib.Path) -> list[dict]:
  return [json.loads(line) for line in path.read_text().splitlines()]
