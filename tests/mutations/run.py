"""Whether the tests notice changes of meaning: the score, and what survived.

  python -m tests.mutations.run [--only rl/ ...] [--jobs 2]

Each mutation of `table.py` is applied to a copy of the tree, and its tests run
until the first failure. Exits with 1 below 95 %, if a test fails in the tree as
it is, or if a mutation does not fit the tree any more.
"""

import argparse
import concurrent.futures
import os
import pathlib
import queue
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

from tests.mutations import table

REPO = pathlib.Path(__file__).resolve().parents[2]
PARTS = ('dllm_jax', 'configs', 'launch', 'tests', 'pyproject.toml')
WANTED = 0.95
LIMIT_SECONDS = 900  # of the tests of a mutation; a hang is noticed too


def misfits(mutations: Sequence[table.Mutation]) -> list[str]:
  """Mutations that do not fit the tree: a line each."""
  found = []
  for mutation in mutations:
    path = REPO / 'dllm_jax' / mutation.file
    lines = path.read_text('utf-8').splitlines() if path.is_file() else []
    count = [line.strip() for line in lines].count(mutation.line)
    if count != 1:
      found.append(f'{name(mutation)}: the line occurs {count} times')
    missing = [
      test
      for test in mutation.tests.split()
      if not (REPO / 'tests' / test).is_file()
    ]
    if missing:
      found.append(f'{name(mutation)}: no test module {missing[0]}')
  return found


def name(mutation: table.Mutation) -> str:
  """The change in a line."""
  return f'{mutation.file}: {mutation.line} -> {mutation.into}'


def apply(mutation: table.Mutation, root: pathlib.Path) -> str:
  """Changes the file below `root`; returns its text before."""
  path = root / 'dllm_jax' / mutation.file
  before = path.read_text('utf-8')
  lines = before.splitlines()
  [at] = [i for i, line in enumerate(lines) if line.strip() == mutation.line]
  indent = lines[at][: len(lines[at]) - len(lines[at].lstrip())]
  lines[at] = indent + mutation.into
  path.write_text('\n'.join(lines) + '\n', 'utf-8')
  return before


def run_tests(tests: Sequence[str], root: pathlib.Path) -> int:
  """The exit code of pytest in a copy; 1 if it ran out of time."""
  shared = os.environ.get('DLLM_JAX_SHARED', str(REPO.parent / 'shared'))
  command = [
    sys.executable,
    '-m',
    'pytest',
    '-q',
    '-x',
    '-p',
    'no:cacheprovider',
  ]
  try:
    return subprocess.run(
      [*command, *(f'tests/{test}' for test in tests)],
      cwd=root,
      env=os.environ | {'PYTHONPATH': str(root), 'DLLM_JAX_SHARED': shared},
      stdout=subprocess.DEVNULL,
      stderr=subprocess.DEVNULL,
      timeout=LIMIT_SECONDS,
    ).returncode
  except subprocess.TimeoutExpired:
    return 1


def main(arguments: Sequence[str] | None = None) -> int:
  """The command; returns its exit code."""
  parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
  parser.add_argument(
    '--only', nargs='*', default=[''], help='files that begin'
  )
  parser.add_argument('--jobs', type=int, default=1, help='copies at a time')
  options = parser.parse_args(arguments)
  if wrong := misfits(table.MUTATIONS):
    print(*wrong, sep='\n')
    return 1
  chosen = [
    m for m in table.MUTATIONS if m.file.startswith(tuple(options.only))
  ]
  if not chosen:
    print(f'no mutation of a file that begins with {" or ".join(options.only)}')
    return 1
  with tempfile.TemporaryDirectory() as folder:
    roots = queue.SimpleQueue()
    for job in range(options.jobs):
      roots.put(_copy(pathlib.Path(folder) / str(job)))

    def code_of(mutation):
      root = roots.get()
      before = apply(mutation, root)
      try:
        return run_tests(mutation.tests.split(), root)
      finally:
        (root / 'dllm_jax' / mutation.file).write_text(before, 'utf-8')
        roots.put(root)

    def code_without(tests):
      root = roots.get()
      try:
        return run_tests(tests, root)
      finally:
        roots.put(root)

    began, survivors, errors = time.monotonic(), [], []
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
      modules = sorted({test for m in chosen for test in m.tests.split()})
      whole = pool.map(code_without, [[test] for test in modules])
      failing = [
        test for test, code in zip(modules, whole, strict=True) if code
      ]
      if failing:
        print(f'fails without a mutation: {" ".join(failing)}')
        return 1
      codes = pool.map(code_of, chosen)
      for number, (m, code) in enumerate(zip(chosen, codes, strict=True), 1):
        # 1: a test failed; 2: a module could not be imported.
        said = {0: 'SURVIVED', 1: 'noticed', 2: 'noticed'}.get(code, 'ERROR')
        survivors += [m] * (code == 0)
        errors += [m] * (said == 'ERROR')
        took = time.monotonic() - began
        print(
          f'{number}/{len(chosen)} {took:.0f} s {said}: {name(m)}', flush=True
        )
  noticed = len(chosen) - len(survivors) - len(errors)
  print(f'\nnoticed: {noticed} of {len(chosen)}')
  for title, mutations in (('survived', survivors), ('errors', errors)):
    print(*(f'{title}: {name(m)}' for m in mutations), sep='\n')
  return 0 if noticed >= WANTED * len(chosen) else 1


def _copy(root: pathlib.Path) -> pathlib.Path:
  root.mkdir()
  for part in PARTS:
    source = REPO / part
    if source.is_dir():
      ignored = shutil.ignore_patterns('__pycache__')
      shutil.copytree(source, root / part, ignore=ignored)
    else:
      shutil.copy(source, root)
  return root


if __name__ == '__main__':
  sys.exit(main())
