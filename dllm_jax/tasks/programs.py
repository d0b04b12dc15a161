"""Programs in the text of completions.

A completion that uses the tags of the layout is held to it: its program is in
the last answer block, or there is none. One without tags is read as published
evaluations read it. Within that part the last code block counts that defines
what the test names, else the last of all; a block may be cut off by the end,
and a fence inside a string is none. Without a block it is the code, without
prose above and below.

Where prompts are heads of programs (HumanEval's), a program that does not
define the entry point continues the prompt, up to the first line that starts
anew (Chen et al. 2021, arXiv:2107.03374, section 3.2); one that does has what
the prompt defines before it.
"""

import itertools
import re
from collections.abc import Iterator
from typing import Literal

from dllm_jax.tasks import tags

Reading = Literal['layout', 'continuation', 'whole']

MAX_CHARS = 2**16
_FENCE = re.compile(r'^[ \t]*(`{3,}|~{3,})', re.MULTILINE)
_OPENING = re.compile(
  r'(?:^(?P<indent>[ ]{1,12}))?(?<![`~])(?P<fence>`{3,}|~{3,})'
  r'(?P<label>[^`\n]*)\n',
  re.MULTILINE,
)
_PYTHON = re.compile(r'(?i)\{?\.?(?:python|py)[0-9.]*\b')
# Strings and comments; a string that is not closed ends with its line, or text.
_STRING = re.compile(
  r'"""(?:[^"\\]|\\.|"(?!""))*(?:"""|\Z)'
  r'|\'\'\'(?:[^\'\\]|\\.|\'(?!\'\'))*(?:\'\'\'|\Z)'
  r'|"(?:[^"\\\n]|\\.)*"?|\'(?:[^\'\\\n]|\\.)*\'?|#[^\n]*',
  re.DOTALL,
)
_MAX_NESTED = 16  # fences inside of strings
_FUTURE = re.compile(
  r'^from[ ]+__future__[ ]+import[ ]+(?:\([^)]*\)|[^\n;]*);?[ \t]*\n?',
  re.MULTILINE,
)
# How a line of code at the left margin looks; and of prose.
_CODE_LINE = re.compile(
  r'[@#)\]}\'"\\([{]|(?:try|else|finally|pass|return)\b(?=\s*:?\s*$)'
  r'|(?:if|elif|for|while|with|except|def|class|async|match)\b.*[:(,\\]\s*(?:#|$)'
  r'|(?:def|class|async def)\s+\w+\s*[(:]|(?:if|for|while|with)\b.*:\s'
  r'|import\s+[\w.]+(?:\s+as\s+\w+)?\s*(?:,|;|#|$)|from\s+[\w.]+\s+import\b'
  r'|(?:assert|raise|del|return|lambda|print|global)\b.*[\w)\]\'"]\s*$'
  r'|[\w.]+(?:\[.*\])?(?:\s*,\s*[\w.]+)*\s*'
  r'(?:=|(?:[-+*/|&%^@]|//|\*\*|<<|>>)=|:\s*\w[\w\[\], .]*=)|[\w.]+\('
)
_PROSE_LINE = re.compile(r'\S+\s+\S|\w.*[.:!?]\s*$')
# MBPP's own prompts mark a program so (Austin et al. 2021).
_BEGIN, _DONE = '[BEGIN]\n', '[DONE]'
_NAME = re.compile(r'\b[A-Za-z_]\w*(?=\s*\()')


def has_block(text: str) -> bool:
  """Whether a closed code block is in the text."""
  return any(closed for _, _, closed in _blocks(text[:MAX_CHARS]))


def extract(
  completion: str,
  *,
  reading: Reading = 'layout',
  prompt: str = '',
  entry_point: str = '',
  test: str = '',
) -> str | None:
  """The program of a completion.

  Args:
    completion: hostile text of any length.
    reading: 'layout' and 'continuation' as above; 'whole' is all of the text.
    prompt: of 'continuation', the head of the program.
    entry_point: the function that is tested; '' where the test names it.
    test: its calls name what a block may define, where there is no entry point.

  Returns:
    None where there is none, or it is too long.
  """
  part = completion if reading == 'whole' else _part(completion)
  if part is None or not part.strip() or len(part) > MAX_CHARS:
    return None
  if reading == 'whole':
    return part
  names = [entry_point] if entry_point else _NAME.findall(test)
  part = part.lstrip('\ufeff').replace('\r\n', '\n')
  program, fenced = _unfenced(part, names)
  if reading != 'continuation':
    return program
  if defines(program, entry_point):
    return _joined(_before(prompt, entry_point), program)
  body = program if fenced else _body(program)
  return _joined(prompt, body.removeprefix('\n'))


def defines(program: str, *names: str) -> bool:
  """Whether a program seems to define a name at its top level; '' it does."""
  if '' in names:
    return True
  outside = _without_strings(program)
  for name in names:
    name = re.escape(name)
    pattern = (
      rf'^(?:(?:async[ ]+)?def|class)[ ]+{name}\b'
      rf'|^{name}[ ]*(?::[^=\n]*)?=(?!=)'
    )
    if name in outside and re.search(pattern, outside, re.MULTILINE):
      return True
  return False


def _part(completion: str) -> str | None:
  """The answer block, or a text without any tags."""
  if tags.extract_answer(completion) is not None:
    rest = completion.rpartition('<answer>')[2]
    return rest.partition('</answer>')[0].strip('\r\n')
  if any(tag in completion for tag in tags.TAGS):
    return None
  return completion


def _without_strings(program: str) -> str:
  """Strings and comments as blanks, but for their first character."""
  blank = lambda m: m[0][0] + re.sub(r'[^\n]', ' ', m[0][1:])
  return _STRING.sub(blank, program)


def _blocks(text: str) -> Iterator[tuple[str, str, bool]]:
  """Code blocks: their labels, their code, and whether they are closed."""
  position = 0
  while opening := _OPENING.search(text, position):
    start, label = opening.end(), opening['label'].strip()
    closing = _closing(text, start, opening['fence'])
    code = text[start : closing.start() if closing else None]
    if opening['indent']:
      code = re.sub(rf'(?m)^ {{1,{len(opening["indent"])}}}', '', code)
    yield label, code, closing is not None
    if closing is None:
      return
    position = closing.end()


def _closing(text: str, start: int, fence: str) -> re.Match | None:
  """What closes a block: its first fence outside of long strings."""
  fences = (m for m in _FENCE.finditer(text, start) if m[1].startswith(fence))
  first = None
  for match in itertools.islice(fences, _MAX_NESTED):
    first = first or match
    before = list(_STRING.finditer(text, start, match.start(1)))
    last = before[-1] if before else None
    if last is None or last.end() < match.start(1) or last[0][:3] not in _LONG:
      return match
    if len(last[0]) > 5 and last[0].endswith(last[0][:3]):
      return match
  return first


_LONG = ('"""', "'''")


def _unfenced(part: str, names: list[str]) -> tuple[str, bool]:
  """The code block that counts, and whether there is one; else the code."""
  blocks = list(_blocks(part))
  if len(blocks) == 1 and not blocks[0][2] and not blocks[0][0]:
    opening = _OPENING.search(part)
    before = part[: opening.start()]
    if before.strip() and (not blocks[0][1].strip() or _is_code(before)):
      return _code(before), False  # a closing fence alone
  if blocks and not names:
    return blocks[-1][1], True
  python = [code for label, code, _ in blocks if _PYTHON.match(label)]
  codes = python or [code for label, code, _ in blocks if not label]
  codes = codes or [code for _, code, _ in blocks]
  for code in reversed([code for _, code, _ in blocks]):
    if names and defines(code, *dict.fromkeys(names)):
      return code, True
  if codes:
    return codes[-1], True
  fence = _FENCE.search(part)
  part = part[: fence.start()] if fence and fence.start() else part
  return _code(part.rpartition(_BEGIN)[2].partition(_DONE)[0]), False


def _is_code(text: str) -> bool:
  first = text.lstrip('\n').partition('\n')[0]
  return first[:1].isspace() or _CODE_LINE.match(first) is not None


def _margin(text: str) -> Iterator[tuple[int, str]]:
  """Lines at the left margin, outside of strings and brackets, and where."""
  depth = position = 0
  for line, bare in zip(
    text.split('\n'), _without_strings(text).split('\n'), strict=True
  ):
    if depth <= 0 and bare[:1].strip():
      yield position, line
    depth += sum(map(bare.count, '([{'))
    depth = max(0, depth - sum(map(bare.count, ')]}')))
    position += len(line) + 1


def _code(text: str) -> str:
  """A text without the prose above its code and below."""
  start = 0
  for line in text.splitlines(keepends=True):
    if _is_code(line) and line.strip():
      break
    start += len(line)
  if start == len(text):
    return text  # no code at all
  text = text[start:]
  for start, line in _margin(text):
    if start and not _CODE_LINE.match(line) and _PROSE_LINE.match(line):
      return text[:start].rstrip('\n') + '\n'
  return text


def _body(text: str) -> str:
  """A function's body: up to the first line at the left margin."""
  for start, line in _margin(text):
    if start and not line.startswith('@'):
      return text[: start - 1]
  return text


def _joined(head: str, program: str) -> str:
  """A program behind its head, with imports from __future__ before both."""
  future = ''.join(_FUTURE.findall(program)) if head else ''
  return future + head + (_FUTURE.sub('', program) if future else program)


def _before(prompt: str, entry_point: str) -> str:
  """What a prompt has before the function that is asked for."""
  head = re.search(
    rf'^def[ ]+{re.escape(entry_point)}\s*\(', prompt, re.MULTILINE
  )
  return prompt[: head.start()] if head and entry_point else ''
