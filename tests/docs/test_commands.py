"""Every command of README.md and of the pages is run, in order, at tiny size.

What needs weights of 8B parameters, or measures for minutes, has tests of its
own at tiny size.
"""

import pathlib
import subprocess
import sys

import pytest

from tests.docs import pages
from tests.docs.test_extending import TINY

# The commands of these pages are run by other tests.
ELSEWHERE = {
  'add_a_task.md': 'docs/test_extending.py',
  'add_a_method.md': 'docs/test_extending.py',
  'code_tasks.md': 'launch/test_eval_code.py',
  'performance.md': 'launch/test_bench.py',
  'fractal.md': 'configs/test_configs.py',
  'moe_erl.md': 'configs/test_configs.py',
  'your_own_data.md': 'run/test_own_rows_run.py',
}
FAST = ('quick_start.md',)
SIZE = TINY | {
  'rollout.num_prompts': 2,
  'rollout.group_size': 8,
  'data.num_validation': 16,
}
PAGES = [pages.REPO / 'README.md'] + [
  path
  for path in sorted((pages.REPO / 'docs').rglob('*.md'))
  if pages.commands(path) and path.name not in ELSEWHERE
]


def words(command: str) -> list[str]:
  """The words of a command, as the shell reads them."""
  script = f"printf '%s\\0' {command}"
  done = subprocess.run(
    ['bash', '-c', script], capture_output=True, check=True, text=True
  )
  return done.stdout.split('\0')[:-1]


def train(commands, place: pathlib.Path, run: str) -> None:
  """A run that a page takes for granted."""
  flags = [f'--config.{key}={value}' for key, value in SIZE.items()]
  config = 'configs/ag_grpo.py'
  args = ['--config', config, '--workdir', run, *flags]
  assert commands.run('train.py', *args, cwd=place).code == 0


@pytest.mark.parametrize(
  'page',
  [
    pytest.param(
      page, id=page.name, marks=[] if page.name in FAST else pytest.mark.slow
    )
    for page in PAGES
  ],
)
def test_they_run(page, commands, tmp_path):
  for name in ('configs', 'launch'):
    (tmp_path / name).symlink_to(pages.REPO / name)
  for command in pages.commands(page):
    _, script, *args = words(command)
    if script == '-m':
      # Loops are run once: the other seeds are not there.
      there = [a for a in args[1:] if (tmp_path / a).exists()]
      subprocess.run(
        [sys.executable, '-m', args[0], *there], cwd=tmp_path, check=True
      )
      continue
    if script.endswith('report.py'):
      for run in args:
        if run.startswith('runs/') and not (tmp_path / run).exists():
          train(commands, tmp_path, run)
    if '--config' in args:
      args += [f'--config.{key}={value}' for key, value in SIZE.items()]
    done = commands.run(
      pathlib.Path(script).name, *args, config=False, cwd=tmp_path
    )
    assert done.code == 0, f'{command}\n{done.err}'


def test_the_others_are_tested():
  for name in ELSEWHERE.values():
    assert (pages.REPO / 'tests' / name).is_file()


def test_the_shell_is_read():
  assert words("x.py $' 2\\n' --a='b c' \"d\"") == [
    'x.py',
    ' 2\n',
    '--a=b c',
    'd',
  ]
