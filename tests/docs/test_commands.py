"""Every command of README.md and of the pages is run, in order, at tiny size.

What needs weights of 8B parameters stands in tables and in plain blocks, and
has tests of its own on tiny folders in the same layout.
"""

import pathlib
import subprocess
import sys

import pytest

from tests.docs import pages
from tests.docs.test_extending import TINY

ELSEWHERE = ('add_a_task.md', 'add_a_method.md')  # by test_extending.py
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
    if '--config' in args:
      args += [f'--config.{key}={value}' for key, value in SIZE.items()]
    done = commands.run(
      pathlib.Path(script).name, *args, config=False, cwd=tmp_path
    )
    assert done.code == 0, f'{command}\n{done.err}'


def test_the_shell_is_read():
  assert words("x.py $' 2\\n' --a='b c' \"d\"") == [
    'x.py',
    ' 2\n',
    '--a=b c',
    'd',
  ]
