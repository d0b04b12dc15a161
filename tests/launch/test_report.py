"""launch/report.py: a page, or one line."""

import json

import pytest

from dllm_jax.analysis import report
from tests.analysis import made_run


def command(commands, *args):
  return commands.run('report.py', *args, config=False)


def test_the_page_of_a_run(commands, tmp_path):
  run = made_run.make(tmp_path / 'run')
  done = command(commands, run)
  assert (done.code, done.err) == (0, '')
  assert done.out == f'written: {run / "report.html"}\n'
  page = (run / 'report.html').read_text('utf-8')
  assert '<h1>AG-GRPO on Countdown</h1>' in page
  # 10 and 20 of 40; 1.96 sqrt(.25 * .75 / 40), 1.96 sqrt(.5 * .5 / 40)
  for number in ('25.0<small>', '± 13.4', '50.0<small>', '± 15.5'):
    assert number in page
  assert '+25.0<small>' in page and ', paired' in page


def test_an_unfinished_run_has_a_page(commands, tmp_path):
  run = made_run.make(tmp_path / 'run', finished=False)
  done = command(commands, run, '--out', tmp_path / 'now.html')
  assert (done.code, done.err) == (0, '')
  page = (tmp_path / 'now.html').read_text('utf-8')
  assert 'not finished: 30 of 30 updates' in page
  assert not (run / 'report.html').exists()


def test_several_runs_are_compared(commands, tmp_path):
  runs = [made_run.make(tmp_path / f's{i}', seed=i) for i in (0, 1)]
  out = tmp_path / 'both.html'
  done = command(commands, *runs, '--out', out)
  assert (done.code, done.err) == (0, '')
  assert '2 runs on Countdown' in out.read_text('utf-8')


@pytest.mark.parametrize(
  'args, code, line',
  [
    ([], 2, 'no run is named'),
    (['nowhere'], 1, 'nowhere is not the workdir of a run'),
    (['run', '--out=nowhere/a.html'], 1, 'cannot write nowhere/a.html'),
    (['run', 'run'], 1, 'is named twice'),
    (['run', '--oud=x'], 2, '--out'),
  ],
)
def test_what_is_refused_is_one_line(commands, tmp_path, args, code, line):
  run = made_run.make(tmp_path / 'run')
  args = [str(run) if arg == 'run' else arg for arg in args]
  done = command(commands, *args)
  assert done.code == code and line in done.err
  assert done.err.startswith('report.py: ') and done.err.count('\n') == 1


def test_sensible_digits():
  assert report.percent(0.12345) == '12.3'
  assert report.points(-0.012) == '−1.2' and report.points(0.1) == '+10.0'
  assert [report.duration(s) for s in (9.4, 126.4, 7380.0)] == [
    '9 s',
    '2 min 6 s',
    '2 h 3 min',
  ]


def test_two_evaluations_are_compared(commands, tmp_path):
  for name, verdicts in (('a', (True, False)), ('b', (True, True))):
    content = {'task': 'gsm8k', 'accuracy': 0.5, 'seed': 0}
    (tmp_path / f'{name}.json').write_text(json.dumps(content))
    rows = [{'id': i, 'correct': v} for i, v in enumerate(verdicts)]
    lines = ''.join(f'{json.dumps(row)}\n' for row in rows)
    (tmp_path / f'{name}.generations.jsonl').write_text(lines)
  files = [tmp_path / 'a.json', tmp_path / 'b.json']
  out = tmp_path / 'both.json'
  done = command(commands, *files, '--out', out)
  assert (done.code, done.err) == (0, '')
  assert 'second - first = +50.0' in done.out
  kept = json.loads(out.read_text())
  assert kept['gained'] == ['1'] and kept['gain']['paired']
  for args, line in (
    (files[:1], 'two results files are compared'),
    ([*files, '--out=x.html'], 'is written as .json'),
    ([files[0], tmp_path], 'two results files are compared'),
  ):
    done = command(commands, *args)
    assert done.code == 2 and line in done.err
