"""Programs in the text of completions.

A completion that uses the tags of the layout is held to it: its program is in
the last answer block, or there is none. One without tags is read as published
evaluations read it. Within that part the last closed code block counts, else
one that the end cut off, else all of it.

Where prompts are heads of programs (HumanEval's), a program that does not
define the entry point continues the prompt, up to the first line that starts
anew (Chen et al. 2021, arXiv:2107.03374, section 3.2); one that does has what
the prompt defines before it.
"""

import re
from typing import Literal

from dllm_jax.tasks import tags

Reading = Literal['layout', 'continuation', 'whole']

MAX_CHARS = 2**16
_TAGS = ('<reasoning>', '</reasoning>', '<answer>', '</answer>')
_OPENING = re.compile(r'```(?:python|py|Python)?[ \t]*\n')
_BLOCK = re.compile(_OPENING.pattern + r'(.*?)```', re.DOTALL)
_ANEW = re.compile(r'\n(?:class|def|#|if|print)')  # as published
# MBPP's own prompts mark a program so (Austin et al. 2021).
_BEGIN, _DONE = '[BEGIN]\n', '[DONE]'


def has_block(text: str) -> bool:
  """Whether a closed code block is in the text."""
  return _BLOCK.search(text[:MAX_CHARS]) is not None


def extract(
  completion: str,
  *,
  reading: Reading = 'layout',
  prompt: str = '',
  entry_point: str = '',
) -> str | None:
  """The program of a completion.

  Args:
    completion: hostile text of any length.
    reading: 'layout' and 'continuation' as above; 'whole' is all of the text.
    prompt: of 'continuation', the head of the program.
    entry_point: the function that is tested; '' where the test names it.

  Returns:
    None where there is none, or it is too long.
  """
  part = completion if reading == 'whole' else _part(completion)
  if part is None or not part.strip() or len(part) > MAX_CHARS:
    return None
  if reading == 'whole':
    return part
  program, fenced = _unfenced(part)
  if reading == 'continuation':
    if defines(program, entry_point):
      program = _before(prompt, entry_point) + program
    else:
      body = program if fenced else _ANEW.split('\n' + program, 1)[0]
      program = prompt + body.removeprefix('\n')
  return program


def defines(program: str, name: str) -> bool:
  """Whether a program seems to define a name at its top level; '' it does."""
  pattern = rf'^(?:(?:async[ ]+)?def[ ]+|class[ ]+)?{re.escape(name)}\s*[(=:]'
  return not name or re.search(pattern, program, re.MULTILINE) is not None


def _part(completion: str) -> str | None:
  """The answer block, or a text without any tags."""
  if tags.extract_answer(completion) is not None:
    rest = completion.rpartition('<answer>')[2]
    return rest.partition('</answer>')[0].strip('\n')
  if any(tag in completion for tag in _TAGS):
    return None
  return completion


def _unfenced(part: str) -> tuple[str, bool]:
  """The last code block, and whether there is one; else all of the text."""
  blocks = _BLOCK.findall(part) or _OPENING.split(part)[1:]
  if blocks:
    return blocks[-1], True
  return part.rpartition(_BEGIN)[2].partition(_DONE)[0], False


def _before(prompt: str, entry_point: str) -> str:
  """What a prompt has before the function that is asked for."""
  found = re.search(
    rf'^def[ ]+{re.escape(entry_point)}\s*\(', prompt, re.MULTILINE
  )
  return prompt[: found.start()] if found and entry_point else ''
