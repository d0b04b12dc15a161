"""What a few updates teach: shares by hand, and a probe of a tiny run."""

import io
import json

import jax
import numpy as np
import pytest

from dllm_jax import errors
from dllm_jax.run import probe, train
from dllm_jax.runtime import console
from tests import tiny_run

SIZES = {'rollout__num_prompts': 4, 'data__num_validation': 4}


@pytest.fixture(scope='module')
def base(tmp_path_factory):
  directory = tmp_path_factory.mktemp('probe') / 'run'
  config = tiny_run.values('sft', train__num_steps=0)
  train.train(config, directory, console.Console(file=io.StringIO()))
  return directory / 'base'


def config_of(base, **changes):
  arms = {'free': {'method': {'guided': {'num_guided': 0}}}}
  own = SIZES | {'arms': arms, 'base__path': str(base)}
  return tiny_run.values(**(own | changes))


def probed(config, **sizes):
  sizes = {'num_updates': 2, 'num_rounds': 2} | sizes
  screen = console.Console(file=io.StringIO())
  return probe.probe(config, screen, **sizes)['arms']


@pytest.fixture(scope='module')
def found(base):
  return probed(config_of(base, train__optim__learning_rate=0.05))


def test_a_probe_trains_every_arm_from_the_same_base(base, found):
  assert list(found) == ['rl', 'free']
  assert found['rl'] != found['free']
  for arm in found.values():
    for part in probe.PARTS:
      measured = arm[part]
      assert measured['gain'] == pytest.approx(
        measured['after'] - measured['before']
      )
      assert measured['before'] == found['rl'][part]['before']
      assert 0 <= measured['failed_before'] <= 1
  assert 'guided/correct' in found['rl']['updates']
  assert 'guided/correct' not in found['free']['updates']
  assert found['rl']['updates']['policy/sampler_gap_guided'] > 0
  # No arm goes on from another.
  alone = probed(
    config_of(
      base,
      arms={},
      train__optim__learning_rate=0.05,
      method__guided__num_guided=0,
    )
  )
  assert alone['rl'] == found['free']


def test_results_are_shown(found):
  screen = io.StringIO()
  results = {'about': {'num_updates': 2}, 'arms': found}
  probe.show(results, console.Console(file=screen))
  assert 'held-out gain' in screen.getvalue()
  assert 'gap, guided' in screen.getvalue()


def test_without_updates_nothing_changes(base):
  """The draws before and after are the same."""
  made = probed(config_of(base, arms={}), num_updates=0, num_rounds=1)
  for part in probe.PARTS:
    assert made['rl'][part]['gain'] == made['rl'][part]['error'] == 0.0
  assert made['rl']['updates'] == {}


def test_an_arm_is_measured_with_its_own_model(base, monkeypatch):
  """Arms may differ in the gate of the experts."""
  models = []
  gated = tiny_run.parts(model__norm_eps=1e-4)[1].denoiser
  other = lambda denoiser, cfg, arm: denoiser if arm is cfg else gated
  monkeypatch.setattr(probe.setup, 'arm_denoiser', other)
  monkeypatch.setattr(probe, '_train', lambda start, *args: (start.base, {}))

  def success(ctx, *args):
    models.append(ctx.denoiser)
    return probe.Success(np.ones(4), 0.0)

  monkeypatch.setattr(probe, 'success', success)
  probed(config_of(base))
  assert models[0] != gated
  assert models == 4 * [models[0]] + 4 * [gated]


def test_shares_by_hand(monkeypatch):
  """Three prompts of two completions, in two rounds."""
  cfg, ctx = tiny_run.parts(rollout__num_prompts=3, rollout__group_size=2)
  nan = np.nan
  rounds = iter([[1, 0, 0, 0, nan, nan], [1, nan, nan, 0, nan, nan]])
  seen = []

  def verdicts(ctx, rows, rollouts, reward):
    assert reward == cfg.method.reward
    seen.append(np.array(rollouts.trajectory.tokens))
    return np.array(next(rounds), float)

  monkeypatch.setattr(probe.batch, 'verdicts', verdicts)
  params = jax.jit(ctx.denoiser.init)(jax.random.key(0))
  rows = tiny_run.rows('5+3-1', '3-1+5', '5-1+3')
  got = probe.success(
    ctx, params, rows, cfg, 2, console.Bar(lambda *_: None, 0)
  )
  np.testing.assert_allclose(got.share, [2 / 3, 0.0, nan])
  assert got.failed == 0.5  # the second prompt, in both rounds
  assert not np.array_equal(*seen)  # other draws in the second round


def test_gains_leave_out_prompts_without_a_verdict():
  before = probe.Success(np.array([0.0, 0.5, np.nan]), 0.25)
  after = probe.Success(np.array([0.5, 0.75, 0.5]), 0.0)
  got = probe._gain(before, after)
  assert (got['before'], got['gain']) == (0.25, 0.375)
  assert got['error'] == pytest.approx(0.25 / np.sqrt(2) / np.sqrt(2))
  assert (got['failed_before'], got['failed_after']) == (0.25, 0.0)


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'base__path': ''}, 'base.path is empty'),
    ({'data__num_validation': 2}, 'num_validation is 2'),
    ({'base__path': '/no/such'}, '/no/such'),
    ({'rollout__num_prompts': 1}, 'num_prompts is 1'),
    ({'rollout__temperature': 0.0}, 'temperature is 0'),
  ],
)
def test_what_cannot_be_probed_is_refused(base, changes, message):
  with pytest.raises(errors.UserError, match=message) as caught:
    probed(config_of(base, **changes))
  assert '\n' not in str(caught.value)


def test_sft_has_no_rollouts(base):
  config = tiny_run.values('sft', base__path=str(base))
  with pytest.raises(errors.UserError, match="'sft', which has no rollouts"):
    probed(config)


@pytest.mark.parametrize('sizes', [{'num_updates': -1}, {'num_rounds': 0}])
def test_sizes_are_checked(sizes):
  with pytest.raises(ValueError, match='num_updates'):
    probed({}, **sizes)


def test_the_command(base, commands, tmp_path):
  out = tmp_path / 'probe.json'
  flags = [*tiny_run.flags(base__path=base, **SIZES), '--out', out]
  ran = commands.run('probe.py', *flags, '--updates', 1, '--rounds', 1)
  assert ran.code == 0, ran.err
  results = json.loads(out.read_text())
  assert list(results['arms']) == ['rl']
  assert results['about']['num_updates'] == 1
  assert results['about']['rollout.num_prompts'] == 4
  assert 'gap, guided' in ran.out
  ran = commands.run('probe.py', *flags)
  assert ran.code == 1 and 'already exists' in ran.err
  ran = commands.run('probe.py', *flags, '--update', 1)
  assert ran.code == 2 and '--updates' in ran.err
