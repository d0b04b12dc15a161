"""An evaluation under a profile: what it decodes with, and what it writes."""

import io
import json

import jax.numpy as jnp
import numpy as np
import pytest

from dllm_jax import errors
from dllm_jax import model as model_lib
from dllm_jax.eval import few_shot, profiles
from dllm_jax.rollout import answer_free
from dllm_jax.run import (
  eval_files,
  eval_start,
  evaluate,
  evaluate_choices,
  settings,
  setup,
)
from dllm_jax.runtime import console, processes
from dllm_jax.state import provenance
from dllm_jax.text import chat
from tests import tiny_pretrained, tiny_run

SHORT = {'gen_length': 16, 'block_length': 8, 'num_steps': 8}


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  return tiny_pretrained.llada(tmp_path_factory.mktemp('hf') / 'llada')


def values(folder, profile, **changes):
  changes = {
    'mesh__data': 1,
    'base__path': str(folder),
    'eval__profile': profile,
    'data__num_test': 2,
    'rollout__max_prompt_length': 200,
  } | changes
  return tiny_run.values('diffu_grpo', **(tiny_pretrained.CHANGES | changes))


def evaluated(config, folder, out, **how):
  screen = io.StringIO()
  how = {'decode': None, 'overrides': SHORT} | how
  found = evaluate.evaluate_model(
    config, folder, None, out=out, screen=console.Console(file=screen), **how
  )
  beside = out.with_suffix(eval_files.GENERATIONS)
  rows = [json.loads(line) for line in beside.read_text().splitlines()]
  return found, rows, screen.getvalue()


def test_a_profile_decides_and_is_written(folder, tmp_path):
  config = values(folder, 'd1')
  found, rows, said = evaluated(config, folder, tmp_path / 'out.json')
  assert json.loads((tmp_path / 'out.json').read_text()) == found
  assert found['profile'] == profiles.PROFILES['d1'].record('countdown')
  assert found['profile']['fields']['num_steps'] == 128
  how = found['decoding']
  # The user's lengths are over the profile's, and both are written.
  assert (how['decode'], how['gen_length'], how['num_steps']) == (
    'fixed',
    16,
    8,
  )
  assert (how['order'], how['eos_rule']) == ('confidence', 'none')
  assert 'profile: name d1' in said and 'prefill <reasoning>' in said
  assert {k: found[k] for k in ('git', 'versions')} == provenance.code()
  assert found['weights'] == {'base': {'name': str(folder), 'commit': None}}
  assert found['few_shot'] == {'num': 0, 'seed': None, 'ids': []}
  assert (found['num'], len(rows), found['seed']) == (2, 2, 0)
  # As a config of the same values, with the prefill, decodes.
  plain = values(
    folder,
    '',
    rollout__prefill='<reasoning>',
    task__parity=True,
    rollout__temperature=0.0,
  )
  same = evaluated(plain, folder, tmp_path / 'plain.json')
  assert same[1] == rows and same[0]['profile'] is None


def own_profile(monkeypatch, **how):
  """The name of a profile of d1's decoder without its template."""
  fields = profiles.PROFILES['d1'].protocol('countdown').fields
  protocol = profiles.Protocol(decode='fixed', fields=fields, **how)
  made = profiles.Profile(
    name='own', models='', source='', tasks=(('countdown', protocol),)
  )
  monkeypatch.setitem(profiles.PROFILES, 'own', made)
  return 'own'


def test_a_profile_decides_on_prefill_verdicts_and_shots(folder):
  """Unless the user wishes other shots."""
  config = eval_start.with_profile(values(folder, 'ta_grpo_d'))
  assert config['rollout']['prefill'] == '<reasoning>'
  assert not config['task']['parity']
  protocol = profiles.PROFILES['llada_paper'].protocol('gsm8k')
  assert not protocol.chat
  assert eval_start.shots_of(protocol, None) == few_shot.FewShot(num=5)
  one = few_shot.FewShot(num=1)
  assert eval_start.shots_of(protocol, one) == one
  assert eval_start.shots_of(None, None) == few_shot.NONE


def test_the_template_is_the_profiles(folder, tmp_path, monkeypatch):
  config = values(folder, 'd1')
  seen = []
  real = eval_start.start

  def start(*args, **kwargs):
    made = real(*args, **kwargs)
    seen.append(made[0].template)
    return made

  monkeypatch.setattr(eval_start, 'start', start)
  evaluated(config, folder, tmp_path / 'chat.json')
  for bos in (False, True):
    own = own_profile(monkeypatch, bos=bos)
    evaluated(values(folder, own), folder, tmp_path / f'{bos}.json')
  assert seen == [
    chat.FAMILIES['llada'],
    chat.PLAIN,
    chat.plain('<|startoftext|>'),
  ]


def test_a_template_or_bos_that_a_folder_lacks_is_one_line(
  tmp_path, monkeypatch
):
  folder = tiny_pretrained.llada(tmp_path / 'model', 'dllm_jax')
  with pytest.raises(errors.UserError, match='has no chat template'):
    evaluated(values(folder, 'd1'), folder, tmp_path / 'out.json')
  config = json.loads((folder / 'tokenizer_config.json').read_text())
  config.pop('bos_token')
  (folder / 'tokenizer_config.json').write_text(json.dumps(config))
  own = own_profile(monkeypatch, bos=True)
  with pytest.raises(errors.UserError, match='names no bos_token'):
    evaluated(values(folder, own), folder, tmp_path / 'out.json')


def test_the_first_answer_counts_where_examples_have_no_template(
  folder, tmp_path, monkeypatch
):
  """A base model that goes on with an example of its own.

  The first row is answered, and the next question wrongly; the second row is
  not, and an invented one is answered as the second should have been.
  """
  own = own_profile(monkeypatch, num_fewshot=1)
  config = values(folder, own, rollout__max_prompt_length=600)
  cfg = settings.from_config(config)
  task, rows = cfg.task, setup.load_test(cfg)
  tokenizer = model_lib.Model.describe(folder).tokenizer
  right = [task.demonstration(row) for row in rows]
  wrong = '<answer>\n1 + 1\n</answer>'
  texts = [
    f'{a}\n\n{task.prompt(row)}{b}'
    for a, b, row in zip(
      [right[0], wrong], [wrong, right[1]], rows, strict=True
    )
  ]
  written = tokenizer.encode_batch(texts)
  longest = max(map(len, written))
  tokens = np.full((cfg.eval.batch_size, longest), tokenizer.eos_token)
  for i, ids in enumerate(written):
    tokens[i, : len(ids)] = ids
  real, read = answer_free.sample, []

  def sample(denoiser, params, key, placed, *args, **kwargs):
    read.extend(
      ids[mask].tolist()
      for ids, mask in zip(
        np.array(placed.ids), np.array(placed.mask), strict=True
      )
    )
    made = real(denoiser, params, key, placed, *args, **kwargs)
    return made._replace(tokens=jnp.asarray(tokens, jnp.int32))

  monkeypatch.setattr(answer_free, 'sample', sample)
  found, items, _ = evaluated(config, folder, tmp_path / 'out.json')
  assert [item['correct'] for item in items] == [True, False]
  assert found['accuracy'] == 0.5 and found['few_shot']['num'] == 1
  # What is written beside is all that the model wrote.
  assert [item['generation'] for item in items] == texts
  [shown] = [
    row
    for row in setup.load_examples(cfg)
    if row['id'] in found['few_shot']['ids']
  ]
  before = f'{task.prompt(shown)}{task.demonstration(shown)}\n\n'
  asked = [before + task.prompt(row) for row in rows]
  assert read[: len(rows)] == tokenizer.encode_batch(asked)


def test_processes_that_were_started_differently_are_noticed(
  folder, monkeypatch, shared_dir
):
  """What an evaluation depends on is compared: no two of these are alike."""

  class Compared(Exception):
    pass

  seen = []

  def check_same(values):
    seen.append(json.dumps(values, sort_keys=True))
    raise Compared

  monkeypatch.setattr(processes, 'check_same', check_same)
  screen = console.Console(file=io.StringIO())
  generated = {'decode': None, 'overrides': {}, 'shots': None}
  for how in (
    {},
    {'decode': 'gated'},
    {'overrides': {'num_steps': 4}},
    {'shots': few_shot.FewShot(num=0)},
    {'shots': few_shot.FewShot(num=1)},
    {'shots': few_shot.FewShot(num=1, seed=3)},
  ):
    with pytest.raises(Compared):
      evaluate.evaluate_model(
        values(folder, ''),
        folder,
        None,
        out=None,
        screen=screen,
        **(generated | how),
      )
  with pytest.raises(Compared):
    evaluate.sweep_models(values(folder, ''), folder, out=None, screen=screen)
  config = values(
    folder, '', task={'name': 'openbookqa'}, data_dir=str(shared_dir / 'data')
  )
  for num_canvases in (None, 4):
    with pytest.raises(Compared):
      evaluate_choices.evaluate_choices(
        config,
        folder,
        None,
        num_canvases=num_canvases,
        out=None,
        screen=screen,
      )
  assert len(set(seen)) == len(seen) == 9


@pytest.mark.parametrize(
  ('profile', 'how', 'line'),
  [
    ('llada_paper', {}, "no protocol for 'countdown'; it has gsm8k"),
    ('d1', {'decode': 'gated'}, 'decodes with fixed, not with gated'),
    ('d2', {}, "profile 'd2': expected one of llada_paper"),
    ('d1', {'overrides': {'threshold': 0.5}}, 'not read by the fixed decoder'),
  ],
)
def test_what_does_not_fit_is_one_line(folder, tmp_path, profile, how, line):
  config = values(folder, profile)
  with pytest.raises(errors.UsageError, match=line):
    evaluated(config, folder, tmp_path / 'out.json', **how)


def test_neither_a_sweep_nor_options_are_a_decoding(folder):
  screen = console.Console(file=io.StringIO())
  with pytest.raises(errors.UsageError, match='a sweep has several'):
    evaluate.sweep_models(values(folder, 'd1'), folder, out=None, screen=screen)
  config = values(folder, 'dream_release', task={'name': 'gsm8k'})
  with pytest.raises(errors.UserError, match='leave --likelihood out'):
    evaluate_choices.evaluate_choices(
      config, folder, None, out=None, screen=screen
    )
