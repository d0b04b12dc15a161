"""Groups of runs, and how their differences are paired."""

import math

import pytest

from dllm_jax import errors, metric_names
from dllm_jax.analysis import charts, comparison, record
from tests.analysis import made_run


def runs(tmp_path, *made):
  return [
    record.read(made_run.make(tmp_path / f'run{i}', **changes))
    for i, changes in enumerate(made)
  ]


def names(groups):
  return {
    name: [run.name for run in members] for name, members in groups.items()
  }


def test_seeds_of_one_config_are_a_group(tmp_path):
  found = comparison.grouped(
    runs(
      tmp_path,
      {'seed': 0, 'base': {'path': 'base0'}},
      {'seed': 0, 'base': {'path': 'base0'}, 'method': 'diffu_grpo'},
      {'seed': 1, 'base': {'path': 'base1'}},
    )
  )
  assert names(found) == {'AG-GRPO': ['run0', 'run2'], 'diffu-GRPO': ['run1']}


def test_a_seed_counts_once(tmp_path):
  found = comparison.grouped(runs(tmp_path, {'seed': 0}, {'seed': 0}))
  assert names(found) == {'run0': ['run0'], 'run1': ['run1']}


def test_groups_are_named_by_the_fewest_keys_that_differ(tmp_path):
  found = comparison.grouped(
    runs(
      tmp_path,
      {'rollout': {'temperature': 1.0, 'top_p': 1.0}},
      {'rollout': {'temperature': 1.0, 'top_p': 0.9}},
      {'rollout': {'temperature': 0.5, 'top_p': 0.9}},
    )
  )
  assert list(found) == [
    'temperature 1.0, top_p 1.0',
    'temperature 1.0, top_p 0.9',
    'temperature 0.5, top_p 0.9',
  ]


def lines(found):
  groups = comparison.grouped(found)
  first = next(iter(groups.values()))
  return [comparison.summary(name, g, first) for name, g in groups.items()]


def test_groups_of_the_same_seeds_are_paired_by_seed(tmp_path):
  one, other = lines(
    runs(
      tmp_path,
      {'seed': 0, 'final': 0.5},
      {'seed': 1, 'final': 0.6},
      {'seed': 0, 'final': 0.6, 'method': 'diffu_grpo'},
      {'seed': 1, 'final': 0.8, 'method': 'diffu_grpo'},
    )
  )
  assert one.against is None and other.how == 'seeds'
  # Differences 0.1 and 0.2: s = 0.0707, t_{1, 0.975} = 12.7062.
  assert other.against.mean == pytest.approx(0.15)
  assert other.against.half_width == pytest.approx(12.7062 * 0.05, rel=1e-5)
  assert one.gain.mean == pytest.approx(0.3)  # 0.25 and 0.35


def test_single_runs_are_paired_by_problem(tmp_path):
  _, other = lines(
    runs(tmp_path, {'final': 0.5}, {'final': 0.75, 'method': 'diffu_grpo'})
  )
  assert other.how == 'problems'
  assert other.against.mean == pytest.approx(0.25)
  spread = math.sqrt(0.25 * 0.75 * 40 / 39)  # 10 of 40 differ, all one way
  assert other.against.half_width == pytest.approx(
    1.96 * spread / math.sqrt(40)
  )


def test_runs_on_other_problems_are_not_paired(tmp_path):
  found = runs(tmp_path, {}, {'method': 'diffu_grpo', 'final': 0.75})
  found[1].verdicts['ids'][0] = 'another'
  _, other = lines(found)
  assert other.how == '' and math.isnan(other.against.half_width)


def test_an_unfinished_run_has_curves_but_no_accuracies(tmp_path):
  found = runs(tmp_path, {}, {'seed': 1, 'finished': False})
  (line,) = lines(found)
  assert line.base is None and line.decoding == 'not finished'
  page = comparison.of_runs(found)
  assert 'not finished' in page and '"title": "Reward"' in page


def test_runs_that_cannot_be_compared_are_refused(tmp_path):
  (run,) = runs(tmp_path, {})
  with pytest.raises(errors.UserError, match='named twice'):
    comparison.of_runs([run, run])
  (other,) = runs(tmp_path / 'b', {'task': {'name': 'sudoku'}})
  with pytest.raises(errors.UserError, match='several tasks'):
    comparison.of_runs([run, other])
  many = runs(tmp_path / 'c', *({'size': i} for i in range(7)))
  with pytest.raises(errors.UserError, match='7 configs, but a chart'):
    comparison.of_runs(many)


def test_charts_follow_the_table_of_metrics(tmp_path):
  (run,) = runs(tmp_path, {})
  found = {c['title']: c for c in charts.of_run(metric_names.LEARNING, run)}
  assert found['Speed']['series'][0]['x'] == [*range(1, 31)]
  assert 'Tokens per step' not in found
  assert 'Tokens per step' in charts.missing(metric_names.LEARNING, run)
  terms = charts.reward_terms(run)['series']
  assert [s['name'] for s in terms] == ['solution × 1', 'valid × 0.2']
  guided = charts.of_run(metric_names.GUIDED, run)
  assert [s['name'] for s in guided[0]['series']] == ['answer-free', 'guided']
