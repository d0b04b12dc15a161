"""Completions of prompts: batches, text, chat, replay, and what is refused."""

import io
import json

import numpy as np
import pytest

from dllm_jax import errors, types
from dllm_jax import model as model_lib
from dllm_jax.hf import config as hf_config
from dllm_jax.hf import save
from dllm_jax.run import generate, prompt_file
from dllm_jax.runtime import console, sharding
from dllm_jax.text import tokenizer as tokenizer_lib
from tests import tiny, tiny_model

GATED = {'decode': 'gated', 'threshold': 0.15}
SHORT = {'gen_length': 16, 'block_length': 8}


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  return tiny_model.llada(tmp_path_factory.mktemp('llada') / 'm')


def requests(*prompts):
  """Texts or ids as rows."""
  key = lambda p: 'prompt' if isinstance(p, str) else 'prompt_ids'
  return [
    prompt_file.parse({'id': f'r{i}', key(p): p}, f'p.jsonl:{i + 1}')
    for i, p in enumerate(prompts)
  ]


def run(folder, out, rows, *, changes, devices=1, use_chat=None, **kwargs):
  """(rows, what was shown)."""
  screen = io.StringIO()
  generate.generate(
    folder,
    rows,
    decode=changes.get('decode'),
    overrides={k: v for k, v in changes.items() if k != 'decode'},
    **kwargs,
    mesh=sharding.make_mesh(sharding.MeshConfig(data=devices)),
    screen=console.Console(file=screen),
    use_chat=use_chat,
    out=out,
  )
  return tiny_model.read_rows(out), screen.getvalue()


RAGGED = tiny.random_prompts(0, (3, 40, 17))  # two widths
FIXED = {**SHORT, 'num_steps': 6, 'order': 'random'}
SAMPLED = {**SHORT, **GATED, 'temperature': 0.7, 'top_p': 0.9}


@pytest.mark.parametrize(
  'model, changes, cfg_scale',
  [('dream_tiny', FIXED, 0.0), ('llada_tiny', SAMPLED, 0.7)],
)
def test_a_row_does_not_depend_on_its_batch(
  shared_dir, tmp_path, model, changes, cfg_scale
):
  go = lambda size, devices: run(
    shared_dir / 'golden' / model,
    tmp_path / f'{size}_{devices}',
    requests(*RAGGED),
    devices=devices,
    changes=changes | {'cfg_scale': cfg_scale},
    seed=3,
    batch_size=size,
  )[0]
  want = go(1, 1)
  assert [row['prompt_ids'] for row in want] == RAGGED
  assert len({str(row['completion_ids']) for row in want}) == len(want)
  for got in (go(8, 1), go(3, 2)):
    for a, b in zip(got, want, strict=True):
      np.testing.assert_allclose(a.pop('logp'), b['logp'], atol=2e-4)
      assert a == {k: v for k, v in b.items() if k != 'logp'}


def test_seed_and_place_decide_the_draws(folder, tmp_path):
  go = lambda name, seed: run(
    folder,
    tmp_path / name,
    requests('dig', 'dig'),
    changes={**SHORT, 'temperature': 1.0},
    seed=seed,
  )[0]
  ids = lambda rows: [row['completion_ids'] for row in rows]
  first = ids(go('a', 0))
  assert first == ids(go('b', 0)) and first[0] != first[1]
  assert first != ids(go('c', 1))


def test_text_ends_where_the_turn_ends(folder, tmp_path):
  rows, shown = run(
    folder,
    tmp_path / 'x',
    requests(*['dig'] * 8),
    changes={
      'gen_length': 48,
      'block_length': 48,
      'temperature': 50.0,
      'stop_at_eos': False,
    },
  )
  tokenizer = tokenizer_lib.Tokenizer.from_directory(folder)
  ends = set()
  for row in rows:
    ids = row['completion_ids']
    assert row['prompt_ids'] == [3, 8, 6] and len(ids) == 48
    end = next((i for i, token in enumerate(ids) if token in (18, 20)), 48)
    assert row['text'] == tokenizer.decode(ids[:end])
    assert row['num_steps'] == 48  # one token a step, unless told otherwise
    assert sorted(row['commit_step']) == list(range(48))
    assert max(row['logp']) < 0 and len(row['logp']) == 48
    ends.add(ids[end] if end < 48 else None)
  assert {18, 20} <= ends
  assert 'generating  8/8' in shown and f'written: {tmp_path / "x"}' in shown


@pytest.mark.parametrize(
  'name, has, use_chat, put',
  [
    ('llada', True, None, True),
    ('llada', True, False, False),
    ('llada', False, None, False),
    ('LLaDA-8B-Base', True, None, False),
    ('llada_base', True, None, False),
    ('llada_based', True, None, True),
    ('LLaDA-8B-Base', True, True, True),
  ],
)
def test_chat_template_of_the_folder(tmp_path, name, has, use_chat, put):
  template = tiny_model.TEMPLATE if has else None
  directory = tiny_model.llada(tmp_path / name.strip('@0'), chat=template)
  rows, shown = run(
    directory,
    tmp_path / 'x',
    requests('dig', [3, 8, 6]),
    use_chat=use_chat,
    changes=SHORT,
  )
  plain, chatted = [3, 8, 6], [21, 0, 3, 8, 6, 20, 1]
  assert rows[0]['prompt_ids'] == (chatted if put else plain)
  assert rows[1]['prompt_ids'] == plain
  assert ('--nochat' in shown) == put


def test_a_template_that_fails_can_be_left_out(tmp_path):
  directory = tiny_model.llada(tmp_path / 'm', chat='{{ 1 + }}')
  with pytest.raises(errors.UserError, match='decode without it: --nochat'):
    run(directory, tmp_path / 'x', requests('dig'), changes=SHORT)


def test_a_family_without_a_file_has_its_own_template(folder):
  found = model_lib.Model.describe(folder).prompt_template(True)
  assert found.before.startswith('<|startoftext|><|start_header_id|>user')


def test_a_folder_written_here_decodes_alike(folder, tmp_path):
  rows = requests('dig', 'a b')
  want, _ = run(folder, tmp_path / 'a', rows, changes=SHORT)
  mesh = sharding.make_mesh(sharding.MeshConfig(data=1))
  save.convert(folder, tmp_path / 'ours', mesh)
  assert run(tmp_path / 'ours', tmp_path / 'b', rows, changes=SHORT)[0] == want


def test_rows_stop_at_eos_unless_told_otherwise(folder, tmp_path):
  """A pretrained model's text ends with its EOS; the rest costs no step."""
  hot = {'gen_length': 64, 'block_length': 4, 'temperature': 50.0}
  rows, _ = run(folder, tmp_path / 'a', requests(*['dig'] * 8), changes=hot)
  whole, _ = run(
    folder,
    tmp_path / 'b',
    requests(*['dig'] * 8),
    changes=hot | {'stop_at_eos': False},
  )
  assert [r['text'] for r in rows] == [r['text'] for r in whole]
  assert all(row['num_steps'] == 64 for row in whole)
  assert min(row['num_steps'] for row in rows) < 64


def decoder(model, changes):
  overrides = {k: v for k, v in changes.items() if k != 'decode'}
  return model.decoder(changes.get('decode'), overrides)


def test_overrides_of_the_default_decoder(folder):
  model = model_lib.Model.describe(folder)
  assert decoder(model, {}) == model.decoders['fixed']
  short = decoder(model, {'gen_length': 24})
  assert (short.block_length, short.num_steps) == (24, 24)
  long = decoder(model, {'gen_length': 256, 'num_steps': 64})
  assert (long.block_length, long.num_steps) == (32, 64)
  gated = decoder(model, GATED)
  assert (gated.threshold, gated.gate) == (0.15, 'threshold')
  assert type(gated) is type(model.decoders['gated'])


@pytest.mark.parametrize(
  'changes, fault',
  [
    ({'threshold': 0.5}, '--threshold is not read by the fixed decoder'),
    ({'exponent': 0.5}, '--exponent is not read by the fixed decoder; give'),
    ({**GATED, 'num_steps': 5}, '--steps is not read by the gated decoder'),
    ({**GATED, 'order': 'random'}, '--order is not read by the gated'),
    ({**GATED, 'schedule': 'linear'}, '--schedule is not read by the gated'),
    ({'gate': 'bernoulli'}, '--gate is not read by the fixed decoder'),
    ({'num_steps': 129}, '--steps 129 is more than the 128 tokens of a comp'),
    ({'num_steps': 33, 'gen_length': 32}, '--steps 33 is more than the 32 to'),
    ({**GATED, 'top_p': 0.0}, 'top_p 0.0 is outside'),
    ({'gen_length': 40}, 'gen_length 40 is not a positive multiple of'),
    ({'temperature': -1.0}, 'temperature -1.0 must be finite and'),
  ],
)
def test_flags_that_do_not_fit(folder, changes, fault):
  with pytest.raises(errors.UsageError) as caught:
    decoder(model_lib.Model.describe(folder), changes)
  assert fault in str(caught.value)


def test_prompts_that_do_not_fit(folder, shared_dir):
  source = model_lib.Model.describe(folder)
  bare = model_lib.Model.describe(shared_dir / 'golden' / 'llada_tiny')
  assert source.encode([31]) == [31]
  for origin, prompt, fault in (
    (source, [0, 32], 'prompt_ids [0, 32] must be ids from 0 to 31'),
    (source, 'a\ud800', 'surrogates not allowed'),
    (bare, 'dig', 'the prompt is text, and the model has no token'),
  ):
    with pytest.raises(errors.UserError) as caught:
      origin.encode(prompt)
    assert fault in str(caught.value)


def test_a_model_without_eos(tmp_path, shared_dir):
  source = shared_dir / 'golden' / 'llada_tiny'
  config = json.loads((source / 'config.json').read_text())
  del config['eos_token_id']
  (tmp_path / 'config.json').write_text(json.dumps(config))
  with pytest.raises(errors.UserError, match='names an EOS; set eos_token_id'):
    model_lib.Model.describe(tmp_path)


def test_the_mask_is_that_of_the_config(tmp_path):
  special = hf_config.Special(mask_token=22, eos_tokens=(18,))
  directory = tiny_model.llada(tmp_path / 'm', special=special)
  mesh = sharding.make_mesh(sharding.MeshConfig(data=1))
  save.convert(directory, tmp_path / 'ours', mesh)
  for path in (directory, tmp_path / 'ours'):
    vocab = model_lib.Model.describe(path).vocab
    # Of its tokenizer comes <|eot_id|>, which ends a turn.
    assert vocab == types.Vocabulary(
      size=23, mask_token=22, eos_token=18, stop_tokens=(18, 20)
    )
