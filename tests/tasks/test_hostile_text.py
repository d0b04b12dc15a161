"""Arithmetic against Python's parser over fractions, by the ten thousand."""

import ast
import operator
import random
import re
from fractions import Fraction

from dllm_jax.tasks import arithmetic, countdown, tags

OPERATIONS = {
  ast.Add: operator.add,
  ast.Sub: operator.sub,
  ast.Mult: operator.mul,
  ast.Div: operator.truediv,
}


def oracle(text):
  """(value, numbers) of plain arithmetic; None for any other text."""
  if not re.fullmatch(r'[-+*/() \n0-9]*', text):
    return None
  # Python reads ends of lines only inside parentheses.
  text = text.replace('\n', ' ').strip()
  words = re.findall(r'[0-9]+', text)
  if any(len(w) > 6 or (len(w) > 1 and w[0] == '0') for w in words):
    return None
  numbers = []

  def value(node):
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATIONS:
      return OPERATIONS[type(node.op)](value(node.left), value(node.right))
    if isinstance(node, ast.Constant) and type(node.value) is int:
      numbers.append(node.value)
      return Fraction(node.value)
    raise ValueError

  try:
    return value(ast.parse(text, mode='eval').body), tuple(numbers)
  except (SyntaxError, ValueError, ZeroDivisionError):
    return None


def ours(text):
  try:
    found = arithmetic.evaluate(text)
  except arithmetic.ExpressionError:
    return None
  return found.value, found.numbers


def written(rng, size):
  """A random expression of so many numbers, with stray spaces."""
  if size == 1:
    text = str(rng.randint(0, 99))
  else:
    left = rng.randint(1, size - 1)
    parts = written(rng, left), written(rng, size - left)
    text = rng.choice('+-*/').join(parts)
    if rng.random() < 0.5:
      text = f'({text})'
  return ' ' * rng.randint(0, 1) + text + rng.choice(('', '', ' ', '\n'))


def test_twenty_thousand_expressions():
  rng, task = random.Random(0), countdown.Countdown()
  whole = 0
  for i in range(20_000):
    text = written(rng, rng.randint(1, 8))
    want = oracle(text)
    assert ours(text) == want, text
    if i % 10 or want is None or want[0].denominator > 1 or len(want[1]) < 2:
      continue
    whole += 1
    target = int(want[0])
    numbers = sorted(want[1], key=lambda _: rng.random())
    answer = tags.completion_text('', text)
    row = {'id': 'a', 'numbers': numbers, 'target': target, 'solution': '1'}
    assert task.score(row, answer).correct, text
    assert not task.score({**row, 'target': target + 1}, answer).correct
    other = {**row, 'numbers': [*numbers[1:], numbers[0] + 1]}
    assert not task.score(other, answer).correct
  assert whole > 500


FUZZ = '0123456789' * 3 + '+-*/()' * 4 + ' \n.=_eExj%^,;#\0²٣３−×\u200b\u202e'


def test_twenty_thousand_texts_of_noise():
  """Ours accepts exactly what plain arithmetic is, and never raises."""
  rng = random.Random(1)
  accepted = 0
  for i in range(20_000):
    if i % 2:  # an expression with a character changed, gone or twice
      text = list(written(rng, rng.randint(1, 4)))
      at = rng.randrange(len(text))
      text[at] = rng.choice(('', text[at] * 2, rng.choice(FUZZ)))
      text = ''.join(text)
    else:
      text = ''.join(rng.choices(FUZZ, k=rng.randint(0, 12)))
    assert ours(text) == oracle(text), repr(text)
    accepted += ours(text) is not None
  assert 2000 < accepted < 15_000
