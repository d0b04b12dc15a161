"""The table over seeds, by hand."""

import json
import math

import pytest

from dllm_jax import errors
from dllm_jax.analysis import seeds


def test_estimate_by_hand():
  found = seeds.estimate([0.1, 0.2, 0.3])
  assert found.mean == pytest.approx(0.2)
  # s = 0.1, t_{2, 0.975} = 4.30265
  assert found.half_width == pytest.approx(4.30265 * 0.1 / math.sqrt(3), 1e-5)
  assert math.isnan(seeds.estimate([0.5]).half_width)


def _run(directory, base, final, steps=('4', '2')):
  sweep = lambda value: {s: {'accuracy': value} for s in steps}
  directory.mkdir()
  (directory / 'eval.json').write_text(
    json.dumps(
      {
        'task': 'countdown',
        'method': 'ag_grpo',
        'num': 10,
        'chosen_steps': int(steps[0]),
        'base': {'accuracy': base, 'sweep': sweep(base)},
        'final': {'accuracy': final, 'sweep': sweep(final)},
      }
    )
  )
  return directory


def test_differences_are_paired_by_seed(tmp_path):
  # Bases differ, the gain does not: its interval is zero.
  a = _run(tmp_path / 'a', 0.1, 0.3)
  b = _run(tmp_path / 'b', 0.5, 0.7)
  lines = seeds.table([a, b]).splitlines()
  assert lines[0] == '| steps | base | final | final - base |'
  assert lines[2].endswith('| 20.0 ± 0.0 |')
  assert lines[2].startswith('| 4 | 30.0 ± 254.1 |')


def _gated(directory, accuracy, gap, steps, threshold='0.9'):
  """A finished run of a gated policy, at one threshold."""
  _run(directory, 0.2, 0.3)
  path = directory / 'eval.json'
  found = json.loads(path.read_text())
  row = {'mean_steps': steps, 'accuracy': accuracy}
  found['base']['mean_steps'] = 4.0
  found['final']['at_threshold'] = {'threshold': threshold} | row
  found['base']['thresholds'] = {threshold: {}}
  found['frontier'] = {
    'final': [
      {'threshold': threshold, 'base': accuracy - gap, 'gap': gap} | row
    ]
  }
  path.write_text(json.dumps(found))
  return directory


def test_the_table_of_thresholds_by_hand(tmp_path):
  a = _gated(tmp_path / 'a', 0.3, 0.1, 1.0)
  b = _gated(tmp_path / 'b', 0.4, 0.1, 3.0)
  lines = seeds.table([a, b]).splitlines()
  row = next(line for line in lines if line.startswith('| 0.9'))
  assert row == '| 0.9 | 2.0 | 35.0 ± 63.5 | 25.0 ± 63.5 | 10.0 ± 0.0 |'
  # Gains of 0.1 and 0.2 over the base, in 1/4 and 3/4 of its 4 steps.
  assert '15.0 ± 63.5 points, in 50.0 ± 317.7 % of the steps' in lines[-1]
  other = _gated(tmp_path / 'c', 0.3, 0.1, 1.0, threshold='0.7')
  with pytest.raises(errors.UserError, match='thresholds 0.7'):
    seeds.table([a, other])
  with pytest.raises(errors.UserError, match='seeds of one configuration'):
    seeds.table([a, _run(tmp_path / 'd', 0.1, 0.3)])


def test_runs_of_different_settings_are_refused(tmp_path):
  a = _run(tmp_path / 'a', 0.1, 0.3)
  b = _run(tmp_path / 'b', 0.1, 0.3, steps=('8', '2'))
  with pytest.raises(errors.UserError, match='seeds of one configuration'):
    seeds.table([a, b])


def test_a_missing_run_is_one_line(tmp_path, capsys):
  assert seeds.main([str(tmp_path)]) == 1
  err = capsys.readouterr().err
  assert err.count('\n') == 1 and 'eval.json is missing' in err


@pytest.mark.parametrize('text', ['{"task": 1}', '{"ta', '[]'])
def test_broken_results_are_one_line(tmp_path, capsys, text):
  (tmp_path / 'eval.json').write_text(text)
  assert seeds.main([str(tmp_path)]) == 1
  assert 'is not the results of a run' in capsys.readouterr().err


def test_a_run_named_twice_is_refused(tmp_path):
  a = _run(tmp_path / 'a', 0.1, 0.3)
  with pytest.raises(errors.UserError, match='named twice'):
    seeds.table([a, tmp_path / 'a' / '..' / 'a'])


def test_the_table_of_phrasings_by_hand(tmp_path):
  def phrasings(mean, worst):
    seen = {'mean': mean, 'worst': worst}
    return {'seen': seen, 'unseen': {'mean': 0.5}, 'ensemble': 0.75}

  paths = []
  for seed, (base, arm, final) in enumerate([(0.2, 0.3, 0.6), (0.4, 0.3, 0.7)]):
    path = tmp_path / f's{seed}'
    _run(path, base, final)
    results = json.loads((path / 'eval.json').read_text())
    results['base']['phrasings'] = phrasings(base, 0.1)
    results['final']['phrasings'] = phrasings(final, 0.5)
    results['arms'] = {'majority': {'phrasings': phrasings(arm, 0.2)}}
    (path / 'eval.json').write_text(json.dumps(results))
    paths.append(path)
  table = seeds.table(paths).split('\n\n')[-1].splitlines()
  half = seeds.estimate([0.4, 0.3]).half_width * 100
  assert f'| {35.0} ± {half:.1f} | 40.0 ± 0.0 |' in table[2]
  assert table[2].startswith('| base | 30.0 ±') and '50.0 ± 0.0' in table[2]
  assert table[3].startswith('| final | 65.0 ±') and table[3].endswith(
    '|  |  |'
  )
  assert table[4].startswith('| majority | 30.0 ± 0.0 | 20.0 ± 0.0 |')
