"""The report of a comparison of decoders, by hand.

p = 1/2 and c = 1/4; so 1.5 and 1.75 tokens of a draft with m = 1 and 2, and 2.5
and 2.75 of a fractal round.
"""

import pytest

from dllm_jax.analysis import record, report, speculation_charts
from tests.analysis import made_run


def series(chart):
  return {s['name']: s for s in chart['series']}


@pytest.fixture
def study(tmp_path):
  return made_run.speculation(tmp_path)


def test_the_report_has_the_section_with_the_file_and_only_then(tmp_path):
  run = made_run.make(tmp_path / 'run', method='sft')
  page = report.of_run(record.read(run))
  assert 'id="speculation"' not in page and '"speculation": []' in page
  assert 'Supervised training on Countdown' in page
  made_run.speculation(run)
  page = report.of_run(record.read(run))
  assert 'id="speculation"' in page
  assert '<h1>Speculative decoding on Countdown</h1>' in page
  assert 'Every decoder wrote what greedy decoding writes: 64 of 64' in page
  assert '<td>2.88 <span class="half">(2.75)</span></td>' in page
  assert '<th scope="row">fractal int8, D = 0, no cache</th>' in page
  assert '100 tokens/s with a cache, 20 without' in page


def test_a_comparison_alone_is_a_finished_run(tmp_path):
  run = made_run.make(tmp_path / 'run', method='sft', steps=0, finished=False)
  made_run.speculation(run)
  page = report.of_run(record.read(run))
  assert '· finished' in page and 'There are no results yet' not in page


def test_the_outcome_names_the_worst_gap(study):
  study['rows'][0] |= {'identical': 6, 'worst_gap': 0.03125}
  study['rows'][1] |= {'identical': 7, 'worst_gap': 0.5}
  said = speculation_charts.outcome(study)
  assert said.startswith('6 of 8 decoders wrote exactly')
  assert '61 of 64 completions (8 decoders × 8 prompts)' in said
  assert 'at most 0.5 apart' in said


def test_tokens_a_round_beside_the_law(study):
  study['rows'].reverse()  # m is in order all the same
  study['rows'][-1]['tokens_per_round'] = None  # draft, m = 1
  chart, _ = speculation_charts.of_tokens(study)
  found = series(chart)
  assert len(found) == 6
  assert found['law of draft']['y'] == [1.5, 1.75]
  assert found['law of fractal']['y'] == [2.5, 2.75]
  assert found['law of fractal']['dash']
  assert found['draft']['x'] == [2] and found['draft']['y'] == [1.875]
  assert found['fractal, D = 0, no cache']['y'] == [2.625, 2.875]
  same = [found[n]['slot'] for n in ('fractal, D = 0', 'law of fractal')]
  assert same[0] == same[1] and 'dash' not in found['fractal, D = 0']


def test_a_chart_for_each_compression(study):
  study['agreement']['int4'] = 0.5
  study['rows'].append(made_run.compared('draft', 1, compression='int4'))
  titles = [c['title'] for c in speculation_charts.of_tokens(study)]
  assert titles == [
    'Tokens a round, int8',
    'Rounds by their tokens, fractal int8, m = 2',
    'Tokens a round, int4',
  ]


def test_shares_of_rounds_by_their_tokens(study):
  _, chart = speculation_charts.of_tokens(study)
  for found in chart['series']:
    assert found['x'] == [1, 2, 3, 4] and found['y'] == [0.25, 0.75, 0, 0]
  assert len(chart['series']) == 3  # fractal, m = 2


def test_predicted_speedup_takes_the_best_m_at_each_cost(study):
  found = series(speculation_charts.of_cost(study))
  draft, fractal = found['draft, predicted'], found['fractal, predicted']
  at = {c: i for i, c in enumerate(draft['x'])}
  # c = 0: 1.75 / 1; 2.75 / 2. c = 1: 1.5 / (1 + 1); 2.5 / (2 + 1)
  assert [draft['y'][at[c]] for c in (0, 1)] == [1.75, 0.75]
  assert [draft['labels'][at[c]] for c in (0, 1)] == ['m = 2', 'm = 1']
  assert [fractal['y'][at[c]] for c in (0, 1)] == [1.375, 0.8333]
  # At c = 0.2 both drafts give 1.25: 1.5 / 1.2 = 1.75 / 1.4.
  assert draft['y'][at[0.2]] == 1.25
  measured = found['draft, measured']
  assert (measured['x'], measured['y']) == ([0.25], [1.1])
  assert measured['labels'] == ['m = 2']
  assert found['fractal, D = 0, no cache, measured']['y'] == [1.1]


def test_decoders_that_are_all_drafts_have_no_chart_of_fractal(study):
  study['rows'] = study['rows'][:2]
  assert len(speculation_charts.of_tokens(study)) == 1
  assert set(series(speculation_charts.of_cost(study))) == {
    'draft, predicted',
    'draft, measured',
    'greedy',
  }
