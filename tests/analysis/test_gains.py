"""Differences of a run's policies, by hand."""

import math

import pytest

from dllm_jax.analysis import gains, record
from tests.analysis import made_run


def test_paired_difference_by_hand():
  # d = 1, 0, 0, -1, 1: mean 0.2, s^2 = (3 - 5 * 0.04) / 4 = 0.7
  found = gains.paired('00110', '10101')
  assert found.difference == pytest.approx(0.2)
  assert found.half_width == pytest.approx(1.96 * math.sqrt(0.7 / 5))


def test_a_gain_is_paired_if_there_are_verdicts(tmp_path):
  directory = made_run.make(tmp_path / 'run', final=0.5)
  run = record.read(directory)
  base, final = gains.readings(run)
  assert base.words == '4 denoising steps'
  found = gains.gain(run, base, final)
  # The base solves the first 10 of 40, the final policy the last 20.
  change = [-1] * 10 + [0] * 10 + [1] * 20
  mean = sum(change) / 40
  spread = math.sqrt(sum((d - mean) ** 2 for d in change) / 39)
  assert found.paired and found.difference == pytest.approx(0.25)
  assert found.half_width == pytest.approx(1.96 * spread / math.sqrt(40))
  (directory / 'verdicts.json').unlink()
  found = gains.gain(record.read(directory), base, final)
  assert not found.paired and found.difference == pytest.approx(0.25)
  assert found.half_width == pytest.approx(
    1.96 * math.sqrt((0.25 * 0.75 + 0.5 * 0.5) / 40)
  )


def test_a_gated_policy_is_read_at_its_threshold(tmp_path):
  run = record.read(made_run.make(tmp_path / 'run'))
  point = {'accuracy': 0.4, 'interval': 0.1, 'mean_steps': 2.25}
  run.results['final']['at_threshold'] = {'threshold': '0.9'} | point
  base, final = gains.readings(run)
  assert (base.decoding, final.decoding) == ('fixed', 'gated')
  assert final.words == 'gate at 0.9, 2.2 steps' and final.accuracy == 0.4


def test_problems_without_a_verdict_are_left_out():
  assert gains.paired('01-1', '1111') == gains.paired('011', '111')
  assert gains.paired('-', '1').difference == 0.0
