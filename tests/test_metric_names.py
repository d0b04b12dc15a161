"""The table of metrics, and the page that lists it."""

import pathlib

import pytest

from dllm_jax import metric_names

CHARTS = (
  *metric_names.LEARNING,
  *metric_names.GUIDED,
  *metric_names.CONSENSUS,
  *metric_names.SUPERVISED,
)
PAGE = pathlib.Path(__file__).parents[1] / 'docs' / 'report.md'


def shown(name: str) -> str:
  """Where a metric is shown, as the page says it."""
  charts = dict.fromkeys(chart.title for chart in CHARTS if name in chart.names)
  live = ['*live line*'] * (name in metric_names.LIVE)
  return ', '.join([*charts, *live])


def test_the_page_lists_the_table():
  rows = [
    f'| `{name}` | {metric.title} | {metric.unit} | {shown(name)} |'
    for name, metric in metric_names.METRICS.items()
  ]
  assert '\n'.join(rows) in PAGE.read_text('utf-8')


def test_what_is_shown_is_in_the_table():
  for name in metric_names.LIVE:
    assert name in metric_names.METRICS
  for chart in CHARTS:
    assert len({metric_names.find(name).unit for name in chart.names}) == 1
    legends = {metric_names.find(name).legend for name in chart.names}
    assert len(legends) == len(chart.names)


def test_find_by_hand():
  kl = metric_names.find('policy/kl')
  assert kl.title == 'KL to the base, answer-free'
  assert (kl.legend, kl.unit) == ('answer-free', 'nats per token')
  last = metric_names.find('policy/last_clip_fraction')
  assert (last.legend, last.unit) == ('last inner step', 'share')
  assert metric_names.find('terms/mean').title == 'mean'


@pytest.mark.parametrize(
  'name', ['mean', 'reward/', 'reward/means', 'last_reward/mean', 'terms/', '']
)
def test_find_refuses_names_that_are_not_in_the_table(name):
  with pytest.raises(ValueError, match='unknown metric'):
    metric_names.find(name)


def test_a_tasks_names_cannot_be_those_of_the_table():
  groups = {name.partition('/')[0] for name in metric_names.METRICS}
  assert groups.isdisjoint(metric_names.OPEN_GROUPS)
