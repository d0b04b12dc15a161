"""A run on code: little functions, four names of which make a program right.

--config tests/tiny_code.py
"""

import json
import pathlib

from tests import tiny_run

# name: (argument, result) by a number
FUNCTIONS = {
  'abs': lambda n: (-n, n),
  'str': lambda n: (n, str(n)),
  'hex': lambda n: (n, hex(n)),
  'len': lambda n: ('x' * n, n),
}


def get_config(arg: str = ''):
  """AG-GRPO on rows of `write`; `data_dir` is to be given."""
  del arg
  config = tiny_run.get_config('ag_grpo').unlock()
  config.task = {
    'name': 'kodcode',
    'prompt_style': 'terse',
    'sandbox_tier': 'auto',
    'sandbox_workers': 2,
    'sandbox_cpu_seconds': 2.0,
    'sandbox_memory_mib': 512,
  }
  config.method.reward = {'tests': 1.0, 'xmlcount': 1.0}
  config.method.guided.max_anchor = 11
  config.rollout.max_prompt_length = 10
  config.data.update({'num_validation': 8, 'num_test': 8})
  config.data.num_demonstrations = 0
  return config.lock()


def write(data_dir: pathlib.Path, num: int = 64) -> pathlib.Path:
  """Rows in KodCode's manner; half of the tests are plain assertions."""
  folder = data_dir / 'kodcode'
  folder.mkdir(parents=True)
  with (folder / 'train.jsonl').open('w') as file:
    for n in range(num):
      for i, (name, make) in enumerate(FUNCTIONS.items()):
        record = {
          'question': f'{name} {n}',
          'solution': f'f={name}',
          'test': _test(make, n, plain=(n + i) % 2 == 0),
          'test_info': [{'function_name': 'f'}],
        }
        file.write(json.dumps(record) + '\n')
  return data_dir


def _test(make, n, *, plain):
  cases = [make(n), make(n + 3)]
  if plain:
    return '\n'.join(f'assert f({x!r}) == {y!r}' for x, y in cases)
  return 'from solution import f\n' + '\n'.join(
    f'def test_{k}():\n  assert f({x!r}) == {y!r}'
    for k, (x, y) in enumerate(cases)
  )
