"""An evaluation under a profile: what it decodes with, and what it writes."""

import io
import json

import pytest

from dllm_jax import errors
from dllm_jax.eval import few_shot, profiles
from dllm_jax.run import eval_files, eval_start, evaluate, evaluate_choices
from dllm_jax.runtime import console
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


def test_a_base_model_has_no_template_and_examples(folder, tmp_path):
  """Shots of the profile, or the user's; the message as it is."""
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
    seen.append(made.ctx.template)
    return made

  monkeypatch.setattr(eval_start, 'start', start)
  evaluated(config, folder, tmp_path / 'chat.json')
  base = dict(profiles.PROFILES['d1'].tasks)['countdown']
  own = profiles.Profile(
    name='own',
    models='',
    source='',
    tasks=(('countdown', base.__class__(decode='fixed', fields=base.fields)),),
  )
  monkeypatch.setitem(profiles.PROFILES, 'own', own)
  evaluated(values(folder, 'own'), folder, tmp_path / 'plain.json')
  assert [template.after for template in seen] == [
    chat.FAMILIES['llada'].after,
    '',
  ]


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
