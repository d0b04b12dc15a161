"""Which part of a completion is the program."""

import pytest

from dllm_jax.tasks import programs
from tests import timing

HEAD = '''from typing import List


def helper(x):
  return x


def f(x: int) -> List[int]:
  """Doubles it."""
'''
BEFORE = HEAD[: HEAD.index('def f')]


@pytest.mark.parametrize(
  ('completion', 'program'),
  [
    ('<answer>```python\nx = 1\n```</answer>', 'x = 1\n'),
    ('<answer>```\nx = 1\n```</answer>', 'x = 1\n'),
    ('<answer>```py\na\n``` ```python\nb\n```</answer>', 'b\n'),
    ('<answer>\nx = 1\n</answer>', 'x = 1'),
    ('```python\nx\n```<answer>y</answer>', 'y'),
    ('<answer>```python\nx = 1</answer>', 'x = 1'),
    ('<answer>a</answer> <answer>b</answer> c', 'b'),
    # Without tags: the last block, or all.
    ('Here it is:\n```python\nx = 1\n```\nDone.', 'x = 1\n'),
    ('```python\nx = 1\n```\n\n```\ny\n```', 'y\n'),
    ('So:\n```python\nx = 1\ny = 2', 'x = 1\ny = 2'),
    ('  x = 1\n', '  x = 1\n'),
    ('[BEGIN]\nx = 1\n[DONE]\nmore', 'x = 1\n'),
    # With tags but no closed answer block: none.
    ('<answer>x = 1', None),
    ('<reasoning>\n```python\nx = 1\n```', None),
    ('x = 1</answer>', None),
    ('<answer></answer>', None),
    ('<answer> \n </answer>', None),
    ('', None),
    (' \n', None),
    ('x' * 2**17, None),
    ('<answer>' + '`' * 10**6 + '</answer>', None),
  ],
)
def test_the_layout(completion, program):
  assert programs.extract(completion) == program
  if program and '<' not in completion:
    assert programs.extract(completion, reading='whole') == completion


@pytest.mark.parametrize(
  ('completion', 'program'),
  [
    # It goes on where the prompt ends, until something starts anew.
    ('  return [2 * x]\n', HEAD + '  return [2 * x]\n'),
    (
      '  y = 2\n\n  return [y]\n\ndef g():\n  pass\nprint(1)',
      HEAD + '  y = 2\n\n  return [y]\n',
    ),
    ('  return 1\nif x:\n  pass', HEAD + '  return 1'),
    ('  return 1\n# done', HEAD + '  return 1'),
    ('```python\n  return 1\n```', HEAD + '  return 1\n'),
    ('<answer>\n  return 1\n</answer>', HEAD + '  return 1'),
    # It stands for itself, with what the prompt has before the function.
    (
      '```python\ndef f(x):\n  return 1\n\ndef g():\n  pass\n```',
      BEFORE + 'def f(x):\n  return 1\n\ndef g():\n  pass\n',
    ),
    ('def f(x):\n  return 1', BEFORE + 'def f(x):\n  return 1'),
    ('f = lambda x: 1', BEFORE + 'f = lambda x: 1'),
    # A name like it, or deeper down, is no definition.
    (
      '  def f(y): return 1\n  return f',
      HEAD + '  def f(y): return 1\n  return f',
    ),
    ('```\ndef ff(x): pass\n```', HEAD + 'def ff(x): pass\n'),
  ],
)
def test_a_continuation(completion, program):
  found = programs.extract(
    completion, reading='continuation', prompt=HEAD, entry_point='f'
  )
  assert found == program


def test_a_prompt_without_its_function_adds_nothing():
  found = programs.extract(
    'def f(x): pass', reading='continuation', prompt='text', entry_point='f'
  )
  assert found == 'def f(x): pass'


@pytest.mark.parametrize(
  'piece',
  [
    '```python\n',
    '```',
    '`',
    '``` \n',
    '<answer>',
    '</answer>',
    '[BEGIN]\n',
    'async ',
    'def f',
    'f\n',
    ' ',
    '\n',
    '```python' + ' ' * 50,
  ],
)
def test_time_is_linear_in_hostile_text(piece):

  def extract():
    for text in (piece * (2**16 // len(piece)), piece * 10**5):
      for reading in ('layout', 'continuation', 'whole'):
        programs.extract(text, reading=reading, prompt=HEAD, entry_point='f')
        programs.extract(
          f'<answer>{text}</answer>', reading=reading, entry_point='f'
        )

  # 0.2 at most, several times that where pages of memory are taken back.
  assert timing.seconds(extract) < 4
