"""The report of phrasings: accuracies, and who agrees with whom."""

import json

import pytest

from dllm_jax import errors
from dllm_jax.analysis import record, report
from tests.analysis import made_run


def add_phrasings(directory):
  """To the results of a run: those of its policies and of an arm."""
  path = directory / 'eval.json'
  results = json.loads(path.read_text())
  seen = {'mean': 0.5, 'interval': 0.02, 'worst': 0.25, 'best': 1.0, 'std': 0.1}
  seen['same'] = 0.6
  nats = lambda mean: {'mean': mean, 'interval': 0.25}
  agreement = {'num': 3, 'own': nats(-0.5), 'seen': nats(-1.5), 'unseen': None}
  phrasings = {'seen': seen, 'unseen': None, 'ensemble': 0.875}
  for name in ('base', 'final'):
    results[name]['phrasings'] = phrasings
    results[name]['agreement'] = agreement
  results['arms'] = {'majority': {'accuracy': 0.4, 'phrasings': phrasings}}
  made_run.write(path, results)


def test_the_page_has_the_sections_with_the_files_and_only_then(tmp_path):
  directory = made_run.make(tmp_path / 'run', method='cpc_grpo')
  page = report.of_run(record.read(directory))
  assert 'id="phrasings"' not in page and 'id="agreement"' not in page
  add_phrasings(directory)
  made_run.agreement(directory)
  page = report.of_run(record.read(directory))
  assert '<h1>CPC-GRPO on Countdown</h1>' in page
  row = '<td>50.0 <span class="half">± 2.0</span></td><td>25.0</td>'
  row += '<td>100.0</td><td>10.0</td><td>60.0</td><td>–</td><td>–</td>'
  row += '<td>87.5</td></tr>'
  for name in ('base', 'final', 'majority'):
    assert f'<th scope="row">{name}</th>{row}' in page
  half = '<span class="half">± 0.250</span></td>'
  row = f'<td>-0.500 {half}<td>-1.500 {half}<td>–</td></tr>'
  for name in ('base', 'final'):
    assert f'<th scope="row">{name}</th>{row}' in page
  # exp(-.05) = .95, exp(-1) = .37, exp(-7) = .0009, exp(-.5) = .61
  assert '<td class="shade-9 own-view">-0.05</td>' in page
  assert '<td class="shade-3">-1.00</td>' in page
  assert '<td class="shade-0">-7.00</td>' in page
  assert '<td class="shade-6 own-view">-0.50</td>' in page
  assert '<td>yes</td><td>–</td>' in page
  assert made_run.ATTACK not in page


@pytest.mark.parametrize(
  'change',
  [
    lambda problem: problem.pop('gold'),
    lambda problem: problem['views'].append('a third'),
    lambda problem: problem['policies'].update(other={}),
    lambda problem: problem['policies']['base'].update(scores=[[0.0, 'x']] * 2),
    lambda problem: problem['policies']['base'].update(texts=[' A', 3]),
  ],
)
def test_a_damaged_table_is_one_line(tmp_path, change):
  directory = made_run.make(tmp_path / 'run')
  problem = made_run.agreement(directory)
  change(problem)
  path = directory / 'agreement.json'
  made_run.write(path, {'problems': [problem]})
  with pytest.raises(errors.UserError, match='is not a table of agreement'):
    record.read(directory)
