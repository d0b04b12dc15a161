"""launch/score.py: a report, or one line."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

REPO = pathlib.Path(__file__).resolve().parents[2]


def run(*args):
  return subprocess.run(
    [sys.executable, REPO / 'launch' / 'score.py', *map(str, args)],
    capture_output=True,
    text=True,
    env=os.environ | {'PYTHONPATH': str(REPO)},
    timeout=120,
  )


@pytest.fixture
def file(tmp_path):
  path = tmp_path / 'a.jsonl'
  rows = [('<answer>18</answer>', 18), ('<answer>19</answer>', 18)]
  path.write_text(
    ''.join(
      json.dumps({'question': '', 'generation': g, 'ground_truth': t}) + '\n'
      for g, t in rows
    )
  )
  return path


def test_a_report(file, tmp_path):
  printed = run('--task=gsm8k', f'--generations={file}')
  assert (printed.returncode, printed.stderr) == (0, '')
  figures = json.loads(printed.stdout)
  out = tmp_path / 'new' / 'scores.json'
  done = run('--task=gsm8k', f'--generations={file}', f'--out={out}')
  assert (done.returncode, done.stderr) == (0, '')
  assert 'accuracy 50.00% (1 of 2, 2 items)' in done.stdout
  report = json.loads(out.read_text())
  assert figures == {k: v for k, v in report.items() if k != 'items'}
  assert (report['task'], report['num'], report['accuracy']) == (
    'gsm8k',
    2,
    0.5,
  )
  assert report['items'] == [
    {'correct': True, 'score': 1.0, 'parsed': '18'},
    {'correct': False, 'score': 0.0, 'parsed': '19'},
  ]


@pytest.mark.parametrize('text', ['<answer>18 apples</answer>', r'\fbox{19}'])
def test_the_public_rules_want_a_box(tmp_path, text):
  file = tmp_path / 'a.jsonl'
  row = {'question': '', 'generation': text, 'ground_truth': '18'}
  file.write_text(json.dumps(row) + '\n')
  done = run('--task=math', '--rules=d1', f'--generations={file}')
  assert done.returncode == 0 and json.loads(done.stdout)['accuracy'] == 0
  hint = r'no completion has a \boxed{}, which the d1 rules read first'
  assert (hint in done.stderr) == ('box' not in text)


def test_a_report_is_written_over_on_request_alone(file, tmp_path):
  out = tmp_path / 'scores.json'
  out.write_text('kept')
  args = ('--task=gsm8k', f'--generations={file}', f'--out={out}')
  refused = run(*args)
  assert refused.returncode == 1 and refused.stderr.count('\n') == 1
  assert 'already exists' in refused.stderr
  assert '--overwrite' in refused.stderr and out.read_text() == 'kept'
  assert run(*args, '--overwrite').returncode == 0
  assert json.loads(out.read_text())['num'] == 2


@pytest.mark.parametrize(
  ('args', 'code', 'line'),
  [
    (['--generations={file}'], 2, '--task is missing'),
    (['--task=gsm8k'], 2, '--generations is missing'),
    (['--task=chess', '--generations={file}'], 2, '--task'),
    (['--task=gsm8k', '--generations={file}', '--rules=d2'], 2, '--rules'),
    (['--task=gsm8k', '--generations=/nowhere/x'], 1, 'cannot read /nowhere/x'),
    (['--task=math', '--generations={file}'], 1, "a.jsonl:1: 'ground_truth'"),
    (['--task=code', '--generations={file}'], 1, "a.jsonl:1: 'code' must be"),
    (['--task=mbpp', '--generations={file}'], 1, 'pass --data_dir'),
    (
      ['--task=aqua', '--rules=d1', '--generations={letters}'],
      1,
      'use --rules strict',
    ),
    (['--task=gsm8k', '--generations={file}', '--out=/'], 1, 'is a folder'),
    (
      ['--task=gsm8k', '--generations={file}', '--out={file}'],
      1,
      'is the same file as --generations',
    ),
    (
      ['--task=gsm8k', '--generations={file}', '--out={file}/x'],
      1,
      'cannot write results to',
    ),
  ],
)
def test_a_wrong_command_is_one_line(file, tmp_path, args, code, line):
  letters = tmp_path / 'letters.jsonl'
  letters.write_text('{"question": "", "generation": "", "ground_truth": "A"}')
  before = file.read_bytes()
  done = run(*[arg.format(file=file, letters=letters) for arg in args])
  assert done.returncode == code, done.stderr
  assert done.stderr.startswith('score.py: ') and done.stderr.count('\n') == 1
  assert line in done.stderr and done.stdout == ''
  assert file.read_bytes() == before


def test_help_has_an_example():
  done = run('--help')
  assert done.returncode == 0 and 'launch/score.py --task gsm8k' in done.stdout


def test_it_imports_no_jax(file):
  program = (
    'import runpy, sys; sys.argv = ["score.py", "--task=gsm8k", '
    f'"--generations={file}"]\n'
    'try:\n  runpy.run_path('
    f'{str(REPO / "launch" / "score.py")!r}, run_name="__main__")\n'
    'finally:\n  print("jax" in sys.modules, file=sys.stderr)'
  )
  done = subprocess.run(
    [sys.executable, '-c', program],
    capture_output=True,
    text=True,
    env=os.environ
    | {'PYTHONPATH': os.pathsep.join([str(REPO), str(REPO / 'launch')])},
  )
  assert done.stderr == 'False\n'
