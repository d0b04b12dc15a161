"""A run of CPC-GRPO with its arms: whole, stopped, and without gold answers."""

import io
import json
import shutil

import pytest

from dllm_jax import errors
from dllm_jax.run import settings
from dllm_jax.run import train as run_lib
from dllm_jax.runtime import console
from dllm_jax.state import metrics
from dllm_jax.tasks import phrasings
from tests import tiny_run

ARMS = {
  'random': {'method': {'signal': 'random'}},
  'entropy': {
    'method': {'signal': 'entropy', 'pairs': 'own'},
    'train': {'optim': {'learning_rate': 1e-4}, 'num_steps': 2},
  },
}


def values(arms=ARMS):
  own = tiny_run.values(
    'cpc_grpo', mesh__data=1, train__num_steps=3, data__num_test=6
  )
  return own | {'arms': arms}


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
  """(workdir, what it showed)."""
  directory, screen = tmp_path_factory.mktemp('cpc') / 'run', io.StringIO()
  run_lib.train(values(), directory, console.Console(file=screen))
  return directory, screen.getvalue()


def test_a_run_trains_and_evaluates_every_arm(trained):
  directory, shown = trained
  rows = [(row['phase'], row['step']) for row in metrics.read(directory)]
  for phase, steps in (('sft', 4), ('rl', 3), ('random', 3), ('entropy', 2)):
    assert [s for p, s in rows if p == phase] == list(range(1, steps + 1))
  found = json.loads((directory / 'eval.json').read_text())
  assert list(found['arms']) == list(ARMS)
  assert set(found['seconds']) == {'base', 'rl', 'eval', *ARMS}
  for of in (found['base'], found['final'], *found['arms'].values()):
    assert len(of['phrasings']['seen']['views']) == 8
    assert 0 <= of['phrasings']['ensemble'] <= 1
  assert 'over phrasings' in shown and 'random' in shown
  base = tiny_run.kept(directory / 'base')
  for name in ('final', *(f'arms/{arm}' for arm in ARMS)):
    policy = tiny_run.kept(directory / name)
    assert any((policy[k] != base[k]).any() for k in base)


def test_the_report_shows_who_agrees_with_whom(trained):
  directory, _ = trained
  page = (directory / 'report.html').read_text('utf-8')
  assert 'Who agrees with whom' in page and 'CPC-GRPO on' in page
  assert page.count('class="compact matrix"') == 2 * 4
  found = json.loads((directory / 'agreement.json').read_text())
  for problem in found['problems']:
    for of in problem['policies'].values():
      assert all(score <= 0 for row in of['scores'] for score in row)


def test_a_run_that_was_stopped_in_an_arm_ends_with_the_same_bits(
  trained, tmp_path
):
  directory = shutil.copytree(trained[0], tmp_path / 'run')
  for name in ('final', 'arms/entropy'):
    shutil.rmtree(directory / name)
  for last in ('rl/3', 'entropy/2'):
    shutil.rmtree(directory / 'checkpoints' / last)
  (directory / 'eval.json').unlink()
  run_lib.train(values(), directory, console.Console(file=io.StringIO()))
  for name in ('final', 'arms/entropy'):
    tiny_run.assert_same(
      tiny_run.kept(directory / name), tiny_run.kept(trained[0] / name)
    )


def test_gold_answers_of_rl_prompts_change_no_parameter(
  trained, tmp_path, monkeypatch
):
  """All of the training split are wrong; demonstrations are not read here."""
  honest = phrasings.Phrasings.rows
  corrupt = lambda rows: [{**row, 'answer': 'AAAA'} for row in rows]
  monkeypatch.setattr(
    phrasings.Phrasings,
    'rows',
    lambda task, split: (
      corrupt([honest(task, split)[i] for i in range(len(honest(task, split)))])
      if split == 'train'
      else honest(task, split)
    ),
  )
  changed = values({})
  changed['base'] |= {'path': str(trained[0] / 'base')}
  run_lib.train(changed, tmp_path / 'run', console.Console(file=io.StringIO()))
  tiny_run.assert_same(
    tiny_run.kept(tmp_path / 'run/final'), tiny_run.kept(trained[0] / 'final')
  )
  right = lambda place: [
    row['reward/correct'] for row in metrics.read(place) if row['phase'] == 'rl'
  ]
  assert not any(right(tmp_path / 'run'))


@pytest.mark.parametrize(
  ('arm', 'message'),
  [
    ({'method': {'sigal': 'random'}}, 'arms.x.method.sigal is not one of'),
    ({'method': {'num_views': 1}}, 'arms.x: .*2 views or more'),
    ({'method': {'num_views': 2.5}}, 'method.num_views is 2.5; the run has 4'),
    ({'task': {'shared_bias': 2}}, 'arms.x.task.shared_bias is shared'),
    ({'seed': 3}, 'arms.x.seed is shared'),
    ({'train': {'control': True}}, 'arms.x.train.control is shared'),
    ({'model': {'gate_scale': 'none'}}, 'it has no model.gate_scale'),
  ],
)
def test_a_bad_arm_is_one_line(arm, message):
  with pytest.raises(errors.UserError, match=message):
    settings.from_config(values({'x': arm}))


@pytest.mark.parametrize('arms', [3, [], 'entropy', {'entropy': 'entropy'}])
def test_arms_are_a_group_of_groups(arms):
  with pytest.raises(errors.UserError, match='arms is .*; it is a group of'):
    settings.from_config(values(arms))


@pytest.mark.parametrize(
  'name', ['rl', 'base', 'routing', 'speculation', '../x', 'a-b', '']
)
def test_an_arm_has_a_name_of_its_own(name):
  with pytest.raises(errors.UserError, match='an arm is named by'):
    settings.from_config(values({name: {'method': {'prefix': 1}}}))


def test_an_arm_that_does_not_fit_is_refused_before_any_work(tmp_path):
  arms = {'long': {'method': {'prefix': 7}}}
  with pytest.raises(errors.UserError, match='arms.long: .*method.prefix is 7'):
    run_lib.train(
      values(arms), tmp_path / 'run', console.Console(file=io.StringIO())
    )
  assert not (tmp_path / 'run').exists()
