"""The transformer against the recorded LLaDA and Dream, and itself."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dllm_jax.models import attention, config, network, stack, transformer
from dllm_jax.ops import schedules
from tests import tiny, tiny_causal


@pytest.fixture(scope='module')
def llada(shared_dir):
  return shared_dir / 'golden' / 'llada_tiny'


@pytest.fixture(scope='module')
def dream(shared_dir):
  return shared_dir / 'golden' / 'dream_tiny'


@functools.partial(jax.jit, static_argnames='cfg')
def forward(params, tokens, mask, *, cfg):
  return network.Transformer(cfg).apply({'params': params}, tokens, mask)


def everywhere(tokens):
  return jnp.ones(tokens.shape, bool)


def test_llada_logits(llada):
  want = tiny.recorded(llada, 'golden.npz')
  got = forward(
    tiny.llada(llada),
    want['tokens'],
    everywhere(want['tokens']),
    cfg=tiny.LLADA,
  )
  np.testing.assert_allclose(got, want['logits'], atol=5e-4, rtol=0)


def test_llada_hidden_states(llada):
  want = tiny.recorded(llada, 'golden.npz')
  params, cfg = jax.tree.map(jnp.asarray, tiny.llada(llada)), tiny.LLADA
  tokens = jnp.asarray(want['tokens'][:1])
  mask = everywhere(tokens)
  x = params['embed_tokens'][tokens]
  np.testing.assert_array_equal(x[0], want['hidden_states'][0])
  position = schedules.positions(mask)
  allowed = attention.visible(position, position, mask, block=0)

  def run(x, start=0, stop=None):
    layers = jax.tree.map(lambda leaf: leaf[start:stop], params['layers'])
    return stack.run_layers(cfg, layers, x, allowed, position)[0]

  middle = run(x, 0, 1)
  close = functools.partial(np.testing.assert_allclose, atol=5e-4, rtol=0)
  close(middle[0], want['hidden_states'][1])
  final = network.Transformer(cfg).apply(
    {'params': params}, tokens, mask, method=network.Transformer.hidden
  )
  close(final[0], want['hidden_states'][2])
  # A run of layers is a slice of the stack.
  np.testing.assert_allclose(run(middle, 1, 2), run(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize('side', ['left', 'right', 'alone'])
def test_llada_ragged_rows(llada, side):
  want = tiny.recorded(llada, 'golden.npz')
  params = tiny.llada(llada)
  lengths = want['mixed_lengths']
  assert len(set(lengths.tolist())) > 1
  rows = [
    r[:n].tolist() for r, n in zip(want['mixed_tokens'], lengths, strict=True)
  ]
  if side == 'alone':
    got = [
      forward(params, *tiny.pad([row], len(row)), cfg=tiny.LLADA)[0]
      for row in rows
    ]
  else:
    ids, mask = tiny.pad(rows, 27, 123, side=side)
    logits = np.asarray(forward(params, ids, mask, cfg=tiny.LLADA))
    got = [logits[i, mask[i]] for i in range(len(rows))]
  for i, n in enumerate(lengths):
    np.testing.assert_allclose(
      got[i], want['mixed_logits'][i, :n], atol=5e-4, rtol=0
    )


@pytest.mark.parametrize('side', ['left', 'right'])
def test_dream_ragged_rows(dream, side):
  want = tiny.recorded(dream, 'golden.npz')
  rows = [
    r[:n].tolist()
    for r, n in zip(want['mixed_tokens'], want['mixed_lengths'], strict=True)
  ]
  ids, mask = tiny.pad(rows, 25, 99, side=side)
  logits = np.asarray(forward(tiny.dream(dream), ids, mask, cfg=tiny.DREAM))
  for i, n in enumerate(want['mixed_lengths']):
    np.testing.assert_allclose(
      logits[i, mask[i]], want['mixed_logits'][i, :n], atol=5e-4, rtol=0
    )


TOKENS = jax.random.randint(jax.random.key(3), (3, 7), 0, 28)
MASKS = jnp.array([[1] * 7, [0, 0, 1, 1, 1, 1, 1], [1, 1, 0, 0, 1, 1, 1]], bool)
QUERY = jnp.array([[6, 4], [5, 5], [4, 1]])
denoise = jax.jit(
  lambda cfg, *args: transformer.TransformerDenoiser(cfg=cfg)(*args),
  static_argnums=0,
)


def test_denoiser_reads_the_queried_columns():
  logits = forward(tiny.params(), TOKENS, MASKS, cfg=tiny.MODEL)
  got = denoise(tiny.MODEL, tiny.params(), TOKENS, MASKS, QUERY)
  want = jnp.take_along_axis(logits, QUERY[..., None], axis=1)
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
  assert got.dtype == jnp.float32


def test_shifted_logits_come_from_the_real_column_before():
  cfg = dataclasses.replace(tiny.MODEL, logit_shift=True)
  logits = np.asarray(forward(tiny.params(), TOKENS, MASKS, cfg=tiny.MODEL))
  got = denoise(cfg, tiny.params(), TOKENS, MASKS, QUERY)
  # In row 2, column 4 is preceded by padding: its token before is column 1.
  before = np.array([[5, 3], [4, 4], [1, 0]])
  want = np.take_along_axis(logits, before[..., None], axis=1)
  np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_shift_at_column_0_reads_itself():
  cfg = dataclasses.replace(tiny.MODEL, logit_shift=True)
  query = jnp.array([[0, 1]] * 3)
  got = denoise(cfg, tiny.params(), TOKENS, everywhere(TOKENS), query)
  np.testing.assert_array_equal(got[:, 0], got[:, 1])


def test_causal_reads_nothing_to_its_right():
  cfg = dataclasses.replace(tiny.MODEL, causal=True)
  other = TOKENS.at[:, 4:].set((TOKENS[:, 4:] + 1) % 28)
  args = everywhere(TOKENS)
  a, b = (
    np.asarray(forward(tiny.params(), x, args, cfg=cfg))
    for x in (TOKENS, other)
  )
  np.testing.assert_array_equal(a[:, :4], b[:, :4])
  assert np.abs(a[:, 4:] - b[:, 4:]).max() > 1e-3
  both = np.asarray(forward(tiny.params(), other, args, cfg=tiny.MODEL))
  one = np.asarray(forward(tiny.params(), TOKENS, args, cfg=tiny.MODEL))
  assert np.abs(both[:, :4] - one[:, :4]).min() > 0


def test_tied_embeddings():
  cfg = dataclasses.replace(tiny.MODEL, tie_embeddings=True)
  tied = tiny.params(cfg)
  assert 'lm_head' not in tied
  untied = tied | {'lm_head': {'kernel': tied['embed_tokens'].T}}
  mask = everywhere(TOKENS)
  np.testing.assert_allclose(
    forward(tied, TOKENS, mask, cfg=cfg),
    forward(untied, TOKENS, mask, cfg=tiny.MODEL),
    rtol=1e-5,
    atol=1e-5,
  )


@functools.cache
def gradient(remat):
  """Gradients of eight layers, and the temporary bytes of the program."""
  cfg = dataclasses.replace(tiny.MODEL, num_layers=8, remat=remat)

  @jax.jit
  def grads(params):
    @jax.grad
    def of(params):
      logits = network.Transformer(cfg).apply(
        {'params': params}, jnp.tile(TOKENS, (16, 1)), jnp.tile(MASKS, (16, 1))
      )
      return jnp.mean(logits**2)

    return of(params)

  params = tiny.params(dataclasses.replace(cfg, remat='none'))
  compiled = grads.lower(params).compile()
  return compiled(params), compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize('remat', ['block', 'dots'])
def test_remat_changes_no_gradient(remat):
  (want, _), (got, _) = gradient('none'), gradient(remat)
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-7),
    got,
    want,
  )
  assert max(float(jnp.abs(x).max()) for x in jax.tree.leaves(want)) > 1e-3


@pytest.mark.parametrize('sparse_every', [1, 2])
def test_layers_are_a_loop_or_are_not(sparse_every):
  sparse = {'feed_forward': 'experts', 'num_experts': 4, 'experts_per_token': 2}
  cfg = dataclasses.replace(
    tiny.MODEL,
    num_layers=4,
    sparse_every=sparse_every,
    **(sparse if sparse_every > 1 else {}),
  )
  params = jax.jit(network.init, static_argnums=1)(jax.random.key(0), cfg)

  @functools.partial(jax.value_and_grad, argnums=0)
  def loss(params, cfg):
    logits = forward(params, TOKENS, MASKS, cfg=cfg)
    return jnp.mean(jnp.where(MASKS[..., None], logits, 0) ** 2)

  unrolled, looped = (
    loss(params, dataclasses.replace(cfg, unroll=n)) for n in (4, 3)
  )
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-4, atol=1e-6),
    unrolled,
    looped,
  )
  text = lambda n: forward.lower(
    params, TOKENS, MASKS, cfg=dataclasses.replace(cfg, unroll=n)
  ).as_text()
  assert 'stablehlo.while' in text(3) and 'stablehlo.while' not in text(4)


def test_unstacked_layers_give_the_same():
  """States, keys and values, with a cache and without."""
  lm = tiny_causal.LM
  params = jax.jit(lm.init)(jax.random.key(0))

  @jax.jit
  def extended(params):
    cache = lm.init_cache(len(TOKENS), 2 * TOKENS.shape[1])
    logits, cache = lm.prefill(params, TOKENS, MASKS, cache)
    return logits, lm.extend(params, TOKENS, MASKS, cache)

  alone = lm.unstack(params)
  assert isinstance(alone['layers'], tuple) and lm.unstack(alone) is alone
  deeper = dataclasses.replace(tiny_causal.CFG, unroll=3)
  assert transformer.of_config(deeper).unstack(params) is params
  jax.tree.map(
    lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5),
    extended(alone),
    extended(params),
  )


def test_remat_saves_memory():
  none, dots, block = (gradient(r)[1] for r in ('none', 'dots', 'block'))
  assert block < 0.8 * dots < 0.8 * 0.8 * none


def test_bfloat16_is_near_and_logits_stay_float32():
  cfg = dataclasses.replace(tiny.MODEL, dtype='bfloat16')
  mask = everywhere(TOKENS)
  got = forward(tiny.params(), TOKENS, mask, cfg=cfg)
  want = forward(tiny.params(), TOKENS, mask, cfg=tiny.MODEL)
  assert got.dtype == jnp.float32
  gap = np.abs(np.asarray(got) - np.asarray(want))
  assert 0 < gap.max() < 0.15


@pytest.mark.parametrize(
  'wrong',
  [
    {'vocab_size': 0},
    {'num_kv_heads': 3},
    {'head_dim': 5},
    {'lora_rank': -1},
    {'remat': 'all'},
    {'unroll': -1},
    {'attention': 'flash'},
    {'attention': 'cudnn'},  # in float32
    {'attention': 'cudnn', 'dtype': 'bfloat16'},  # and of 4 columns a head
  ],
)
def test_config_refuses(wrong):
  with pytest.raises(ValueError, match=next(iter(wrong))):
    dataclasses.replace(tiny.MODEL, **wrong)


def test_config_is_hashable():
  assert hash(tiny.MODEL) == hash(
    config.ModelConfig(**dataclasses.asdict(tiny.MODEL))
  )
