r"""Answers in LaTeX: the last \boxed{...}, and equality by normal form.

`equal_by_form` is the rule that MATH's authors published (Hendrycks et al.
2021, arXiv:2103.03874), on which the public figures rest: it compares spellings
and not values. `math_equal` is what we judge by.
"""

import re

from dllm_jax.tasks import spelling

_MAX_CHARS = 8192
BOX = re.compile(r'\\(?:boxed|fbox)(?![a-zA-Z])')
_SQRT = re.compile(r'\\sqrt([^\[{])')
_FRAC = re.compile(r'\\frac([^{\s])([^{\s])?')


def last_boxed(text: str) -> str | None:
  r"""What the last \boxed or \fbox holds.

  Returns:
    None where there is none, or where its brace is not closed. A box without a
    brace, '\boxed 5', runs to the next '$' or the end.
  """
  boxes = list(BOX.finditer(text))
  if not boxes:
    return None
  rest = text[boxes[-1].end() :]
  if not rest.startswith('{'):
    return rest.partition('$')[0].strip() if rest.startswith(' ') else None
  end = spelling.closing(rest)
  return rest[1:end] if end > 0 else None


def d1_answer(text: str) -> str | None:
  """What the public d1 evaluator reads: the last box, or all of a text.

  Where the last box is not closed it is the first answer block, or nothing.
  """
  boxed = last_boxed(text)
  if boxed is not None or not BOX.search(text):
    return text if boxed is None else boxed
  block, closed, _ = text.partition('<answer>')[2].partition('</answer>')
  return block.strip() if closed else None


def answer_text(text: str) -> str | None:
  r"""What the last box holds, or all of a text that has no box, stripped.

  Returns:
    None where the last box is not closed.
  """
  boxed = last_boxed(text)
  if boxed is None and not BOX.search(text):
    boxed = text
  return None if boxed is None else boxed.strip()


def equal_by_form(left: str | None, right: str | None) -> bool:
  """Whether two answers have one normal form; two missing ones do."""
  if left is None or right is None:
    return left is right
  return normal_form(left) == normal_form(right)


def normal_form(text: str) -> str:
  """An answer as the published comparison spells it."""
  text = text[:_MAX_CHARS].replace('\n', '').replace(r'\!', '')
  text = text.replace('\\\\', '\\')
  text = text.replace('tfrac', 'frac').replace('dfrac', 'frac')
  for gone in (r'\left', r'\right', r'^{\circ}', r'^\circ', r'\$'):
    text = text.replace(gone, '')
  text = text.partition(r'\text{ ')[0]  # a unit
  text = text.replace(r'\%', '')
  text = text.replace(' .', ' 0.').replace('{.', '{0.')
  if text.startswith('.'):
    text = '0' + text
  sides = text.split('=')
  if len(sides) == 2 and len(sides[0]) <= 2:  # 'x = '
    text = sides[1]
  text = _SQRT.sub(r'\\sqrt{\1}', text).replace(' ', '')
  text = _braced_fractions(text)
  if text == '0.5':
    return r'\frac{1}{2}'
  whole = re.fullmatch(r'(-?[0-9]+)/(-?[0-9]+)', text)
  if whole:
    return rf'\frac{{{_whole(whole[1])}}}{{{_whole(whole[2])}}}'
  return text


def _whole(digits: str) -> str:
  # As text: `int` raises above 4300 digits.
  shortest = digits.lstrip('-').lstrip('0') or '0'
  return '-' + shortest if digits[0] == '-' and shortest != '0' else shortest


def _braced_fractions(text: str) -> str:
  r"""'\frac12' and '\frac1{2}' as '\frac{1}{2}'."""

  def braced(match):
    top, bottom = match[1], match[2]
    if bottom is None:
      return rf'\frac{{{top}}}' if match.end() < len(text) else match[0]
    return rf'\frac{{{top}}}{{{bottom}}}'

  return _FRAC.sub(braced, text)
