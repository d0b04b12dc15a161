"""Supervised training: batches by hand, and a loss that falls."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import configs.sft
from dllm_jax import errors
from dllm_jax.eval import likelihood, masked_likelihood
from dllm_jax.hf import load
from dllm_jax.ops import sampling, streams
from dllm_jax.rl import masked_diffusion
from dllm_jax.rollout import demonstrations
from dllm_jax.run import base_model, settings, setup
from dllm_jax.runtime import console
from dllm_jax.train import loop, progress
from dllm_jax.train import state as state_lib
from dllm_jax.train.methods import sft
from tests import tiny_rows, tiny_run

ROWS = tiny_run.rows(
  '5 + 3 - 1',
  '3 + 5 - 1',
  '5 - 1 + 3',
  '3 - 1 + 5',
  '5 + 3 + 1',
  '3 + 5 + 1',
  '5 + 1 + 3',
  '3 + 1 + 5',
)


def start(*, phase='sft', **changes):
  """(method, state)."""
  changes = {'rollout__gen_length': 14, 'rollout__block_length': 14} | changes
  cfg, ctx = tiny_run.parts(
    base__optim__learning_rate=0.02, base__optim__warmup_steps=1, **changes
  )
  optimizer = tiny_run.optimizer(cfg.base_optim)
  state = state_lib.create(setup.fresh_params(ctx), optimizer)
  method = sft.Sft(ctx=ctx, optimizer=optimizer, cfg=cfg.base_sft, phase=phase)
  return method, progress.on_one_mesh(state)


def test_collect_by_hand():
  method, state = start()
  assert isinstance(method, loop.Method)
  batch, metrics = method.collect(state, ROWS[:1], 0)
  words = {
    word: method.ctx.tokenizer.encode(word)[0]
    for word in method.ctx.task.words()
  }
  eos = method.ctx.vocab.eos_token
  prompt = [' 5', ' 3', ' 1', ' =', ' 7', '\n']
  completion = ['<reasoning>\n', ' 8', ' 7', '\n</reasoning>\n']
  completion += ['<answer>\n', ' 5', ' +', ' 3', ' -', ' 1', '\n</answer>']
  assert batch.prompt_ids.tolist() == [[words[x] for x in prompt]]
  assert batch.prompt_mask.all()
  assert batch.tokens.tolist() == [
    [words[x] for x in completion] + [eos] * (14 - 11)
  ]
  assert metrics == {}


def test_long_demonstrations_are_refused():
  method, state = start(rollout__gen_length=10, rollout__block_length=10)
  with pytest.raises(errors.UserError) as caught:
    method.collect(state, ROWS, 0)
  line = str(caught.value)
  assert "row 'row0' has 11 tokens, more than rollout.gen_length=10" in line
  assert '\n' not in line


def train(steps, **changes):
  method, state = start(**changes)
  losses = []
  for step in range(steps):
    batch, _ = method.collect(state, ROWS, step)
    state, (metrics,) = method.update(state, batch, step)
    losses.append(float(metrics['sft/loss']))
  return np.array(losses), jax.device_get(state.params)


def test_loss_decreases():
  losses, _ = train(30)
  assert losses[-5:].mean() < 0.5 * losses[:5].mean()


def test_run_is_deterministic_and_control_draws_differ():
  first, params = train(2)
  again, same = train(2)
  np.testing.assert_array_equal(first, again)
  tiny_run.assert_same(params, same)
  control, _ = train(2, phase='control')
  assert (control != first).all()


CAUSAL = {'model__causal': True, 'rollout__decode': 'autoregressive'}


def test_causal_micro_batches_add_up_to_the_loss_of_the_tokens():
  """Demonstrations of 11 tokens and an EOS, and of fewer; by the likelihood."""
  method, state = start(**CAUSAL)
  batch, _ = method.collect(state, ROWS, 0)
  eos = method.ctx.vocab.eos_token
  tokens = np.array(batch.tokens)
  tokens[::2, 5:] = eos  # the text ends early
  batch = batch._replace(tokens=tokens)
  mask = np.cumsum(tokens == eos, axis=1) <= 1
  exact = likelihood.exact(
    method.ctx.denoiser,
    state.params,
    likelihood.Pairs(batch.prompt_ids, batch.prompt_mask, tokens, mask),
    np.arange(len(tokens)),
    vocab=method.ctx.vocab,
  )
  want = -np.sum(exact.logp) / (4 * 6 + 4 * 12)
  for count in (1, 4):
    method, state = start(base__num_micro=count, **CAUSAL)
    _, (metrics,) = method.update(state, batch, 0)
    np.testing.assert_allclose(metrics['sft/loss'], want, rtol=1e-5)


def test_causal_loss_decreases():
  losses, _ = train(15, **CAUSAL)
  assert losses[-1] < 0.6 * losses[0]


BLOCKS = {
  'model__block_causal': 4,
  'rollout__block_length': 7,
  'eval__num_steps': (2,),
}


def test_block_loss_is_that_of_each_block_after_clean_ones():
  """One call of the model per block, on a canvas that ends with it."""
  method, state = start(**BLOCKS)
  batch, _ = method.collect(state, ROWS, 0)
  # Prompts of 6 and of 5 tokens: completions begin within a block, at its
  # third or its second token.
  batch = batch._replace(
    prompt_mask=np.array(batch.prompt_mask)
    & (np.arange(6)[None] >= np.arange(8)[:, None] % 2)
  )
  ctx = method.ctx
  key = streams.step_key(ctx.root, 'sft', 0)
  views = masked_diffusion.masked_views(
    key,
    jnp.asarray(batch.prompt_ids),
    jnp.asarray(batch.prompt_mask),
    jnp.asarray(batch.tokens),
    ctx.vocab,
    min_ratio=method.cfg.min_ratio,
  )
  noised, real = views.tokens[:, 0], np.asarray(views.attention_mask[:, 0])
  clean = np.concatenate([batch.prompt_ids, batch.tokens], axis=1)
  number = (np.cumsum(real, axis=1) - 1) // 4
  query = jnp.broadcast_to(jnp.arange(6, 20)[None], (8, 14))
  read = jax.jit(
    lambda params, tokens, mask: jax.nn.log_softmax(
      sampling.allowed_logits(
        ctx.denoiser(params, tokens, mask, query), ctx.vocab
      )
    )
  )
  total = 0.0
  for block in range(1, 5):
    row = jnp.where(number == block, noised, clean)
    logp = read(state.params, row, jnp.asarray(real & (number <= block)))
    logp = np.take_along_axis(np.asarray(logp), batch.tokens[..., None], 2)
    own = np.asarray(views.credit[:, 0]) & (number[:, 6:] == block)
    total -= np.sum(np.where(own, logp[..., 0], 0) * views.weight)
  _, (metrics,) = method.update(state, batch, 0)
  want = total / batch.tokens.size
  np.testing.assert_allclose(metrics['sft/loss'], want, rtol=1e-5)


TURNS = tiny_rows.messages(
  'user: a', 'assistant: bc', 'user: d', 'assistant: e'
)
TALK = [
  {'id': 'a', 'messages': TURNS},
  {'id': 'b', 'messages': TURNS[:2]},
  {'id': 'c', 'messages': tiny_rows.messages('user: xyz', 'assistant: wvut')},
  {'id': 'd', 'messages': TURNS[2:]},
]


def talking(place, family, **changes):
  """(method, parameters, tokenized rows) of a folder."""
  folder = tiny_rows.folder(place / family, family)
  is_causal = family == 'qwen3'
  cfg = settings.from_config(
    tiny_rows.values(
      configs.sft,
      'own.jsonl',
      base__path=str(folder),
      base__batch_size=4,
      rollout__decode='autoregressive' if is_causal else 'fixed',
      **changes,
    )
  )
  ctx = setup.make_context(cfg, base_model.describe_base(cfg))
  screen = console.Console(file=io.StringIO())
  params = base_model.load_params(load.read(folder), ctx, screen)
  optimizer = tiny_run.optimizer(cfg.optim)
  method = sft.Sft(ctx=ctx, optimizer=optimizer, cfg=cfg.base_sft)
  return method, params, demonstrations.tokenized(ctx, TALK)


def loss(method, params, rows, **changes):
  return sft.held_out_loss(
    method.ctx,
    params,
    rows,
    method.cfg,
    **({'batch_size': 4, 'advance': lambda count: None} | changes),
  )


def test_causal_loss_of_turns_by_the_likelihood(tmp_path):
  """Each turn is a continuation of all before it."""
  method, params, rows = talking(tmp_path, 'qwen3')
  pairs = []
  for row in rows:
    prompt, completion, learnt = row['conversation']
    for start, is_first in enumerate(np.diff([0, *learnt]) == 1):
      if is_first:
        stop = start + (np.diff([*learnt[start:], 0]) == -1).argmax() + 1
        pairs.append(([*prompt, *completion[:start]], completion[start:stop]))
  assert [len(turn) for _, turn in pairs] == [3, 2, 3, 5, 2]
  exact = likelihood.score(
    method.ctx.denoiser,
    params,
    pairs,
    vocab=method.ctx.vocab,
    mesh=method.ctx.mesh,
    estimate=masked_likelihood.Estimate(),
    seed=0,
    batch_size=8,
  ).logp
  want = -sum(exact) / 15
  np.testing.assert_allclose(loss(method, params, rows), want, rtol=1e-5)
  # Batches, the last of which is filled up, add up to the same.
  seen = []
  got = loss(method, params, rows, batch_size=3, advance=seen.append)
  np.testing.assert_allclose(got, want, rtol=1e-5)
  assert seen == [3, 1]
  # It is the loss of the update.
  state = state_lib.create(params, method.optimizer)
  batch, _ = method.collect(state, rows, 0)
  _, (metrics,) = method.update(state, batch, 0)
  np.testing.assert_allclose(metrics['sft/loss'], want, rtol=1e-5)


def test_masked_loss_of_turns_by_hand(tmp_path):
  """Of the update: of the assistant's tokens, and of the padding."""
  for is_filled in (True, False):
    place = tmp_path / str(is_filled)
    method, params, rows = talking(place, 'llada', base__eos_padding=is_filled)
    state = state_lib.create(params, method.optimizer)
    batch, _ = method.collect(state, rows, 0)
    sizes = [sum(row['conversation'].learnt) for row in rows]
    ends = [len(row['conversation'].completion) for row in rows]
    count = sum(sizes) + is_filled * sum(48 - end for end in ends)
    assert np.asarray(batch.learnt).sum() == count
    views = masked_diffusion.masked_views(
      streams.step_key(method.ctx.root, 'sft', 0),
      *map(jnp.asarray, batch[:3]),
      method.ctx.vocab,
      min_ratio=method.cfg.min_ratio,
      learnt=batch.learnt,
      mask=batch.mask,
    )
    total = 0.0
    for i in range(4):  # row by row, without its padding
      size = 48 if is_filled else ends[i]
      first = int(np.argmax(batch.prompt_mask[i]))
      width = batch.prompt_ids.shape[1]
      tokens = views.tokens[i, :, first : width + size]
      logits = method.ctx.denoiser(
        params,
        tokens,
        jnp.ones(tokens.shape, bool),
        jnp.arange(width - first, width - first + size)[None],
      )
      logp = jax.nn.log_softmax(
        sampling.allowed_logits(logits, method.ctx.vocab)
      )[0]
      own = np.asarray(views.credit[i, 0])
      for k in np.flatnonzero(own):
        total -= float(logp[k, batch.tokens[i, k]] * views.weight[i, 0])
    _, (metrics,) = method.update(state, batch, 0)
    np.testing.assert_allclose(metrics['sft/loss'], total / count, rtol=1e-5)


def test_held_out_loss_does_not_depend_on_the_batch(tmp_path):
  method, params, rows = talking(tmp_path, 'llada')
  want = loss(method, params, rows)
  for size in (1, 3, 16):
    got = loss(method, params, rows, batch_size=size)
    np.testing.assert_allclose(got, want, rtol=1e-5)


def test_held_out_loss_of_a_model_that_knows_nothing(tmp_path):
  """log V a token, but for the draws, though most rows of a batch are none."""
  method, params, rows = talking(tmp_path, 'llada')
  params = jax.tree.map(jnp.zeros_like, params)
  got = loss(method, params, rows, batch_size=32)
  # [MASK] is never proposed.
  np.testing.assert_allclose(got, np.log(method.ctx.vocab.size - 1), rtol=0.15)


def test_padding_that_is_not_learnt_changes_nothing(tmp_path):
  """Other ids in it give the same loss."""
  narrow, params, rows = talking(
    tmp_path / 'a', 'llada', base__eos_padding=False
  )
  state = state_lib.create(params, narrow.optimizer)
  batch, _ = narrow.collect(state, rows, 0)
  batch = jax.device_get(batch)
  other = batch._replace(tokens=np.where(batch.mask, batch.tokens, 7))
  losses = []
  for own in (batch, other):
    state = state_lib.create(jax.tree.map(jnp.copy, params), narrow.optimizer)
    _, (metrics,) = narrow.update(state, own, 0)
    losses.append(float(metrics['sft/loss']))
  assert losses[0] == losses[1] > 0


def test_block_loss_decreases():
  losses, _ = train(30, **BLOCKS)
  assert losses[-5:].mean() < 0.6 * losses[:5].mean()


@pytest.mark.parametrize(
  'changes',
  [
    {'base__num_micro': 4},
    {'devices': 2, 'base__num_micro': 2},
    {'mesh__fsdp': 2, 'mesh__tensor': 2},
  ],
)
@pytest.mark.parametrize('model', [{}, BLOCKS], ids=['masked', 'blocks'])
def test_step_does_not_depend_on_micro_batches_or_devices(model, changes):
  want, params = train(2, **model)
  got, others = train(2, **model, **changes)
  np.testing.assert_allclose(got, want, rtol=1e-5)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=3e-5),
    others,
    params,
  )
