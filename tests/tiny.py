"""Small denoisers, batches and recorded models that the tests share.

Dims: B rows, P prompt columns, L completion columns, S canvas columns.
"""

import dataclasses
import functools
import json
import pathlib
import shutil
import tempfile

import flax
import jax
import jax.numpy as jnp
import numpy as np

from dllm_jax import types
from dllm_jax.decoding import fixed
from dllm_jax.hf import load, save, sidecar
from dllm_jax.models import config, lora, network, transformer
from dllm_jax.rl import advantages
from dllm_jax.rollout import batch, context, prompts
from dllm_jax.runtime import sharding
from dllm_jax.tasks import task
from dllm_jax.text import tokenizer
from dllm_jax.train import policy, policy_config

MASK, EOS = 29, 28
# Tables and models below have 32 rows: ids 30 and 31 are beyond the text.
VOCAB = types.Vocabulary(size=30, mask_token=MASK, eos_token=EOS)
ROWS = 32

MODEL = config.ModelConfig(
  vocab_size=ROWS,
  hidden_size=16,
  num_layers=2,
  num_heads=4,
  num_kv_heads=2,
  head_dim=4,
  mlp_size=24,
)
DENOISER = transformer.TransformerDenoiser(cfg=MODEL)
# What differs in a model that is built as GPT-2 is.
GPT2 = {
  'norm': 'layer',
  'max_positions': 20,
  'attention_bias': True,
  'output_bias': True,
  'feed_forward': 'gelu',
  'tie_embeddings': True,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
  """Logits from a table: a row a completion column, plus one a visible token.

  logits[k] = table[k] + sum over the real canvas tokens x of context[x]

  Every value is a multiple of 1/64, so the sums are exact in any order.

  Attributes:
    gen_length: L.
  """

  gen_length: int

  def __call__(self, params, tokens, attention_mask, query):
    first = tokens.shape[1] - self.gen_length
    table, context = map(jnp.asarray, (params['table'], params['context']))
    seen = jnp.where(attention_mask[..., None], context[tokens], 0.0)
    return table[query - first] + seen.sum(1)[:, None]


def table_params(
  seed: int, gen_length: int, *, context: float = 1.0, size: int = ROWS
):
  """A random `Table`; [MASK] and ids beyond the text have the top logits."""
  rng = np.random.default_rng(seed)
  grid = lambda x: np.round(64 * x).astype(np.float32) / 64
  table = grid(2.0 * rng.standard_normal((gen_length, size)))
  if size == ROWS:
    table[:, MASK:] = 20.0
  seen = grid(context * rng.standard_normal((size, size)))
  return {'table': table, 'context': seen}


@functools.cache
def params(cfg: config.ModelConfig = MODEL, seed: int = 0):
  """Random parameters with norms that are not 1; adapters that act."""
  init = jax.jit(network.init, static_argnames='cfg')
  leaves, tree = jax.tree.flatten_with_path(init(jax.random.key(seed), cfg))
  rng = np.random.default_rng(seed)

  def jitter(path, leaf):
    noise = rng.standard_normal(leaf.shape).astype(np.float32)
    name = path[-1].key
    scale = {'kernel': 0.0, 'embed_tokens': 0.5}.get(name, 0.1)
    return np.asarray(leaf) + scale * noise

  return jax.tree.unflatten(tree, [jitter(*leaf) for leaf in leaves])


def merge_lora(params, cfg: config.ModelConfig):
  """The parameters with their adapters in the kernels; `params` stays."""
  adapters, plain = lora.split(jax.tree.map(jnp.copy, params))
  leaves = flax.traverse_util.flatten_dict(plain, sep='/')
  merged = dict(lora.merge_leaves(iter(leaves.items()), adapters, cfg))
  return flax.traverse_util.unflatten_dict(merged, sep='/')


def pad(rows, width: int, fill: int = 0, *, side: str = 'left'):
  """Rows of ids as (ids, mask) of `width` columns."""
  ids = np.full((len(rows), width), fill, np.int32)
  mask = np.zeros(ids.shape, bool)
  for i, row in enumerate(rows):
    at = slice(width - len(row), None) if side == 'left' else slice(len(row))
    ids[i, at], mask[i, at] = row, True
  return ids, mask


def row_prompts(sequences, width: int, row_id) -> prompts.RowPrompts:
  """A prompt a row, on the host."""
  ids, mask = pad(sequences, width)
  return prompts.RowPrompts(ids, mask, np.asarray(row_id, np.int32))


def canvas(
  sequences, gen_length: int, *, width=None, side='left', mask_token=MASK
) -> types.Canvas:
  """Prompts beside blank completions."""
  width = max(map(len, sequences)) if width is None else width
  ids, mask = pad(sequences, width, side=side)
  blank = np.full((len(sequences), gen_length), mask_token, np.int32)
  return types.Canvas(
    jnp.asarray(np.concatenate([ids, blank], 1)),
    jnp.asarray(np.concatenate([mask, blank >= 0], 1)),
  )


def random_prompts(seed: int, lengths) -> list[list[int]]:
  rng = np.random.default_rng(seed)
  return [rng.integers(0, EOS, n).tolist() for n in lengths]


def row_keys(seed: int, row_id):
  """Keys as `ops.streams.row_keys` makes them."""
  return jax.vmap(jax.random.fold_in, (None, 0))(
    jax.random.key(seed), jnp.asarray(row_id)
  )


@functools.partial(jax.jit, static_argnames=('denoiser', 'vocab'))
def decode(denoiser, params, keys, canvas, decoder, *, vocab=VOCAB):
  """What a decoder makes of a canvas, compiled."""
  return decoder(denoiser, params, keys, canvas, vocab=vocab)


def rollouts(
  seed: int, *, rows: int, gen_length: int, prompt: int = 5, steps: int = 4
) -> types.RolloutBatch:
  """Random rollouts of ragged prompts; some rows end early, some are guided.

  Every step of `steps` commits as many tokens as every other.
  """
  rng = np.random.default_rng(seed)
  lengths = rng.integers(1, prompt + 1, rows)
  ids, mask = pad(random_prompts(seed + 1, lengths), prompt, EOS)
  tokens = rng.integers(0, EOS, (rows, gen_length)).astype(np.int32)
  for row in range(0, rows, 3):
    tokens[row, rng.integers(1, gen_length) :] = EOS
  step = np.arange(gen_length, dtype=np.int32) % steps
  is_eos = tokens == EOS
  return types.RolloutBatch(
    prompt_ids=jnp.asarray(ids),
    prompt_mask=jnp.asarray(mask),
    maskable=jnp.asarray(mask),
    tokens=jnp.asarray(tokens),
    sampler_logp=jnp.asarray(
      -rng.random((rows, gen_length)).astype(np.float32)
    ),
    commit_step=jnp.asarray(
      np.stack([rng.permutation(step) for _ in range(rows)])
    ),
    num_steps=jnp.full(rows, steps, jnp.int32),
    completion_mask=jnp.asarray(np.cumsum(is_eos, 1) - is_eos == 0),
    advantage=jnp.asarray(
      np.repeat(rng.standard_normal((rows, 1)), gen_length, 1).astype(
        np.float32
      )
    ),
    guided=jnp.asarray(np.arange(rows) % 2 == 1),
    group_id=jnp.arange(rows, dtype=jnp.int32) // 2,
    row_id=jnp.arange(rows, dtype=jnp.int32) + 7,
  )


def policy_method(ctx, cfg, optimizer, reference=None) -> policy.PolicyMethod:
  """What updates a policy whose rollouts commit 2 tokens a step."""
  decoder = fixed.Fixed(gen_length=8, block_length=8, num_steps=4)
  return policy.PolicyMethod(
    cfg=policy_config.MethodConfig(
      advantage=advantages.AdvantageConfig(), policy=cfg
    ),
    ctx=ctx,
    rollout=batch.RolloutConfig(
      num_prompts=4, group_size=2, max_prompt_length=5, decoder=decoder
    ),
    optimizer=optimizer,
    reference=reference or {},
  )


def log_softmax(logits):
  """Of the last axis, in float64."""
  x = np.asarray(logits, np.float64)
  top = x.max(-1, keepdims=True)
  return x - top - np.log(np.exp(x - top).sum(-1, keepdims=True))


def allowed_logp(logits):
  """log softmax over the ids that may be proposed under `VOCAB`."""
  x = np.asarray(logits, np.float64).copy()
  x[..., MASK:] = -np.inf
  return log_softmax(x)


LLADA_VOCAB = types.Vocabulary(size=500, mask_token=498, eos_token=497)
LLADA = config.ModelConfig(
  vocab_size=500,
  hidden_size=64,
  num_layers=2,
  num_heads=4,
  num_kv_heads=4,
  head_dim=16,
  mlp_size=160,
  rope_theta=500_000.0,
  norm_eps=1e-5,
)
DREAM = config.ModelConfig(
  vocab_size=480,
  hidden_size=64,
  num_layers=2,
  num_heads=4,
  num_kv_heads=2,
  head_dim=16,
  mlp_size=144,
  rope_theta=1_000_000.0,
  norm_eps=1e-6,
  attention_bias=True,
  logit_shift=True,
)
DREAM_VOCAB = types.Vocabulary(size=480, mask_token=470, eos_token=465)


@functools.cache
def llada(folder):
  """The recorded LLaDA as our parameters."""
  return _pretrained(folder, LLADA)


@functools.cache
def dream(folder):
  """The recorded Dream as our parameters."""
  return _pretrained(folder, DREAM)


def _pretrained(folder, cfg):
  """NumPy arrays: they go to whatever devices a test has."""
  mesh = sharding.make_mesh(sharding.MeshConfig(data=1))
  own, params = load.load(load.read(folder), mesh)
  assert own.cfg == cfg
  return jax.tree.map(np.asarray, params)


def write_weights(folder, params, record, **how) -> None:
  """config.json and weights into a folder that may have other files."""
  with tempfile.TemporaryDirectory() as root:
    made = pathlib.Path(root) / 'model'
    save.save(made, params, record, **how)
    (made / sidecar.FILE).unlink()
    shutil.copytree(made, folder, dirs_exist_ok=True)


def recorded(folder, name: str) -> dict:
  """The arrays of one npz file."""
  with np.load(folder / name) as arrays:
    return dict(arrays)


def cases(path) -> list[dict]:
  """The cases of one JSON file."""
  return json.loads(path.read_text())['cases']


class Task:
  """A task of one word, for contexts that never judge a completion."""

  name = 'tiny'

  def words(self):
    return ('<answer>', '</answer>', '\n', *'0123456789', 'add', ' ')

  def prompt(self, row):
    return row['question']

  def demonstration(self, row):
    return f'<answer>\n{row["gold"]}\n</answer>'

  def gold(self, row):
    return row['gold']

  def reasoning_has_gold(self, row, completion):
    return False

  def score(self, row, completion):
    return task.Score(
      terms={'length': float(len(completion))}, correct=True, metrics={}
    )


@functools.cache
def words() -> tokenizer.Tokenizer:
  return tokenizer.Tokenizer.from_words(Task().words())


def context_of(denoiser, *, data: int = 1, fsdp: int = 1, tensor: int = 1):
  """A run with the given model on a mesh of the given sizes."""
  return context.Context(
    task=Task(),
    tokenizer=words(),
    vocab=VOCAB,
    denoiser=denoiser,
    mesh=sharding.make_mesh(
      sharding.MeshConfig(data=data, fsdp=fsdp, tensor=tensor)
    ),
    root=jax.random.key(0),
    max_prompt_length=32,
  )
